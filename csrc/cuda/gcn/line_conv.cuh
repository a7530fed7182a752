// Convolutions along lines of narrow maps, as one implicit matrix product: the second stage and both input gradients.
//
//   out[p, o] = sum over terms, taps t, channels i of  map[p + (t - radius) along the term's axis, i] w[o, i, t]  + biases
//
//   second stage    y    = (u_l, along rows, w_l2) + (u_r, along columns, w_r2) + b_l2 + b_r2
//   its gradients   du_l = (dy, along rows, w_l2 flipped), du_r = (dy, along columns, w_r2 flipped), one launch
//   first stage's   dx   = (du_l, along columns, w_l1 flipped) + (du_r, along rows, w_r1 flipped), one accumulator
//
// The gradients of the first biases are sums of du over its pixels. A block adds up its own as they stand in the accumulators,
// before they are rounded to the map's type: that is nearer to the definition than a sum of what is stored, and costs no reading.
// finish.cuh adds the blocks.
//
// Who owns what: a block has a rectangle of pixels (128 or 256, or 32 or 64 of a small map) and a tile of output channels; its
// warps share them as line_tile_shape() says. A fragment of 16 pixels is a patch of the rectangle, 4 x 4 where that fits, and
// patches are dealt out to warps as LinePatches says. The maps' pixels under the rectangle, with the terms' halos, lie in shared
// memory once ("windows", zero outside the image); a tap is a step of the address at which ldmatrix reads a row of A. The depth
// runs over (term, tap, piece of channels) without gaps between taps; weights are packed in that order and stream through a ring
// of stages. Maps with many channels are taken in phases of `chunk` channels.
//
// A product of a fragment with two pieces of the depth is left out where their taps lead from none of its pixels to a place
// inside the image: of a line of 16 and 15 taps, 52 of 60 pairs of four positions and a tap are left, of one of 32 pixels 112 of
// 120. Weights and fragments are loaded all the same.
//
// Shared memory: windows of both terms, (tile + halo) * (pieces | 1) * 16 bytes and what window_row_bytes() adds; one piece of
// zeros, which pads the depth (a real zero: a padding weight times NaN would not be one); the table of steps, 4 bytes a piece and
// 2 a product; a ring of three stages of weights [outputs][64 B], times 4 where the warps share the depth, or two of twice the
// size for kNarrow, whose k-blocks are so short that a barrier for each would be a third of them. After the loop the output tile
// takes the windows' place, and behind it the warps' sums of pixels.
//
// Instructions are what there is little of: a warp has its scheduler for itself, or shares it with three others. So nothing is
// divided in a loop, what a lane does in every round is found once (where its pixels and its rows of weights lie), and a window
// is loaded row by row, a row by a warp, a piece by a lane.
//
// Cost of two products, 16-bit: kWide 16 ldmatrix.x4 for 64 HMMA, each under a predicate, in 210 instructions; kNarrow 11 for 24
// in about 80, and 55 more in the three or four k-blocks where a lane's pixels change. For k = 15, M = 21 the depth is
// 2 * 15 * 24 = 720, 87 % of it useful. dx: bound by the tensor cores; second stage: 8 % of the first's arithmetic or less, bound
// by instructions, by latency and by reading u.
#pragma once

#include <algorithm>

#include "../fragment.cuh"
#include "../indices.cuh"
#include "line_conv_output.cuh"
#include "tiles.h"

namespace gcn::cuda {

template <class M, LineTile kTile>
struct LineConvBlock {
  using E = Element<M>;
  static constexpr LineTileShape kShape = line_tile_shape(kTile);
  static constexpr int kPixels = kShape.pixels(), kOutputs = kShape.outputs();
  static constexpr int kFragments = kPixels / 16;
  static constexpr int kStages = line_stages(kShape), kStageBytes = line_stage_bytes(kShape);
  static constexpr int kStagePieces = kStageBytes / kPieceBytes;
  static constexpr int kWarps = kThreads / 32;
  static_assert(kFragments <= 16, "a bit of 16 each");

  // What a step of the table stands for, in its lowest bits, which its bytes leave free: a term, or what pads the depth.
  static constexpr int kPadding = 2, kKinds = 3;
  using Accumulators = float[kShape.blocks_m][kShape.blocks_n][4];

  const LineConv& p;
  unsigned char* shared;
  const int lane, warp_m, warp_n, warp_k;
  const int rectangle, n_tile;
  int n = 0, h0 = 0, w0 = 0;  // of the rectangle
  LinePatches patches{};
  int pixel_bytes = 0, row_bytes[2] = {};  // of the windows
  int second_window_at = 0, zero_at = 0, table_at = 0, needed_at = 0, stages_at = 0;

