// Depthwise strips on the tensor cores, forward or backward: the program of strips_unit.cuh with products of 16 bits, m16n8k16
// and m16n8k8, or of tf32, m16n8k8, summed up in fp32.
//
//   conv    a warp computes 16 rows x 16 or 32 columns of dst. Along rows: src [16 x columns] times a band, for each row of the
//           kernel (strips_bands.cuh). Down columns: a band times src [rows x 8 columns].
//   dot     dw[tap] = sum of g[p] x[p + tap]: a Gram matrix of 16 columns (or rows) of g and those of x around them, over all
//           rows (or columns), whose diagonals are the taps. The matrices of all places of the tile are summed up first, in
//           registers.
//
// All maps are in shared memory in the type of the images, as PyTorch has them in device memory between its convolutions; a sum
// of branches is rounded once for each branch.
//
// Zeros of a band and masked pixels meet numbers that the kernel does not reach, and zero times inf is nan. So whatever comes out
// not finite is computed once more, from the taps alone.
//
// Cost of 16 x 8 outputs: a product of 16 x 8 x 16 takes 2 clocks of a multiprocessor. Along a row (k + 7) / 16 of them and what
// makes windows begin at multiples of 8: 1.5 up to k = 17, 2.5 up to 33, to each line. Down a column (k + 15) / 16, in
// halves: 1.5 for 9, 2 for 11, 2.5 for 21. A fragment of 512 bytes takes 4 clocks of shared memory: one to 1.3 or 1.6 products
// along a row, to 2 down a column.
#pragma once

#include "strips_bands.cuh"
#include "strips_unit.cuh"

namespace gcn::cuda {

// M: the arithmetic.
template <class M>
class StripsBanded : public StripsUnit<StripsBanded<M>, Element<M>, Element<M>> {
  using E = Element<M>;
  using Unit = StripsUnit<StripsBanded<M>, E, E>;
  friend Unit;
  using Unit::kChannel, Unit::kChannels, Unit::kColumn, Unit::kImage, Unit::kRow, Unit::kTile;
  using Unit::lane, Unit::maps, Unit::of_unit, Unit::p, Unit::shared, Unit::threads, Unit::tid, Unit::warp, Unit::warps,
      Unit::zero_outside;

 public:
  using Unit::Unit;

 private:
  GCN_DEVICE uint32_t* words_of(const StripsOp& op, int channel) const {
    return reinterpret_cast<uint32_t*>(shared + kStripsFront + channel * p.weight_plane + op.weights);
  }

  // [channel][line][word], and the bias behind it in fp32. Every operation's are a warp's of their own.
  GCN_DEVICE void load_weights() const {
    const int channel0 = of_unit(kChannel), channels = of_unit(kChannels);
    uint4* const all = reinterpret_cast<uint4*>(shared + kStripsFront);
    for (int i = tid; i < channels * p.weight_plane / 4; i += threads) store_shared(all + i, make_uint4(0, 0, 0, 0));
    __syncthreads();
#pragma unroll 1
    for (int i = warp(); i < p.ops; i += warps()) {
      const StripsOp& op = p.op[i];
      if (op.kind != StripsKind::kConv) continue;
      const StripsKernel& k = p.kernel[op.kernel];
      const StripsBandAxes axes(k);
      const int count = axes.lines * axes.taps;
#pragma unroll 1
      for (int at = lane(); at < count; at += kStripsWarp) {
        const int u = quotient(at, axes.taps), t = at - u * axes.taps,
                  place = u * op.band + kStripsBandBefore + t * axes.dilation;
        const E* const from = static_cast<const E*>(k.weight) + int64_t(channel0) * count + (op.flipped ? count - 1 - at : at);
#pragma unroll 1
        for (int c = 0; c < channels; ++c) {
          const E value = from[int64_t(c) * count];
          if constexpr (kIsTf32<M>) {
            store_shared(words_of(op, c) + place, round_to_tf32(bits_of(value)));
          } else {
            E* const halves = reinterpret_cast<E*>(words_of(op, c) + place);
            store_shared(halves, value);
            store_shared(halves - 1, value);
          }
        }
      }
      if (op.flipped || !k.bias) continue;
      for (int c = lane(); c < channels; c += kStripsWarp) {
        const float bias = to_float(static_cast<const E*>(k.bias)[channel0 + c]);
        store_shared(reinterpret_cast<float*>(words_of(op, c) + axes.lines * op.band), bias);
      }
    }
  }

