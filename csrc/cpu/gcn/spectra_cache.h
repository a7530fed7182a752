// Weight spectra kept between calls that do not train.
//
// An entry belongs to a piece of memory and a plan, and is valid for the exact contents it was made from: each look-up
// takes a fingerprint of the weight as it is now. Reading a weight costs a few per cent of the convolution and catches
// every change, also one that leaves no trace in a tensor's version counter (through .data, another process, a compiled
// graph, inference tensors, memory that was freed and given to another tensor). What is inserted was prepared from a copy, and
// has the copy's fingerprint: another thread may be writing to the weight meanwhile.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "../fft/engine.h"
#include "fingerprint.h"

namespace gcn::cpu {

class SpectraCache {
 public:
  using Spectra = std::shared_ptr<float[]>;

  struct Key {
    const void* data;
    std::array<int64_t, 10> layout;  // dtype, sizes, strides, and whether as its transpose
    fft::Plan plan;
  };

  // Entries are bounded beside their bytes, since those of small weights are little more than keys (0.7 KB each).
  static constexpr size_t kMostEntries = 1 << 15;

  static SpectraCache& instance();

  // The entry for `key` if its contents are still `now`, or null.
  Spectra find(const Key& key, const Fingerprint& now);
  // `made_from`: the fingerprint of the very bytes that the spectra were prepared from.
  void insert(const Key& key, const Fingerprint& made_from, Spectra spectra);
  void clear();
  int64_t bytes();
  size_t entries();

  // For fork() alone, see fork.cpp.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  struct Entry {
    Key key;
    Fingerprint fingerprint;
    Spectra spectra;
  };
  using Entries = std::list<Entry>;
  struct Hash {
    size_t operator()(const Key* key) const;
  };
  struct Same {
    bool operator()(const Key* a, const Key* b) const;
  };

  int64_t capacity();
  void take_out(Entries::iterator entry, Entries* dropped);

  std::mutex mutex_;
  Entries entries_;                                                      // most recently used first
  std::unordered_map<const Key*, Entries::iterator, Hash, Same> index_;  // by the keys in the entries
  int64_t bytes_ = 0;
  int64_t capacity_ = -1;  // not asked for yet
};

}  // namespace gcn::cpu
