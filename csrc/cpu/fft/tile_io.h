// Tiles between memory and transforms.
//
// A tile is [outer][sample] vectors of lanes, in float. Convolution: lanes are lines of the image, samples
// run along the kernel's axis, outer counts channels. Weight gradient: lanes are channels, outer counts
// lines. Whichever of the three is contiguous in memory decides how a tile is moved:
//
//   lanes contiguous     vector by vector
//   outer contiguous     transposes of kLanes lanes x kLanes outer, for each sample
//   samples contiguous   transposes of kLanes lanes x kLanes samples, for each outer
//   none                 element by element
//
// so that channels_last and NCHW images are both read in place, without a copy in the other layout.
#pragma once

#include "engine.h"
#include "simd.h"

namespace gcn::cpu {
namespace fft {
namespace GCN_FFT_ISA {

// Where the lanes of a vector lie, in elements from a common base; the lanes from count on do not exist.
struct Lanes {
  int64_t offset[kLanes];
  int count;
  bool contiguous;

  void find_contiguous() {
    contiguous = true;
    for (int r = 1; r < count; r++) contiguous &= offset[r] == offset[0] + r;
  }
};

struct TileShape {
  int64_t outer, outer_stride, samples, sample_stride;
};

// Elements 0 .. columns - 1 of each lane, transposed: row[i] has element i of all lanes.
template <class T>
GCN_INLINE void load_transposed(const T* from, const Lanes& lanes, int columns, Vec (&row)[kLanes]) {
  if (lanes.count < kLanes) {
    for (int r = 0; r < kLanes; r++) row[r] = r < lanes.count ? load_n(from + lanes.offset[r], columns) : Vec{};
  } else if (columns < kLanes) {
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; r++) row[r] = load_n(from + lanes.offset[r], columns);
  } else {
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; r++) row[r] = load(from + lanes.offset[r]);
  }
  transpose(row);
}

template <class T>
static void load_tile_of(const T* base, const Lanes& lanes, const TileShape& shape, Vec* tile, int64_t tile_stride) {
  const int64_t os = shape.outer_stride, ss = shape.sample_stride, outer = shape.outer, samples = shape.samples;
  if (lanes.contiguous) {
    for (int64_t j = 0; j < outer; j++) {
      const T* from = base + lanes.offset[0] + j * os;
      Vec* to = tile + j * tile_stride;
      if (lanes.count == kLanes)
        for (int64_t i = 0; i < samples; i++) to[i] = load(from + i * ss);
      else
        for (int64_t i = 0; i < samples; i++) to[i] = load_n(from + i * ss, lanes.count);
    }
  } else if (os == 1 && outer > 1) {
    for (int64_t i = 0; i < samples; i++) {
      for (int64_t j0 = 0; j0 < outer; j0 += kLanes) {
        const T* from = base + i * ss + j0;
        const int columns = (int)smaller(kLanes, outer - j0);
        Vec row[kLanes];
        load_transposed(from, lanes, columns, row);
        Vec* to = tile + j0 * tile_stride + i;
        if (columns == kLanes) {
#pragma GCC unroll 16
          for (int c = 0; c < kLanes; c++) to[c * tile_stride] = row[c];
        } else {
          for (int c = 0; c < columns; c++) to[c * tile_stride] = row[c];
        }
      }
    }
  } else if (ss == 1 || ss == -1) {
    for (int64_t j = 0; j < outer; j++) {
      for (int64_t i0 = 0; i0 < samples; i0 += kLanes) {
        const int columns = (int)smaller(kLanes, samples - i0);
        const T* from = base + j * os + (ss > 0 ? i0 : 1 - i0 - columns);
        Vec row[kLanes];
        load_transposed(from, lanes, columns, row);
        Vec* to = tile + j * tile_stride + i0;
        if (ss > 0)
          for (int c = 0; c < columns; c++) to[c] = row[c];
        else
          for (int c = 0; c < columns; c++) to[c] = row[columns - 1 - c];
      }
    }
  } else {
    for (int64_t j = 0; j < outer; j++)
      for (int64_t i = 0; i < samples; i++) {
        const T* from = base + j * os + i * ss;
        Vec v = {};
        for (int r = 0; r < lanes.count; r++) v[r] = load_one(from + lanes.offset[r]);
        tile[j * tile_stride + i] = v;
      }
  }
}

template <class T>
static void store_tile_of(T* base, const Lanes& lanes, const TileShape& shape, const Vec* tile, int64_t tile_stride) {
  const int64_t os = shape.outer_stride, ss = shape.sample_stride, outer = shape.outer, samples = shape.samples;
  if (lanes.contiguous) {
    for (int64_t j = 0; j < outer; j++) {
      T* to = base + lanes.offset[0] + j * os;
      for (int64_t i = 0; i < samples; i++) store_n(to + i * ss, tile[j * tile_stride + i], lanes.count);
    }
  } else if (os == 1 && outer > 1) {
    for (int64_t i = 0; i < samples; i++) {
      for (int64_t j0 = 0; j0 < outer; j0 += kLanes) {
        const int columns = (int)smaller(kLanes, outer - j0);
        Vec row[kLanes];
        const Vec* from = tile + j0 * tile_stride + i;
        for (int c = 0; c < kLanes; c++) row[c] = c < columns ? from[c * tile_stride] : Vec{};
        transpose(row);
        for (int r = 0; r < lanes.count; r++) store_n(base + i * ss + j0 + lanes.offset[r], row[r], columns);
      }
    }
  } else if (ss == 1) {
    for (int64_t j = 0; j < outer; j++) {
      for (int64_t i0 = 0; i0 < samples; i0 += kLanes) {
        const int columns = (int)smaller(kLanes, samples - i0);
        Vec row[kLanes];
        const Vec* from = tile + j * tile_stride + i0;
        for (int c = 0; c < kLanes; c++) row[c] = c < columns ? from[c] : Vec{};
        transpose(row);
        for (int r = 0; r < lanes.count; r++) store_n(base + j * os + i0 + lanes.offset[r], row[r], columns);
      }
    }
  } else {
    for (int64_t j = 0; j < outer; j++)
      for (int64_t i = 0; i < samples; i++)
        for (int r = 0; r < lanes.count; r++) store_one(base + j * os + i * ss + lanes.offset[r], tile[j * tile_stride + i][r]);
  }
}

// base: elements from data to sample 0 of outer 0, without the lanes' offsets
static void load_tile(const ConstImage& image, int64_t base, const Lanes& lanes, const TileShape& shape, Vec* tile,
                      int64_t tile_stride) {
  if (image.dtype == DType::kFloat32)
    load_tile_of((const float*)image.data + base, lanes, shape, tile, tile_stride);
  else if (image.dtype == DType::kBFloat16)
    load_tile_of((const BFloat16*)image.data + base, lanes, shape, tile, tile_stride);
  else
    load_tile_of((const Float16*)image.data + base, lanes, shape, tile, tile_stride);
}

static void store_tile(const Image& image, int64_t base, const Lanes& lanes, const TileShape& shape, const Vec* tile,
                       int64_t tile_stride) {
  if (image.dtype == DType::kFloat32)
    store_tile_of((float*)image.data + base, lanes, shape, tile, tile_stride);
  else if (image.dtype == DType::kBFloat16)
    store_tile_of((BFloat16*)image.data + base, lanes, shape, tile, tile_stride);
  else
    store_tile_of((Float16*)image.data + base, lanes, shape, tile, tile_stride);
}

GCN_INLINE int64_t element_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Walks over the cache lines of several vectors' tiles and fetches them into L2, some at a time, while other
// work runs. Without this, loading x from L3 or memory takes as long as everything else together.
class Prefetcher {
 public:
  Prefetcher() {}
  Prefetcher(const ConstImage& image, int64_t base, const Lanes* lanes, int vectors, const TileShape& shape)
      : bytes_(element_size(image.dtype)), lanes_(lanes), vectors_(vectors), shape_(shape) {
    from_ = (const char*)image.data + base * bytes_;
    const bool across = lanes[0].contiguous;
    lane_steps_ = across ? (lanes[0].count > 0) : lanes[0].count;
    outer_step_ = !across && shape.outer_stride == 1 ? 64 / bytes_ : 1;
    sample_step_ = !across && shape.sample_stride == 1 ? 64 / bytes_ : 1;
    outer_end_ = lane_steps_ > 0 && shape.samples > 0 ? shape.outer : 0;
  }

