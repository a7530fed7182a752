// Boundary refinement forward for Hopper, in 16 bits with 17 to 21 channels: products by wgmma, while a warpgroup marches down a
// strip of columns. Nothing is computed twice but the first rows of a segment and the columns beside a strip.
//
//   for each row of x:   conv1 (three rows of u get their part) | relu of the row of u that is complete
//                        conv2 of it (three rows of y get theirs) | y = x + the row that is complete
//
// Products. M is three rows of results of 21 channels each, 63 of 64 rows; N are the pixels of a row, which are read where they
// lie in shared memory; the depth are the taps of a row and the channels. A row of the map that is read has a part in three rows
// of results: those above, beside and below it. They are at home in the sums by their number modulo three, so that the weights
// have three versions, and nothing is added up outside of the tensor cores. When a row is complete its sums start again from the
// biases. Of M's groups of eight rows two of each row of results are its first 16 channels, in different warps; two groups, of
// the last warp, are the other five of all three.
//
// In shared memory a pixel is three pieces of 8 channels, each in a row of pixels of its own, 16 bytes apart: K-major without a
// permutation, of which a tap is a step of the start address. The steps of the depth: for each tap the first two pieces; the
// third of two taps; that of the last, with zeros. In the third piece of u channel 16 + i is number (5 v + i) % 8 where v is the
// row's number modulo three, as it stands in the sums; the weights' versions know it.
//
// A warpgroup has all it marches with: x comes two rows ahead, by cp.async, and its channels change places with pixels by
// ldmatrix. A warpgroup waits for no other: while one finishes a row, the others have the tensor cores.
//
// Cost of a row of 128 pixels: 10 products, 5 x (136 + 128) x 64 x 16 multiply-adds, 660 clocks. They read 20 KB of weights and
// 42 KB of pixels of shared memory; of these six pieces of ten do not start at a multiple of 128 bytes, and if eight of their
// rows take two clocks, as the second stage's times let assume, it is like 67 KB. Besides, 43 KB are copied and stored. By that,
// shared memory is busy for 830 to 1030 clocks. The four warps issue 2500 instructions: of a warp 300 are copies, their addresses
// and the products; the rest of the four is 500 for u and 800 for y.
#pragma once

#include <cstring>

#include "../../gcn/hopper/hopper_device.cuh"
#include "../refine_maps.cuh"
#include "refine_hopper.h"

namespace gcn::cuda {

// The row of M that a channel of the results at home in `slot` has.
GCN_DEVICE int march_row_of(int slot, int channel) {
  if (channel >= kMarchWhole) return 6 * 8 + 5 * slot + channel - kMarchWhole;
  return (channel < 8 ? 2 * slot : (2 * slot + 5) % 6) * 8 + channel % 8;
}

template <class M>
struct RefineMarchGroup {
  using E = M;
  const RefineMarch& p;
  unsigned char* const shared;  // the block's
  unsigned char* const own;     // the warpgroup's
  const int group, warp, lane;  // what is made of the lane is made again for each row (kept): sums need the registers

  struct Unit {
    int n, row0, col0, rows;
  };
  GCN_DEVICE Unit unit_of(int index) const {
    const int segment = index % p.segments, of_strip = index / p.segments, row0 = segment * p.rows;
    return {of_strip / p.strips, row0, of_strip % p.strips * kMarchCols, min(p.rows, p.h - row0)};
  }

  GCN_DEVICE int thread() const { return warp * 32 + lane; }
  GCN_DEVICE unsigned char* stage(int row) const { return own + kMarchOwnStages + row % kMarchStages * kMarchStageBytes; }
  GCN_DEVICE unsigned char* x_row(int row) const { return own + row % kMarchRowsX * (kMarchPieces * kMarchPlaneX); }
  GCN_DEVICE unsigned char* u_row() const { return own + kMarchOwnU; }
  GCN_DEVICE unsigned char* out_row() const { return own + kMarchOwnOut; }
  GCN_DEVICE const float* biases(int conv) const {
    return reinterpret_cast<const float*>(shared + kMarchBiasesAt) + conv * kMarchOutputs;
  }