  // The tile of a warp: the wider, the more often a fragment serves.
  template <class Run>
  GCN_DEVICE static void with_blocks(int cols, const Run& run) {
    if (cols > 16) return run(std::integral_constant<int, 4>{});
    run(std::integral_constant<int, 2>{});
  }

  GCN_DEVICE void conv(const StripsOp& op) const {
    const StripsMap& dst = p.map[op.dst];
    const StripsBandAxes axes(p.kernel[op.kernel]);
    const StripsSpan in_h(of_unit(kRow) - dst.rh, dst.rows, p.h), in_w(of_unit(kColumn) - dst.rw, dst.cols, p.w);
    if (op.addend != StripsAddend::kItself) {
      StripsSpan pairs = in_w;  // as they are written
      pairs.end = (pairs.end + 1) & ~1;
      zero_outside(dst, in_h, pairs);
    }
    with_blocks(in_w.size(), [&](auto blocks) {
      constexpr int kBlocks = decltype(blocks)::value;
      if (axes.down) {
        conv_inside<kBlocks, 0>(op, axes, in_h, in_w);
      } else if (pieces_along(axes) <= kFewPieces) {
        conv_inside<kBlocks, kFewPieces>(op, axes, in_h, in_w);
      } else if (pieces_along(axes) <= kManyPieces) {
        conv_inside<kBlocks, kManyPieces>(op, axes, in_h, in_w);
      } else {
        conv_inside<kBlocks, kFewPieces, true>(op, axes, in_h, in_w);
      }
    });
  }

  // Of a band along a row, in registers at a time; longer ones take several passes of few.
  static constexpr int kFewPieces = kIsTf32<M> ? 6 : 3, kManyPieces = kIsTf32<M> ? 8 : 5;

  // What a window reaches before the whole piece, or the whole eight columns, that it would begin at.
  GCN_DEVICE static int skip_of(const StripsBandAxes& axes, int whole) { return axes.down ? 0 : -axes.reach & (whole - 1); }
  // Pieces of columns that 8 outputs take.
  GCN_DEVICE static int pieces_along(const StripsBandAxes& axes) {
    return (skip_of(axes, kPiece<E>) + axes.length + 7 + kPiece<E> - 1) / kPiece<E>;
  }

  // A warp goes down a strip of columns, op.run times 16 rows of it: its way there it has to find but once.
  // kPieces: of a band along a row at a time; 0 is down columns. kLong: it has more of them.
  template <int kBlocks, int kPieces, bool kLong = false>
  GCN_DEVICE void conv_inside(const StripsOp& op, const StripsBandAxes& axes, const StripsSpan& in_h,
                              const StripsSpan& in_w) const {
    const StripsMap &src = p.map[op.src], &dst = p.map[op.dst];
    const int lane = kept(this->lane());  // or what follows from it would take registers of all other operations
    const StripsKernel& k = p.kernel[op.kernel];
    const int across = (in_w.size() + 8 * kBlocks - 1) / (8 * kBlocks), of_run = op.run * 16;
    const int runs = quotient(in_h.size() + of_run - 1, of_run), skip = skip_of(axes, kPiece<E>);
    // From an output to the first row and the first column of its window.
    const int to_row = src.rh - dst.rh - k.dh * (k.kh / 2), to_col = src.rw - dst.rw - k.dw * (k.kw / 2) - skip;
#pragma unroll 1
    for (StripsWalk walk(across, runs, warp(), warps()); walk.slice < of_unit(kChannels); walk.go_on()) {
      const int c = walk.slice, col = in_w.begin + walk.piece * 8 * kBlocks;
      const int first_row = in_h.begin + walk.row * of_run, end_row = min(in_h.end, first_row + of_run);
      const uint32_t* const weights = words_of(op, c);
      const float bias = load_shared(reinterpret_cast<const float*>(weights + axes.lines * op.band));
      const uint32_t* const words =
          weights + kStripsBandBefore + (lane & 3) * (kIsTf32<M> && kPieces > 0 ? 1 : 2) - (lane >> 2) - skip;
      const StripsPlane<E> x(maps, src, c);
      const Outputs out(*this, op, c, first_row, end_row, col, in_w.end, lane);
      const E* places[strips_places<E>(kBlocks, kPieces)];
      find_places<kPieces>(places, x, col + to_col, lane);
#pragma unroll 1
      for (int at = 0; first_row + at < end_row; at += 16) {
        float sum[kBlocks][4];
#pragma unroll
        for (auto& block : sum)
#pragma unroll
          for (float& s : block) s = bias;
        if constexpr (kPieces == 0) {
          add_band_down<M>(sum, x, places, first_row + at + to_row, words, axes.length, lane);
        } else {
          add_lines<kPieces, kLong>(sum, op, axes, x, first_row + at + to_row, col + to_col, words, places, lane);
        }
        write(op, axes, c, sum, out, at, in_w.end, lane);
      }
    }
  }

