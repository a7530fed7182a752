// Copies into the layouts that the tensor core kernels read: weights into tiles in the order of the product's depth, swizzled as
// they will lie in shared memory, and maps that are not whole 16-byte pieces into padded maps. All of an op's copies are one
// launch, each with as many blocks as it has work for. Each writes every byte of its result, zeros in the padding. Bound by
// memory (weights 2.6 MB at 2048 channels, k = 15), if enough loads are on their way: a thread has all that it reads at once
// there together, and writes whole pieces.
//
// The gradients of the second biases are sums of dy over its pixels. Whoever copies dy has them in hand: a thread adds up what it
// writes of its channels, a block its threads, finish.cuh the blocks.
#pragma once

#include "../fragment.cuh"
#include "../jobs.cuh"
#include "tiles.h"

namespace gcn::cuda {

constexpr int kPrepareThreads = 256;

template <class M>
GCN_DEVICE Element<M> as_operand(Element<M> value) {
  if constexpr (kIsTf32<M>) {
    return float_of(round_to_tf32(bits_of(value)));
  } else {
    return value;
  }
}

// --- maps, in squares through shared memory: read along whichever of pixels and channels runs through memory, written along
// channels. A block has some channels, and every `shares`-th square along the pixels.

constexpr int kSquareRow = kSquareChannels + 1;  // elements of a pixel: neighbouring pixels begin in different banks
constexpr int kSquareOctets = kSquareChannels / kOctet;
constexpr int kPlacesBytes = kSquarePixels * 8;

template <class E>
constexpr size_t kSquareBytes = size_t(kSquarePixels) * kSquareRow * sizeof(E);

// The offset of a pixel in the map, or -1 behind its last one. The divisions are once for all of its channels.
GCN_DEVICE int64_t place_of(const PackMap& j, int64_t pixel) {
  if (pixel >= int64_t(j.n) * j.h * j.w) return -1;
  const int64_t row = pixel / j.w, n = row / j.h;
  return n * j.stride_n + (row - n * j.h) * j.stride_h + (pixel - row * j.w) * j.stride_w;
}

template <bool kAlongChannels, class E>
GCN_DEVICE void load_square(E* square, const int64_t* places, const PackMap& j, int first_channel) {
  constexpr unsigned kFast = kAlongChannels ? kSquareChannels : kSquarePixels;
  constexpr int kStep = kPrepareThreads / kFast, kCount = kSquarePixels * kSquareChannels / kPrepareThreads;
  const int fast = int(threadIdx.x % kFast), slow = int(threadIdx.x / kFast);
  const int first = first_channel + (kAlongChannels ? fast : slow);
  const E* from = static_cast<const E*>(j.from) + first * j.stride_c;
  const int64_t to_next = kStep * j.stride_c;
  const int channels = j.channels - first;  // that are left
  E value[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int64_t place = load_shared(places + (kAlongChannels ? slow + i * kStep : fast));
    value[i] = place >= 0 && (kAlongChannels ? 0 : i * kStep) < channels ? from[place] : from_float<E>(0);
    if constexpr (!kAlongChannels) from += to_next;
  }
  __syncwarp();  // not for the threads' sake: it keeps the compiler from waiting for some before it asks for the others
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int pixel = kAlongChannels ? slow + i * kStep : fast, channel = kAlongChannels ? fast : slow + i * kStep;
    store_shared(square + pixel * kSquareRow + channel, value[i]);
  }
}

// Of a block's threads, by octet: every kSquareOctets-th has the same one.
template <class A>
GCN_DEVICE void write_sums(const PackMap& j, A (&sums)[kOctet], int first_channel, int share, unsigned char* shared) {
  constexpr int kWarps = kPrepareThreads / 32;
  A* of_warps = reinterpret_cast<A*>(shared);
  const int tid = int(threadIdx.x), lane = tid % 32;
#pragma unroll
  for (int i = 0; i < kOctet; ++i) {
    for (int apart = kSquareOctets; apart < 32; apart *= 2) sums[i] += shuffle_xor(sums[i], apart);
    if (lane < kSquareOctets) store_shared(of_warps + tid / 32 * kSquareChannels + lane * kOctet + i, sums[i]);
  }
  __syncthreads();
  const int channel = first_channel + tid;
  if (tid >= kSquareChannels || channel >= j.channels) return;
  A sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += load_shared(of_warps + warp * kSquareChannels + tid);
  static_cast<A*>(j.sums)[int64_t(channel) * j.shares + share] = sum;
}

