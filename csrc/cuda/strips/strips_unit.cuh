// A block's unit of work: a tile of some channels of an image, the program that it carries out there, and how maps come from
// device memory and go back. What multiplies is a class derived from this one: strips_tile.cuh has multiply-adds,
// strips_banded.cuh the tensor cores.
//
//   load    map = image, zero outside of it                     store   image = map
//
// E: what images hold; S: what maps in shared memory hold.
#pragma once

#include <type_traits>

#include "../device.cuh"
#include "strips_geometry.cuh"
#include "strips_kernels.h"
#include "strips_lines.cuh"

namespace gcn::cuda {

constexpr int64_t kStripsMostBlocks = 1 << 30;  // along an axis of the grid
constexpr int kStripsWarp = 32, kStripsPiecesAtOnce = 3;

// Elements of a map that are moved at once: 16 bytes, or two times 16 of float64.
template <class S>
constexpr int kStripsTogether = sizeof(S) == 2 ? 8 : kStripsQuad;

// Neighbours in shared memory: 8 or 16 bytes at once of 16-bit numbers, which the compiler would move one by one.
template <int kBytes>
struct StripsWords {
  using type = uint4;
};
template <>
struct StripsWords<8> {
  using type = uint2;
};
template <class S, int kCount>
GCN_DEVICE void load_piece(S (&to)[kCount], const S* from) {
  if constexpr (kCount == 1) {
    to[0] = load_shared(from);
  } else if constexpr (sizeof(S) == 2) {
    using Words = typename StripsWords<kCount * sizeof(S)>::type;
    const Words words = load_shared(reinterpret_cast<const Words*>(from));
    const auto piece = same_bytes<StripsPiece<S, kCount>>(words);
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = piece.value[i];
  } else {
    load_quad(to, from);
  }
}
template <class S, int kCount>
GCN_DEVICE void store_piece(S* to, const S (&v)[kCount]) {
  if constexpr (kCount == 1) {
    store_shared(to, v[0]);
  } else if constexpr (sizeof(S) == 2) {
    StripsPiece<S, kCount> piece;
#pragma unroll
    for (int i = 0; i < kCount; ++i) piece.value[i] = v[i];
    using Words = typename StripsWords<kCount * sizeof(S)>::type;
    store_shared(reinterpret_cast<Words*>(to), same_bytes<Words>(piece));
  } else {
    store_quad(to, v);
  }
}

template <class Products, class E, class S>
class StripsUnit {
 public:
  using A = Accumulator<E>;

  GCN_DEVICE StripsUnit(const StripsTile& p, unsigned char* shared)
      : p(p),
        shared(reinterpret_cast<A*>(shared)),
        maps(reinterpret_cast<S*>(shared)),
        tid(int(threadIdx.x)),
        threads(int(blockDim.x)) {}

  // Carries out the program. Products has load_weights(), conv(op) and dot(op).
  GCN_DEVICE void run(int64_t unit) const {
    const Products& products = static_cast<const Products&>(*this);
    const int tiles = p.tiles_h * p.tiles_w;
    const int64_t rest = p.channels_first ? unit / p.groups : unit / tiles;
    const int group = int(p.channels_first ? unit % p.groups : rest % p.groups);
    const int tile = int(p.channels_first ? rest % tiles : unit % tiles);
    if (tid == 0) {
      const int channel0 = group * p.channels;
      store_shared(unit_at(kImage), int(p.channels_first ? rest / tiles : rest / p.groups));
      store_shared(unit_at(kTile), tile);
      store_shared(unit_at(kOps), p.ops);
      store_shared(unit_at(kRow), tile / p.tiles_w * p.tile_h);
      store_shared(unit_at(kColumn), tile % p.tiles_w * p.tile_w);
      store_shared(unit_at(kChannel), channel0);
      store_shared(unit_at(kChannels), min(p.channels, p.c - channel0));
    }
    __syncthreads();
    products.load_weights();
#pragma unroll 1
    for (int i = 0; i < of_unit(kOps); ++i) {
      const StripsOp& op = p.op[i];
      if (op.kind == StripsKind::kConv) {
        products.conv(op);
      } else if (op.kind == StripsKind::kDot) {
        products.dot(op);
      } else if (op.kind == StripsKind::kLoad) {
        with_together(p.together[op.src], [&](auto of) { load<decltype(of)::value>(p.image[op.src], p.map[op.dst]); });
      } else {
        with_together(p.together[op.dst], [&](auto of) { store<decltype(of)::value>(p.map[op.src], p.image[op.dst]); });
      }
      __syncthreads();
    }
  }

