// What is ordered in a cluster of warp-specialised blocks, where barriers are mbarriers and belong to some of the warps: every
// warp, and every mbarrier on behalf of the copies that it counts, is an actor with a clock. A warp knows of every actor up to
// which time it happened before; a release hands that on, an acquire takes it over. An access races with an earlier one of which
// its warp does not know.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime.h"

namespace simt {

using Time = uint32_t;
using Knowledge = std::vector<Time>;  // of each actor

inline void learn(Knowledge& mine, const Knowledge& other) {
  for (size_t i = 0; i < mine.size(); ++i) mine[i] = std::max(mine[i], other[i]);
}

class Clocks {
 public:
  void start(size_t warps) {
    now_ = 1, actors_ = warps, most_ = kActorsOfAWarp * warps;
    known_.assign(warps, nothing());
    fenced_.assign(warps, 0);
  }

  // A new actor beside the warps.
  size_t add_actor() {
    if (actors_ == most_) report("more mbarriers than the emulator keeps clocks for");
    return actors_++;
  }
  Knowledge nothing() const { return Knowledge(most_, 0); }

  Time now() const { return now_; }
  Knowledge& known(size_t warp) { return known_[warp]; }

  // What a warp passes on: all it knows, and all it has done.
  Knowledge release(size_t warp) {
    Knowledge passed = known_[warp];
    passed[warp] = now_++;
    return passed;
  }
  // The same for an actor that only copies.
  void release_copies(size_t actor, Knowledge& passed) { passed[actor] = now_++; }
  void acquire(size_t warp, const Knowledge& passed) { learn(known_[warp], passed); }

  // Ordinary stores of a warp up to now may be read by copies and wgmma.
  void fence(size_t warp) { fenced_[warp] = now_++; }
  Time fenced(size_t warp) const { return fenced_[warp]; }

 private:
  static constexpr size_t kActorsOfAWarp = 5;  // with its share of the block's mbarriers
  Time now_ = 1;
  size_t actors_ = 0, most_ = 0;
  std::vector<Knowledge> known_;
  std::vector<Time> fenced_;
};

// Who touched each granule of one block's shared memory last. Warps are numbered over the cluster.
class BlockOrder final : public AccessOrder {
 public:
  void start(Clocks& clocks, size_t bytes, size_t first_warp, size_t warps) {
    clocks_ = &clocks, first_warp_ = first_warp, warps_ = warps;
    const size_t count = (bytes + SharedMemory::kGranule - 1) / SharedMemory::kGranule;
    written_.assign(count, Written());
    read_.assign(count, Read());
    read_times_.assign(count * warps, 0);
  }

  void read(size_t first, size_t count, const char* what, const Accessor& who) override {
    const size_t me = first_warp_ + static_cast<size_t>(who.warp);
    for (size_t i = first; i < first + count; ++i) {
      check_landed(i, what);
      check_known_write(i, me, who, what);
      note_read(i, who);
    }
  }

  void write(size_t first, size_t count, const char* what, const Accessor& who) override {
    const size_t me = first_warp_ + static_cast<size_t>(who.warp);
    for (size_t i = first; i < first + count; ++i) {
      check_landed(i, what);
      check_known_write(i, me, who, what);
      check_known_reads(i, me, who, what);
      written_[i] = {clocks_->now(), static_cast<int16_t>(me), static_cast<int16_t>(who.thread), who.warp_epoch, true, false};
    }
  }

  // By wgmma, on behalf of a warp of this block.
  void read_by_product(size_t first, size_t count, const Accessor& who) {
    constexpr const char* kWhat = "wgmma";
    const size_t me = first_warp_ + static_cast<size_t>(who.warp);
    for (size_t i = first; i < first + count; ++i) {
      check_landed(i, kWhat);
      check_known_write(i, me, who, kWhat);
      check_fenced(i, kWhat);
      note_read(i, who);
    }
  }