template <class M>
GCN_DEVICE void pack_map(const PackMap& j, unsigned block, unsigned char* shared) {
  using E = Element<M>;
  using A = Accumulator<E>;
  constexpr int kRows = kPrepareThreads / kSquareOctets;  // pixels that are written at a time
  int64_t* places = reinterpret_cast<int64_t*>(shared);
  E* square = reinterpret_cast<E*>(shared + kPlacesBytes);
  const int tid = int(threadIdx.x), across = pack_map_across(j.padded);
  const int share = int(block) / across, first_channel = int(block) % across * kSquareChannels;
  const int row = tid / kSquareOctets, octet = tid % kSquareOctets * kOctet, padded = j.padded;
  const int64_t pixels = int64_t(j.n) * j.h * j.w;
  E* to = j.to && first_channel + octet < padded ? static_cast<E*>(j.to) + first_channel + octet : nullptr;
  A sums[kOctet] = {};  // over pixels of this thread's channels
  for (int64_t first = int64_t(share) * kSquarePixels; first < pixels; first += int64_t(j.shares) * kSquarePixels) {
    if (tid < kSquarePixels) store_shared(places + tid, place_of(j, first + tid));
    __syncthreads();
    j.stride_c == 1 ? load_square<true>(square, places, j, first_channel) : load_square<false>(square, places, j, first_channel);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kSquarePixels; i += kRows) {
      Elements<E, kOctet> values;
#pragma unroll
      for (int c = 0; c < kOctet; ++c) {
        values.value[c] = load_shared(square + (row + i) * kSquareRow + octet + c);
        sums[c] += to_float(values.value[c]);
      }
      const int64_t pixel = first + row + i;
      if (to && pixel < pixels) *reinterpret_cast<Elements<E, kOctet>*>(to + pixel * padded) = values;
    }
  }
  if (!j.sums) return;
  __syncthreads();  // before the square is overwritten
  write_sums(j, sums, first_channel, share, shared + kPlacesBytes);
}

// --- maps in planes, a tile of 64 channels and 128 pixels to a block: pieces of eight pixels come into shared memory, and leave
// it as pieces of eight channels by ldmatrix, whose rows may stand anywhere. A lane gets two rows of each of its four matrices,
// so with the right eight of 32 channels as a matrix's rows, these are eight channels in a row. Each byte moves once in either
// direction, 16 at a time, 256 in a row when read and 128 when written. Of 16 maps of 256 x 128 x 128 that is 268 MB, 89 us at
// 3.0 TB/s; a multiprocessor has four blocks by their registers, 64 KB on their way to it, five times what reading at half that
// rate and a latency of 1 us need.

// Where a piece of a channel is. The eight channels that ldmatrix asks for together, 8 i + 2 m and 8 i + 2 m + 1, have theirs in
// eight different groups of banks, as have the eight neighbouring pieces that are written together.
GCN_DEVICE int plane_place(int channel, int piece) {
  return channel * (kPlanePixels / kOctet) + (piece ^ ((channel >> 3 & 3) << 1 | (channel & 1)));
}

template <class E>
GCN_DEVICE void pack_planes(const PackMap& j, unsigned block, unsigned char* shared) {
  static_assert(sizeof(E) == 2);
  constexpr int kPieces = kPlanePixels / kOctet, kWarps = kPrepareThreads / 32, kMatrices = 4 * kOctet;  // channels of four
  using Piece = Elements<E, kOctet>;
  Piece* const tile = reinterpret_cast<Piece*>(shared);
  const unsigned across = unsigned(plane_tiles_across(j.padded)), pixels = unsigned(j.h) * unsigned(j.w);
  const unsigned tiles = unsigned(plane_tiles(pixels)), at = block / across, n = at / tiles;
  const int first_channel = int(block - at * across) * kPlaneChannels, first_pixel = int(at - n * tiles) * kPlanePixels;
  const int channels = j.channels - first_channel, left = int(pixels) - first_pixel;
  const E* const from = static_cast<const E*>(j.from) + (n * j.stride_n + first_channel * j.stride_c + first_pixel);
  const int tid = int(threadIdx.x), warp = tid / 32, lane = tid % 32;
#pragma unroll
  for (int i = tid; i < kPlaneChannels * kPieces; i += kPrepareThreads) {
    const int channel = i / kPieces, piece = i % kPieces;
    const bool valid = channel < channels && piece * kOctet < left;
    copy_async<kPieceBytes>(tile + plane_place(channel, piece), valid ? from + channel * j.stride_c + piece * kOctet : j.from,
                            valid);
  }
  copy_commit();
  copy_wait<0>();
  __syncthreads();
  // Row r of matrix m is channel 8 (r / 2) + 2 m + r % 2; after it, a lane has channels 8 (lane % 4) ... of pixel lane / 4.
  const int row = lane % 8, of_row = row / 2 * kOctet + lane / 8 * 2 + row % 2, of_lane = lane % 4 * kOctet;
  E* const to = static_cast<E*>(j.to) + ((int64_t(n) * pixels + first_pixel) * j.padded + first_channel);
#pragma unroll
  for (int piece = warp; piece < kPieces; piece += kWarps) {
    const int pixel = piece * kOctet + lane / 4;
#pragma unroll
    for (int first = 0; first < kPlaneChannels; first += kMatrices) {
      uint32_t v[4];
      ldmatrix_x4_trans(v, tile + plane_place(first + of_row, piece));
      if (pixel < left && first_channel + first + of_lane < j.padded) {
        *reinterpret_cast<uint4*>(to + int64_t(pixel) * j.padded + first + of_lane) = make_uint4(v[0], v[1], v[2], v[3]);
      }
    }
  }
}