  GCN_DEVICE int window_h(const LineTerm& t) const { return p.tile_h + (t.axis == 0 ? 2 * t.radius : 0); }
  GCN_DEVICE int window_w(const LineTerm& t) const { return p.tile_w + (t.axis == 1 ? 2 * t.radius : 0); }
  // Pieces of one pixel of a term's map in a phase.
  GCN_DEVICE int pieces(int term, int phase) const {
    return term < p.terms ? max(0, min(p.chunk, p.term[term].channels - phase * p.chunk)) / kPiece<E> : 0;
  }

  GCN_DEVICE void find_block() {
    const int row = rectangle / p.tiles_w;
    n = row / p.tiles_h, h0 = (row - n * p.tiles_h) * p.tile_h, w0 = (rectangle - row * p.tiles_w) * p.tile_w;
    patches = line_patches(p.tile_h, p.tile_w, kShape.warps_m);
    pixel_bytes = window_pixel_bytes(p.chunk / kPiece<E>, kPieceBytes);
    for (int i = 0; i < 2; ++i) row_bytes[i] = window_row_bytes(window_w(p.term[i]), pixel_bytes, patches.w());
    second_window_at = window_h(p.term[0]) * row_bytes[0];
    zero_at = second_window_at + (p.terms > 1 ? window_h(p.term[1]) * row_bytes[1] : 0);
    table_at = zero_at + kPieceBytes;
    needed_at = table_at + p.k_blocks * 16;
    stages_at = table_at + line_table_bytes(p.k_blocks);
  }

  // The pixel that is row `row` of a fragment; the block's fragments are numbered warp by warp.
  GCN_DEVICE LinePixel pixel_of(int fragment, int row) const {
    return patches.pixel(fragment / kShape.blocks_m, fragment % kShape.blocks_m, row);
  }

  // The taps that lead from at least one of a fragment's pixels inside the map to a place inside the map.
  GCN_DEVICE TapRange find_taps(const LineTerm& t, int fragment) const {
    const LinePixel first = pixel_of(fragment, 0);
    const int h = h0 + first.h, w = w0 + first.w;
    if (fragment >= kFragments || h >= p.h || w >= p.w) return {0, -1};
    return t.axis == 0 ? taps_inside(h, patches.h(), p.h, t.taps, t.radius) : taps_inside(w, patches.w(), p.w, t.taps, t.radius);
  }

  // A phase's depth, and where its pieces stand.
  struct Place {
    int term, tap, piece;
  };
  struct Depth {
    int first, all;  // pieces of the first term, of both
    Divisor per_tap0, per_tap1;

    GCN_DEVICE Place place_of(int i) const {
      const int term = i >= first, at = term ? i - first : i;
      const Divisor per = {term ? per_tap1.divisor : per_tap0.divisor, term ? per_tap1.reciprocal : per_tap0.reciprocal};
      const int tap = per.quotient(at);
      return {term, tap, at - tap * per.divisor};
    }
  };
  GCN_DEVICE Depth depth_of(int phase) const {
    const int pieces0 = pieces(0, phase), pieces1 = pieces(1, phase), first = p.term[0].taps * pieces0;
    const int all = first + (p.terms > 1 ? p.term[1].taps * pieces1 : 0);
    return {first, all, divisor_of(max(pieces0, 1)), divisor_of(max(pieces1, 1))};
  }

  // The table names, for each piece of the depth, the step from a pixel's place in the window: bytes and, below them, the kind.
  // Those of a k-block are in the order in which multiply() takes them: first those of both products that are a lane's in the
  // first half of a warp. After it, for each product of two pieces, the fragments that need it: a half of a warp answers for one
  // piece, a lane for one fragment.
  GCN_DEVICE void write_table(const Depth& depth, int k_blocks) const {
    uint32_t* table = reinterpret_cast<uint32_t*>(shared + table_at);
    const int tap_bytes0 = p.term[0].axis == 0 ? row_bytes[0] : pixel_bytes;
    const int tap_bytes1 = p.term[1].axis == 0 ? row_bytes[1] : pixel_bytes;
#pragma unroll 1
    for (int i = threadIdx.x; i < k_blocks * 4; i += kThreads) {
      uint32_t entry = kPadding;
      if (i < depth.all) {
        const Place at = depth.place_of(i);
        const int from = at.term ? second_window_at + at.tap * tap_bytes1 : at.tap * tap_bytes0;
        entry = uint32_t(from + at.piece * kPieceBytes + at.term);
      }
      store_shared(table + (i & ~3) + (i & 1) * 2 + (i >> 1 & 1), entry);
    }
    uint16_t* needed = reinterpret_cast<uint16_t*>(shared + needed_at);
    const TapRange taps0 = find_taps(p.term[0], lane % 16), taps1 = p.terms > 1 ? find_taps(p.term[1], lane % 16) : taps0;
#pragma unroll 2
    for (int i = int(threadIdx.x) / 32; i < k_blocks * 2; i += kWarps) {
      const int piece = i * 2 + lane / 16;
      const Place at = depth.place_of(piece);
      const int first = at.term ? taps1.first : taps0.first, last = at.term ? taps1.last : taps0.last;
      const uint32_t both = ballot((piece < depth.all) & (at.tap >= first) & (at.tap <= last));
      if (lane == 0) store_shared(needed + i, uint16_t(both | both >> 16));
    }
    if (threadIdx.x < kPieceBytes / 4) store_shared(reinterpret_cast<uint32_t*>(shared + zero_at) + threadIdx.x, 0u);
  }