  // The lines of a kernel along rows, from its first one's row and its window's first column on.
  template <int kPieces, bool kLong, int kBlocks, int kPlaces>
  GCN_DEVICE void add_lines(float (&sum)[kBlocks][4], const StripsOp& op, const StripsBandAxes& axes, const StripsPlane<E>& x,
                            int row, int col, const uint32_t* words, const E* const (&places)[kPlaces], int lane) const {
    [[maybe_unused]] const int pieces = pieces_along(axes);
    int at = row + a_row(lane), lines = axes.lines;
#pragma unroll 1
    do {
      const int from = x.from(at);
      uint32_t band[kPieces];
#pragma unroll
      for (int m = 0; m < kPieces; ++m) band[m] = load_shared(words + m * kPiece<E>);
      add_band<M>(sum, places, from, band);
      if constexpr (kLong) {
#pragma unroll 1
        for (int first = kPieces; first < pieces; first += kPieces) {
          const E* further[kPlaces];
          find_places<kPieces>(further, x, col + first * kPiece<E>, lane);
#pragma unroll
          for (int m = 0; m < kPieces; ++m) band[m] = first + m < pieces ? load_shared(words + (first + m) * kPiece<E>) : 0u;
          add_band<M>(sum, further, from, band);
        }
      }
      at += axes.line_dilation, words += op.band;
    } while (--lines > 0);
  }

  // Where a lane's outputs of a strip of columns go, and where their addends come from.
  struct Outputs {
    int rows, end_row;  // of the strip
    int left;           // columns from the lane's first one to the end of the image; odd ones end within a pair
    int to, addend;     // elements of shared memory
    int pitch, addend_pitch;

    GCN_DEVICE Outputs(const StripsBanded& b, const StripsOp& op, int c, int first_row, int end, int col, int end_col, int lane)
        : rows(end - first_row), end_row(end) {
      const StripsMap& dst = b.p.map[op.dst];
      const StripsMap& from = op.addend == StripsAddend::kMap ? b.p.map[op.addend_map] : dst;
      const int row = first_row + c_row(lane, 0);
      col += c_column(lane, 0), left = end_col - col;
      pitch = dst.pitch, addend_pitch = from.pitch;
      to = dst.first + c * dst.plane + row * pitch + col;
      addend = from.first + c * from.plane + (row + from.rh - dst.rh) * addend_pitch + (col + from.rw - dst.rw);
    }
  };

  // dst = [addend +] sum, `at` rows below the first. What is not finite is left out of its place at first, and computed again
  // after the others.
  template <int kBlocks>
  GCN_DEVICE void write(const StripsOp& op, const StripsBandAxes& axes, int c, float (&sum)[kBlocks][4], const Outputs& out,
                        int at, int end_col, int lane) const {
    using Pair = StripsPiece<E, 2>;
    using Word = std::conditional_t<sizeof(Pair) == 4, uint32_t, uint2>;
    uint32_t again = take_out(sum);
    if (op.addend != StripsAddend::kNone) {
      for_pairs<kBlocks>(out, at, lane, [&](int half, int block) {
        const E* const addend = maps + (out.addend + (at + half * 8) * out.addend_pitch + block * 8);
        const Word added = load_shared(reinterpret_cast<const Word*>(addend));
        sum[block][half * 2] += first_of<E>(added), sum[block][half * 2 + 1] += second_of<E>(added);
      });
    }
    if (out.left & 1) {  // outside of the image a map is zero
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        if (out.left == block * 8 + 1) sum[block][1] = sum[block][3] = 0;
      }
    }
    const auto store = [&](int half, int block) {
      Pair pair;
      pair.value[0] = from_float<E>(sum[block][half * 2]), pair.value[1] = from_float<E>(sum[block][half * 2 + 1]);
      E* const to = maps + (out.to + (at + half * 8) * out.pitch + block * 8);
      store_shared(reinterpret_cast<Word*>(to), same_bytes<Word>(pair));
    };
    for_pairs<kBlocks>(out, at, lane, store);
#pragma unroll 1
    for (int i = 0; again != 0; ++i, again >>= 1) {
      const int down = at + (i >> 1 & 1) * 8, on = i / 4 * 8 + (i & 1);
      if ((again & 1) == 0 || c_row(lane, 0) + down >= out.rows || on >= out.left) continue;
      E* const place = maps + (out.to + down * out.pitch + on);
      const float sum_by_taps = by_taps(op, axes, c, out.end_row - out.rows + c_row(lane, 0) + down, end_col - out.left + on);
      store_shared(place, from_float<E>(to_float(load_shared(place)) + sum_by_taps));
    }
  }