  // --- x

  // A row comes, and leaves, in pieces of 16 bytes: eight pixels of a channel; or, of channels_last, as they follow each other. A
  // thread has up to three of them, seven or eight channels further each, or as many pieces as these are. What it has to know of
  // them for a segment is in shared memory: where the first is in device memory, in elements from its row; where in shared
  // memory; which of the three there are (from bit 16 on), and which are in the image (from bit 20 on).
  struct Pieces {
    int64_t at;
    uint32_t bits;
  };
  GCN_DEVICE int64_t* places(int which) const { return reinterpret_cast<int64_t*>(own + kMarchOwnPlaces) + which * 128; }
  GCN_DEVICE uint32_t* bits(int which) const { return reinterpret_cast<uint32_t*>(own + kMarchOwnBits) + which * 128; }

  template <int kCols>
  GCN_DEVICE void find_pieces(int which, const Unit& unit, const StridedMap& map, bool by_pixels, int first_col,
                              int pitch) const {
    constexpr int kAcross = kCols / 8, kTogether = 128 / kAcross;
    const int channel = thread() / kAcross, within = thread() % kAcross, col = first_col + within * 8;
    const int number = first_col * p.c + thread() * 8;  // of the row's
    uint32_t found = by_pixels ? thread() * kPieceBytes : channel * pitch + within * kPieceBytes;
    for (int k = 0; k < 3; ++k) {
      const int place = by_pixels ? number + k * kTogether * kCols : col, end = by_pixels ? p.w * p.c : p.w;
      if (channel >= kTogether || channel + k * kTogether >= p.c) continue;
      found |= 1u << (16 + k) | (place >= 0 && place < end ? 1u << (20 + k) : 0);
    }
    store_shared(places(which) + thread(), unit.n * map.stride_n + (by_pixels ? number : channel * map.stride_c + col));
    store_shared(bits(which) + thread(), found);
  }
  GCN_DEVICE Pieces pieces(int which) const {
    const int own_thread = kept(thread());
    return {load_shared(places(which) + own_thread), load_shared(bits(which) + own_thread)};
  }

  // Starts the copy of a row of the segment and its border.
  GCN_DEVICE void start_copy(const Unit& unit, int row) const {
    constexpr int kAcross = kMarchColsX / 8, kTogether = 128 / kAcross;
    const Pieces own_pieces = pieces(0);
    const int image_row = unit.row0 - 2 + row;
    const uint32_t found = image_row >= 0 && image_row < p.h ? own_pieces.bits >> 20 : 0;
    const E* from = static_cast<const E*>(p.x.data) + (own_pieces.at + image_row * p.x.stride_h);
    unsigned char* to = stage(row) + (own_pieces.bits & 0xffff);
    const int64_t next = p.x_by_pixels ? kTogether * kMarchColsX : kTogether * p.x.stride_c;
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      const bool there = found >> k & 1;
      if (own_pieces.bits >> (16 + k) & 1) copy_async<16>(to, there ? from : p.x.data, there);
      from += next, to += p.x_by_pixels ? kTogether * kAcross * kPieceBytes : kTogether * kMarchPitchIn;
    }
  }

