#include "spectra_cache.h"

#include <cstdlib>
#include <cstring>
#include <iterator>
#include <tuple>
#include <vector>

#include "parallel.h"

namespace gcn::cpu {
namespace {

// The most that the cache may hold, in bytes: GCN_KERNELS_SPECTRA_MB, or enough for the four blocks of the paper's network
// at any of its kernel sizes.
int64_t capacity() {
  static const int64_t bytes = [] {
    const char* text = std::getenv("GCN_KERNELS_SPECTRA_MB");
    const long megabytes = text ? std::strtol(text, nullptr, 10) : 256;
    return static_cast<int64_t>(megabytes > 0 ? megabytes : 0) << 20;
  }();
  return bytes;
}

bool same_plan(const fft::Plan& a, const fft::Plan& b) {
  return a.isa == b.isa && a.problem.axis == b.problem.axis && a.problem.c == b.problem.c && a.problem.o == b.problem.o &&
         a.problem.k == b.problem.k && a.length == b.length && a.vectors == b.vectors && a.reduction == b.reduction &&
         a.outputs == b.outputs && a.taps == b.taps && a.block == b.block && a.blocks == b.blocks &&
         a.spectra_bytes == b.spectra_bytes;
}

bool same_key(const SpectraCache::Key& a, const SpectraCache::Key& b) {
  return a.data == b.data && a.layout == b.layout && same_plan(a.plan, b.plan);
}

// One binary, the widest vectors of the CPU it runs on.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define GCN_WIDEST_VECTORS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GCN_WIDEST_VECTORS
#endif

GCN_WIDEST_VECTORS void mix_blocks(uint64_t* lanes, const char* data, int64_t blocks) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;
  uint64_t state[std::tuple_size<Fingerprint>::value], words[std::tuple_size<Fingerprint>::value];
  std::memcpy(state, lanes, sizeof state);
  for (int64_t b = 0; b < blocks; ++b, data += sizeof words) {
    std::memcpy(words, data, sizeof words);
    for (size_t i = 0; i < std::size(state); ++i) {
      // Each step is a bijection. The shift brings high bits down: without it two flipped signs would cancel.
      state[i] = (state[i] ^ words[i]) * kOdd;
      state[i] ^= state[i] >> 29;
    }
  }
  std::memcpy(lanes, state, sizeof state);
}

Fingerprint fingerprint_of_bytes(const char* data, int64_t bytes) {
  Fingerprint lanes;
  for (size_t i = 0; i < lanes.size(); ++i) lanes[i] = i + 1;
  constexpr int64_t kBlock = sizeof(Fingerprint);
  const int64_t blocks = bytes / kBlock;
  mix_blocks(lanes.data(), data, blocks);
  char rest[kBlock] = {};
  std::memcpy(rest, data + blocks * kBlock, static_cast<size_t>(bytes - blocks * kBlock));
  mix_blocks(lanes.data(), rest, 1);
  return lanes;
}

}  // namespace

bool fingerprint(const Tensor& weight, Fingerprint* out) {
  int64_t span = 1;
  for (int64_t d = 0; d < weight.dim(); ++d) span += (weight.size(d) - 1) * weight.stride(d);
  if (span != weight.numel()) return false;
  constexpr int64_t kChunk = 256 << 10;
  const auto* data = static_cast<const char*>(weight.const_data_ptr());
  const int64_t bytes = weight.numel() * static_cast<int64_t>(weight.element_size());
  std::vector<Fingerprint> chunks(static_cast<size_t>((bytes + kChunk - 1) / kChunk));
  for_each_unit(static_cast<int64_t>(chunks.size()), [&](int64_t i) {
    chunks[static_cast<size_t>(i)] = fingerprint_of_bytes(data + i * kChunk, std::min(kChunk, bytes - i * kChunk));
  });
  *out = fingerprint_of_bytes(reinterpret_cast<const char*>(chunks.data()),
                              static_cast<int64_t>(chunks.size() * sizeof(Fingerprint)));
  return true;
}

SpectraCache& SpectraCache::instance() {
  static SpectraCache* cache = new SpectraCache;  // never destroyed: threads may outlive static destruction
  return *cache;
}

SpectraCache::Spectra SpectraCache::find(const Key& key, const Fingerprint& now) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    if (!same_key(entry->key, key)) continue;
    if (entry->fingerprint == now) {
      entries_.splice(entries_.begin(), entries_, entry);
      return entry->spectra;
    }
    bytes_ -= entry->key.plan.spectra_bytes;
    entries_.erase(entry);
    return nullptr;
  }
  return nullptr;
}

void SpectraCache::insert(const Key& key, const Fingerprint& now, Spectra spectra) {
  if (key.plan.spectra_bytes > capacity()) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  // Another thread may have been quicker.
  entries_.remove_if([&](const Entry& entry) {
    const bool same = same_key(entry.key, key);
    if (same) bytes_ -= entry.key.plan.spectra_bytes;
    return same;
  });
  entries_.push_front({key, now, std::move(spectra)});
  bytes_ += key.plan.spectra_bytes;
  while (bytes_ > capacity()) {
    bytes_ -= entries_.back().key.plan.spectra_bytes;
    entries_.pop_back();
  }
}

void SpectraCache::clear() {
  const std::lock_guard<std::mutex> lock(mutex_);
  entries_.clear();
  bytes_ = 0;
}

int64_t SpectraCache::bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return bytes_;
}

}  // namespace gcn::cpu
