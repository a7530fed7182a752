// Carries out a program of depthwise convolutions: plan of the tiles, arguments, and the choice of instruction set.
//
// Lanes of a vector are channels, for every layout: a tile of 16 channels (AVX-512) is [row][column][channel] in cache, where
// both axes of a kernel are alike and need no shifts. channels_last maps of the type that the arithmetic is done in are read
// and written in place where that happens once; other maps are copied or turned on their way in and out. A tile marches down
// the map; between its steps there are only the rows that later steps still need (a ring), all of them together in L2.
//
// Cost, in products of a vector per element: the taps of all kernels; turning a planar map adds about 4 shuffles on either
// side. The kernels in line.inl reach about one product a cycle, so the bound is the multiply-adds, or memory for short ones.
#pragma once

#include <cstdint>
#include <vector>

#include "../../strips/program.h"
#include "../fft/backend.h"

namespace gcn::cpu::strips {

using gcn::strips::Buffer, gcn::strips::Dot, gcn::strips::Form, gcn::strips::Kernel, gcn::strips::Program, gcn::strips::Step,
    gcn::strips::WantedGradients, gcn::strips::kNone;

enum class DType : int8_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

// [n, c, h, w]; strides in elements.
struct Image {
  void* data;
  DType dtype;
  int64_t stride_n, stride_c, stride_h, stride_w;
};

struct Sizes {
  int64_t n, c, h, w;
};

// How the map is divided. Units of work are channel groups x image parts x column tiles x row bands. Of these only the bands
// depend on the number of threads, and sums for gradients are made by cells, which do not cross a band.
struct Plan {
  Sizes sizes;
  bool float64;
  int64_t lanes;  // channels of a group
  int64_t groups;
  int64_t parts;  // of the images
  int64_t tile_width, tiles;
  int64_t band_rows, bands;
  int64_t cell_rows, cells;        // row cells
  int64_t table_size, bases_size;  // entries of the tables that the kernels read
  int64_t scratch_bytes;           // of one unit
  double cost;                     // multiply-adds of vectors, of the thread that has most to do

  int64_t units() const { return groups * parts * tiles * bands; }
  int64_t cells_of_group() const { return parts * tiles * cells; }
};

// Sets how far each map of a program reaches around the tile, how long its rows live, and the rows of a row block.
void measure(Program& program, int64_t height);

Plan make_plan(const Program& program, const Sizes& sizes, bool float64, int64_t lanes, int64_t threads);

// Rows of a map that are kept at a time, and bytes from one to the next: an odd number of cache lines, so that a column of the
// map does not fall on a few sets of the cache.
inline int64_t ring_rows(const Program& program, const Buffer& b, int64_t height) {
  const int64_t rows = program.rows + b.rh - b.low;
  return rows < height ? rows : height;
}
inline int64_t ring_pitch(const Buffer& b, const Plan& plan, int64_t vector_bytes) {
  const int64_t columns = plan.tile_width + 2 * b.rw;
  return ((columns < plan.sizes.w ? columns : plan.sizes.w) | 1) * vector_bytes;
}

// Weights are images with n = 1 and one channel of their own for each of x; biases too, of one pixel.
struct Call {
  const Program* program;
  const Plan* plan;
  // The program's lists, since what is compiled for an instruction set uses no part of the standard library.
  const Kernel* kernels;
  const Buffer* buffers;
  const Step* steps;
  const Dot* dots;
  int64_t kernel_count, buffer_count, step_count, dot_count;
  int64_t taps, max_rh;
  Image images[3];
  const Image *weights, *biases;  // of every kernel; biases without data where there is none
  double* sums;                   // [groups][cells of a group][taps of all kernels + kernels][lanes], or null
};

struct Engine {
  void (*float32)(const Call&, int64_t unit);
  void (*float64)(const Call&, int64_t unit);
};
extern const Engine kPortableEngine, kAvx2Engine, kAvx512Engine;

// Of the instruction set in use; null in a build without vector extensions.
const Engine* active_engine();
// Bytes of a vector of the instruction set in use.
int64_t vector_bytes();

}  // namespace gcn::cpu::strips
