// The scheduler behind runtime.h.
#pragma once

#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>

namespace simt {

// With template arguments and without parameters: "void gcn::cuda::combine_kernel<float>".
inline std::string full_name(const void* kernel) {
  Dl_info info;
  if (!dladdr(kernel, &info) || !info.dli_sname) return "a kernel without a visible name";
  int status = 0;
  char* readable = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  std::string name = status == 0 ? readable : info.dli_sname;
  std::free(readable);
  const size_t of_template = name.rfind(">(");
  return of_template == std::string::npos ? name.substr(0, name.find('(')) : name.substr(0, of_template + 1);
}

inline std::string kernel_name(const void* kernel) {
  const std::string name = full_name(kernel);
  return name.rfind("void ", 0) == 0 ? name.substr(5) : name;
}

inline void report(const std::string& what) {
  std::string place;
  if (running.grid) {
    const Index& b = running.block;
    place = " [" + kernel_name(running.grid->kernel) + ", block (" + std::to_string(b.x) + ", " + std::to_string(b.y) + ", " +
            std::to_string(b.z) + ")";
    if (running.thread) place += ", thread " + std::to_string(running.thread->id);
    place += "]";
  }
  throw Bug(what + place);
}

// Memory declared as written by launches; hidden while a block of a dependent launch has not waited.
class DependentMemory {
 public:
  void declare(void* p, size_t bytes) { ranges_.push_back({static_cast<unsigned char*>(p), bytes, {}}); }
  void forget() { ranges_.clear(); }

  // Hiding copies everything, so that of a large launch every so many blocks have to stand for all. The step is odd, as the roles
  // of blocks often repeat with an even period.
  void start_launch(uint64_t blocks) {
    constexpr uint64_t kBudget = 32 << 20;
    uint64_t bytes = 1;
    for (const Range& r : ranges_) bytes += r.bytes;
    step_ = blocks * bytes / kBudget | 1;
    next_ = 0;
  }

  void start_block() {
    if (next_++ % step_) return;
    for (Range& r : ranges_) {
      r.saved.assign(r.begin, r.begin + r.bytes);
      std::memset(r.begin, 0xFF, r.bytes);
    }
    hidden_ = true;
  }

  void show() {
    if (!hidden_) return;
    hidden_ = false;
    bool touched = false;
    for (Range& r : ranges_) {
      touched |= !untouched(r);
      std::copy(r.saved.begin(), r.saved.end(), r.begin);
    }
    if (touched) report("memory that earlier launches use was written before wait_for_dependencies()");
  }

 private:
  struct Range {
    unsigned char* begin;
    size_t bytes;
    std::vector<unsigned char> saved;
  };

  // Whether every byte still is 0xFF: the first one is, and each is as the one before.
  static bool untouched(const Range& r) {
    return r.bytes == 0 || (r.begin[0] == 0xFF && std::memcmp(r.begin, r.begin + 1, r.bytes - 1) == 0);
  }

  std::vector<Range> ranges_;
  uint64_t step_ = 1, next_ = 0;
  bool hidden_ = false;
};
inline DependentMemory& dependent_memory() {
  // On the heap, as all that a thread has and does not ask for at every access: thread-local memory that a library brings along
  // at run time is scarce.
  static thread_local const auto memory = std::make_unique<DependentMemory>();
  return *memory;
}

inline void declare_written(void* p, size_t bytes) { dependent_memory().declare(p, bytes); }
inline void forget_written() { dependent_memory().forget(); }

// Threads as fibers: switching to one, and from it back to the scheduler. Stacks are kept from block to block.
class Fibers {
 public:
  // Back to the scheduler, from the running thread.
  void leave(Thread& thread) {
    const bool for_good = thread.state == State::kFinished;
    StackSwitch::announce(for_good ? nullptr : &thread.fake_stack, scheduler_bottom_, scheduler_bytes_);
    switch_stack(&thread.stack_pointer, scheduler_);
    StackSwitch::confirm(thread.fake_stack, &scheduler_bottom_, &scheduler_bytes_);
  }

  void confirm_first_entry() { StackSwitch::confirm(nullptr, &scheduler_bottom_, &scheduler_bytes_); }

 protected:
  void make_stacks(size_t count) {
    while (stacks_.size() < count) stacks_.emplace_back();
  }

