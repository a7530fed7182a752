// Clusters of blocks that run side by side: mbarriers, barriers of some warps, copies by the copy engine. For kernels that are
// launched by launch_cluster(); see ../emulated_hopper.h.
//
// A copy reads its source when it is issued and lands when the schedule says so: as late as can be (ascending), at once
// (descending), or at random. Until then its destination is nan and out of bounds for everybody.
#pragma once

#include <deque>
#include <map>
#include <memory>

#include "hopper_order.h"

namespace simt {

struct Mbarrier {
  int count = 0, pending = 0;
  int64_t bytes = 0;  // expected and not yet copied
  uint32_t phase = 0;
  size_t actor = 0;
  size_t made_by = 0;  // a warp of the cluster
  Time made_at = 0;
  bool fenced = false;
  Knowledge gathering, passed;  // of the phase that runs; of the one that has ended
};

using RegistersOfA = std::array<uint32_t, 4>;

// One product that has been issued and not waited for. D belongs to a thread, and so does A where it is in registers.
struct PendingProduct {
  float* d;
  int width;
  uint64_t a, b;
  bool add, trans_a, trans_b;
  void (*decode)(const unsigned char* unit, double* numbers);  // one unit of 16 bytes
  int unit;                                                    // numbers in it
  const uint32_t* registers = nullptr;                         // of A; then `a` says nothing
  RegistersOfA issued = {};                                    // what they held
};

struct ClusterThread {
  size_t block = 0;
  const Mbarrier* waits_for = nullptr;
  uint32_t parity = 0;
  bool fenced = false;  // by wgmma_fence, since the last wait
  size_t fences = 0;
  // What products had from registers last, and after how many fences.
  std::map<const uint32_t*, std::pair<RegistersOfA, size_t>> registers;
  std::vector<PendingProduct> open;
  std::deque<std::vector<PendingProduct>> groups;
};

struct GroupBarrier {
  int threads = 0;
  std::vector<size_t> arrived;  // threads of the cluster
};

struct EngineCopy {
  size_t block;  // of the destination, in the cluster
  size_t offset;
  std::vector<unsigned char> data;
  Mbarrier* barrier;
  std::vector<size_t> places;  // of each unit of the data from `offset` on; empty if they follow each other
};

class ClusterMachine : public Fibers {
 public:
  void run(const Grid& grid, unsigned cluster) {
    random_.seed(schedule.seed);
    cluster_ = cluster, block_threads_ = static_cast<size_t>(grid.threads);
    const size_t threads = cluster * block_threads_;
    threads_.resize(threads), more_.resize(threads), warps_.resize(threads / kWarpSize);
    while (blocks_.size() < cluster) blocks_.push_back(std::make_unique<Block>());
    make_stacks(threads);
    running.grid = &grid, running.fibers = this, running.threads = static_cast<unsigned>(grid.threads);
    waited_ = false;
    dependent_memory().start_launch(grid.blocks.x / cluster);
    try {
      for (unsigned x = 0; x < grid.blocks.x; x += cluster) run_cluster(x);
      if (grid.dependent && !waited_) report("a dependent launch never calls wait_for_dependencies()");
    } catch (...) {
      running = Running();
      throw;
    }
    running = Running();
  }

  // --- what the running thread does

  ClusterThread& me() { return more_[my_number()]; }
  size_t my_warp() { return my_number() / kWarpSize; }
  size_t my_block() { return me().block; }
  unsigned cluster() const { return cluster_; }
  Clocks& clocks() { return clocks_; }
  BlockOrder& order(size_t block) { return blocks_[block]->order; }
  SharedMemory& shared(size_t block) { return blocks_[block]->shared; }

  void init(const void* place, int count) {
    Block& block = *blocks_[my_block()];
    if (count < 1) report("an mbarrier that expects nobody");
    const size_t at = block.shared.check(place, 8, "barrier_init");
    if (block.barriers.count(at)) report("barrier_init of a barrier that is in use");
    Mbarrier& b = block.barriers[at];
    b.count = b.pending = count, b.actor = clocks_.add_actor(), b.made_by = my_warp(), b.made_at = clocks_.now();
    b.gathering = b.passed = clocks_.nothing();
  }

  void fence_init() {
    for (auto& [at, b] : blocks_[my_block()]->barriers) b.fenced |= b.made_by == my_warp();
  }

