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
// 2 a product, and 8 bytes a fragment; 3 stages of weights [outputs][64 B], times 4 where the warps share the depth. After the
// loop the output tile takes the windows' place, and behind it the warps' sums of pixels.
//
// Cost of a product, 16-bit, kWide: 4 + 4 ldmatrix.x4 for 32 HMMA, each under a predicate, in runs of eight: what is left out
// costs a place in the warp's instructions each; of about 250 instructions of two products, 64 are HMMA. For k = 15, M = 21 the
// depth is 2 * 15 * 24 = 720, 87 % of it useful. dx: bound by the tensor cores; second stage: 8 % of the first's arithmetic or
// less, bound by latency and by reading u.
#pragma once

#include <algorithm>
#include <type_traits>

#include "fragment.cuh"
#include "tiles.h"

namespace gcn::cuda {

template <class M, LineTile kTile>
struct LineConvBlock {
  using E = Element<M>;
  static constexpr LineTileShape kShape = line_tile_shape(kTile);
  static constexpr int kPixels = kShape.pixels(), kOutputs = kShape.outputs();
  static constexpr int kFragments = kPixels / 16;
  static constexpr int kStageBytes = line_stage_bytes(kShape);
  static constexpr int kStagePieces = kStageBytes / kPieceBytes;
  static constexpr uint32_t kPadding = 0xffffffffu;  // a step of the table that pads the depth
  using Accumulators = float[kShape.blocks_m][kShape.blocks_n][4];

  const LineConv& p;
  unsigned char* shared;
  const int lane, warp_m, warp_n, warp_k;
  const int rectangle, n_tile;
  int n = 0, h0 = 0, w0 = 0;  // of the rectangle
  LinePatches patches{};
  int zero_at = 0, table_at = 0, stages_at = 0;

  struct Pixel {
    int h, w;  // in the rectangle
  };

  GCN_DEVICE int window_h(const LineTerm& t) const { return p.tile_h + (t.axis == 0 ? 2 * t.radius : 0); }
  GCN_DEVICE int window_w(const LineTerm& t) const { return p.tile_w + (t.axis == 1 ? 2 * t.radius : 0); }
  GCN_DEVICE int pixel_bytes() const { return window_pixel_bytes(p.chunk / kPiece<E>, kPieceBytes); }
  GCN_DEVICE int row_bytes(const LineTerm& t) const { return window_row_bytes(window_w(t), pixel_bytes(), patches.w()); }
  GCN_DEVICE int window_bytes(int term) const { return term < p.terms ? window_h(p.term[term]) * row_bytes(p.term[term]) : 0; }
  // Pieces of one pixel of a term's map in a phase.
  GCN_DEVICE int pieces(int term, int phase) const {
    return term < p.terms ? max(0, min(p.chunk, p.term[term].channels - phase * p.chunk)) / kPiece<E> : 0;
  }

  GCN_DEVICE void find_block() {
    w0 = rectangle % p.tiles_w * p.tile_w, h0 = rectangle / p.tiles_w % p.tiles_h * p.tile_h;
    n = rectangle / p.tiles_w / p.tiles_h;
    patches = line_patches(p.tile_h, p.tile_w, kShape.warps_m);
    zero_at = window_bytes(0) + window_bytes(1);
    table_at = zero_at + kPieceBytes;
    stages_at = table_at + line_table_bytes(p.k_blocks, kFragments);
  }

  // The pixel that is row `row` of a fragment; the block's fragments are numbered warp by warp.
  GCN_DEVICE Pixel pixel_of(int fragment, int row) const {
    const int patch = patches.patch(fragment / kShape.blocks_m, fragment % kShape.blocks_m);
    return {patches.top(patch) + (row >> patches.log_w), patches.left(patch) + (row & (patches.w() - 1))};
  }