  // A copy that warp `issuer` of the cluster starts, whose destination nobody may touch until it has landed.
  void start_copy(size_t first, size_t count, size_t issuer, const Accessor& who) {
    constexpr const char* kWhat = "a copy of the copy engine";
    for (size_t i = first; i < first + count; ++i) {
      check_landed(i, kWhat);
      check_known_write(i, issuer, who, kWhat);
      check_known_reads(i, issuer, who, kWhat);
      check_fenced(i, kWhat);
      written_[i].in_flight = true;
    }
  }

  void land_copy(size_t first, size_t count, size_t actor) {
    const Written copied{clocks_->now(), static_cast<int16_t>(actor), kCopier, 0, false, false};
    std::fill_n(written_.begin() + static_cast<std::ptrdiff_t>(first), count, copied);
  }

 private:
  static constexpr int16_t kCopier = -3;

  struct Written {
    Time time = 0;
    int16_t actor = -1, thread = -1;
    uint32_t warp_epoch = 0;
    bool ordinary = false, in_flight = false;
  };
  struct Read {  // the last of all
    int16_t warp = -1, thread = -1;
    uint32_t warp_epoch = 0;
  };

  void note_read(size_t i, const Accessor& who) {
    Read& r = read_[i];
    const bool joins = r.warp == who.warp && r.warp_epoch == who.warp_epoch && r.thread != who.thread;
    r = {static_cast<int16_t>(who.warp), static_cast<int16_t>(joins ? kWholeWarp : who.thread), who.warp_epoch};
    read_times_[i * warps_ + static_cast<size_t>(who.warp)] = clocks_->now();
  }

  void check_landed(size_t i, const char* what) const {
    if (written_[i].in_flight) say(i, what, "where a copy is still in flight");
  }

  void check_known_write(size_t i, size_t me, const Accessor& who, const char* what) const {
    const Written& w = written_[i];
    if (w.actor < 0) return;
    if (static_cast<size_t>(w.actor) != me) {
      if (clocks_->known(me)[static_cast<size_t>(w.actor)] < w.time)
        say(i, what, "written by " + name(w.thread) + ", of which it does not know: a race");
    } else if (w.warp_epoch == who.warp_epoch && w.thread != who.thread) {
      say(i, what, "written by " + name(w.thread) + " of the same warp with nothing between: a race");
    }
  }

  void check_known_reads(size_t i, size_t me, const Accessor& who, const char* what) const {
    for (size_t warp = 0; warp < warps_; ++warp) {
      const Time time = read_times_[i * warps_ + warp];
      if (first_warp_ + warp != me && time && clocks_->known(me)[first_warp_ + warp] < time)
        say(i, what, "read by warp " + std::to_string(warp) + ", of which it does not know: a race");
    }
    const Read& r = read_[i];
    if (r.warp >= 0 && first_warp_ + static_cast<size_t>(r.warp) == me && r.warp_epoch == who.warp_epoch &&
        r.thread != who.thread)
      say(i, what, "read by " + name(r.thread) + " of the same warp with nothing between: a race");
  }

  void check_fenced(size_t i, const char* what) const {
    const Written& w = written_[i];
    if (w.ordinary && clocks_->fenced(static_cast<size_t>(w.actor)) < w.time)
      say(i, what, "written by " + name(w.thread) + " with no fence_async_proxy() since");
  }

  static std::string name(int thread) {
    return thread == kCopier ? "a copy" : thread == kWholeWarp ? "a warp" : "thread " + std::to_string(thread);
  }

  [[noreturn]] static void say(size_t granule, const char* what, const std::string& why) {
    report(std::string(what) + " at byte " + std::to_string(granule * SharedMemory::kGranule) + " of shared memory, " + why);
  }

  Clocks* clocks_ = nullptr;
  size_t first_warp_ = 0, warps_ = 0;
  std::vector<Written> written_;
  std::vector<Read> read_;
  std::vector<Time> read_times_;
};

}  // namespace simt
