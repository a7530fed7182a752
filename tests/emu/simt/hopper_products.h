// wgmma as the PTX manual describes it: matrices in shared memory by descriptor, D in registers, A in either. A product happens
// when its group is waited for, which is the last moment it may; each warp computes its 16 rows.
#pragma once

#include "hopper_machine.h"
#include "number_formats.h"

namespace simt {

// A descriptor, decoded. `depth` of an element counts along k, `row` along m or n.
class Operand {
 public:
  Operand(uint64_t bits, bool transposed, int numbers)
      : start_(static_cast<uint32_t>(bits & 0x3FFF) << 4),
        leading_(static_cast<uint32_t>(bits >> 16 & 0x3FFF) << 4),
        stride_(static_cast<uint32_t>(bits >> 32 & 0x3FFF) << 4),
        transposed_(transposed),
        numbers_(numbers) {
    constexpr int kBytes[] = {0, 128, 64, 32};
    row_ = kBytes[bits >> 62];
    if (bits >> 46 & 0xFFFF & ~0xC000u & ~0x8u) report("a descriptor of wgmma with a base offset or reserved bits");
    if (row_ && start_ / static_cast<uint32_t>(row_) % 8 * static_cast<uint32_t>(row_) % (8 * static_cast<uint32_t>(row_)))
      report("an operand of wgmma that starts within a block of eight swizzled rows");
  }

  // Where the unit with this element is; units run along the depth, or along rows if transposed.
  uint32_t unit(int row, int depth) const {
    const auto at = [](int blocks, uint32_t step) { return static_cast<uint32_t>(blocks) * step; };
    const uint32_t kUnit = 16, row_bytes = static_cast<uint32_t>(row_);
    if (!transposed_) {
      const int piece = depth / numbers_;
      if (!row_) return start_ + at(row % 8, kUnit) + at(row / 8, stride_) + at(piece, leading_);
      return swizzled(start_ + at(row % 8, row_bytes) + at(row / 8, stride_) + at(piece, kUnit));
    }
    const int piece = row / numbers_;
    if (!row_) return start_ + at(depth % 8, kUnit) + at(depth / 8, leading_) + at(piece, stride_);
    const int units = row_ / 16;
    return swizzled(start_ + at(depth % 8, row_bytes) + at(depth / 8, stride_) + at(piece % units, kUnit) +
                    at(piece / units, leading_));
  }

 private:
  uint32_t swizzled(uint32_t address) const {
    const uint32_t mask = static_cast<uint32_t>(row_) / 16 - 1;
    return address ^ ((address >> 7 & mask) << 4);
  }

  uint32_t start_, leading_, stride_;
  bool transposed_;
  int numbers_, row_;
};

// [rows][depth] of an operand, in float64.
inline void fetch(const Operand& operand, bool transposed, int first_row, int rows, int depth, const PendingProduct& p,
                  std::vector<double>& to) {
  ClusterMachine& machine = cluster_machine();
  const size_t block = machine.my_block();
  SharedMemory& shared = machine.shared(block);
  Accessor who = accessor();
  who.thread = kWholeWarp;
  to.resize(static_cast<size_t>(rows * depth));
  double numbers[8];
  const auto unit = [&](int row, int k) {
    const size_t at = SharedMemory::offset_of(operand.unit(row, k) & 0x3FFFF);
    if (at >= shared.size() || shared.size() - at < 16)
      report("wgmma reads at byte " + std::to_string(static_cast<int64_t>(at)) + " of shared memory, outside its " +
             std::to_string(shared.size()) + " bytes");
    machine.order(block).read_by_product(at / SharedMemory::kGranule, 16 / SharedMemory::kGranule, who);
    p.decode(shared.bytes() + at, numbers);
  };
  if (!transposed) {
    for (int r = 0; r < rows; ++r)
      for (int k = 0; k < depth; k += p.unit) {
        unit(first_row + r, k);
        for (int i = 0; i < p.unit; ++i) to[static_cast<size_t>(r * depth + k + i)] = numbers[i];
      }
  } else {
    for (int k = 0; k < depth; ++k)
      for (int r = 0; r < rows; r += p.unit) {
        unit(first_row + r, k);
        for (int i = 0; i < p.unit; ++i) to[static_cast<size_t>((r + i) * depth + k)] = numbers[i];
      }
  }
}

// [16][depth] of A in the registers of a warp's lanes: as fragments of mma.sync, see tensor_core.h.
inline void gather(const std::array<const PendingProduct*, kWarpSize>& lanes, int depth, std::vector<double>& to) {
  to.resize(static_cast<size_t>(16 * depth));
  const int together = lanes[0]->unit / 4;  // numbers of a register
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const PendingProduct& p = *lanes[static_cast<size_t>(lane)];
    if (std::memcmp(p.registers, p.issued.data(), sizeof p.issued)) report("registers of A changed before wgmma was waited for");
    double numbers[8];
    p.decode(reinterpret_cast<const unsigned char*>(p.issued.data()), numbers);
    for (int i = 0; i < p.unit; ++i) {
      const int at = i / together, row = lane / 4 + at % 2 * 8, k = together * (lane % 4) + i % together + at / 2 * p.unit;
      to[static_cast<size_t>(row * depth + k)] = numbers[i];
    }
  }
}