  // Thread `id` of a block, on stack `stack`.
  void prepare(Thread& t, int id, size_t stack) {
    t.id = id, t.index = {static_cast<unsigned>(id), 0, 0}, t.state = State::kRunnable, t.error = nullptr;
    t.open_copies.clear(), t.copy_groups.clear();
    t.stack_pointer = stacks_[stack].prepare(&enter_thread);
  }

  void resume(Thread& thread, size_t stack) {
    running.thread = &thread;
    void* fake_stack = nullptr;
    StackSwitch::announce(&fake_stack, stacks_[stack].bottom(), Stack::kBytes);
    switch_stack(&scheduler_, thread.stack_pointer);
    StackSwitch::confirm(fake_stack, nullptr, nullptr);
    if (thread.error) std::rethrow_exception(thread.error);
  }

 private:
  static void enter_thread();

  std::vector<Stack> stacks_;
  void* scheduler_ = nullptr;
  const void* scheduler_bottom_ = nullptr;
  size_t scheduler_bytes_ = 0;
};

// One block at a time on this operating-system thread; shared memory is kept from block to block.
class Machine : public Fibers {
 public:
  void run(const Grid& grid) {
    threads_.resize(static_cast<size_t>(grid.threads));
    warps_.resize(static_cast<size_t>(grid.threads / kWarpSize));
    make_stacks(threads_.size());
    running.fibers = this;
    random_.seed(schedule.seed);
    running.grid = &grid, running.shared = &shared_, running.threads = static_cast<unsigned>(grid.threads);
    waited_ = false;
    dependent_memory().start_launch(uint64_t{grid.blocks.x} * grid.blocks.y * grid.blocks.z);
    try {
      for (unsigned z = 0; z < grid.blocks.z; ++z)
        for (unsigned y = 0; y < grid.blocks.y; ++y)
          for (unsigned x = 0; x < grid.blocks.x; ++x) run_block({x, y, z});
      if (grid.dependent && !waited_) report("a dependent launch never calls wait_for_dependencies()");
    } catch (...) {
      running = Running();
      throw;
    }
    running = Running();
  }

 private:
  void run_block(Index block) {
    running.block = block, running.thread = nullptr;
    ++running.epoch;
    shared_.start(running.grid->shared_bytes);
    std::fill(warps_.begin(), warps_.end(), Warp());
    for (size_t i = 0; i < threads_.size(); ++i) prepare(threads_[i], static_cast<int>(i), i);
    if (running.grid->dependent) dependent_memory().start_block();
    try {
      do run_until_stopped();
      while (release());
    } catch (...) {
      running.thread = nullptr;
      try {
        dependent_memory().show();
      } catch (const Bug&) {  // the first bug is the one to report
      }
      throw;
    }
    dependent_memory().show();
    check_exit();
  }

  // Until no thread can run. Warps take turns: each runs as far as it can, or, in random order, to its next stop.
  void run_until_stopped() {
    std::vector<int> waiting(warps_.size());
    std::iota(waiting.begin(), waiting.end(), 0);
    if (schedule.order == Schedule::Order::kDescending) std::reverse(waiting.begin(), waiting.end());
    while (!waiting.empty()) {
      size_t turn = 0;
      if (schedule.order == Schedule::Order::kRandom) turn = random_() % waiting.size();
      if (!run_warp(waiting[turn])) waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(turn));
    }
  }

  // Runs each runnable lane to its next stop. Returns whether there was one.
  bool run_warp(int warp) {
    std::array<int, kWarpSize> lanes;
    std::iota(lanes.begin(), lanes.end(), 0);
    if (schedule.order == Schedule::Order::kDescending) std::reverse(lanes.begin(), lanes.end());
    if (schedule.order == Schedule::Order::kRandom) std::shuffle(lanes.begin(), lanes.end(), random_);
    running.warp = &warps_[static_cast<size_t>(warp)];
    bool any = false;
    for (int lane : lanes) {
      Thread& thread = threads_[static_cast<size_t>(warp * kWarpSize + lane)];
      if (thread.state != State::kRunnable) continue;
      any = true;
      resume(thread, static_cast<size_t>(thread.id));
    }
    return any;
  }

