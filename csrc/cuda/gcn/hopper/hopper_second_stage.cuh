// Second stage for Hopper: the portable kernel's sums (line_conv.cuh) over maps of few channels, by wgmma.
//
//   y    = (u_l, along rows, w_l2) + (u_r, along columns, w_r2) + b_l2 + b_r2, in one accumulator
//   du_l = (dy, along rows, w_l2 flipped), du_r = (dy, along columns, w_r2 flipped), one after the other ("apart")
//
// Who owns what: blocks are persistent, one to an SM, and each has one tile of 24 outputs, whose weights it keeps. A unit of work
// is a patch of 16 kDown x 8 kAcross pixels. Warpgroup 0 copies; warpgroups 1 and 2 have the upper and the lower half of the
// patch, in tiles of 8 x 8 pixels.
//
// Shared memory, from an address that is a multiple of 1024:
//   weights of both branches, k-blocks [24 outputs][64 B] as they are packed, K-major in permuted rows of 64 bytes;
//   two sets of windows, one for each branch: of every octet of its map's channels the pixels under the patch and its taps, a
//   plane of [16 kDown][8 kAcross + 2 radius] or [16 kDown + 2 radius][8 kAcross] pixels of 16 bytes; zeros outside of the map;
//   zeros, as far as eight rows of a window reach; the staging buffers of both halves' outputs; barriers.
//
// A is as in hopper_input_grad.cuh: eight neighbouring pixels of a window are a block of eight rows, a tap is a step of the start
// address, a step of 16 of the depth is one tap of two octets, or two taps of an octet without a partner.
//
// Turned: wgmma is taken to read a block of eight rows in one clock where it lies within 128 aligned bytes, else in two. That
// fits the times of an H200 without turning, and has not been measured by itself. Along columns a tap is a row of 8 or 16 pixels,
// which keeps blocks where they are. Along rows it would be a pixel, 16 bytes; so there the window stands column by column,
// planes of [8 kAcross + 2 radius][16 kDown], a block is eight pixels below each other, and afterwards the sums of a tile's
// pixels change places through shared memory, so that the second branch can go on with them.
//
// Windows are copied by threads, not by the copy engine: a pixel's octets go to different planes, rows of 16 bytes, which took an
// H100's copy engine 2 to 7 clocks each where they lie apart in L2, so that it would take longer than the products. Two warps
// fill a set while the two others wait for theirs to arrive. Planes are so far apart that eight lanes write to all banks.
//
// The products of a branch wait for its weights and its window, and then for nothing: weights stay, and windows are the unit's
// own until the end. The second set is copied when the first one has come, so that the first products start early. Where a block
// has several units, warpgroup 2 starts its first one half a unit late, so that one writes while the other multiplies.
//
// Cost of 64 pixels for k = 15, M = O = 21: 46 steps of 16, of which each multiplies in 12 clocks and reads (64 + 24) x 32 bytes
// of shared memory, in 22 clocks, or by that reckoning in 38 if it is not turned.
#pragma once

#include "../../fragment.cuh"
#include "hopper_block.cuh"
#include "hopper_kernels.h"

namespace gcn::cuda {

template <class M, int kDown, int kAcross, bool kTurned>
struct HopperSecondStageBlock {
  using E = Element<M>;
  static constexpr int kTiles = kDown * kAcross, kOutputs = kSecondOutputs, kCount = kOutputs / 2;
  static constexpr int kHeight = 8 * kDown, kWidth = 8 * kAcross, kPixels = kHeight * kWidth;  // of a half
  static constexpr int kProducerWarps = 2, kPixelBytes = 16;
  static constexpr int kBlockOfWeights = kOutputs * kBlockBytes, kPixelRow = second_stage_pixel_row(kPixels);
  static constexpr int kColumns = kOutputs / 4;  // of a lane
  static constexpr RoleRegisters kRegisters = kAsLaunched;
  // Eight columns of a tile's sums while they change places, in floats: a row of pixels, eight of 32 banks further each, and all.
  static constexpr int kTurnRow = 8 * 8 + 8, kTurnTile = 8 * kTurnRow;
  static_assert(kTiles * kTurnTile * 4 <= second_stage_outputs_bytes(kPixels), "they take the place of the outputs");