  // For each fragment and term, the taps that lead from at least one pixel inside the map to a place inside the map.
  struct Taps {
    int16_t first, last;
  };
  GCN_DEVICE Taps* taps_at(int fragment, int term) const {
    return reinterpret_cast<Taps*>(shared + table_at + line_steps_bytes(p.k_blocks)) + fragment * 2 + term;
  }
  GCN_DEVICE void write_taps() const {
    for (int i = threadIdx.x; i < kFragments * p.terms; i += kThreads) {
      const int fragment = i % kFragments, term = i / kFragments;
      const LineTerm& t = p.term[term];
      const Pixel first = pixel_of(fragment, 0);
      const int h = h0 + first.h, w = w0 + first.w;
      TapRange taps =
          t.axis == 0 ? taps_inside(h, patches.h(), p.h, t.taps, t.radius) : taps_inside(w, patches.w(), p.w, t.taps, t.radius);
      if (h >= p.h || w >= p.w) taps = {0, -1};
      store_shared(taps_at(fragment, term), Taps{int16_t(taps.first), int16_t(taps.last)});
    }
  }

  // Piece i of a phase's depth.
  struct Place {
    int term, tap, piece;
  };
  GCN_DEVICE Place place_of(int i, int phase) const {
    const int pieces0 = pieces(0, phase), depth0 = p.term[0].taps * pieces0, term = i >= depth0;
    const int at = term ? i - depth0 : i, per_tap = term ? pieces(1, phase) : pieces0;
    return {term, at / per_tap, at % per_tap};
  }

  // The table names, for each piece of the depth, the step from a pixel's place in the window: bytes * 2 + term. After it, for
  // each product of two pieces, the fragments that need it.
  GCN_DEVICE void write_table(int phase, int k_blocks, int depth) const {
    write_taps();
    uint32_t* table = reinterpret_cast<uint32_t*>(shared + table_at);
    for (int i = threadIdx.x; i < k_blocks * 4; i += kThreads) {
      uint32_t entry = kPadding;
      if (i < depth) {
        const Place at = place_of(i, phase);
        const LineTerm& t = p.term[at.term];
        const int tap_bytes = t.axis == 0 ? row_bytes(t) : pixel_bytes();
        entry = uint32_t((at.term ? window_bytes(0) : 0) + at.tap * tap_bytes + at.piece * kPieceBytes) * 2 + at.term;
      }
      store_shared(table + i, entry);
    }
    __syncthreads();  // the fragments' taps are there
    for (int i = threadIdx.x; i < k_blocks * 2; i += kThreads) {
      uint32_t needed = 0;
#pragma unroll 1
      for (int piece = i * 2; piece < min(i * 2 + 2, depth); ++piece) {
        const Place at = place_of(piece, phase);
#pragma unroll 4
        for (int fragment = 0; fragment < kFragments; ++fragment) {
          const Taps taps = load_shared(taps_at(fragment, at.term));
          if (at.tap >= taps.first && at.tap <= taps.last) needed |= 1u << fragment;
        }
      }
      store_shared(reinterpret_cast<uint16_t*>(table + p.k_blocks * 4) + i, uint16_t(needed));
    }
    for (int i = threadIdx.x; i < kPieceBytes / 4; i += kThreads) {
      store_shared(reinterpret_cast<uint32_t*>(shared + zero_at) + i, 0u);
    }
  }

  GCN_DEVICE void load_window(int term, int phase) const {
    const LineTerm& t = p.term[term];
    const int per_pixel = pieces(term, phase), width = window_w(t), count = window_h(t) * width * per_pixel;
    const int first_h = h0 - (t.axis == 0 ? t.radius : 0), first_w = w0 - (t.axis == 1 ? t.radius : 0);
    unsigned char* window = shared + (term ? window_bytes(0) : 0);
    const E* map = static_cast<const E*>(t.map) + phase * p.chunk;
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const int pixel = i / per_pixel, piece = i - pixel * per_pixel;
      const int h = first_h + pixel / width, w = first_w + pixel % width;
      const bool valid = h >= 0 && h < p.h && w >= 0 && w < p.w;
      const int64_t from = ((int64_t(n) * p.h + h) * p.w + w) * t.channels + piece * kPiece<E>;
      unsigned char* to = window + pixel / width * row_bytes(t) + pixel % width * pixel_bytes() + piece * kPieceBytes;
      copy_async<16>(to, valid ? map + from : t.map, valid);
    }
  }

