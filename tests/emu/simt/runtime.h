// The runtime: a grid runs block after block; a block is a set of fibers, one per thread, that rendezvous at barriers and at
// instructions of a whole warp. See ../emulated_device.h for what this shows and what it cannot.
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "bug.h"
#include "fiber.h"
#include "shared_memory.h"

namespace simt {

constexpr int kWarpSize = 32;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

// In which order the threads of a block run where nothing orders them.
struct Schedule {
  enum class Order { kAscending, kDescending, kRandom };
  Order order = Order::kAscending;
  uint64_t seed = 0;  // of the random one
};

enum class State {
  kRunnable,
  kAtBarrier,
  kAtWarpInstruction,
  kAtDependencies,
  kAtMbarrier,  // this and the following: in clusters only, see hopper_machine.h
  kAtGroupBarrier,
  kAtClusterBarrier,
  kFinished
};

// A copy that has read its source but not reached shared memory.
struct PendingCopy {
  void* to;
  size_t bytes;
  std::array<unsigned char, 16> data;
};

struct Thread {
  int id = 0;
  Index index;
  State state = State::kRunnable;
  const char* waits_at = nullptr;  // the place of a barrier, the name of an instruction
  std::vector<PendingCopy> open_copies;
  std::vector<std::vector<PendingCopy>> copy_groups;
  std::exception_ptr error;
  void* stack_pointer = nullptr;
  void* fake_stack = nullptr;

  int lane() const { return id % kWarpSize; }
  int warp() const { return id / kWarpSize; }
};

struct Warp {
  uint32_t epoch = 0;  // counts __syncwarp; the other instructions of a warp order no memory
  const char* instruction = nullptr;
  int arrived = 0;
  std::array<void*, kWarpSize> operands{};
};

struct Grid {
  const void* kernel;  // for its name only
  std::function<void()> body;
  Index blocks;
  int threads;
  size_t shared_bytes;
  bool dependent;
};

// Runs every block of a grid. Throws Bug.
void run_grid(const Grid& grid);

// Memory that launches write. Until a dependent launch has waited for the launches before it, the emulator fills this memory
// with nan, so that a kernel that reads too early reads garbage, and reports a kernel that writes too early.
void declare_written(void* p, size_t bytes);
void forget_written();

class Fibers;

// The block and the thread that run on this operating-system thread.
struct Running {
  Fibers* fibers = nullptr;
  const Grid* grid = nullptr;
  Index block;
  unsigned threads = 0;
  Thread* thread = nullptr;
  Warp* warp = nullptr;
  uint32_t epoch = 0;  // counts __syncthreads, over all blocks
  SharedMemory* shared = nullptr;
};
// One access instead of a call: the emulator is one library that never runs short of static thread-local memory.
__attribute__((tls_model("initial-exec"))) inline thread_local Running running;
__attribute__((tls_model("initial-exec"))) inline thread_local Schedule schedule;
// What threads have asked of the device layer, a matrix product of a warp counting once for each of its lanes: a measure of a
// launch's work that depends on nothing but the kernels.
__attribute__((tls_model("initial-exec"))) inline thread_local uint64_t operations = 0;

// Stops the running thread until the scheduler finds it in State::kRunnable again.
void stop(State state, const char* waits_at);

void sync_threads(const char* place);
void sync_warp();
void wait_for_dependencies();

inline Accessor accessor() { return {running.thread->id, running.thread->warp(), running.epoch, running.warp->epoch}; }

// An instruction of a whole warp: each lane leaves its operands, the last to arrive computes all results in place. `compute` gets
// the operands by lane.
template <class Operands, class Compute>
void warp_instruction(const char* name, Operands& operands, Compute compute);

}  // namespace simt

#include "runtime_impl.h"