  const HopperSecondStage& p;
  unsigned char* shared;
  Barrier* weights_full;
  WindowSets windows;
  Barrier *half_way, *first_set;  // of one phase each: so far has warpgroup 1 come, and the first set of windows is there
  const int warp, lane;           // the warp's number in its warpgroup

  GCN_DEVICE static constexpr int cluster() { return 1; }
  GCN_DEVICE static constexpr bool starts_early() { return false; }
  GCN_DEVICE void make_barriers() const {
    barrier_init(half_way, kConsumerWarps);
    barrier_init(first_set, kProducerWarps);
    for (int branch = 0; branch < 2; ++branch) barrier_init(weights_full + branch, 1);
    windows.make(kProducerWarps);
  }

  // --- shared memory
  GCN_DEVICE unsigned char* window_at(int slot, int branch) const {
    return shared + p.weights_bytes + slot * p.windows_bytes + branch * p.octets[0] * p.plane_bytes[0];
  }
  GCN_DEVICE unsigned char* zeros() const { return window_at(2, 0); }
  GCN_DEVICE E* outputs_of(int side) const {
    return reinterpret_cast<E*>(zeros() + p.zeros_bytes + side * second_stage_outputs_bytes(kPixels));
  }

  // Bytes from a pixel of a window to the one below it, and to the one on its right.
  struct Steps {
    int down, right;
  };
  GCN_DEVICE Steps steps_of(int branch) const {
    if (kTurned && branch == 0) return {kPixelBytes, 2 * kHeight * kPixelBytes};
    return {p.window_w[branch] * kPixelBytes, kPixelBytes};
  }

  // --- units of work
  struct Unit {
    int n, h, w, patch;
  };
  GCN_DEVICE uint32_t patches() const { return uint32_t(p.n) * p.patches_h * p.patches_w; }
  template <class Work>
  GCN_DEVICE void for_each_unit(const Work& work) const {
    const uint32_t in_row = p.patches_w, in_map = p.patches_h * in_row;
    for_each_unit_of(patches(), p.n_tiles, [&](uint32_t i, uint32_t) {
      const uint32_t n = i / in_map, at = i - n * in_map, row = at / in_row;
      work(Unit{int(n), int(row) * 2 * kHeight, int(at - row * in_row) * kWidth, int(i)});
    });
  }
  GCN_DEVICE int n_tile() const { return int(blockIdx.x % uint32_t(p.n_tiles)); }

  // --- the producer warpgroup

  GCN_DEVICE void copy_weights() const {
    unsigned char* to = shared;
#pragma unroll 1
    for (int branch = 0; branch < 2; ++branch) {
      const int pairs = p.octets[branch] / 2, phases = (p.octets[branch] + 1) / 2;
      const int k_blocks = k_blocks_of_map(p.octets[branch], p.radius[branch]);
      barrier_expect(weights_full + branch, uint32_t(k_blocks * kBlockOfWeights));
      const int64_t phase_bytes = int64_t(p.k_blocks[branch]) * kBlockOfWeights;
      const unsigned char* from = static_cast<const unsigned char*>(p.weights[branch]) + n_tile() * phases * phase_bytes;
#pragma unroll 1
      for (int phase = 0; phase < phases; ++phase, from += phase_bytes) {
        const int bytes = k_blocks_of_phase(p.radius[branch], phase < pairs) * kBlockOfWeights;
        copy_bulk(to, from, uint32_t(bytes), weights_full + branch);
        to += bytes;
      }
    }
  }

  // A piece's place in a row of a window.
  struct Piece {
    int column, octet;
  };

