// A block's shared memory: its bytes, and for every two of them who read and wrote them last.
//
// Two accesses are ordered if a __syncthreads lies between them, or, within a warp, a __syncwarp. Two accesses that are not
// ordered and of which one writes are a race. Two bytes are the smallest type there is, so nothing is reported that touches
// different elements. A copy in flight belongs to nobody: until the wait that covers it, every access to its destination is a
// bug.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "bug.h"
#include "fiber.h"

namespace simt {

// Who accesses shared memory, and when: epochs count the barriers of the block and those of the warp.
struct Accessor {
  int thread, warp;
  uint32_t epoch, warp_epoch;
};

// Stands for a thread where all lanes of a warp take part, as in ldmatrix.
constexpr int kWholeWarp = -2;

// Another notion of what is ordered than barriers of whole blocks and warps. Places are granules of two bytes.
class AccessOrder {
 public:
  virtual void read(size_t first, size_t count, const char* what, const Accessor& who) = 0;
  virtual void write(size_t first, size_t count, const char* what, const Accessor& who) = 0;

 protected:
  ~AccessOrder() = default;
};

class SharedMemory {
 public:
  static constexpr size_t kGranule = 2;
  static constexpr size_t kLargest = 227 << 10;  // per block, sm_90; smaller parts are the plan's affair

  SharedMemory() : raw_(static_cast<unsigned char*>(std::aligned_alloc(1024, kAllocated))) {
    if (!raw_) throw std::bad_alloc();
  }
  SharedMemory(const SharedMemory&) = delete;
  ~SharedMemory() {
    unpoison();
    std::free(raw_);
  }

  unsigned char* bytes() const { return raw_ + kOffset; }

  // Starts a block: garbage that is nan in every floating-point type, and nothing past the size asked for.
  void start(size_t size) {
    size_ = size;
    unpoison();
    std::memset(bytes(), 0xFF, size);
    granules_.assign((size + kGranule - 1) / kGranule, Granule());
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(raw_, kOffset);
    __asan_poison_memory_region(bytes() + size, kAllocated - kOffset - size);
#endif
  }

  // From the next start() on.
  void order_by(AccessOrder* order) { order_ = order; }
  size_t size() const { return size_; }

  // As a number: the low bits of an address, with the alignment that the base has.
  static uint32_t address(size_t offset) { return static_cast<uint32_t>(kBase + offset); }
  static size_t offset_of(uint32_t address) { return address - kBase; }

  // The offset of n bytes that have to lie inside.
  size_t check(const void* p, size_t n, const char* what) const {
    const size_t at = offset(p);  // wraps around below the start
    if (at >= size_ || n > size_ - at)
      report(std::string(what) + " at byte " + std::to_string(static_cast<int64_t>(at)) + " of shared memory, outside its " +
             std::to_string(size_) + " bytes");
    return at;
  }

  void read(const void* p, size_t n, const char* what, const Accessor& who) {
    const size_t first = check(p, n, what) / kGranule;
    if (order_) return order_->read(first, n / kGranule, what, who);
    for (size_t i = first; i < first + n / kGranule; ++i) {
      Granule& g = granules_[i];
      if (g.copier != kNobody) report_in_flight(i, what, g);
      if (unordered_with_write(g, who)) report_race(i, g.writer, "wrote", who, "reads", what);
      g.note_read(who);
    }
  }

  void write(const void* p, size_t n, const char* what, const Accessor& who) {
    const size_t first = check(p, n, what) / kGranule;
    if (order_) return order_->write(first, n / kGranule, what, who);
    for (size_t i = first; i < first + n / kGranule; ++i) {
      if (granules_[i].copier != kNobody) report_in_flight(i, what, granules_[i]);
      note_write(i, what, who);
    }
  }

  // A copy's destination is written, as far as others can tell, from its issue to the wait that covers it.
  void start_copy(void* p, size_t n, const char* what, const Accessor& who) {
    write(p, n, what, who);
    const size_t first = offset(p) / kGranule;
    for (size_t i = first; i < first + n / kGranule; ++i) granules_[i].copier = who.thread;
    std::memset(p, 0xFF, n);
  }