  // Called when all threads have stopped: opens what they wait at. Returns false when all have finished.
  bool release() {
    running.thread = nullptr;
    const Thread& first = threads_.front();
    for (const Thread& t : threads_) {
      if (t.state == first.state && (t.state != State::kAtBarrier || !std::strcmp(t.waits_at, first.waits_at))) continue;
      report("threads of a block diverge: " + describe(first) + ", " + describe(t));
    }
    switch (first.state) {
      case State::kFinished:
        return false;
      case State::kAtDependencies:
        waited_ = true;
        dependent_memory().show();
        break;
      case State::kAtBarrier:
        ++running.epoch;
        break;
      default:
        report("threads of a block diverge: " + describe(first) + ", other lanes of its warp do not arrive");
    }
    for (Thread& t : threads_) t.state = State::kRunnable;
    return true;
  }

  static std::string describe(const Thread& t) {
    const std::string name = "thread " + std::to_string(t.id);
    return t.state == State::kFinished ? name + " has finished" : name + " waits at " + t.waits_at;
  }

  void check_exit() {
    for (Thread& t : threads_) {
      running.thread = &t;
      if (!t.open_copies.empty() || std::any_of(t.copy_groups.begin(), t.copy_groups.end(), [](auto& g) { return !g.empty(); }))
        report("the kernel ends with a copy into shared memory still in flight");
    }
    running.thread = nullptr;
  }

  SharedMemory shared_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::mt19937_64 random_;
  bool waited_ = false;  // whether a block of this launch has called wait_for_dependencies
};

inline Machine& machine() {
  static thread_local const auto machine = std::make_unique<Machine>();
  return *machine;
}

inline void Fibers::enter_thread() {
  running.fibers->confirm_first_entry();
  Thread& me = *running.thread;
  try {
    running.grid->body();
  } catch (...) {
    me.error = std::current_exception();
  }
  me.state = State::kFinished;
  running.fibers->leave(me);
  std::abort();  // a finished thread is never resumed
}

inline void stop(State state, const char* waits_at) {
  Thread& me = *running.thread;
  me.state = state, me.waits_at = waits_at;
  running.fibers->leave(me);
}

inline void sync_threads(const char* place) { stop(State::kAtBarrier, place); }

inline void wait_for_dependencies() {
  if (running.grid->dependent) stop(State::kAtDependencies, "wait_for_dependencies()");
}

template <class Operands, class Compute>
void warp_instruction(const char* name, Operands& operands, Compute compute) {
  Warp& warp = *running.warp;
  Thread& me = *running.thread;
  ++operations;
  if (warp.arrived == 0) warp.instruction = name;
  if (warp.instruction != name && std::strcmp(warp.instruction, name) != 0)
    report(std::string("lanes of a warp diverge: some are at ") + warp.instruction + ", others at " + name);
  warp.operands[static_cast<size_t>(me.lane())] = &operands;
  if (++warp.arrived < kWarpSize) {
    stop(State::kAtWarpInstruction, name);
    return;
  }
  std::array<Operands*, kWarpSize> by_lane;
  for (size_t lane = 0; lane < kWarpSize; ++lane) by_lane[lane] = static_cast<Operands*>(warp.operands[lane]);
  compute(by_lane);
  warp.arrived = 0;
  Thread* lanes = &me - me.lane();
  for (int lane = 0; lane < kWarpSize; ++lane) lanes[lane].state = State::kRunnable;
}

inline void sync_warp() {
  Warp& warp = *running.warp;
  warp_instruction("__syncwarp()", warp, [&](const auto&) { ++warp.epoch; });
}

// What no GPU takes.
inline void check_launch(const Grid& grid) {
  const auto refuse = [&](const std::string& why) { throw Bug(why + " [" + kernel_name(grid.kernel) + "]"); };
  if (grid.threads < 1 || grid.threads > 1024)
    refuse("a block of " + std::to_string(grid.threads) + " threads; 1 to 1024 can be");
  if (grid.threads % kWarpSize) refuse("a block of " + std::to_string(grid.threads) + " threads; the kernels use full warps");
  if (grid.shared_bytes > SharedMemory::kLargest)
    refuse(std::to_string(grid.shared_bytes) + " bytes of shared memory; no GPU has more than " +
           std::to_string(SharedMemory::kLargest));
  const Index& b = grid.blocks;
  if (b.x < 1 || b.y < 1 || b.z < 1 || b.x > 0x7fffffffu || b.y > 65535 || b.z > 65535)
    refuse("a grid of " + std::to_string(b.x) + " x " + std::to_string(b.y) + " x " + std::to_string(b.z) + " blocks");
}

inline void run_grid(const Grid& grid) {
  check_launch(grid);
  machine().run(grid);
}

}  // namespace simt

#include "planted.h"