  // One of two warps' part of a window: every `kRowStep`-th row from `own_row` on, of which the lane has every `step`-th piece.
  template <int kRowStep, class PieceOf>
  GCN_DEVICE void copy_rows(const Unit& u, int slot, int branch, int own_row, int first, int step, int down, int right,
                            const PieceOf& piece_of) const {
    const int octets = p.octets[branch], rows = p.window_h[branch], width = p.window_w[branch], map_h = p.h, map_w = p.w;
    const int first_h = u.h - (branch == 1 ? p.radius[1] : 0) + own_row, first_w = u.w - (branch == 0 ? p.radius[0] : 0);
    const unsigned char* map =
        static_cast<const unsigned char*>(p.map[branch]) + int64_t(u.n) * map_h * map_w * octets * kPieceBytes;
    const uint32_t from_step = uint32_t(kRowStep * map_w * octets);
    unsigned char* const window = window_at(slot, branch) + own_row * down;
#pragma unroll 1
    for (int i = first; i < width * octets; i += step) {
      const Piece piece = piece_of(unsigned(i), unsigned(octets));
      const int w = first_w + piece.column;
      const bool inside = unsigned(w) < unsigned(map_w);
      int h = first_h;
      uint32_t from = uint32_t(h * map_w + w) * uint32_t(octets) + uint32_t(piece.octet);  // pieces; wraps around outside
      unsigned char* to = window + piece.octet * p.plane_bytes[branch] + piece.column * right;
#pragma unroll 4
      for (int row = own_row; row < rows; row += kRowStep) {
        const bool valid = inside & (unsigned(h) < unsigned(map_h));
        copy_async<16>(to, map + uint64_t(valid ? from : 0) * kPieceBytes, valid);
        h += kRowStep, from += from_step, to += kRowStep * down;
      }
    }
  }

  // Eight lanes write to all banks: they have neighbouring pieces, which planes spread; or, of a window that is turned, a piece
  // of eight rows each; or, of the other one beside it, eight neighbouring pixels.
  GCN_DEVICE void copy_window(const Unit& u, int slot, int branch, int own) const {
    const Steps to = steps_of(branch);
    const auto in_order = [](unsigned i, unsigned octets) { return Piece{int(i / octets), int(i % octets)}; };
    if constexpr (!kTurned) {
      copy_rows<kProducerWarps>(u, slot, branch, own, lane, 32, to.down, to.right, in_order);
    } else if (branch == 0) {
      constexpr int kPieces = 32 / 8;  // of a row, side by side
      copy_rows<8>(u, slot, 0, lane % 8, own * kPieces + lane / 8, kProducerWarps * kPieces, to.down, to.right, in_order);
    } else {
      copy_rows<kProducerWarps>(u, slot, 1, own, lane, 32, to.down, to.right, [](unsigned i, unsigned octets) {
        const unsigned eight = i / (8 * octets), in = i - eight * 8 * octets, column = in % 8;
        return Piece{int(eight * 8 + column), int((column + in / 8) % octets)};
      });
    }
  }

  // A warp's part of a window has come.
  GCN_DEVICE void arrive(int branch) const {
    fence_async_proxy();  // wgmma reads it
    __syncwarp();
    if (lane == 0) barrier_arrive(windows.full(branch));
  }

  GCN_DEVICE void copy_all() {
    if (warp == 0 && lane == 0) copy_weights();
    __syncwarp();
    const int slot = warp / kProducerWarps;
    bool first = slot == 0;
    if (slot == 1) barrier_wait(first_set, 0);  // what is needed first comes first
    for_each_unit([&](const Unit& u) {
      if (windows.slot == slot) {
        windows.wait_until_empty();
        for (int branch = 0; branch < 2; ++branch) {
          copy_window(u, slot, branch, warp % kProducerWarps);
          copy_commit();
        }
        copy_wait<1>();
        arrive(0);
        copy_wait<0>();
        arrive(1);
        if (first && lane == 0) barrier_arrive(first_set);
        first = false;
      }
      windows.next();
    });
  }

  // --- a consumer warpgroup

  using Accumulators = float[kTiles][kCount];

