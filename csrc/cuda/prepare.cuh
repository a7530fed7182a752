// Copies into the layouts that the tensor core kernels read: weights into tiles in the order of the product's depth, swizzled as
// they will lie in shared memory, and maps that are not whole 16-byte pieces into padded maps. All of an op's copies are one
// launch, each with as many blocks as it has work for. Each writes every byte of its result, zeros in the padding. Bound by
// memory (weights 2.6 MB at 2048 channels, k = 15), if enough loads are on their way: a thread has all that it reads at once
// there together, and writes whole pieces.
//
// The gradients of the second biases are sums of dy over its pixels. Whoever copies dy has them in hand: a thread adds up what it
// writes of its channels, a block its threads, finish.cuh the blocks.
#pragma once

#include "fragment.cuh"
#include "jobs.cuh"
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

// Neighbouring threads have neighbouring taps, which are neighbours in memory; what they write is half a sector each.
template <class M>
GCN_DEVICE void pack_line_weights(const PackLineWeights& j, unsigned block) {
  using E = Element<M>;
  const int64_t i = int64_t(block) * kPrepareThreads + threadIdx.x;
  if (i >= line_weights_pieces(j)) return;
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
  store_piece<M>(j.to, k_block * j.tile_outputs * 4 + swizzle_rows(row, at % 4), values);
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
  if (job < p.maps) return pack_map<M>(p.map[job], block, shared);
  job -= p.maps;
  if (job < p.firsts) return pack_first_weights<M>(p.first[job], block);
  pack_line_weights<M>(p.line[job - p.firsts], block);
}

template <class M>
int launch_prepare(const PrepareParams& p, Stream s) {
  PrepareArguments arguments{p, {}};
  Jobs<kPrepareJobs>& jobs = arguments.jobs;
  const auto add = [&](int64_t threads) { jobs.add((threads + kPrepareThreads - 1) / kPrepareThreads); };
  for (int i = 0; i < p.maps; ++i) jobs.add(int64_t(pack_map_across(p.map[i].padded)) * p.map[i].shares);
  for (int i = 0; i < p.firsts; ++i) add(first_weights_rows(p.first[i]) * 4);
  for (int i = 0; i < p.lines; ++i) add(line_weights_pieces(p.line[i]));
  const size_t shared_bytes = p.maps ? kPlacesBytes + kSquareBytes<Element<M>> : 0;
  return launch(prepare_kernel<M>, Launch{dim3(jobs.blocks()), kPrepareThreads, shared_bytes, s.stream, s.dependent}, arguments);
}

}  // namespace gcn::cuda