 protected:
  // What the block works on lies in front of shared memory, as all operations need it and none can spare the registers.
  enum InUnit { kImage, kTile, kRow, kColumn, kChannel, kChannels, kOps };
  GCN_DEVICE int* unit_at(InUnit which) const { return reinterpret_cast<int*>(shared) + which; }
  GCN_DEVICE int of_unit(InUnit which) const { return load_shared(unit_at(which)); }

  GCN_DEVICE int lane() const { return tid % kStripsWarp; }
  GCN_DEVICE int warp() const { return tid / kStripsWarp; }
  GCN_DEVICE int warps() const { return threads / kStripsWarp; }

  // run(std::integral_constant<int, elements that are moved at once>).
  template <class Run>
  GCN_DEVICE static void with_together(int together, const Run& run) {
    if constexpr (kStripsTogether<S> > kStripsQuad) {
      if (together == kStripsTogether<S>) return run(std::integral_constant<int, kStripsTogether<S>>{});
    }
    if (together == kStripsQuad) return run(std::integral_constant<int, kStripsQuad>{});
    run(std::integral_constant<int, 1>{});
  }

  // Where the pieces of a region's part in the image lie. Neighbouring threads have neighbours in memory: pieces of rows of
  // channels or, where channels are neighbours, pieces of pixels of rows.
  struct Layout {
    int pieces, rows, slices;
    int64_t of_piece, of_row, of_slice;        // elements of the image
    int in_piece, to_piece, to_row, to_slice;  // of shared memory, the first from one element of a piece to the next
  };
  template <int kTogether>
  GCN_DEVICE Layout layout(const StridedMap& image, const StripsMap& map, int rows, int cols) const {
    const int channels = of_unit(kChannels);
    if (p.channels_first) {
      return {channels / kTogether,  cols, rows,     kTogether * image.stride_c, image.stride_w, image.stride_h, map.plane,
              kTogether * map.plane, 1,    map.pitch};
    }
    return {cols / kTogether, rows,      channels, kTogether * image.stride_w, image.stride_h, image.stride_c, 1,
            kTogether,        map.pitch, map.plane};
  }

  // A thread's way through it, and the places there in the image and in shared memory.
  struct Way {
    StripsWalk walk;
    StripsOffset<int64_t> image;
    StripsOffset<int> map;
    int slices;

    GCN_DEVICE Way(const Layout& l, int start, int step)
        : walk(l.pieces, l.rows, start, step),
          image(walk, l.of_piece, l.of_row, l.of_slice),
          map(walk, l.to_piece, l.to_row, l.to_slice),
          slices(l.slices) {}
    GCN_DEVICE bool is_on() const { return walk.slice < slices; }
    GCN_DEVICE void go_on() {
      image.at += image.on, map.at += map.on;
      walk.go_on([&] { image.at += image.at_row, map.at += map.at_row; },
                 [&] { image.at += image.at_slice, map.at += map.at_slice; });
    }
  };

  // A thread has many loads on their way at a time, which is what hides that memory is far.
  template <int kTogether>
  GCN_DEVICE void load(const StridedMap& image, const StripsMap& to) const {
    using Piece = StripsPiece<E, kTogether>;
    const int64_t n = of_unit(kImage), channel0 = of_unit(kChannel);
    const int row0 = of_unit(kRow), col0 = of_unit(kColumn);
    const StripsSpan in_h(row0 - to.rh, to.rows, p.h), in_w(col0 - to.rw, to.cols, p.w);
    const Layout l = layout<kTogether>(image, to, in_h.size(), in_w.size());
    const E* const data = static_cast<const E*>(image.data) +
                          (n * image.stride_n + channel0 * image.stride_c + (row0 - to.rh + in_h.begin) * image.stride_h +
                           (col0 - to.rw + in_w.begin) * image.stride_w);
    S* const inside = maps + to.first + in_h.begin * to.pitch + in_w.begin;
    Way way(l, kept(tid), threads);
#pragma unroll 1
    while (way.is_on()) {
      Piece piece[kStripsPiecesAtOnce];
      int place[kStripsPiecesAtOnce];
#pragma unroll
      for (int i = 0; i < kStripsPiecesAtOnce; ++i) {
        const bool there = way.is_on();
        piece[i] = load_global(reinterpret_cast<const Piece*>(data + (there ? way.image.at : 0)));
        place[i] = there ? way.map.at : -1;
        way.go_on();
      }
#pragma unroll
      for (int i = 0; i < kStripsPiecesAtOnce; ++i) {
        if (place[i] < 0) continue;
        S value[kTogether];
#pragma unroll
        for (int e = 0; e < kTogether; ++e) value[e] = to_map(piece[i].value[e]);
        if (!p.channels_first) {
          store_piece(inside + place[i], value);
          continue;
        }
#pragma unroll
        for (int e = 0; e < kTogether; ++e) store_shared(inside + place[i] + e * l.in_piece, value[e]);
      }
    }
    zero_outside(to, in_h, in_w);
  }