  // A k-block of one or two steps, of which this says where the maps are: how far from those of the tiles.
  template <int kSteps>
  GCN_DEVICE static void take(Accumulators& acc, const uint64_t (&of_tile)[kTiles], uint32_t first, uint32_t second,
                              uint64_t of_w) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kTiles; ++i) wgmma<kOutputs, false, false>(acc[i], moved(of_tile[i], first), of_w, true, M{});
#pragma unroll
    for (int i = 0; i < kTiles && kSteps == 2; ++i)
      wgmma<kOutputs, false, false>(acc[i], moved(of_tile[i], second), moved(of_w, 32), true, M{});
    wgmma_commit();
  }

  // All products of a branch, whose weights start at `of_w`; returns where they end.
  GCN_DEVICE uint64_t product(Accumulators& acc, int branch, int side, uint64_t of_w) const {
    const Steps to = steps_of(branch);
    const uint32_t down = to.down, right = to.right, row = max(down, right), tap = branch == 0 ? right : down;
    const uint32_t plane = p.plane_bytes[branch], first = shared_address(window_at(windows.slot, branch)) + side * kHeight * down;
    const int radius = p.radius[branch], octets = p.octets[branch];
    barrier_wait(weights_full + branch, 0);
    windows.wait_until_full(branch);
    const auto tile_at = [&](int i) { return uint32_t(i / kAcross * 8 * down + i % kAcross * 8 * right); };
    uint32_t start = first;
#pragma unroll 1
    for (int pair = 0; pair < octets / 2; ++pair, start += 2 * plane) {
      uint64_t at[kTiles];
#pragma unroll
      for (int i = 0; i < kTiles; ++i) at[i] = operand(start + tile_at(i), plane, row, Swizzle::kNone);
      uint32_t taps = 0;
#pragma unroll 1
      for (int i = 0; i < radius; ++i, taps += 2 * tap, of_w = moved(of_w, kBlockOfWeights)) {
        take<2>(acc, at, taps, taps + tap, of_w);
      }
      take<1>(acc, at, taps, taps, of_w);
      of_w = moved(of_w, kBlockOfWeights);
    }
    if (octets % 2) {
      uint64_t at[kTiles], with_zeros[kTiles];
      const uint32_t last = start + 2 * radius * tap, zero = shared_address(zeros());
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        at[i] = operand(start + tile_at(i), tap, row, Swizzle::kNone);
        with_zeros[i] = operand(last + tile_at(i), zero - last - tile_at(i), row, Swizzle::kNone);
      }
      uint32_t taps = 0;
#pragma unroll 1
      for (int i = 0; i < radius / 2; ++i, taps += 4 * tap, of_w = moved(of_w, kBlockOfWeights)) {
        take<2>(acc, at, taps, taps + 2 * tap, of_w);
      }
      if (radius % 2) {
        take<1>(acc, at, taps, taps, of_w);
        take<1>(acc, with_zeros, 0, 0, moved(of_w, 32));
      } else {
        take<1>(acc, with_zeros, 0, 0, of_w);
      }
      of_w = moved(of_w, kBlockOfWeights);
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < kTiles; ++i) wgmma_results(acc[i]);
    return of_w;
  }

  // Sums of tiles whose blocks of eight rows were pixels below each other become those of tiles in which they are neighbours.
  GCN_DEVICE void turn(Accumulators& acc, int side) const {
    float* const sums = reinterpret_cast<float*>(outputs_of(side));
    const int block = 2 * warp, in_block = lane / 4, column = lane % 4 * 2;
#pragma unroll
    for (int of = 0; of < kCount; of += 4) {
      group_barrier(1 + side, kGroupSize);  // what was there before has been read
#pragma unroll
      for (int i = 0; i < 2 * kTiles; ++i) {
        float* const to = sums + i / 2 * kTurnTile + in_block * kTurnRow + (block + i % 2) * 8 + column;
        const float* const sum = acc[i / 2] + of + i % 2 * 2;
        store_shared(reinterpret_cast<float2*>(to), make_float2(sum[0], sum[1]));
      }
      group_barrier(1 + side, kGroupSize);
#pragma unroll
      for (int i = 0; i < 2 * kTiles; ++i) {
        const float* const from = sums + i / 2 * kTurnTile + (block + i % 2) * kTurnRow + in_block * 8 + column;
        const float2 sum = load_shared(reinterpret_cast<const float2*>(from));
        acc[i / 2][of + i % 2 * 2] = sum.x, acc[i / 2][of + i % 2 * 2 + 1] = sum.y;
      }
    }
  }

  // --- the outputs of a unit

  // An accumulator's pixel in the half, and a lane's columns.
  GCN_DEVICE int h_of(int tile, int i) const { return tile / kAcross * 8 + 2 * warp + i / 2 % 2; }
  GCN_DEVICE int w_of(int tile) const { return tile % kAcross * 8 + lane / 4; }
  GCN_DEVICE int column_of(int i) const { return i / 4 * 8 + lane % 4 * 2 + i % 2; }

  // Of the pixels inside the map, for a bias's gradient: [output][patch, half]. `of_warps` has room for a row of each warp.
  GCN_DEVICE void write_sums(const Accumulators& acc, const HopperSecondStageOut& out, const Unit& u, int side,
                             float* of_warps) const {
    const int rows = p.h - u.h - side * kHeight, columns = p.w - u.w, id = 1 + side;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < 2 * kTiles; ++i) {
        const int tile = i / 2, at = c / 2 * 4 + c % 2 + i % 2 * 2;
        if (h_of(tile, at) < rows && w_of(tile) < columns) sum += acc[tile][at];
      }