// By all lanes of a warp: `lanes` are their copies of the same product.
inline void multiply(const std::array<const PendingProduct*, kWarpSize>& lanes) {
  const PendingProduct& p = *lanes[0];
  for (const PendingProduct* other : lanes)
    if (other->a != p.a || !other->registers != !p.registers || other->b != p.b || other->add != p.add || other->width != p.width)
      report("the lanes of a warp give wgmma different operands");
  const int depth = 2 * p.unit, warp = running.thread->warp() % 4;
  // On the heap, as the machine.
  static thread_local const auto factors = std::make_unique<std::array<std::vector<double>, 2>>();
  auto& [a, b] = *factors;
  if (p.registers) {
    gather(lanes, depth, a);
  } else {
    fetch(Operand(p.a, p.trans_a, p.unit), p.trans_a, 16 * warp, 16, depth, p, a);
  }
  fetch(Operand(p.b, p.trans_b, p.unit), p.trans_b, 0, p.width, depth, p, b);
  for (int lane = 0; lane < kWarpSize; ++lane) {
    float* d = lanes[static_cast<size_t>(lane)]->d;
    for (int i = 0; i < p.width / 2; ++i) {
      const int row = lane / 4 + 8 * (i / 2 % 2), column = 2 * (lane % 4) + i % 2 + 8 * (i / 4);
      const double *of_a = &a[static_cast<size_t>(row * depth)], *of_b = &b[static_cast<size_t>(column * depth)];
      double sum = p.add ? d[i] : 0.0;
      for (int k = 0; k < depth; ++k) sum += of_a[k] * of_b[k];
      d[i] = cut_to_float(sum);
    }
  }
}

inline void issue_product(const PendingProduct& p) {
  ClusterThread& me = cluster_machine().me();
  if (!me.fenced) report("wgmma without wgmma_fence() since the registers were last waited for");
  if (p.registers) {
    const auto [last, first_time] = me.registers.try_emplace(p.registers, p.issued, me.fences);
    if (last->second.first != p.issued && last->second.second == me.fences)
      report("wgmma without wgmma_fence() since registers of A were written");
    last->second = {p.issued, me.fences};
  }
  me.open.push_back(p);
  operations += static_cast<uint64_t>(p.width / 8);
}

inline void fence_products() {
  ClusterThread& me = cluster_machine().me();
  me.fenced = true, ++me.fences;
}

inline void commit_products() {
  ClusterThread& me = cluster_machine().me();
  me.groups.push_back(std::move(me.open));
  me.open.clear();
}

inline void wait_for_products(size_t left) {
  ClusterThread* mine = &cluster_machine().me();
  if (left == 0) mine->fenced = false;
  warp_instruction("wgmma.wait_group", mine, [left](const std::array<ClusterThread**, kWarpSize>& lanes) {
    ClusterThread& first = **lanes[0];
    for (ClusterThread** lane : lanes)
      if ((*lane)->groups.size() != first.groups.size()) report("the lanes of a warp have issued different groups of wgmma");
    while (first.groups.size() > left) {
      for (size_t i = 0; i < first.groups.front().size(); ++i) {
        std::array<const PendingProduct*, kWarpSize> products;
        for (size_t lane = 0; lane < kWarpSize; ++lane) products[lane] = &(*lanes[lane])->groups.front().at(i);
        multiply(products);
      }
      for (ClusterThread** lane : lanes) (*lane)->groups.pop_front();
    }
  });
}

}  // namespace simt