  Mbarrier& barrier(const void* place, size_t block) {
    Block& of = *blocks_.at(block);
    const size_t at = blocks_[my_block()]->shared.check(place, 8, "an mbarrier");
    const auto found = of.barriers.find(at);
    if (found == of.barriers.end()) report("an mbarrier that nobody has made");
    Mbarrier& b = found->second;
    if (!b.fenced) report("an mbarrier is used without fence_barrier_init() after barrier_init()");
    if (my_warp() != b.made_by && clocks_.known(my_warp())[b.made_by] < b.made_at)
      report("an mbarrier is used before its block knows that it was made");
    return b;
  }

  void arrive(Mbarrier& b, int64_t bytes) {
    if (b.pending == 0) report("an mbarrier has more arrivals than it expects");
    learn(b.gathering, clocks_.release(my_warp()));
    --b.pending, b.bytes += bytes;
    finish_phase(b);
  }

  void arrive_at(const void* place, int rank) {
    if (rank < 0 || static_cast<unsigned>(rank) >= cluster_) report("an arrival at a block outside of the cluster");
    require_running(static_cast<size_t>(rank));
    arrive(barrier(place, static_cast<size_t>(rank)), 0);
  }

  void wait(Mbarrier& b, uint32_t parity) {
    if (parity > 1) report("barrier_wait: a parity is 0 or 1");
    if (!ended(b, parity)) {
      me().waits_for = &b, me().parity = parity;
      stop(State::kAtMbarrier, "an mbarrier");
    }
    clocks_.acquire(my_warp(), b.passed);
  }

  void group_barrier(int id, int threads) {
    if (id < 1 || id > 15) report("group_barrier: ids are 1 to 15");
    if (threads % kWarpSize || threads < kWarpSize || static_cast<size_t>(threads) > block_threads_)
      report("group_barrier of " + std::to_string(threads) + " threads");
    GroupBarrier& g = blocks_[my_block()]->groups[static_cast<size_t>(id)];
    if (!g.arrived.empty() && g.threads != threads) report("group_barrier: threads disagree on how many they are");
    g.threads = threads;
    g.arrived.push_back(my_number());
    if (static_cast<int>(g.arrived.size()) < threads) {
      stop(State::kAtGroupBarrier, "a group barrier");
    } else {
      const std::vector<size_t> all = std::move(g.arrived);
      g.arrived.clear();
      meet(all);
    }
  }

  void cluster_sync() { stop(State::kAtClusterBarrier, "cluster_sync()"); }

  void copy(EngineCopy c) {
    const Accessor who = accessor();
    require_running(c.block);
    SharedMemory& to = shared(c.block);
    std::vector<size_t> units = c.places;
    if (units.empty()) units.push_back(c.offset);
    const size_t bytes = c.places.empty() ? c.data.size() : kUnit;
    for (size_t at : units) {
      to.check(to.bytes() + at, bytes, "a copy of the copy engine");
      order(c.block).start_copy(at / SharedMemory::kGranule, bytes / SharedMemory::kGranule, my_warp(), who);
      std::memset(to.bytes() + at, 0xFF, bytes);
    }
    copies_.push_back(std::move(c));
    if (schedule.order == Schedule::Order::kDescending) land(copies_.size() - 1);
  }

  static constexpr size_t kUnit = 16;

 private:
  struct Block {
    SharedMemory shared;
    BlockOrder order;
    Index index;
    std::map<size_t, Mbarrier> barriers;
    std::array<GroupBarrier, 16> groups;
  };

  size_t my_number() const { return static_cast<size_t>(running.thread - threads_.data()); }

  static bool ended(const Mbarrier& b, uint32_t parity) { return (b.phase & 1) != parity; }

  void finish_phase(Mbarrier& b) {
    if (b.pending || b.bytes) return;
    clocks_.release_copies(b.actor, b.gathering);
    b.passed = b.gathering;
    b.pending = b.count;
    ++b.phase;
  }

  void require_running(size_t block) {
    const size_t first = block * block_threads_;
    for (size_t i = first; i < first + block_threads_; ++i)
      if (threads_[i].state != State::kFinished) return;
    report("block " + std::to_string(block) + " of the cluster has ended, and somebody still touches its shared memory");
  }