  void land_copy(void* p, const void* data, size_t n, const char* what, const Accessor& who) {
    const size_t first = offset(p) / kGranule;
    for (size_t i = first; i < first + n / kGranule; ++i) {
      granules_[i].copier = kNobody;
      if (!order_) note_write(i, what, who);
    }
    if (order_) order_->write(first, n / kGranule, what, who);
    std::memcpy(p, data, n);
  }

 private:
  // The base is aligned to 128 bytes as promised and to nothing more: a kernel that counts on more is wrong here, too.
  static constexpr size_t kOffset = 128;
  static constexpr size_t kBase = 1024 + kOffset;  // what address() starts from
  static constexpr size_t kAllocated = kLargest + 1024;
  static constexpr int kNobody = -1;

  struct Granule {
    uint32_t write_epoch = 0, write_warp_epoch = 0;
    uint32_t read_epoch = 0, read_warp_epoch = 0;
    uint32_t reading_warps = 0;  // bit per warp that read in read_epoch
    int16_t writer = kNobody, writing_warp = kNobody;
    int16_t reader = kNobody;  // the last to read; kWholeWarp if several lanes did since the last __syncwarp
    int16_t copier = kNobody;

    void note_read(const Accessor& who) {
      const uint32_t me = 1u << who.warp;
      if (read_epoch != who.epoch) reading_warps = 0;
      const bool joins = reading_warps == me && read_warp_epoch == who.warp_epoch && reader != who.thread;
      reader = static_cast<int16_t>(joins ? kWholeWarp : who.thread);
      reading_warps |= me, read_epoch = who.epoch, read_warp_epoch = who.warp_epoch;
    }
  };

  static bool unordered_with_write(const Granule& g, const Accessor& who) {
    if (g.write_epoch != who.epoch) return false;
    if (g.writing_warp != who.warp) return true;
    return g.write_warp_epoch == who.warp_epoch && (g.writer != who.thread || who.thread == kWholeWarp);
  }

  static bool unordered_with_read(const Granule& g, const Accessor& who) {
    if (g.read_epoch != who.epoch) return false;
    if (g.reading_warps & ~(1u << who.warp)) return true;
    return g.read_warp_epoch == who.warp_epoch && (g.reader != who.thread || who.thread == kWholeWarp);
  }

  void note_write(size_t i, const char* what, const Accessor& who) {
    Granule& g = granules_[i];
    if (unordered_with_write(g, who)) report_race(i, g.writer, "wrote", who, "writes", what);
    if (unordered_with_read(g, who)) report_race(i, g.reader, "read", who, "writes", what);
    g.writer = static_cast<int16_t>(who.thread), g.writing_warp = static_cast<int16_t>(who.warp);
    g.write_epoch = who.epoch, g.write_warp_epoch = who.warp_epoch;
  }

  size_t offset(const void* p) const { return static_cast<size_t>(static_cast<const unsigned char*>(p) - bytes()); }

  [[noreturn]] static void report_race(size_t granule, int earlier, const char* did, const Accessor& who, const char* does,
                                       const char* what) {
    report("race at byte " + std::to_string(granule * kGranule) + " of shared memory: " + name(earlier) + " " + did + " it and " +
           name(who.thread) + " " + does + " it (" + what + ") with no barrier between");
  }

  [[noreturn]] static void report_in_flight(size_t granule, const char* what, const Granule& g) {
    report(std::string(what) + " at byte " + std::to_string(granule * kGranule) + " of shared memory, where a copy of thread " +
           std::to_string(g.copier) + " is still in flight");
  }

  static std::string name(int thread) { return thread == kWholeWarp ? "a warp" : "thread " + std::to_string(thread); }

  void unpoison() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(raw_, kAllocated);
#endif
  }

  unsigned char* raw_;
  size_t size_ = 0;
  AccessOrder* order_ = nullptr;
  std::vector<Granule> granules_;
};

}  // namespace simt