  GCN_DEVICE void load_weights(int phase, int k_block, int stage) const {
    const int64_t block = (int64_t(n_tile) * p.phases + phase) * p.k_blocks + k_block;
    const unsigned char* from = static_cast<const unsigned char*>(p.weights) + block * (kOutputs * kBlockBytes);
    unsigned char* to = shared + stages_at + stage * kStageBytes;
    for (int i = threadIdx.x; i < kStagePieces; i += kThreads) copy_async<16>(to + i * kPieceBytes, from + i * kPieceBytes, true);
  }

  // One k-block: `steps` is its part of the table, `needed` has a bit for each of this warp's fragments and from bit 16 on for
  // the second product, `weights` is its part of a stage, `pixel_at` the lane's pixels in the windows. Fragments are loaded
  // whether they are needed or not: their loads would have to wait for the mask.
  GCN_DEVICE void multiply(Accumulators& acc, const uint32_t* steps, uint32_t needed, const unsigned char* weights,
                           const int (&pixel_at)[2][kShape.blocks_m]) const {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const uint32_t entry = load_shared(steps + step * 2 + a_half(lane));
      uint32_t a[kShape.blocks_m][4];
#pragma unroll
      for (int i = 0; i < kShape.blocks_m; ++i) {
        const int pixel = entry & 1 ? pixel_at[1][i] : pixel_at[0][i];
        ldmatrix_x4(a[i], shared + (entry == kPadding ? zero_at : pixel + int(entry >> 1)));
        round_operand<M>(a[i]);
      }
      const int row0 = warp_n * kShape.blocks_n * 8;
      const unsigned char* own = weights + swizzle_rows(row0 + b_row(lane), step * 2 + b_half(lane)) * kPieceBytes;
#pragma unroll
      for (int j = 0; j + 1 < kShape.blocks_n; j += 2) {
        uint32_t w[4];
        ldmatrix_x4(w, own + j * (8 * kBlockBytes));
#pragma unroll
        for (int i = 0; i < kShape.blocks_m; ++i) {
          if (!(needed >> (step * 16 + i) & 1)) continue;
          mma(acc[i][j], a[i], {w[0], w[1]}, M{});
          mma(acc[i][j + 1], a[i], {w[2], w[3]}, M{});
        }
      }
      if constexpr (kShape.blocks_n % 2) {
        constexpr int j = kShape.blocks_n - 1;
        uint32_t w[2];
        ldmatrix_x2(w, own + j * (8 * kBlockBytes));
#pragma unroll
        for (int i = 0; i < kShape.blocks_m; ++i) {
          if (needed >> (step * 16 + i) & 1) mma(acc[i][j], a[i], w, M{});
        }
      }
    }
  }

  GCN_DEVICE void run_phase(Accumulators& acc, int phase, const int (&pixel_at)[2][kShape.blocks_m]) const {
    const int depth = p.term[0].taps * pieces(0, phase) + (p.terms > 1 ? p.term[1].taps * pieces(1, phase) : 0);
    constexpr int kRound = 4 * kShape.warps_k;
    const int rounds = (depth + kRound - 1) / kRound;  // of one k-block for each warp along the depth
    for (int term = 0; term < p.terms; ++term) load_window(term, phase);
    const auto load = [&](int round) {
      if (round < rounds) load_weights(phase, round * kShape.warps_k, round % kLineStages);
      copy_commit();  // the windows belong to the first group
    };
    for (int i = 0; i < kLineStages - 1; ++i) load(i);
    write_table(phase, rounds * kShape.warps_k, depth);  // while the copies are on their way
    const uint32_t* steps = reinterpret_cast<const uint32_t*>(shared + table_at);
    for (int round = 0; round < rounds; ++round) {
      copy_wait<kLineStages - 2>();
      __syncthreads();
      load(round + kLineStages - 1);
      const int k_block = round * kShape.warps_k + warp_k;
      const uint32_t needed = load_shared(steps + p.k_blocks * 4 + k_block) >> (warp_m * kShape.blocks_m);
      multiply(acc, steps + k_block * 4, needed,
               shared + stages_at + round % kLineStages * kStageBytes + warp_k * (kOutputs * kBlockBytes), pixel_at);
    }
    copy_wait<0>();
    __syncthreads();  // before the windows are overwritten
  }

  // Adds the accumulators of the warps that share the depth, in their order, into those of the first.
  GCN_DEVICE void add_warps(Accumulators& acc) const {
    constexpr int kCount = kShape.blocks_m * kShape.blocks_n * 4;
    float* sums = reinterpret_cast<float*>(shared);
    float* mine = &acc[0][0][0];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (warp_k > 0) store_shared(sums + ((warp_k - 1) * kCount + i) * 32 + lane, mine[i]);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      for (int k = 1; k < kShape.warps_k && warp_k == 0; ++k) mine[i] += load_shared(sums + ((k - 1) * kCount + i) * 32 + lane);
    }
    __syncthreads();
  }

  // Of both convolutions.
  GCN_DEVICE float bias_of(int o) const {
    float bias = 0;
    for (const void* b : p.bias) {
      if (b && o < p.outputs) bias += to_float(static_cast<const E*>(b)[o]);
    }
    return bias;
  }

  // Sums of each warp's pixels inside the map: [warp][output of the tile].
  GCN_DEVICE void add_pixels(const Accumulators& acc, float* sums) const {
    uint32_t inside = 0;
#pragma unroll
    for (int i = 0; i < 2 * kShape.blocks_m; ++i) {
      const Pixel pixel = pixel_of(warp_m * kShape.blocks_m + i / 2, c_row(lane, i % 2 * 2));
      if (h0 + pixel.h < p.h && w0 + pixel.w < p.w) inside |= 1u << i;
    }
#pragma unroll
    for (int column = 0; column < 2 * kShape.blocks_n; ++column) {
      const int j = column / 2, odd = column % 2;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < 2 * kShape.blocks_m; ++i) {
        if (inside >> i & 1) sum += acc[i / 2][j][i % 2 * 2 + odd];
      }
#pragma unroll
      for (int apart = 4; apart < 32; apart *= 2) sum += shuffle_xor(sum, apart);  // lanes with the same columns
      if (lane < 4) store_shared(sums + warp_m * kOutputs + (warp_n * kShape.blocks_n + j) * 8 + c_column(lane, odd), sum);
    }
  }

  // The tile goes through shared memory with the output's contiguous dimension last, so that stores are whole pieces. Rows of
  // channels_last tiles are in the order of the fragments; columns of the others are pixels row by row, which puts the two rows
  // of a 4 x 4 patch that a store touches into the same banks where the rectangle is 16 wide or more: two passes instead of one.
  GCN_DEVICE void write(const Accumulators& acc) const {
    const bool channels_last = p.stride_c == 1;
    const int minor = channels_last ? kOutputs : kPixels, row = minor + kPiece<E>, first_output = n_tile * kOutputs;
    const int per_row = minor / kPiece<E>, major = channels_last ? kPixels : kOutputs;
    E* tile = reinterpret_cast<E*>(shared);
    float* sums = reinterpret_cast<float*>(tile + major * row);
    if (warp_k == 0) {
      if (p.sums) add_pixels(acc, sums);
      const int step_m = channels_last ? row : 1, step_n = channels_last ? 1 : row;
      E* corner = tile + (warp_n * kShape.blocks_n * 8 + c_column(lane, 0)) * step_n;
      int at[2 * kShape.blocks_m];
#pragma unroll
      for (int i = 0; i < 2 * kShape.blocks_m; ++i) {
        const int fragment = warp_m * kShape.blocks_m + i / 2, fragment_row = c_row(lane, i % 2 * 2);
        const Pixel pixel = pixel_of(fragment, fragment_row);
        at[i] = (channels_last ? fragment * 16 + fragment_row : pixel.h * p.tile_w + pixel.w) * step_m;
      }
#pragma unroll
      for (int j = 0; j < kShape.blocks_n; ++j) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const int o = first_output + (warp_n * kShape.blocks_n + j) * 8 + c_column(lane, odd);
          const float bias = bias_of(o);
#pragma unroll
          for (int i = 0; i < 2 * kShape.blocks_m; ++i) {
            // Padding is zero, whatever Inf * 0 made of it.
            const float value = o < p.outputs ? acc[i / 2][j][i % 2 * 2 + odd] + bias : 0.0f;
            store_shared(corner + at[i] + (j * 8 + odd) * step_n, from_float<E>(value));
          }
        }
      }
    }
    __syncthreads();

    const int rectangles = p.n * p.tiles_h * p.tiles_w;
    for (int i = threadIdx.x; i < kOutputs && p.sums && first_output + i < p.outputs; i += kThreads) {
      float sum = 0;
      for (int warp = 0; warp < kShape.warps_m; ++warp) sum += load_shared(sums + warp * kOutputs + i);
      p.sums[int64_t(first_output + i) * rectangles + rectangle] = sum;
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < major * per_row; i += kThreads) {
      const int major_at = i / per_row, minor_at = i % per_row * kPiece<E>;
      const E* from = tile + major_at * row + minor_at;
      const Pixel pixel = channels_last ? pixel_of(major_at / 16, major_at % 16) : pixel_at(minor_at);
      const int h = h0 + pixel.h, w = w0 + pixel.w, o = first_output + (channels_last ? minor_at : major_at);
      if (p.vector) {  // a piece is inside as a whole, or not at all
        if (h < p.h && w < p.w && o < p.outputs_written) {
          *reinterpret_cast<uint4*>(out_at(h, w, o)) = load_shared(reinterpret_cast<const uint4*>(from));
        }
        continue;
      }
      for (int k = 0; k < kPiece<E>; ++k) {
        const Pixel pixel_k = channels_last ? pixel : pixel_at(minor_at + k);
        const int h_k = h0 + pixel_k.h, w_k = w0 + pixel_k.w, o_k = channels_last ? o + k : o;
        if (h_k < p.h && w_k < p.w && o_k < p.outputs_written) *out_at(h_k, w_k, o_k) = load_shared(from + k);
      }
    }
  }

  // The pixel with this number, row by row.
  GCN_DEVICE Pixel pixel_at(int number) const {
    const int log_w = patches.log_columns + patches.log_w;
    return {number >> log_w, number & ((1 << log_w) - 1)};
  }

  GCN_DEVICE E* out_at(int h, int w, int o) const {
    return static_cast<E*>(p.out) + (n * p.stride_n + h * p.stride_h + w * p.stride_w + o * p.stride_c);
  }

  GCN_DEVICE void run() {
    find_block();
    int pixel_at[2][kShape.blocks_m];
#pragma unroll
    for (int i = 0; i < kShape.blocks_m; ++i) {
      const Pixel pixel = pixel_of(warp_m * kShape.blocks_m + i, a_row(lane));
      for (int term = 0; term < 2; ++term) pixel_at[term][i] = pixel.h * row_bytes(p.term[term]) + pixel.w * pixel_bytes();
    }
    float acc[kShape.blocks_m][kShape.blocks_n][4] = {};
    wait_for_dependencies();
    for (int phase = 0; phase < p.phases; ++phase) run_phase(acc, phase, pixel_at);
    if constexpr (kShape.warps_k > 1) add_warps(acc);
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
__global__ void __launch_bounds__(kThreads, line_blocks_per_multiprocessor(std::is_same_v<M, Fp32>, kTile))
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

template <class M>
int launch_line_conv(LineTile tile, const LineConvParams& p, int jobs, int shared_bytes, Stream s) {
  switch (tile) {
    case LineTile::kNarrow:
      return launch_line_conv_tile<M, LineTile::kNarrow>(p, jobs, shared_bytes, s);
    case LineTile::kNarrowSmall:
      return launch_line_conv_tile<M, LineTile::kNarrowSmall>(p, jobs, shared_bytes, s);
    case LineTile::kMedium:
      return launch_line_conv_tile<M, LineTile::kMedium>(p, jobs, shared_bytes, s);
    case LineTile::kWide:
      if constexpr (!std::is_same_v<M, Fp32>) return launch_line_conv_tile<M, LineTile::kWide>(p, jobs, shared_bytes, s);
      break;  // as line_conv_compiled() says
    case LineTile::kWideSmall:
      return launch_line_conv_tile<M, LineTile::kWideSmall>(p, jobs, shared_bytes, s);
  }
  return cudaErrorInvalidValue;
}

}  // namespace gcn::cuda