  // Threads have met: each knows what any of them knows and has done.
  void meet(const std::vector<size_t>& threads) {
    std::vector<size_t> warps;
    for (size_t t : threads) {
      threads_[t].state = State::kRunnable;
      if (warps.empty() || warps.back() != t / kWarpSize) warps.push_back(t / kWarpSize);
    }
    std::sort(warps.begin(), warps.end());
    warps.erase(std::unique(warps.begin(), warps.end()), warps.end());
    Knowledge all = clocks_.nothing();
    for (size_t w : warps) learn(all, clocks_.release(w));
    for (size_t w : warps) clocks_.acquire(w, all), ++warps_[w].epoch;
  }

  void run_cluster(unsigned first_block) {
    running.thread = nullptr;
    clocks_.start(warps_.size());
    copies_.clear();
    std::fill(warps_.begin(), warps_.end(), Warp());
    std::fill(more_.begin(), more_.end(), ClusterThread());
    const size_t block_warps = block_threads_ / kWarpSize;
    for (size_t b = 0; b < cluster_; ++b) {
      Block& block = *blocks_[b];
      block.shared.order_by(&block.order);
      block.shared.start(running.grid->shared_bytes);
      block.order.start(clocks_, running.grid->shared_bytes, b * block_warps, block_warps);
      block.index = {first_block + static_cast<unsigned>(b), 0, 0};
      block.barriers.clear(), block.groups = {};
      for (size_t i = 0; i < block_threads_; ++i) {
        prepare(threads_[b * block_threads_ + i], static_cast<int>(i), b * block_threads_ + i);
        more_[b * block_threads_ + i].block = b;
      }
    }
    if (running.grid->dependent) dependent_memory().start_block();
    try {
      while (step()) {
      }
    } catch (...) {
      running.thread = nullptr;
      try {
        dependent_memory().show();
      } catch (const Bug&) {  // the first bug is the one to report
      }
      throw;
    }
    running.thread = nullptr;
    dependent_memory().show();
    check_exit();
  }

  // Runs a warp that can, or lets a copy land, or opens what all wait at. Returns false when all have finished.
  bool step() {
    const bool random = schedule.order == Schedule::Order::kRandom;
    if (random && !copies_.empty() && random_() % 8 == 0) land(random_() % copies_.size());
    std::vector<size_t> ready;
    for (size_t w = 0; w < warps_.size(); ++w)
      if (has_runnable(w)) ready.push_back(w);
    if (!ready.empty()) {
      const size_t turn = random                                           ? random_() % ready.size()
                          : schedule.order == Schedule::Order::kDescending ? ready.size() - 1
                                                                           : 0;
      run_warp(ready[turn]);
      return true;
    }
    running.thread = nullptr;
    if (open_barriers()) return true;
    if (!copies_.empty()) {
      land(random ? random_() % copies_.size() : 0);
      return true;
    }
    if (end_of_dependencies()) return true;
    for (const Thread& t : threads_)
      if (t.state != State::kFinished) report("nothing can go on: " + describe_all());
    return false;
  }

  bool has_runnable(size_t warp) {
    for (size_t i = warp * kWarpSize; i < (warp + 1) * kWarpSize; ++i) {
      Thread& t = threads_[i];
      if (t.state == State::kAtMbarrier && ended(*more_[i].waits_for, more_[i].parity)) t.state = State::kRunnable;
      if (t.state == State::kRunnable) return true;
    }
    return false;
  }

  void run_warp(size_t warp) {
    std::array<size_t, kWarpSize> lanes;
    std::iota(lanes.begin(), lanes.end(), warp * kWarpSize);
    if (schedule.order == Schedule::Order::kDescending) std::reverse(lanes.begin(), lanes.end());
    if (schedule.order == Schedule::Order::kRandom) std::shuffle(lanes.begin(), lanes.end(), random_);
    Block& block = *blocks_[warp * kWarpSize / block_threads_];
    running.warp = &warps_[warp], running.block = block.index, running.shared = &block.shared;
    for (size_t i : lanes) {
      if (threads_[i].state == State::kAtMbarrier && ended(*more_[i].waits_for, more_[i].parity))
        threads_[i].state = State::kRunnable;
      if (threads_[i].state == State::kRunnable) resume(threads_[i], i);
    }
  }