#pragma unroll
      for (int apart = 4; apart < 32; apart *= 2) sum += shuffle_xor(sum, apart);  // lanes with the same columns
      if (lane < 4) store_shared(of_warps + warp * kOutputs + column_of(c / 2 * 4 + c % 2), sum);
    }
    group_barrier(id, kGroupSize);
    const int column = int(threadIdx.x) % kGroupSize, output = n_tile() * kOutputs + column;
    if (column < kOutputs && output < out.outputs) {
      float sum = 0;
      for (int i = 0; i < kConsumerWarps; ++i) sum += load_shared(of_warps + i * kOutputs + column);
      out.sums[int64_t(output) * (2 * patches()) + (2 * u.patch + side)] = sum;
    }
    group_barrier(id, kGroupSize);
  }

  GCN_DEVICE void fill(const Accumulators& acc, const HopperSecondStageOut& out, E* tile_of_outputs) const {
    const int outputs = min(kOutputs, out.outputs - n_tile() * kOutputs);
    const bool by_pixel = out.order == LineOrder::kPixels, by_row = out.order == LineOrder::kRows;
    const int to_pixel = by_pixel ? 1 : by_row ? outputs : kOutputs, to_column = by_pixel ? kPixelRow : 1;
    const E* bias[2] = {static_cast<const E*>(out.bias[0]), static_cast<const E*>(out.bias[1])};
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int column = column_of(c / 2 * 4 + c % 2);
      const bool used = column < outputs;
      float added = 0;
      for (const E* b : bias) {
        if (b && used) added += to_float(b[n_tile() * kOutputs + column]);
      }
      if (by_row && !used) continue;  // behind the last output is the next pixel
#pragma unroll
      for (int i = 0; i < 2 * kTiles; ++i) {
        const int tile = i / 2, at = c / 2 * 4 + c % 2 + i % 2 * 2;
        const int pixel = h_of(tile, at) * kWidth + w_of(tile);
        // Padding is zero, whatever Inf * 0 made of it.
        store_shared(tile_of_outputs + pixel * to_pixel + column * to_column, from_float<E>(used ? acc[tile][at] + added : 0.0f));
      }
    }
  }

  // Neighbouring threads write neighbours, `kTogether` elements each: a piece or a single one.
  template <int kTogether>
  static GCN_DEVICE void copy_out(E* to, const E* from) {
    if constexpr (kTogether == 1) {
      *to = load_shared(from);
    } else {
      *reinterpret_cast<uint4*>(to) = load_shared(reinterpret_cast<const uint4*>(from));
    }
  }

  template <int kTogether>
  GCN_DEVICE void write_out(const HopperSecondStageOut& out, const Unit& u, int side, const E* tile_of_outputs) const {
    const int first_h = u.h + side * kHeight, first_output = n_tile() * kOutputs, thread = int(threadIdx.x) % kGroupSize;
    const int rows = min(kHeight, p.h - first_h), columns = min(kWidth, p.w - u.w);
    const int outputs = min(kOutputs, out.outputs_written - first_output);
    const int64_t stride_h = out.stride_h, stride_w = out.stride_w, stride_c = out.stride_c;
    E* corner = static_cast<E*>(out.to) + (u.n * out.stride_n + first_h * stride_h + u.w * stride_w + first_output * stride_c);
    if (out.order == LineOrder::kRows) {
      for (int h = warp; h < rows; h += kConsumerWarps) {
        for (int at = lane * kTogether; at < columns * outputs; at += 32 * kTogether)
          copy_out<kTogether>(corner + h * stride_h + at, tile_of_outputs + h * kWidth * outputs + at);
      }
    } else if (out.order == LineOrder::kOutputs) {
      constexpr int kPerPixel = kOutputs / kTogether;
#pragma unroll 1
      for (int i = thread; i < kPixels * kPerPixel; i += kGroupSize) {
        const int pixel = i / kPerPixel, at = i % kPerPixel * kTogether, h = pixel / kWidth, w = pixel % kWidth;
        if (h >= rows || w >= columns || at >= outputs) continue;  // a piece is inside as a whole, or not at all
        copy_out<kTogether>(corner + (h * stride_h + w * stride_w + at), tile_of_outputs + pixel * kOutputs + at);
      }
    } else {
      constexpr int kPerOutput = kPixels / kTogether;
#pragma unroll 1
      for (int i = thread; i < kOutputs * kPerOutput; i += kGroupSize) {
        const int output = i / kPerOutput, pixel = i % kPerOutput * kTogether, h = pixel / kWidth, w = pixel % kWidth;
        if (h >= rows || w >= columns || output >= outputs) continue;
        copy_out<kTogether>(corner + (output * stride_c + h * stride_h + w * stride_w),
                            tile_of_outputs + output * kPixelRow + pixel);
      }
    }
  }

  GCN_DEVICE void write(const Accumulators& acc, const HopperSecondStageOut& out, const Unit& u, int side) const {
    E* const tile_of_outputs = outputs_of(side);
    group_barrier(1 + side, kGroupSize);  // what was there before has been written
    if (out.sums) write_sums(acc, out, u, side, reinterpret_cast<float*>(tile_of_outputs));
    fill(acc, out, tile_of_outputs);
    group_barrier(1 + side, kGroupSize);
    if (out.vector) {
      write_out<kPiece<E>>(out, u, side, tile_of_outputs);
    } else {
      write_out<1>(out, u, side, tile_of_outputs);
    }
  }

  GCN_DEVICE void multiply_all(int side) {
    const bool several = gridDim.x < patches() * p.n_tiles;
    bool first = several && side == 0;
    if (several && side == 1) barrier_wait(half_way, 0);
    for_each_unit([&](const Unit& u) {
      uint64_t of_w = operand(shared_address(shared), 0, 8 * kBlockBytes, Swizzle::k64);
      float acc[kTiles][kCount] = {};
#pragma unroll 1
      for (int branch = 0; branch < 2; ++branch) {
        of_w = product(acc, branch, side, of_w);
        if (first && lane == 0) barrier_arrive(half_way);
        first = false;
        if (kTurned && branch == 0) turn(acc, side);
        if (branch == 1) windows.release(lane);
        if (branch == 0 && !p.apart) continue;
        write(acc, p.out[p.apart ? branch : 0], u, side);
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
#pragma unroll
          for (float& a : acc[i]) a = 0;
        }
      }
      windows.next();
    });
  }
};

