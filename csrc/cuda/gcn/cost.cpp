#include "cost.h"

#include <algorithm>

namespace gcn::cuda {
namespace {

// From a launch's start to the steady state of its main loops; the same for a block that follows another on a multiprocessor; and
// of a kernel without a main loop.
constexpr double kStartClocks = 5000, kNextBlockClocks = 1500, kCopyClocks = 3000;
// What kernels that only move bytes reach of L2's rate.
constexpr double kCopyShare = 0.65;

void add(Plan& plan, const LaunchFacts& f, double work, const Traffic& t, const Gpu& gpu) {
  const double seconds = work + (plan.launches.empty() ? gpu.launch : gpu.dependent_launch);
  plan.launches.push_back({f.kernel, f.blocks, f.threads, f.shared_bytes, f.blocks_per_multiprocessor,
                           double(f.blocks) / (double(f.blocks_per_multiprocessor) * gpu.multiprocessors), f.flops,
                           t.memory + t.l2, seconds});
}

double moving(const Traffic& t, const Gpu& gpu, double share_of_l2) {
  return std::max(t.memory / gpu.memory, (t.memory + t.l2) / (gpu.l2 * share_of_l2));
}

}  // namespace

double busiest(int64_t blocks, const Gpu& gpu) { return double((blocks + gpu.multiprocessors - 1) / gpu.multiprocessors); }

int blocks_per_multiprocessor(int shared_bytes, int most, const Gpu& gpu) {
  constexpr int kReserved = 1024;  // by the system, of each block's shared memory
  return std::max(1, std::min(most, gpu.shared_per_multiprocessor / (shared_bytes + kReserved)));
}

// Either something is busy all the time, and one block's start and epilogue run under another's main loop; or there are too few
// blocks on a multiprocessor for that, and it is one after the other.
double clocks_of(const std::vector<BlockKind>& kinds, int per_multiprocessor, const Gpu& gpu) {
  double count = 0, tensor = 0, shared = 0, l2 = 0, issue = 0, after = 0, longest = 0, one_by_one = 0;
  for (const auto& [blocks, c] : kinds) {
    const double own = busiest(blocks, gpu), l2_clocks = c.l2 / (gpu.l2 / gpu.clock / gpu.multiprocessors);
    const double block = std::max(std::max({c.tensor, c.shared, l2_clocks}) + c.epilogue, c.alone);
    count += own, tensor += own * c.tensor, shared += own * (c.shared + c.epilogue), l2 += own * l2_clocks;
    issue += double(blocks) / gpu.multiprocessors * c.issue;
    after = std::max(after, c.epilogue), longest = std::max(longest, block), one_by_one += own * block;
  }
  const double rounds = double((int64_t(count) + per_multiprocessor - 1) / per_multiprocessor);
  const double full = std::max(std::max({tensor, shared, l2}) + after, issue);
  const double alone = std::max(longest, rounds * one_by_one / count + (rounds - 1) * kNextBlockClocks);
  return kStartClocks + std::max(full, alone);
}

void LaunchWork::add(const LaunchWork& other) {
  kinds.insert(kinds.end(), other.kinds.begin(), other.kinds.end());
  shared_bytes = std::max(shared_bytes, other.shared_bytes);
  flops += other.flops;
  traffic.memory += other.traffic.memory, traffic.l2 += other.traffic.l2;
}

void note(Plan& plan, const LaunchFacts& facts, double clocks, const Traffic& traffic, const Gpu& gpu) {
  add(plan, facts, std::max(clocks / gpu.clock, moving(traffic, gpu, 1)), traffic, gpu);
}

void note(Plan& plan, const char* kernel, int threads, int most, const LaunchWork& work, const Gpu& gpu) {
  const int per_multiprocessor = blocks_per_multiprocessor(work.shared_bytes, most, gpu);
  LaunchFacts facts{kernel, 0, threads, work.shared_bytes, per_multiprocessor, work.flops};
  for (const auto& kind : work.kinds) facts.blocks += kind.blocks;
  note(plan, facts, clocks_of(work.kinds, per_multiprocessor, gpu), work.traffic, gpu);
}

void note_copy(Plan& plan, const char* kernel, const Traffic& traffic, const Gpu& gpu) {
  constexpr int kThreads = 256, kBlocks = 8;  // about; to a multiprocessor
  const LaunchFacts facts{kernel, int64_t(gpu.multiprocessors) * kBlocks, kThreads, 0, kBlocks, 0};
  add(plan, facts, kCopyClocks / gpu.clock + moving(traffic, gpu, kCopyShare), traffic, gpu);
}

}  // namespace gcn::cuda