  int64_t lines() const {
    return (outer_end_ - outer_ + outer_step_ - 1) / outer_step_ * vectors_ * lane_steps_ *
           ((shape_.samples + sample_step_ - 1) / sample_step_);
  }
  void skip_to(int64_t outer) { outer_ = outer; }

  void fetch(int64_t lines) {
    for (; lines > 0 && outer_ < outer_end_; lines--) {
      prefetch_far(from_ +
                   (lanes_[vector_].offset[lane_] + outer_ * shape_.outer_stride + sample_ * shape_.sample_stride) * bytes_);
      if ((sample_ += sample_step_) < shape_.samples) continue;
      sample_ = 0;
      if (++lane_ < lane_steps_) continue;
      lane_ = 0;
      if (++vector_ < vectors_) continue;
      vector_ = 0;
      outer_ += outer_step_;
    }
  }

 private:
  const char* from_ = nullptr;
  int64_t bytes_ = 1;
  const Lanes* lanes_ = nullptr;
  int64_t vectors_ = 0, lane_steps_ = 0, outer_step_ = 1, sample_step_ = 1, outer_end_ = 0;
  TileShape shape_ = {};
  int64_t outer_ = 0, vector_ = 0, lane_ = 0, sample_ = 0;
};

}  // namespace GCN_FFT_ISA
}  // namespace fft
}  // namespace gcn::cpu
