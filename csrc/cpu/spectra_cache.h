// Weight spectra kept between calls that do not train.
//
// An entry belongs to a piece of memory and a plan, and is valid for the exact contents it was made from: each look-up
// takes a fingerprint of the weight as it is now. Reading a weight costs a few per cent of the convolution and catches
// every change, also one that leaves no trace in a tensor's version counter (through .data, another process, a compiled
// graph, inference tensors, memory that was freed and given to another tensor).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>

#include "fft/engine.h"
#include "gcn.h"

namespace gcn::cpu {

// Lanes of 64 bits over the weight's bytes. A change of one word changes its lane for certain; several changes cancel with
// a probability of about 2^-64. 32 lanes, so that the multiplications of four wide vectors overlap.
using Fingerprint = std::array<uint64_t, 32>;

class SpectraCache {
 public:
  using Spectra = std::shared_ptr<float[]>;

  struct Key {
    const void* data;
    std::array<int64_t, 10> layout;  // dtype, sizes, strides, and whether as its transpose
    fft::Plan plan;
  };

  static SpectraCache& instance();

  // The entry for `key` if its contents are still `now`, or null.
  Spectra find(const Key& key, const Fingerprint& now);
  void insert(const Key& key, const Fingerprint& now, Spectra spectra);
  void clear();
  int64_t bytes() const;

 private:
  struct Entry {
    Key key;
    Fingerprint fingerprint;
    Spectra spectra;
  };

  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // most recently used first
  int64_t bytes_ = 0;
};

// Of a weight whose elements fill one piece of memory; false for any other.
bool fingerprint(const Tensor& weight, Fingerprint* out);

}  // namespace gcn::cpu
