#include "spectra_cache.h"

#include <iterator>
#include <utility>

#include "../../environment.h"

namespace gcn::cpu {

size_t SpectraCache::Hash::operator()(const Key* key) const {
  uint64_t state = reinterpret_cast<uintptr_t>(key->data);
  const auto mix = [&](int64_t value) {
    state = (state ^ static_cast<uint64_t>(value)) * 0x9e3779b97f4a7c15;
    state ^= state >> 29;
  };
  for (const int64_t value : key->layout) mix(value);
  const fft::Plan& p = key->plan;
  for (const int64_t value : {int64_t{p.length}, int64_t{p.vectors}, int64_t{p.reduction}, int64_t{p.outputs}, p.taps})
    mix(value);
  return static_cast<size_t>(state);
}

bool SpectraCache::Same::operator()(const Key* left, const Key* right) const {
  const fft::Plan &a = left->plan, &b = right->plan;
  return left->data == right->data && left->layout == right->layout && a.isa == b.isa && a.problem.axis == b.problem.axis &&
         a.problem.c == b.problem.c && a.problem.o == b.problem.o && a.problem.k == b.problem.k && a.length == b.length &&
         a.vectors == b.vectors && a.reduction == b.reduction && a.outputs == b.outputs && a.taps == b.taps &&
         a.block == b.block && a.blocks == b.blocks && a.spectra_bytes == b.spectra_bytes;
}

SpectraCache& SpectraCache::instance() {
  static SpectraCache* cache = new SpectraCache;  // never destroyed: threads may outlive static destruction
  return *cache;
}

// The most that the cache may hold, in bytes: GCN_KERNELS_SPECTRA_MB, or enough for the four blocks of the paper's network
// at any of its kernel sizes.
int64_t SpectraCache::capacity() {
  if (capacity_ < 0) capacity_ = number_from_environment("GCN_KERNELS_SPECTRA_MB", 1 << 20, 256) << 20;
  return capacity_;
}

SpectraCache::Spectra SpectraCache::find(const Key& key, const Fingerprint& now) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = index_.find(&key);
  if (found == index_.end() || found->second->fingerprint != now) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->spectra;
}

void SpectraCache::insert(const Key& key, const Fingerprint& made_from, Spectra spectra) {
  Entries dropped;  // freed after the lock is let go of: their memory goes back through a lock of its own
  const std::lock_guard<std::mutex> lock(mutex_);
  if (key.plan.spectra_bytes > capacity()) return;
  // Of older contents, or of the same, where another thread was quicker.
  const auto found = index_.find(&key);
  if (found != index_.end()) take_out(found->second, &dropped);
  entries_.push_front({key, made_from, std::move(spectra)});
  index_.emplace(&entries_.front().key, entries_.begin());
  bytes_ += key.plan.spectra_bytes;
  while (bytes_ > capacity() || entries_.size() > kMostEntries) take_out(std::prev(entries_.end()), &dropped);
}

void SpectraCache::take_out(Entries::iterator entry, Entries* dropped) {
  bytes_ -= entry->key.plan.spectra_bytes;
  index_.erase(&entry->key);
  dropped->splice(dropped->begin(), entries_, entry);
}

void SpectraCache::clear() {
  Entries dropped;
  const std::lock_guard<std::mutex> lock(mutex_);
  index_.clear();
  dropped.swap(entries_);
  bytes_ = 0;
}

int64_t SpectraCache::bytes() {
  const std::lock_guard<std::mutex> lock(mutex_);
  capacity();  // so that whoever asks how full the cache is hears of a setting that is wrong
  return bytes_;
}

size_t SpectraCache::entries() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return entries_.size();
}

}  // namespace gcn::cpu