  // use(half, block) for the pairs of a lane's outputs that are there; mostly all are.
  template <int kBlocks, class Use>
  GCN_DEVICE static void for_pairs(const Outputs& out, int at, int lane, const Use& use) {
    if (at + 16 <= out.rows && out.left + c_column(lane, 0) >= 8 * kBlocks) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) use(half, block);
      return;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (c_row(lane, 0) + at + half * 8 >= out.rows) break;
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        if (out.left <= block * 8) break;
        use(half, block);
      }
    }
  }

  // Sets what is not finite to zero, and says which that was: bit 4 block + i. Where all is finite, it takes a multiply-add each.
  template <int kBlocks>
  GCN_DEVICE static uint32_t take_out(float (&sum)[kBlocks][4]) {
    float nothing = 0;
#pragma unroll
    for (const auto& block : sum)
#pragma unroll
      for (const float s : block) nothing += s * 0.0f;
    uint32_t found = 0;
    if (ballot(!(nothing == 0)) == 0) return found;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!is_finite(sum[block][i])) found |= 1u << (4 * block + i), sum[block][i] = 0;
      }
    }
    return found;
  }

  // An output of a convolution, tap by tap, with inputs inside the image alone.
  GCN_DEVICE float by_taps(const StripsOp& op, const StripsBandAxes& axes, int c, int row, int col) const {
    const StripsMap &src = p.map[op.src], &dst = p.map[op.dst];
    const StripsKernel& k = p.kernel[op.kernel];
    const StripsSpan in_h(of_unit(kRow) - src.rh, src.rows, p.h), in_w(of_unit(kColumn) - src.rw, src.cols, p.w);
    const uint32_t* const words = words_of(op, c);
    float sum = load_shared(reinterpret_cast<const float*>(words + axes.lines * op.band));
    row += src.rh - dst.rh - k.dh * (k.kh / 2), col += src.rw - dst.rw - k.dw * (k.kw / 2);
#pragma unroll 1
    for (int at = 0; at < axes.lines * axes.taps; ++at) {
      const int line = quotient(at, axes.taps), tap = at - line * axes.taps;
      const int i = row + (axes.down ? tap * axes.dilation : line * axes.line_dilation);
      const int j = col + (axes.down ? 0 : tap * axes.dilation);
      if (!in_h.holds(i) || !in_w.holds(j)) continue;
      const uint32_t* const word = words + line * op.band + kStripsBandBefore + tap * axes.dilation;
      const E weight = load_shared(reinterpret_cast<const E*>(word));
      sum += to_float(weight) * to_float(load_shared(maps + src.first + c * src.plane + i * src.pitch + j));
    }
    return sum;
  }

  GCN_DEVICE void dot(const StripsOp& op) const {
    const StripsBandAxes axes(p.kernel[op.kernel]);
    const int lane = kept(this->lane());  // see conv_inside()
    const int rows = min(p.tile_h, p.h - of_unit(kRow)), cols = min(p.tile_w, p.w - of_unit(kColumn));
    if (axes.down) {
      gram<true>(op, axes, rows, cols);
    } else {
      gram<false>(op, axes, rows, cols);
    }
    __syncthreads();

    const int lines = op.weight ? axes.lines : 1, taps = op.weight ? axes.taps : 0, passes = passes_of(op, axes);
    const int of_weight = lines * taps, each = of_weight + op.bias, count = of_unit(kChannels) * each;
    const int64_t part = int64_t(of_unit(kImage)) * (p.tiles_h * p.tiles_w) + of_unit(kTile);
    float* const to = static_cast<float*>(p.partial) + (part * p.c + of_unit(kChannel)) * p.sums + op.sums;
#pragma unroll 1
    for (int first = warp() * kStripsWarp; first < count; first += threads) {
      const int i = first + lane, c = quotient(i, each), at = i - c * each;
      const bool there = i < count, of_bias = at >= of_weight;
      float total = 0;
      if (there) {
        const int u = of_bias ? 0 : quotient(at, taps), t = at - u * taps;
        // The place of its diagonal among those of the first pass; passes have shares of it.
        const int diagonal = of_bias ? kStripsGramSums - 1 : t * axes.dilation + skip_of(axes, 8) + 15;
#pragma unroll 1
        for (int pass = 0; pass < (of_bias ? 1 : passes); ++pass) {
          const int place = diagonal - pass * kStripsGramBlocks * 8;
          if (place < 0 || (!of_bias && place > kStripsGramSums - 2)) continue;
          const float* const sums =
              shared + p.scratch + ((c * lines + u) * passes + pass) * op.splits * 8 * kStripsGramSums + place;
          for (int j = 0; j < op.splits * 8; ++j) total += load_shared(sums + j * kStripsGramSums);
        }
      }
      uint32_t again = ballot(there && !is_finite(total));
#pragma unroll 1
      for (int j = 0; again != 0; ++j, again >>= 1) {
        if (!(again & 1)) continue;
        const int other = first + j, other_c = quotient(other, each);
        const float sum = by_pixels(op, axes, other_c, other - other_c * each, of_weight, rows, cols);
        if (lane == j) total = sum;
      }
      if (there) to[int64_t(c) * p.sums + at] = total;
    }
  }

  // Blocks of 8 columns (or rows) of x that stand around 16 of g, and how many times kStripsGramBlocks of them there are.
  GCN_DEVICE static int passes_of(const StripsOp& op, const StripsBandAxes& axes) {
    const int pieces = (skip_of(axes, 8) + axes.length + 15 + 7) / 8;
    return op.weight ? quotient(pieces + kStripsGramBlocks - 1, kStripsGramBlocks) : 1;
  }

  // Sums of diagonals, of each task [8 lanes][diagonal], and the bias's at the end. A task is a channel, a line of the kernel, a
  // pass, and a share of the pixels.
  template <bool kDown>
  GCN_DEVICE void gram(const StripsOp& op, const StripsBandAxes& axes, int rows, int cols) const {
    constexpr int kBlocks = kStripsGramBlocks;
    const int lane = kept(this->lane());
    const StripsMap &x_map = p.map[op.src], &g_map = p.map[op.dst];
    const StripsKernel& k = p.kernel[op.kernel];
    const int lines = op.weight ? axes.lines : 1, passes = passes_of(op, axes), skip = skip_of(axes, 8);
    const int along = kDown ? rows : cols, depth = kDown ? cols : rows;
    const int pieces = (skip + axes.length + 15 + 7) / 8;
    const int steps = kept((depth + kDepth<E> - 1) / kDepth<E>), firsts = kept((along + 15) / 16);
    const int x_row = x_map.rh - k.dh * (k.kh / 2), x_col = x_map.rw - k.dw * (k.kw / 2) - skip;
#pragma unroll 1
    for (int task = warp(); task < of_unit(kChannels) * lines * passes * op.splits; task += warps()) {
      const int item = quotient(task, op.splits), split = task - item * op.splits;
      const int of_channel = quotient(item, passes), pass = item - of_channel * passes;
      const int c = quotient(of_channel, lines), u = of_channel - c * lines;
      const StripsPlane<E> x(maps, x_map, c), g(maps, g_map, c);
      const bool of_bias = op.bias && u == 0 && pass == 0;
      const int blocks = op.weight ? min(kBlocks, pieces - pass * kBlocks) : 0;
      float sum[kBlocks][4] = {}, bias[4] = {};
#pragma unroll 1
      for (int first = 0, step = split;; step += op.splits) {
#pragma unroll 1
        for (; step >= steps; step -= steps) ++first;
        if (first >= firsts) break;
        const int i = first * 16, d = step * kDepth<E>;
        uint32_t a[4];
        if constexpr (kDown) {
          load_a(a, g, g_map.rh + i, g_map.rw + d, lane);
        } else {
          load_turned_a(a, g, g_map.rh + d, g_map.rw + i, lane);
        }
        mask_a<E>(a, along - i, depth - d, lane);
        if (of_bias) {
          if constexpr (kIsTf32<M>) {  // sums are no products, whose factors tf32 rounds
            bias[0] += (float_of(a[0]) + float_of(a[1])) + (float_of(a[2]) + float_of(a[3]));
          } else {
            mma(bias, a, {kStripsOnes<E>, kStripsOnes<E>}, M{});
          }
        }
        round_operand<M>(a);
#pragma unroll
        for (int block = 0; block < kBlocks; block += 2) {
          if (block >= blocks) break;
          const int further = i + (pass * kBlocks + block) * 8;
          uint32_t b[4];
          if constexpr (kDown) {
            load_b(b, x, x_row + further, x_col + d, lane);
          } else {
            load_turned_b(b, x, x_row + u * axes.line_dilation + d, x_col + further, lane);
          }
          round_operand<M>(b);
          mma(sum[block], a, {b[0], b[1]}, M{});
          mma(sum[block + 1], a, {b[2], b[3]}, M{});
        }
      }
      // Row i + 8 of one block has the diagonals of row i of the one before it.
      float* const to = shared + p.scratch + (task * 8 + (lane >> 2)) * kStripsGramSums;
      float* const diagonal = to + (lane & 3) * 2 - (lane >> 2) + 7;
#pragma unroll
      for (int m = 0; m <= kBlocks; ++m) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float before = m > 0 ? sum[m > 0 ? m - 1 : 0][e] : 0, on = m < kBlocks ? sum[m < kBlocks ? m : 0][2 + e] : 0;
          store_shared(diagonal + m * 8 + e, before + on);
        }
      }
      // Lanes write different diagonals of a row; what none of them has is zero.
      const int row = lane >> 2, t = lane & 3;
      if constexpr (kIsTf32<M>) {
        bias[0] += shuffle_xor(bias[0], 1);
        bias[0] += shuffle_xor(bias[0], 2);
      }
      if (t == 0) store_shared(to + kStripsGramSums - 1, bias[0] + bias[2]);
      for (int j = t; j < 7 - row; j += 4) store_shared(to + j, 0.0f);
      for (int j = 8 * kBlocks + 15 - row + t; j < kStripsGramSums - 1; j += 4) store_shared(to + j, 0.0f);
    }
  }

  // A gradient's sum by the pixels whose partner is inside the image, shared out among the warp.
  GCN_DEVICE float by_pixels(const StripsOp& op, const StripsBandAxes& axes, int c, int at, int of_weight, int rows,
                             int cols) const {
    const StripsMap &x = p.map[op.src], &g = p.map[op.dst];
    const StripsKernel& k = p.kernel[op.kernel];
    const bool of_bias = at >= of_weight;
    const int line = of_bias ? 0 : quotient(at, axes.taps), tap = (at - line * axes.taps) * axes.dilation;
    const int shift_h = axes.down ? tap - axes.reach : line * axes.line_dilation - k.dh * (k.kh / 2);
    const int shift_w = axes.down ? 0 : tap - axes.reach;
    const E* const g_core = maps + g.first + c * g.plane + g.rh * g.pitch + g.rw;
    const E* const x_core = maps + x.first + c * x.plane + (x.rh + shift_h) * x.pitch + x.rw + shift_w;
    float sum = 0;
#pragma unroll 1
    for (int i = lane(); i < rows * cols; i += kStripsWarp) {
      const int row = quotient(i, cols), col = i - row * cols;
      const int at_h = of_unit(kRow) + row + shift_h, at_w = of_unit(kColumn) + col + shift_w;
      const float of_pixel = to_float(load_shared(g_core + row * g.pitch + col));
      if (of_bias) {
        sum += of_pixel;
      } else if (at_h >= 0 && at_h < p.h && at_w >= 0 && at_w < p.w) {
        sum += of_pixel * to_float(load_shared(x_core + row * x.pitch + col));
      }
    }
#pragma unroll
    for (int mask = kStripsWarp / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    return sum;
  }
};

template <class M>
__global__ void __launch_bounds__(strips_banded_threads(sizeof(Element<M>)), 1) strips_banded_kernel(GCN_PARAMS StripsTile p) {
  GCN_DYNAMIC_SHARED(shared);
  launch_dependents();
  wait_for_dependencies();
  const StripsBanded<M> block(p, shared);
  if (is_unit(p, strips_unit())) block.run(strips_unit());
}

template <class M>
int launch_strips_banded(const StripsTile& p, int64_t blocks, int threads, int shared_bytes, Stream s) {
  return launch(strips_banded_kernel<M>, strips_launch(blocks, threads, shared_bytes, s), p);
}

}  // namespace gcn::cuda