  // Rows of the window go to warps, pieces of a row to lanes.
  GCN_DEVICE void load_window(int term, int phase, const Divisor& per_pixel) const {
    const LineTerm& t = p.term[term];
    const int rows = window_h(t), row_pieces = window_w(t) * pieces(term, phase);
    const int first_h = h0 - (t.axis == 0 ? t.radius : 0), first_w = w0 - (t.axis == 1 ? t.radius : 0);
    const int map_h = p.h, map_w = p.w, map_pieces = t.channels / kPiece<E>, warp = int(threadIdx.x) / 32;
    const unsigned char* map = static_cast<const unsigned char*>(t.map) + int64_t(phase) * p.chunk * int(sizeof(E)) +
                               int64_t(n) * map_h * map_w * map_pieces * kPieceBytes;
    const int to_step = kWarps * (term ? row_bytes[1] : row_bytes[0]), from_step = kWarps * map_w * map_pieces;
    unsigned char* window = shared + (term ? second_window_at : 0) + to_step / kWarps * warp;
#pragma unroll 1
    for (int i = lane; i < row_pieces; i += 32) {
      const int column = per_pixel.quotient(i), piece = i - column * per_pixel.divisor, w = first_w + column;
      const bool inside = unsigned(w) < unsigned(map_w);
      int h = first_h + warp;
      uint32_t from = uint32_t(h * map_w + w) * uint32_t(map_pieces) + uint32_t(piece);  // pieces; wraps around outside
      unsigned char* to = window + column * pixel_bytes + piece * kPieceBytes;
#pragma unroll 4
      for (int row = warp; row < rows; row += kWarps) {
        const bool valid = inside & (unsigned(h) < unsigned(map_h));
        copy_async<16>(to, map + uint64_t(valid ? from : 0) * kPieceBytes, valid);
        h += kWarps, from += uint32_t(from_step), to += to_step;
      }
    }
  }

  GCN_DEVICE void load_weights(const unsigned char* from, int stage) const {
    unsigned char* to = shared + stages_at + stage;
#pragma unroll
    for (int k = 0; k < (kStagePieces + kThreads - 1) / kThreads; ++k) {
      const int i = int(threadIdx.x) + k * kThreads;
      if (i < kStagePieces) copy_async<16>(to + i * kPieceBytes, from + i * kPieceBytes, true);
    }
  }

  // What a k-block's part of the table says to a lane. `needed` has a bit for each of this warp's fragments, and from bit 16 on
  // for the second product.
  struct Steps {
    uint2 entry;
    uint32_t needed;
  };
  GCN_DEVICE Steps steps_of(int k_block) const {
    const uint2* entries = reinterpret_cast<const uint2*>(shared + table_at) + a_half(lane);
    const uint32_t* needed = reinterpret_cast<const uint32_t*>(shared + needed_at);
    return {load_shared(entries + k_block * 2), load_shared(needed + k_block) >> (warp_m * kShape.blocks_m)};
  }

  // The lane's pixels in the windows for both products of a k-block, minus the kind in the lowest bits of the table's steps, so
  // that adding a step cancels it. They stay the same for as long as the kinds do.
  using PixelsAt = int[2][kShape.blocks_m];
  GCN_DEVICE void find_pixels(PixelsAt& pixel_at, uint2 entry) const {
    const int kind[2] = {int(entry.x & kKinds), int(entry.y & kKinds)};
#pragma unroll
    for (int i = 0; i < kShape.blocks_m; ++i) {
      const LinePixel pixel = pixel_of(warp_m * kShape.blocks_m + i, a_row(lane));
      const int column = pixel.w * pixel_bytes, at[2] = {column + pixel.h * row_bytes[0], column + pixel.h * row_bytes[1]};
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        pixel_at[step][i] = (kind[step] == kPadding ? zero_at : kind[step] ? at[1] : at[0]) - kind[step];
      }
    }
  }