template <class M, int kDown, int kAcross, bool kTurned>
__global__ void __launch_bounds__(kHopperThreads, 1) hopper_second_stage_kernel(GCN_PARAMS HopperSecondStage p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  unsigned char* aligned = swizzle_aligned(shared);
  Barrier* barriers = reinterpret_cast<Barrier*>(
      aligned + second_stage_barriers_at(p.weights_bytes, p.windows_bytes, p.zeros_bytes, 64 * kDown * kAcross));
  const int warp = of_first_lane(int(threadIdx.x) / 32);
  using Block = HopperSecondStageBlock<M, kDown, kAcross, kTurned>;
  Block block{p, aligned, barriers, {barriers + 2, barriers + 6}, barriers + 8, barriers + 9, warp % 4, int(threadIdx.x) % 32};
  fill_with_zeros(block.zeros(), p.zeros_bytes);
  run_block(block);
}

template <class M>
int launch_hopper_second_stage(int patch_pixels, const HopperSecondStage& p, int blocks, int shared_bytes, Stream s) {
  const Launch how{dim3(unsigned(blocks)), kHopperThreads, size_t(shared_bytes), s.stream, s.dependent};
  if (p.turned) {
    return patch_pixels == 512 ? launch_cluster(hopper_second_stage_kernel<M, 2, 2, true>, how, 1, p)
                               : launch_cluster(hopper_second_stage_kernel<M, 1, 1, true>, how, 1, p);
  }
  return patch_pixels == 512 ? launch_cluster(hopper_second_stage_kernel<M, 2, 2, false>, how, 1, p)
                             : launch_cluster(hopper_second_stage_kernel<M, 1, 1, false>, how, 1, p);
}

}  // namespace gcn::cuda