  // Barriers of all threads of a block or the cluster.
  bool open_barriers() {
    bool opened = false;
    for (size_t b = 0; b < cluster_; ++b) {
      std::vector<size_t> all(block_threads_);
      std::iota(all.begin(), all.end(), b * block_threads_);
      if (all_at(State::kAtBarrier, all)) meet(all), opened = true;
    }
    std::vector<size_t> everyone(threads_.size());
    std::iota(everyone.begin(), everyone.end(), size_t{0});
    if (all_at(State::kAtClusterBarrier, everyone)) meet(everyone), opened = true;
    return opened;
  }

  // The launches before end as late as they can: when no thread gets any further without what they write.
  bool end_of_dependencies() {
    bool any = false;
    for (Thread& t : threads_) {
      if (t.state == State::kAtDependencies) t.state = State::kRunnable, any = true;
    }
    if (any) waited_ = true, dependent_memory().show();
    return any;
  }

  bool all_at(State state, const std::vector<size_t>& threads) const {
    return std::all_of(threads.begin(), threads.end(), [&](size_t t) {
      return threads_[t].state == state &&
             (state != State::kAtBarrier || !std::strcmp(threads_[t].waits_at, threads_[threads.front()].waits_at));
    });
  }

  void land(size_t i) {
    const EngineCopy c = std::move(copies_[i]);
    copies_.erase(copies_.begin() + static_cast<std::ptrdiff_t>(i));
    unsigned char* to = shared(c.block).bytes();
    if (c.places.empty()) {
      std::memcpy(to + c.offset, c.data.data(), c.data.size());
      order(c.block).land_copy(c.offset / SharedMemory::kGranule, c.data.size() / SharedMemory::kGranule, c.barrier->actor);
    }
    for (size_t u = 0; u < c.places.size(); ++u) {
      std::memcpy(to + c.places[u], c.data.data() + u * kUnit, kUnit);
      order(c.block).land_copy(c.places[u] / SharedMemory::kGranule, kUnit / SharedMemory::kGranule, c.barrier->actor);
    }
    c.barrier->bytes -= static_cast<int64_t>(c.data.size());
    finish_phase(*c.barrier);
  }

  std::string describe_all() const {
    std::string text;
    size_t said = 0;
    for (size_t w = 0; w < warps_.size() && said < 6; ++w) {
      const Thread& t = threads_[w * kWarpSize];
      if (t.state == State::kFinished) continue;
      text += (said++ ? ", " : "") + ("warp " + std::to_string(w % (block_threads_ / kWarpSize))) + " of block " +
              std::to_string(w * kWarpSize / block_threads_) + " waits at " + (t.waits_at ? t.waits_at : "nothing");
    }
    return said ? text : "some lanes of a warp have finished, others wait";
  }

  void check_exit() {
    for (size_t i = 0; i < threads_.size(); ++i) {
      running.thread = &threads_[i];
      if (!more_[i].open.empty() || !more_[i].groups.empty()) report("the kernel ends with a wgmma that nobody has waited for");
    }
    running.thread = nullptr;
    for (const auto& block : blocks_)
      for (const auto& [at, b] : block->barriers)
        if (b.bytes) report("the kernel ends, and the mbarrier at byte " + std::to_string(at) + " still expects bytes");
    for (size_t b = 0; b < cluster_; ++b)
      for (const GroupBarrier& g : blocks_[b]->groups)
        if (!g.arrived.empty()) report("the kernel ends with threads at a group barrier");
  }

  std::vector<Thread> threads_;
  std::vector<ClusterThread> more_;
  std::vector<Warp> warps_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<EngineCopy> copies_;
  Clocks clocks_;
  std::mt19937_64 random_;
  size_t block_threads_ = 0;
  unsigned cluster_ = 1;
  bool waited_ = false;
};

inline ClusterMachine& cluster_machine() {
  static thread_local const auto machine = std::make_unique<ClusterMachine>();
  return *machine;
}

inline void run_clusters(const Grid& grid, int cluster) {
  check_launch(grid);
  const auto refuse = [&](const std::string& why) { throw Bug(why + " [" + kernel_name(grid.kernel) + "]"); };
  if (cluster < 1 || cluster > 8) refuse("a cluster of " + std::to_string(cluster) + " blocks; 1 to 8 can be");
  if (grid.blocks.x % static_cast<unsigned>(cluster)) refuse("a grid that is no whole number of clusters");
  if (grid.blocks.y != 1 || grid.blocks.z != 1) refuse("clusters are emulated in grids of one dimension");
  cluster_machine().run(grid, static_cast<unsigned>(cluster));
}

}  // namespace simt