  // The row of pieces of a row that has come. Channels that there are not are zero.
  GCN_DEVICE void arrange(int row) const {
    const unsigned char* const from = stage(row);
    unsigned char* const to = x_row(row);
    if (p.x_by_pixels) {
#pragma unroll 1
      for (int pixel = thread(); pixel < kMarchColsX; pixel += 128) {
        const E* const channels = reinterpret_cast<const E*>(from) + pixel * p.c;
#pragma unroll
        for (int piece = 0; piece < kMarchPieces; ++piece) {
          Elements<E, 8> values;
#pragma unroll
          for (int e = 0; e < 8; ++e) {
            const int channel = piece * 8 + e;
            values.value[e] = channel < p.c ? load_shared(channels + channel) : from_float<E>(0);
          }
          store_shared(reinterpret_cast<Elements<E, 8>*>(to + piece * kMarchPlaneX + pixel * kPieceBytes), values);
        }
      }
      return;
    }
    // A warp has a quarter of the first 128 pixels, and of the others a piece of 16.
    const int lane = kept(this->lane), channel = lane % 8, group_of_lane = lane / 8;
    const unsigned char* const window = from + channel * kMarchPitchIn + group_of_lane * kPieceBytes + warp * 4 * kPieceBytes;
    unsigned char* const tile = to + warp * 32 * kPieceBytes + lane * 4;
    const unsigned char* const nothing = shared + kMarchZerosAt;
    uint32_t words[4];
#pragma unroll
    for (int piece = 0; piece < kMarchPieces; ++piece) {
      const bool there = piece < 2 || kMarchWhole + channel < p.c;
      ldmatrix_x4_trans(words, there ? window + piece * 8 * kMarchPitchIn : nothing);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        store_shared(reinterpret_cast<uint32_t*>(tile + piece * kMarchPlaneX + i * 8 * kPieceBytes), words[i]);
    }
    if (warp == kMarchPieces) return;
    const bool there = warp * 8 + channel < p.c;
    const unsigned char* const last = from + (warp * 8 + channel) * kMarchPitchIn + (16 + group_of_lane % 2) * kPieceBytes;
    ldmatrix_x4_trans(words, there ? last : nothing);
#pragma unroll
    for (int i = 0; i < 2; ++i)
      store_shared(reinterpret_cast<uint32_t*>(to + warp * kMarchPlaneX + (128 + i * 8) * kPieceBytes) + lane, words[i]);
  }

  // --- products

  // A row of a map, of which `first` is the pixel of the first tap, for its part in three rows of results.
  template <int kPixels>
  GCN_DEVICE void multiply(float (&sums)[kPixels / 2], int conv, int version, const unsigned char* first, int plane) const {
    constexpr uint32_t kUnit = 64 * kPieceBytes, kEight = 8 * kPieceBytes;
    const uint64_t weights =
        operand(shared_address(shared + conv * kMarchConvBytes + version * kMarchVersionBytes), kUnit, kEight, Swizzle::kNone);
    const uint32_t at = shared_address(first), third = at + 2 * plane, last = third + 2 * kPieceBytes;
    const uint64_t pixels = operand(at, plane, kEight, Swizzle::kNone);
    wgmma_fence();
#pragma unroll
    for (int tap = 0; tap < 3; ++tap)
      wgmma<kPixels, false, false>(sums, moved(weights, tap * kMarchStepBytes), moved(pixels, tap * kPieceBytes), true, M{});
    wgmma<kPixels, false, false>(sums, moved(weights, 3 * kMarchStepBytes), operand(third, kPieceBytes, kEight, Swizzle::kNone),
                                 true, M{});
    const uint32_t zeros = shared_address(shared + kMarchZerosAt) - last;
    wgmma<kPixels, false, false>(sums, moved(weights, 4 * kMarchStepBytes), operand(last, zeros, kEight, Swizzle::kNone), true,
                                 M{});
    wgmma_commit();
  }

  // --- a row of results that is complete

  // Number of this lane's row, of the first or second eight of a warp, among the channels behind whole pieces of three rows.
  GCN_DEVICE int rest_of(int half) const { return half * 8 + lane / 4; }
  GCN_DEVICE int channel_of(int half) const {
    const int number = half * 8 + kept(lane) / 4;
    if (warp < 3) return number;
    return number < 15 ? kMarchWhole + number % 5 : kMarchOutputs - 1;
  }

  template <int kCount>
  GCN_DEVICE void start_again(float (&sums)[kCount], int half, bool these, float bias) const {
#pragma unroll
    for (int i = 0; i < kCount / 4; ++i) {
      float* const two = sums + i * 4 + half * 2;
      two[0] = these ? bias : two[0], two[1] = these ? bias : two[1];
    }
  }