  template <int kTogether>
  GCN_DEVICE void store(const StripsMap& from, const StridedMap& image) const {
    using Piece = StripsPiece<E, kTogether>;
    const int64_t n = of_unit(kImage), channel0 = of_unit(kChannel);
    const int row0 = of_unit(kRow), col0 = of_unit(kColumn);
    const Layout l = layout<kTogether>(image, from, min(p.tile_h, p.h - row0), min(p.tile_w, p.w - col0));
    E* const data = static_cast<E*>(const_cast<void*>(image.data)) +
                    (n * image.stride_n + channel0 * image.stride_c + row0 * image.stride_h + col0 * image.stride_w);
    const S* const core = maps + from.first + from.rh * from.pitch + from.rw;
#pragma unroll 2
    for (StripsWalk walk(l.pieces, l.rows, tid, threads); walk.slice < l.slices; walk.go_on()) {
      const S* const at = core + (walk.piece * l.to_piece + walk.row * l.to_row + walk.slice * l.to_slice);
      S value[kTogether];
      if (!p.channels_first) {
        load_piece(value, at);
      } else {
#pragma unroll
        for (int e = 0; e < kTogether; ++e) value[e] = load_shared(at + e * l.in_piece);
      }
      Piece piece;
#pragma unroll
      for (int e = 0; e < kTogether; ++e) piece.value[e] = of_map(value[e]);
      E* const to = data + (walk.piece * l.of_piece + walk.row * l.of_row + walk.slice * l.of_slice);
      store_global(reinterpret_cast<Piece*>(to), piece);
    }
  }

  // What loads and convolutions write lies in the image alone; the padding around it is there once the map's place is first
  // written. Pieces of whole rows outside of it, and of the ends of the rows that are in it.
  GCN_DEVICE void zero_outside(const StripsMap& map, const StripsSpan& in_h, const StripsSpan& in_w) const {
    constexpr int kZeros = kStripsTogether<S>;
    S* const region = maps + map.first;
    const int channels = of_unit(kChannels);
    const int quads = map.cols / kZeros, outside = map.rows - in_h.size();
    if (outside > 0) {
      for (StripsWalk walk(quads, outside, tid, threads); walk.slice < channels; walk.go_on()) {
        const int row = walk.row < in_h.begin ? walk.row : walk.row + in_h.size();
        S zeros[kZeros];
#pragma unroll
        for (S& zero : zeros) zero = from_float<S>(0);
        store_piece(region + (walk.slice * map.plane + row * map.pitch + walk.piece * kZeros), zeros);
      }
    }
    const int before = in_w.begin / kZeros, whole = in_w.end / kZeros - before, ends = quads - whole;
    if (ends == 0) return;
    for (StripsWalk walk(ends, in_h.size(), tid, threads); walk.slice < channels; walk.go_on()) {
      const int col = (walk.piece < before ? walk.piece : walk.piece + whole) * kZeros;
      S* const to = region + (walk.slice * map.plane + (in_h.begin + walk.row) * map.pitch + col);
#pragma unroll
      for (int e = 0; e < kZeros; ++e) {
        if (!in_w.holds(col + e)) store_shared(to + e, from_float<S>(0));
      }
    }
  }

  GCN_DEVICE static S to_map(E x) {
    if constexpr (std::is_same_v<E, S>) {
      return x;
    } else {
      return S(to_float(x));
    }
  }
  GCN_DEVICE static E of_map(S x) {
    if constexpr (std::is_same_v<E, S>) {
      return x;
    } else {
      return from_float<E>(x);
    }
  }

  const StripsTile& p;
  A* const shared;
  S* const maps;
  const int tid, threads;
};

// A block has one unit; grids of more than kStripsMostBlocks are two-dimensional.
GCN_DEVICE int64_t strips_unit() { return int64_t(blockIdx.y) * gridDim.x + blockIdx.x; }
GCN_DEVICE bool is_unit(const StripsTile& p, int64_t unit) { return unit < int64_t(p.n) * p.groups * p.tiles_h * p.tiles_w; }

inline Launch strips_launch(int64_t blocks, int threads, int shared_bytes, Stream s) {
  const int64_t across = blocks < kStripsMostBlocks ? blocks : kStripsMostBlocks;
  return {dim3(unsigned(across), unsigned((blocks + across - 1) / across)), threads, size_t(shared_bytes), s.stream, s.dependent};
}

}  // namespace gcn::cuda