  // Where a lane's rows lie in a k-block's weights: of both products' pairs of blocks, and of a last block without a neighbour.
  // Through shuffles, so that the compiler keeps the numbers instead of finding them again in each round.
  struct WeightLanes {
    int pair[2], odd;
  };
  GCN_DEVICE WeightLanes find_weight_lanes() const {
    const int row0 = warp_n * kShape.blocks_n * 8, odd_row = row0 + (kShape.blocks_n - 1) * 8 + (lane & 7);
    const auto at = [&](int row, int piece) { return shuffle_xor(swizzle_rows(row, piece) * kPieceBytes, 0); };
    return {{at(row0 + b_row(lane), b_half(lane)), at(row0 + b_row(lane), 2 + b_half(lane))},
            kShape.blocks_n % 2 ? at(odd_row, lane >> 3) : 0};
  }

  // One k-block; `weights` is its part of a stage. Fragments are loaded whether they are needed or not: their loads would have to
  // wait for the mask.
  GCN_DEVICE void multiply(Accumulators& acc, const Steps& steps, const unsigned char* weights, const WeightLanes& lanes,
                           const PixelsAt& pixel_at) const {
    constexpr int kLast = kShape.blocks_n - 1;
    uint32_t odd[4];  // both products' weights of a last block without a neighbour
    if constexpr (kShape.blocks_n % 2) {
      ldmatrix_x4(odd, weights + lanes.odd);
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t a[kShape.blocks_m][4];
#pragma unroll
      for (int i = 0; i < kShape.blocks_m; ++i) {
        ldmatrix_x4(a[i], shared + (pixel_at[step][i] + int(step ? steps.entry.y : steps.entry.x)));
        round_operand<M>(a[i]);
      }
      const unsigned char* own = weights + lanes.pair[step];
#pragma unroll
      for (int j = 0; j + 1 < kShape.blocks_n; j += 2) {
        uint32_t w[4];
        ldmatrix_x4(w, own + j * (8 * kBlockBytes));
#pragma unroll
        for (int i = 0; i < kShape.blocks_m; ++i) {
          if (!(steps.needed >> (step * 16 + i) & 1)) continue;
          mma(acc[i][j], a[i], {w[0], w[1]}, M{});
          mma(acc[i][j + 1], a[i], {w[2], w[3]}, M{});
        }
      }
      if constexpr (kShape.blocks_n % 2) {
#pragma unroll
        for (int i = 0; i < kShape.blocks_m; ++i) {
          if (steps.needed >> (step * 16 + i) & 1) mma(acc[i][kLast], a[i], {odd[step * 2], odd[step * 2 + 1]}, M{});
        }
      }
    }
  }

  GCN_DEVICE void run_phase(Accumulators& acc, int phase) const {
    const Depth depth = depth_of(phase);
    constexpr int kRound = 4 * line_round(kShape), kRing = kStages * kStageBytes, kBlocks = kShape.k_blocks;
    constexpr int kNextBlock = kShape.warps_k * kOutputs * kBlockBytes;  // of a warp
    const int rounds = (depth.all + kRound - 1) / kRound;
    load_window(0, phase, depth.per_tap0);
    if (p.terms > 1) load_window(1, phase, depth.per_tap1);
    const int64_t first_block = (int64_t(n_tile) * p.phases + phase) * p.k_blocks;
    const unsigned char* weights = static_cast<const unsigned char*>(p.weights) + first_block * (kOutputs * kBlockBytes);
    int loaded = 0, load_to = 0;
    const auto load = [&] {
      if (loaded < rounds) load_weights(weights, load_to);
      copy_commit();  // the windows belong to the first group
      ++loaded, weights += kStageBytes;
      load_to = load_to + kStageBytes == kRing ? 0 : load_to + kStageBytes;
    };
    for (int i = 0; i < kStages - 1; ++i) load();
    // While the copies are on their way.
    write_table(depth, rounds * line_round(kShape));
    __syncthreads();  // the table is there
    PixelsAt pixel_at;
    int k_block = warp_k, other_pixels = 0;  // from which k-block on
    int stage = stages_at + warp_k * (kOutputs * kBlockBytes);
    const int last_stage = stage + kRing - kStageBytes;
    const WeightLanes lanes = find_weight_lanes();
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      Steps steps[kBlocks];  // arrive while the warp waits for the others
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) steps[i] = steps_of(k_block + i * kShape.warps_k);
      copy_wait<kStages - 2>();
      __syncthreads();
      load();
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) {
        if (k_block >= other_pixels) {
          find_pixels(pixel_at, steps[i].entry);
          other_pixels = k_block * 4 < depth.first ? max(k_block + 1, depth.first / 4) : depth.all / 4;
        }
        k_block += kShape.warps_k;
        multiply(acc, steps[i], shared + (stage + i * kNextBlock), lanes, pixel_at);
      }
      stage = stage == last_stage ? last_stage - (kRing - kStageBytes) : stage + kStageBytes;
    }
    copy_wait<0>();
    __syncthreads();  // before the windows are overwritten
  }

  GCN_DEVICE void write(Accumulators& acc) const {
    LineConvOutput<M, kTile>{p, shared, lane, warp_m, warp_n, warp_k, rectangle, n_tile, n, h0, w0, patches}.write(acc);
  }

  GCN_DEVICE void run() {
    find_block();
    float acc[kShape.blocks_m][kShape.blocks_n][4] = {};
    wait_for_dependencies();
    for (int phase = 0; phase < p.phases; ++phase) run_phase(acc, phase);
    write(acc);
  }
};

