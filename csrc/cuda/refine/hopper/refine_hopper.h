// The parameters of the refinement's kernel for Hopper as plain structs, its launcher, and where things lie in its shared memory.
#pragma once

#include "../refine_kernels.h"

namespace gcn::cuda {

constexpr int kMarchGroups = 3;  // warpgroups of a block, each of which marches alone
constexpr int kMarchThreads = 128 * kMarchGroups;
constexpr int kMarchLeast = 17, kMarchMost = 21;   // channels; three rows of 21 are 63 rows of a product
constexpr int kMarchPieces = 3, kMarchWhole = 16;  // of a pixel: pieces of eight channels, and channels in whole ones
// Columns: of a strip of the result; of u, of which the first is the one before the strip; of x, from the eighth before it on.
constexpr int kMarchCols = 128, kMarchColsU = kMarchCols + 8, kMarchColsX = kMarchCols + 16;
// Steps of a row's depth, two pieces of eight channels each, and the versions of the weights, one for each row modulo three.
constexpr int kMarchSteps = 5, kMarchVersions = 3, kMarchStepBytes = 64 * 2 * kPieceBytes;
constexpr int kMarchVersionBytes = kMarchSteps * kMarchStepBytes, kMarchConvBytes = kMarchVersions * kMarchVersionBytes;
constexpr int kMarchOutputs = kMarchPieces * kOctet;
// Rows of x, as they come and as pieces, that are kept.
constexpr int kMarchStages = 2, kMarchRowsX = 4;

// Bytes. A row of x as it comes, and the staging buffer of a row of y, have their channels so far apart that eight of them fall
// on different banks.
constexpr int kMarchPlaneX = kMarchColsX * kPieceBytes, kMarchPlaneU = kMarchColsU * kPieceBytes;
constexpr int kMarchPitchIn = kMarchColsX * 2 + 16, kMarchPitchOut = kMarchCols * 2 + 16;
constexpr int kMarchStageBytes = kMarchMost * kMarchPitchIn, kMarchOutBytes = kMarchMost * kMarchPitchOut;
// Of a warpgroup: four rows of x and one of u as pieces; the staging buffer of y; x as it comes; where its pieces are in device
// memory.
constexpr int kMarchOwnU = kMarchRowsX * kMarchPieces * kMarchPlaneX, kMarchOwnOut = kMarchOwnU + kMarchPieces * kMarchPlaneU;
constexpr int kMarchOwnStages = kMarchOwnOut + kMarchOutBytes;
constexpr int kMarchOwnPlaces = kMarchOwnStages + kMarchStages * kMarchStageBytes, kMarchOwnBits = kMarchOwnPlaces + 2 * 128 * 8;
constexpr int kMarchOwnBytes = (kMarchOwnBits + 2 * 128 * 4 + 127) / 128 * 128;
// Of a block: the weights; the warpgroups' own; zeros, which a piece that there is not is read from, and which stand behind all
// that is read with them; and biases.
constexpr int kMarchOwnAt = 2 * kMarchConvBytes, kMarchZerosAt = kMarchOwnAt + kMarchGroups * kMarchOwnBytes;
constexpr int kMarchBiasesAt = kMarchZerosAt + kMarchPlaneU, kMarchSharedBytes = kMarchBiasesAt + 2 * kMarchOutputs * 4;
// Eight pixels are read at a time, which should not be in two lines of 128 bytes without need.
static_assert(kMarchPlaneX % 128 == 0 && kMarchPlaneU % 128 == 0 && kMarchOwnAt % 128 == 0 && kMarchZerosAt % 128 == 0);
static_assert(kMarchOwnOut % 16 == 0 && kMarchOwnStages % 16 == 0 && kMarchOwnPlaces % 16 == 0);
static_assert(kMarchSharedBytes <= 227 * 1024);

// A unit of work is a segment of rows of a strip of columns.
struct RefineMarch {
  StridedMap x, out;
  RefineConv conv[2];               // u from x, y from u
  bool x_by_pixels, out_by_pixels;  // channels_last; else rows of pixels
  int n, c, m, h, w;
  int strips, segments, rows;  // of an image; of a strip; of a segment
  int units;
};

int refine_march_forward(Math, const RefineMarch&, int blocks, Stream);

}  // namespace gcn::cuda