// --- weights, a piece a thread

// Neighbours among a piece's elements are `stride` apart.
template <class E>
GCN_DEVICE Elements<E, kPiece<E>> load_piece(const E* from, int64_t stride, int count) {
  Elements<E, kPiece<E>> piece;
#pragma unroll
  for (int i = 0; i < kPiece<E>; ++i) piece.value[i] = i < count ? from[i * stride] : from_float<E>(0);
  return piece;
}

template <class M>
GCN_DEVICE void store_piece(void* to, int64_t at, Elements<Element<M>, kPiece<Element<M>>> piece) {
  using E = Element<M>;
#pragma unroll
  for (int i = 0; i < kPiece<E>; ++i) piece.value[i] = as_operand<M>(piece.value[i]);
  static_cast<Elements<E, kPiece<E>>*>(to)[at] = piece;
}

// Rows of 64 bytes, of which there are fewer than 2^32 on any GPU.
GCN_HOST_DEVICE int64_t first_weights_rows(const PackFirstWeights& j) { return int64_t(j.groups) * j.k_blocks * j.columns; }

// Neighbouring threads have the pieces of one row, then neighbouring taps: pieces follow each other in what is written, taps in
// what is read, and each sector of either is all used while it is in L1.
template <class M>
GCN_DEVICE void pack_first_weights(const PackFirstWeights& j, unsigned block) {
  using E = Element<M>;
  constexpr int kRows = kPrepareThreads / 4, kBlockDepth = kBlockBytes / int(sizeof(E));
  const unsigned row = block * kRows + threadIdx.x / 4, columns = unsigned(j.columns), k_blocks = unsigned(j.k_blocks);
  if (row >= first_weights_rows(j)) return;
  const int at = int(row % columns), piece = int(threadIdx.x % 4);
  const int k_block = int(row / columns % k_blocks), group = int(row / columns / k_blocks);
  const int first_mid = group / j.tap_groups * j.group_mid, own_tap = group % j.tap_groups * j.group_taps;
  const int first_tap = j.overlap ? min(own_tap, j.taps - j.group_taps) : own_tap;
  const int taps = min(j.group_taps, j.taps - first_tap), mids = min(j.group_mid, j.mid - first_mid);
  const bool used = at < mids * taps;
  // What two groups have is halved, which loses nothing but the last bit of a float16 that is nearly zero.
  const int shared_from = j.taps - j.group_taps, shared_to = j.overlap ? (j.tap_groups - 1) * j.group_taps : 0;
  const int of_mid = int(unsigned(at) / unsigned(taps)), of_tap = at - of_mid * taps;
  const int column = used ? of_tap * mids + of_mid : at, m = first_mid + of_mid, tap = first_tap + of_tap;
  const int channel = k_block * kBlockDepth + piece * kPiece<E>;
  const auto& w = j.from;
  const E* from =
      static_cast<const E*>(w.data) + (m * w.output_stride + channel * w.input_stride + (j.skipped + tap) * w.tap_stride);
  auto values = load_piece(from, w.input_stride, used ? j.channels - channel : 0);
  if (tap >= shared_from && tap < shared_to) {
    for (E& value : values.value) value = from_float<E>(0.5f * to_float(value));
  }
  store_piece<M>(j.to, int64_t(row - unsigned(at)) * 4 + swizzle_rows(column, piece), values);
}

GCN_HOST_DEVICE int64_t line_weights_pieces(const PackLineWeights& j) {
  return int64_t(j.n_tiles) * j.phases * j.tile_outputs * j.k_blocks * 4;
}