template <class M, LineTile kTile>
GCN_DEVICE void run_line_conv(const LineConv& job, int rectangle, int n_tile, unsigned char* shared) {
  const int lane = int(threadIdx.x) % 32, warp = broadcast(int(threadIdx.x) / 32);
  constexpr LineTileShape s = LineConvBlock<M, kTile>::kShape;
  const int warp_m = warp / s.warps_k % s.warps_m, warp_n = warp / s.warps_k / s.warps_m, warp_k = warp % s.warps_k;
  LineConvBlock<M, kTile>{job, shared, lane, warp_m, warp_n, warp_k, rectangle, n_tile}.run();
}

// Grid: x = rectangle of pixels, y = tile of output channels, z = job.
template <class M, LineTile kTile>
__global__ void __launch_bounds__(kThreads, line_blocks_per_multiprocessor(kIsFp32<M>, kTile))
    line_conv_kernel(GCN_PARAMS LineConvParams p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  const LineConv& job = p.job[blockIdx.z];
  const int rectangle = blockIdx.x, n_tile = blockIdx.y;
  // Jobs of one launch may differ in size.
  if (rectangle >= job.n * job.tiles_h * job.tiles_w || n_tile * LineConvBlock<M, kTile>::kOutputs >= job.outputs_written) return;
  run_line_conv<M, kTile>(job, rectangle, n_tile, shared);
}

template <class M, LineTile kTile>
int launch_line_conv_tile(const LineConvParams& p, int jobs, int shared_bytes, Stream s) {
  unsigned rectangles = 0, n_tiles = 0;
  for (int i = 0; i < jobs; ++i) {
    const LineConv& j = p.job[i];
    rectangles = std::max(rectangles, unsigned(j.n) * j.tiles_h * j.tiles_w);
    n_tiles =
        std::max(n_tiles, unsigned(j.outputs_written + line_tile_shape(kTile).outputs() - 1) / line_tile_shape(kTile).outputs());
  }
  const Launch how{dim3(rectangles, n_tiles, jobs), kThreads, size_t(shared_bytes), s.stream, s.dependent};
  return launch(line_conv_kernel<M, kTile>, how, p);
}

// The tile with this number in kLineTiles, or one behind it.
template <class M, int kNumber>
int launch_line_conv_from(LineTile tile, const LineConvParams& p, int jobs, int shared_bytes, Stream s) {
  if constexpr (kNumber < kLineTileCount) {
    constexpr LineTile kTile = static_cast<LineTile>(kNumber);
    if (tile != kTile) return launch_line_conv_from<M, kNumber + 1>(tile, p, jobs, shared_bytes, s);
    if constexpr (line_conv_compiled(kIsFp32<M> ? Math::kFloat : Math::kHalf, kTile)) {
      return launch_line_conv_tile<M, kTile>(p, jobs, shared_bytes, s);
    }
  }
  return cudaErrorInvalidValue;
}

template <class M>
int launch_line_conv(LineTile tile, const LineConvParams& p, int jobs, int shared_bytes, Stream s) {
  return launch_line_conv_from<M, 0>(tile, p, jobs, shared_bytes, s);
}

}  // namespace gcn::cuda
