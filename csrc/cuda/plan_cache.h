// Plans that have been made, by everything they were made from: making one takes as long as several launches.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "gpu.h"

namespace gcn::cuda {

template <class Numbers>
size_t hash_of(const Numbers& numbers) {
  uint64_t hash = 0;
  for (const int64_t number : numbers) hash = (hash ^ uint64_t(number)) * 0x9e3779b97f4a7c15u, hash ^= hash >> 32;
  return size_t(hash);
}

// What a plan is made from, as numbers, padded with zeros.
class PlanKey {
 public:
  PlanKey& add(std::initializer_list<int64_t> numbers) {
    for (const int64_t number : numbers) numbers_.at(count_++) = number;
    return *this;
  }
  PlanKey& add(const Strides& s) { return add({s.n, s.c, s.h, s.w}); }
  PlanKey& add(const MapLayout& map) { return add(map.strides).add({map.aligned}); }

  bool operator==(const PlanKey& other) const { return numbers_ == other.numbers_; }
  struct Hash {
    size_t operator()(const PlanKey& key) const { return hash_of(key.numbers_); }
  };

 private:
  std::array<int64_t, 32> numbers_{};
  size_t count_ = 0;
};

// A key of any length.
class LongPlanKey {
 public:
  void add(int64_t number) { numbers_.push_back(number); }
  void add(const std::vector<int64_t>& numbers) { numbers_.insert(numbers_.end(), numbers.begin(), numbers.end()); }

  bool operator==(const LongPlanKey& other) const { return numbers_ == other.numbers_; }
  struct Hash {
    size_t operator()(const LongPlanKey& key) const { return hash_of(key.numbers_); }
  };

 private:
  std::vector<int64_t> numbers_;
};

// May be used by several threads at once. Problems come in few sizes; where they do not, all plans are dropped now and then.
template <class Plan, class Key = PlanKey>
class PlanCache {
 public:
  // The plan of this key, which `make` makes if there is none yet.
  template <class Make>
  std::shared_ptr<const Plan> get(const Key& key, const Make& make) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = plans_.find(key);
      if (found != plans_.end()) return found->second;
    }
    const auto made = std::make_shared<const Plan>(make());
    const std::lock_guard<std::mutex> lock(mutex_);
    if (plans_.size() >= kMost) plans_.clear();
    return plans_.emplace(key, made).first->second;
  }

 private:
  static constexpr size_t kMost = 256;
  std::mutex mutex_;
  std::unordered_map<Key, std::shared_ptr<const Plan>, typename Key::Hash> plans_;
};

}  // namespace gcn::cuda