// Piece i of them, which `store(at, values)` puts into its place. Neighbouring pieces are neighbouring taps.
template <class M, class Store>
GCN_DEVICE void pack_line_piece(const PackLineWeights& j, int64_t i, const Store& store) {
  using E = Element<M>;
  const int depth = j.k_blocks * 4;  // pieces of a phase
  const unsigned output_of_all = unsigned(i / depth), tile_outputs = unsigned(j.tile_outputs), phases = unsigned(j.phases);
  const unsigned tile_phase = output_of_all / tile_outputs;
  const int row = int(output_of_all % tile_outputs), phase = int(tile_phase % phases);
  const int output = int(tile_phase / phases) * j.tile_outputs + (j.of_lanes ? output_of_lanes(row) : row);

  // The depth of a phase: the pieces of the first term, tap by tap, then those of the second.
  const auto pieces = [&](int t) { return max(0, min(j.chunk, j.term[t].padded - phase * j.chunk)) / kPiece<E>; };
  const int of_first = j.term[0].taps * pieces(0);
  int at = int(i - int64_t(output_of_all) * depth);
  const int term = at >= of_first, first = term ? of_first : 0;
  const PackLineWeights::Term& t = j.term[term];
  Elements<E, kPiece<E>> values{};
  if (const int of_taps = pieces(term); term < j.terms && at - first < t.taps * of_taps) {
    const int piece = int(unsigned(at - first) / unsigned(t.taps)), packed_tap = at - first - piece * t.taps;
    const int input = phase * j.chunk + piece * kPiece<E>, tap = t.skipped + packed_tap;
    const auto& w = t.from;
    const E* from = static_cast<const E*>(w.data) +
                    (output * w.output_stride + input * w.input_stride + (t.flip ? t.kernel - 1 - tap : tap) * w.tap_stride);
    values = load_piece(from, w.input_stride, output < j.outputs ? t.inputs - input : 0);
    at = first + packed_tap * of_taps + piece;
  }
  const int64_t k_block = int64_t(tile_phase) * j.k_blocks + at / 4;
  store(k_block * j.tile_outputs * 4 + swizzle_rows(row, at % 4), values);
}

// Neighbouring threads have neighbouring taps, which are neighbours in memory; what they write is half a sector each.
template <class M>
GCN_DEVICE void pack_line_weights(const PackLineWeights& j, unsigned block) {
  const int64_t i = int64_t(block) * kPrepareThreads + threadIdx.x;
  if (i >= line_weights_pieces(j)) return;
  pack_line_piece<M>(j, i, [&](int64_t at, const auto& values) { store_piece<M>(j.to, at, values); });
}

constexpr int kPrepareJobs = 8;

struct PrepareArguments {
  PrepareParams p;
  Jobs<kPrepareJobs> jobs;  // maps, first weights, weights of line convolutions
};

template <class M>
__global__ void __launch_bounds__(kPrepareThreads) prepare_kernel(GCN_PARAMS PrepareArguments arguments) {
  GCN_DYNAMIC_SHARED(shared);
  const PrepareParams& p = arguments.p;
  launch_dependents();
  auto [job, block] = find_job(arguments.jobs, blockIdx.x);
  wait_for_dependencies();
  if (job < p.maps) {
    if constexpr (sizeof(Element<M>) == 2) {
      if (p.map[job].planes) return pack_planes<Element<M>>(p.map[job], block, shared);
    }
    return pack_map<M>(p.map[job], block, shared);
  }
  job -= p.maps;
  if (job < p.firsts) return pack_first_weights<M>(p.first[job], block);
  pack_line_weights<M>(p.line[job - p.firsts], block);
}

template <class M>
int launch_prepare(const PrepareParams& p, Stream s) {
  PrepareArguments arguments{p, {}};
  Jobs<kPrepareJobs>& jobs = arguments.jobs;
  const auto add = [&](int64_t threads) { jobs.add((threads + kPrepareThreads - 1) / kPrepareThreads); };
  for (int i = 0; i < p.maps; ++i) {
    const PackMap& m = p.map[i];
    jobs.add(m.planes ? int64_t(m.n) * plane_tiles(int64_t(m.h) * m.w) * plane_tiles_across(m.padded)
                      : int64_t(pack_map_across(m.padded)) * m.shares);
  }
  for (int i = 0; i < p.firsts; ++i) add(first_weights_rows(p.first[i]) * 4);
  for (int i = 0; i < p.lines; ++i) add(line_weights_pieces(p.line[i]));
  constexpr size_t kOfPlanes = kPlanePixels * kPlaneChannels * sizeof(Element<M>);
  size_t shared_bytes = p.maps ? kPlacesBytes + kSquareBytes<Element<M>> : 0;
  for (int i = 0; i < p.maps; ++i) shared_bytes = p.map[i].planes && shared_bytes < kOfPlanes ? kOfPlanes : shared_bytes;
  return launch(prepare_kernel<M>, Launch{dim3(jobs.blocks()), kPrepareThreads, shared_bytes, s.stream, s.dependent}, arguments);
}

}  // namespace gcn::cuda