  // Of the row that is at home in `slot`: calls then(piece, channel, value), where value(i) is the sum of the channel at the
  // lane's pixel 8 (i / 2) + 2 (lane % 4) + i % 2; the channel is kMarchMost where the lane has none.
  template <int kCount, class Then>
  GCN_DEVICE void finish(float (&sums)[kCount], int conv, int slot, const Then& then) const {
    if (warp < 3) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if ((2 * warp + half + 1) / 2 % 3 != slot) continue;
        then(half, channel_of(half), [&](int i) { return sums[i / 2 * 4 + half * 2 + i % 2]; });
        start_again(sums, half, true, load_shared(biases(conv) + channel_of(half)));
      }
      return;
    }
    const int first = 5 * slot;
    const bool low = rest_of(0) >= first && rest_of(0) < first + 5, high = rest_of(1) >= first && rest_of(1) < first + 5;
    then(2,
         low    ? channel_of(0)
         : high ? channel_of(1)
                : kMarchMost,
         [&](int i) { return low ? sums[i / 2 * 4 + i % 2] : sums[i / 2 * 4 + 2 + i % 2]; });
    start_again(sums, 0, low, load_shared(biases(conv) + channel_of(0)));
    start_again(sums, 1, high, load_shared(biases(conv) + channel_of(1)));
  }

  static GCN_DEVICE RefinePair<E> pair_of(uint32_t word) {
    RefinePair<E> pair;
    memcpy(&pair, &word, sizeof(word));
    return pair;
  }

  // relu of a row of u on its way into shared memory, zero outside of the image. Two columns may be outside that results are made
  // of: the first, and `behind`. They are zero from the start, and what would be stored there goes to columns that nobody reads.
  template <class Value>
  GCN_DEVICE void keep_u(const Unit& unit, int piece, int channel, bool inside, const Value& value) const {
    const int behind = p.w - unit.col0 + 1;
    const bool there = inside && (piece < 2 || channel < p.m);
    const auto word = [&](int i) {
      const uint32_t both = pack_relu(value(i), value(i + 1), M{});
      return there ? both : 0;
    };
    unsigned char* const to = u_row() + piece * kMarchPlaneU;
#pragma unroll
    for (int first = 0; first < kMarchCols; first += 32) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        words[i] = word((first + 8 * i) / 4);
      }
      int col = first + lane;
      if (col == 0 && unit.col0 == 0) col = kMarchColsU - 1;
      if (col == behind) col = kMarchColsU - 2;
      stmatrix_x4_trans(to + col * kPieceBytes, words);
    }
    const RefinePair<E> last = pair_of(word(kMarchCols / 4));
    if (lane % 4 == 0) {  // the columns behind them that count
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (kMarchCols + i == behind) continue;
        store_shared(reinterpret_cast<E*>(to + (kMarchCols + i) * kPieceBytes) + lane / 4, last.value[i]);
      }
    }
  }

  // A row of y, in shared memory as it will be in device memory. `pixel`: the first of the row's pieces of x.
  template <class Value>
  GCN_DEVICE void keep_y(const unsigned char* pixel, int piece, int channel, const Value& value) const {
    if (channel >= p.c) return;  // of the last piece
    const int own_col = lane % 4 * 2;
    pixel += piece * kMarchPlaneX + 8 * kPieceBytes + (piece < 2 ? lane : own_col) * kPieceBytes;
    unsigned char* const out =
        out_row() + (p.out_by_pixels ? (own_col * p.c + channel) * 2 : channel * kMarchPitchOut + own_col * 2);
#pragma unroll
    for (int first = 0; first < kMarchCols; first += 32) {
      RefinePair<E> sums[4];
      if (piece < 2) {
        uint32_t words[4];
        ldmatrix_x4_trans(words, pixel + first * kPieceBytes);
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[i] = pair_of(words[i]);
      } else {  // u's channels stand in another order
        const E* const channels = reinterpret_cast<const E*>(pixel + first * kPieceBytes) + channel - kMarchWhole;
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i / 2].value[i % 2] = load_shared(channels + (i / 2 * 8 + i % 2) * 8);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        E& sum = sums[i / 2].value[i % 2];
        sum = from_float<E>(to_float(sum) + value(first / 4 + i));
      }
      if (p.out_by_pixels) {
#pragma unroll
        for (int i = 0; i < 8; ++i)
          store_shared(reinterpret_cast<E*>(out) + (first + i / 2 * 8 + i % 2) * p.c, sums[i / 2].value[i % 2]);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) store_shared(reinterpret_cast<RefinePair<E>*>(out) + first / 2 + i * 4, sums[i]);
      }
    }
  }

  // The row of y that stands in shared memory.
  GCN_DEVICE void write(int row) const {
    constexpr int kAcross = kMarchCols / 8, kTogether = 128 / kAcross;
    const Pieces own_pieces = pieces(1);
    E* to = static_cast<E*>(const_cast<void*>(p.out.data)) + (own_pieces.at + row * p.out.stride_h);
    const unsigned char* from = out_row() + (own_pieces.bits & 0xffff);
    const int64_t next = p.out_by_pixels ? kTogether * kMarchCols : kTogether * p.out.stride_c;
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      if (own_pieces.bits >> (16 + k) & own_pieces.bits >> (20 + k) & 1)
        *reinterpret_cast<uint4*>(to) = load_shared(reinterpret_cast<const uint4*>(from));
      to += next, from += p.out_by_pixels ? kTogether * kAcross * kPieceBytes : kTogether * kMarchPitchOut;
    }
  }

  // --- a segment

  GCN_DEVICE void wait() const { group_barrier(1 + group, 128); }

  // Rows are counted from the first of x, two above the segment. With row `row` of x row - 1 of u is complete, and with that row
  // row - 2 of y.
  GCN_DEVICE void march(const Unit& unit) const {
    const int rows = unit.rows + 4;
    find_pieces<kMarchColsX>(0, unit, p.x, p.x_by_pixels, unit.col0 - 8, kMarchPitchIn);
    find_pieces<kMarchCols>(1, unit, p.out, p.out_by_pixels, unit.col0, kMarchPitchOut);
#pragma unroll 1
    for (int row = 0; row < kMarchStages; ++row) start_copy(unit, row);
    copy_commit();
    for (int i = thread(); i < kMarchPieces * kMarchColsU; i += 128)
      store_shared(reinterpret_cast<uint4*>(u_row()) + i, make_uint4(0, 0, 0, 0));
    float of_u[kMarchColsU / 2], of_y[kMarchCols / 2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      start_again(of_u, half, true, load_shared(biases(0) + channel_of(half)));
      start_again(of_y, half, true, load_shared(biases(1) + channel_of(half)));
    }
    copy_wait<0>();
    wait();
    arrange(0);
    fence_async_proxy();  // wgmma reads it
    wait();
    start_copy(unit, kMarchStages);
    copy_commit();
#pragma unroll 1
    for (int row = 0; row < rows; ++row) {
      const int above = (row + 2) % 3, below = (row + 1) % 3;  // where the rows above and below this one are at home
      multiply<kMarchColsU>(of_u, 0, row % 3, x_row(row) + 6 * kPieceBytes, kMarchPlaneX);
      if (row > 4) write(unit.row0 + row - 5);
      if (row + 1 < rows) arrange(row + 1);
      wgmma_wait<0>();
      wgmma_results(of_u);
      const int row_of_u = unit.row0 + row - 3;
      finish(of_u, 0, above, [&](int piece, int channel, const auto& value) {
        if (row >= 2) keep_u(unit, piece, channel, row_of_u >= 0 && row_of_u < p.h, value);
      });
      fence_async_proxy();  // wgmma reads u and the next row of x
      wait();
      if (row + 1 + kMarchStages < rows) start_copy(unit, row + 1 + kMarchStages);
      copy_commit();
      if (row >= 2) {
        multiply<kMarchCols>(of_y, 1, above, u_row(), kMarchPlaneU);
        wgmma_wait<0>();
        wgmma_results(of_y);
        finish(of_y, 1, below, [&](int piece, int channel, const auto& value) {
          if (row >= 4) keep_y(x_row(row - 2), piece, channel, value);
        });
      }
      copy_wait<1>();
      wait();  // y and the row of x after the next are there, and nothing reads u any more
    }
    write(unit.row0 + unit.rows - 1);
  }
};

// The versions of the weights of both convolutions, and their biases.
template <class E>
GCN_DEVICE void load_march_weights(const RefineMarch& p, unsigned char* shared) {
  const auto clear = [&](int from, int to) {
    for (int at = from + int(threadIdx.x) * kPieceBytes; at < to; at += kMarchThreads * kPieceBytes)
      store_shared(reinterpret_cast<uint4*>(shared + at), make_uint4(0, 0, 0, 0));
  };
  clear(0, kMarchOwnAt);
  clear(kMarchZerosAt, kMarchSharedBytes);
  __syncthreads();
#pragma unroll 1
  for (int which = 0; which < 2; ++which) {
    const RefineConv& conv = p.conv[which];
    unsigned char* const to = shared + which * kMarchConvBytes;
#pragma unroll 1
    for (int pair = int(threadIdx.x); pair < conv.outputs * conv.inputs; pair += kMarchThreads) {
      const int output = pair / conv.inputs, input = pair - output * conv.inputs;
      const bool third = input >= kMarchWhole;
      const E* const taps = static_cast<const E*>(conv.weight) + (output * conv.of_output + input * conv.of_input);
#pragma unroll
      for (int dx = 0; dx < 3; ++dx) {
        const int step = third ? 3 + dx / 2 : dx, unit = third ? dx % 2 : input / 8;
        unsigned char* const entries = to + step * kMarchStepBytes + unit * (64 * kPieceBytes);
#pragma unroll
        for (int dy = 0; dy < 3; ++dy) {
          const E value = taps[dy * 3 + dx];
#pragma unroll
          for (int slot = 0; slot < 3; ++slot) {
            const int version = (dy + slot + 2) % 3;
            const int number = third && which == 1 ? (5 * version + input) % 8 : input % 8;
            unsigned char* const rows = entries + march_row_of(slot, output) * kPieceBytes;
            store_shared(reinterpret_cast<E*>(rows + version * kMarchVersionBytes) + number, value);
          }
        }
      }
    }
    const E* const bias = static_cast<const E*>(conv.bias);
    if (bias && int(threadIdx.x) < conv.outputs)
      store_shared(reinterpret_cast<float*>(shared + kMarchBiasesAt) + which * kMarchOutputs + threadIdx.x,
                   to_float(bias[threadIdx.x]));
  }
  fence_async_proxy();  // wgmma reads them
  __syncthreads();
}

template <class M>
__global__ void __launch_bounds__(kMarchThreads, 1) refine_march_kernel(GCN_PARAMS RefineMarch p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  load_march_weights<M>(p, shared);
  const int warp = of_first_lane(int(threadIdx.x) / 32), group = warp / 4;
  const RefineMarchGroup<M> own{p, shared, shared + kMarchOwnAt + group * kMarchOwnBytes, group, warp % 4, int(threadIdx.x) % 32};
#pragma unroll 1
  for (int unit = int(blockIdx.x) * kMarchGroups + group; unit < p.units; unit += int(gridDim.x) * kMarchGroups)
    own.march(own.unit_of(unit));
}

template <class M>
int launch_refine_march(const RefineMarch& p, int blocks, Stream s) {
  const Launch how{dim3(unsigned(blocks)), kMarchThreads, kMarchSharedBytes, s.stream, s.dependent};
  return launch_cluster(refine_march_kernel<M>, how, 1, p);
}

}  // namespace gcn::cuda
