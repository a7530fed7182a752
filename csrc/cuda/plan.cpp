#include "plan.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "cost.h"
#include "hopper/hopper_plan_rules.h"
#include "tiles.h"

namespace gcn::cuda {
namespace {

// A size that the tensor core kernels do not take; what() says why.
struct TooLarge : std::runtime_error {
  using std::runtime_error::runtime_error;
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
int piece_elements(Math math) { return kPieceBytes / element_bytes(math); }
double fma_per_clock(Math math, const Gpu& gpu) {
  return math == Math::kTf32 ? gpu.fma_16bit / 2 : math == Math::kFloat ? gpu.fma_16bit / 6 : gpu.fma_16bit;
}
void require_shared(const char* kernel, int64_t bytes, const Gpu& gpu) {
  if (bytes > gpu.shared_per_block) {
    throw TooLarge(std::string(kernel) + " would need " + std::to_string(bytes) + " bytes of shared memory, the GPU has " +
                   std::to_string(gpu.shared_per_block));
  }
}

// Hands out places in the workspace.
size_t take(size_t& total, size_t bytes) {
  const size_t at = total;
  total += size_t(round_up(int64_t(bytes), 256));
  return at;
}

// --- x ---------------------------------------------------------------------------------------------------------------------

Strides padded_strides(const Sizes& s, int channels) { return {s.h * s.w * channels, 1, s.w * channels, channels}; }

SourcePlan plan_source(const Sizes& s, Math math, const MapLayout& x) {
  const int64_t piece = piece_elements(math);
  // The stride of a dimension of one element says nothing.
  const Strides t{s.n > 1 ? x.strides.n : 0, s.c > 1 ? x.strides.c : 1, s.h > 1 ? x.strides.h : 0, s.w > 1 ? x.strides.w : 1};
  const auto whole = [&](int64_t stride) { return stride % piece == 0; };
  const auto reaches = [&](const Strides& p) {  // offsets are 32-bit numbers of pieces
    return (s.n - 1) * p.n + (s.h - 1) * p.h + (s.c - 1) * p.c + (s.w - 1) * p.w < std::numeric_limits<uint32_t>::max();
  };
  if (x.aligned && t.c == 1 && s.c % piece == 0 && whole(t.n) && whole(t.h) && (s.w == 1 || whole(t.w))) {
    const Strides pieces{t.n / piece, 0, t.h / piece, s.w == 1 ? 0 : t.w / piece};
    if (reaches(pieces)) return {false, true, pieces};
  }
  if (x.aligned && t.w == 1 && s.w % piece == 0 && whole(t.n) && whole(t.h) && (s.c == 1 || whole(t.c))) {
    const Strides pieces{t.n / piece, s.c == 1 ? 0 : t.c / piece, t.h / piece, 0};
    if (reaches(pieces)) return {false, false, pieces};
  }
  const Strides own = padded_strides(s, padded(s.c));
  const Strides pieces{own.n / piece, 0, own.h / piece, own.w / piece};
  if (!reaches(pieces)) throw TooLarge("x has more than 2^32 16-byte pieces");
  return {true, true, pieces};
}

size_t padded_map_bytes(const Sizes& s, int64_t channels, Math math) {
  return size_t(s.n * s.h * s.w) * padded(channels) * element_bytes(math);
}

// --- first stage -------------------------------------------------------------------------------------------------------------

// How a branch's columns are dealt out to blocks of at most `columns`.
void group_columns(FirstStagePlan::Branch& b, int columns) {
  if (b.taps.taps <= columns) {
    const int most = std::min(kGroupMidMax, columns / b.taps.taps);
    b.group_mid = int(ceil_div(b.mid, ceil_div(b.mid, most)));  // of nearly equal size
    b.group_taps = b.taps.taps;
    b.tap_groups = 1;
    b.groups = int(ceil_div(b.mid, b.group_mid));
  } else {
    b.group_mid = 1;
    b.tap_groups = int(ceil_div(b.taps.taps, columns));
    b.group_taps = int(ceil_div(b.taps.taps, b.tap_groups));
    b.tap_groups = int(ceil_div(b.taps.taps, b.group_taps));
    b.groups = b.mid * b.tap_groups;
  }
}

// Blocks of 8 columns that are multiplied, over all groups.
int64_t used_column_blocks(const FirstStagePlan::Branch& b) {
  int64_t used = 0;
  for (int g = 0; g < b.groups; ++g) {
    const int first_mid = g / b.tap_groups * b.group_mid, first_tap = g % b.tap_groups * b.group_taps;
    used += ceil_div(std::min(b.group_mid, b.mid - first_mid) * std::min(b.group_taps, b.taps.taps - first_tap), 8);
  }
  return used;
}

// Blocks of 8 columns that the 16-pixel fragments of a tile multiply, on average and over all groups: those with a tap that leads
// to another place in its line, in pairs, as find_wanted() of first_stage.cuh has them.
double wanted_column_blocks(const FirstStagePlan::Branch& b, int column_blocks) {
  constexpr int kFragments = kTilePixels / 16;
  int64_t wanted = 0;
  for (int fragment = 0; fragment < kFragments; ++fragment) {
    int low = b.taps.taps, high = 0;
    for (int q = fragment * 16; q < fragment * 16 + 16;
         ++q) {  // in the first tile; where lines do not fit into tiles, others differ
      const int position = q / b.interleave % b.length;
      low = std::min(low, std::max(0, position + b.taps.radius - b.length + 1));
      high = std::max(high, std::min(b.taps.taps, position + b.taps.radius + 1));
    }
    for (int g = 0; g < b.groups; ++g) {
      const int mids = std::min(b.group_mid, b.mid - g / b.tap_groups * b.group_mid), first_tap = g % b.tap_groups * b.group_taps;
      const int taps = std::min(b.group_taps, b.taps.taps - first_tap);
      const int from = std::max(low - first_tap, 0) * mids / 16, to = int(ceil_div(std::min(high - first_tap, taps) * mids, 16));
      wanted += std::max(0, std::min(2 * to, column_blocks) - 2 * from);
    }
  }
  return double(wanted) / kFragments;
}

// A block's share of both branches' work.
BlockCost first_stage_block_cost(const FirstStagePlan& f, Math math, const Gpu& gpu, int splits) {
  const double items = f.branch[0].groups + f.branch[1].groups, k_blocks = double(ceil_div(f.k_blocks, splits));
  const double depth = k_blocks * kBlockBytes / element_bytes(math);
  BlockCost c{};
  for (const auto& b : f.branch) {
    const double columns = 8.0 * double(used_column_blocks(b)), rows = b.groups * double(kTilePixels);
    c.tensor += kTilePixels * 8 * wanted_column_blocks(b, f.column_blocks) * depth / fma_per_clock(math, gpu) / items;
    c.shared += (rows + 4 * columns) * kBlockBytes * k_blocks / 128 / items;  // each of four warps reads all columns
    c.l2 += (rows + columns) * kBlockBytes * k_blocks / items;
    c.epilogue += 2 * columns * kTilePixels * 4 / 128 / items;  // T is written and read once
  }
  return c;
}

int64_t first_stage_blocks(const FirstStagePlan& f, int splits) {
  return int64_t(f.tiles) * (f.branch[0].groups + f.branch[1].groups) * splits;
}

double first_stage_clocks(const FirstStagePlan& f, Math math, const Gpu& gpu, int splits) {
  const int per_sm = blocks_per_multiprocessor(f.shared_bytes, 2, gpu);
  return clocks_of(first_stage_blocks(f, splits), per_sm, first_stage_block_cost(f, math, gpu, splits), gpu);
}

double partial_floats(const FirstStagePlan& f, int splits) {
  double floats = 0;
  for (const auto& b : f.branch) {
    if (splits * b.tap_groups > 1 || b.overhang) {
      floats += double(splits) * b.tap_groups * f.tiles * b.mid * (kTilePixels + 2 * b.overhang);
    }
  }
  return floats;
}

// Neighbouring lines that alternate in a tile. NCHW has whole pieces of neighbouring columns. From channels_last any number will
// do: as many as make a tile of whole lines, so that the 16 pixels of a fragment have few positions in their lines, and at the
// ends of lines few taps that lead anywhere.
int interleaved_lines(const Sizes& s, int axis, Math math, const SourcePlan& source) {
  if (!source.channels_last) return axis == 0 ? piece_elements(math) : 1;
  const int64_t length = axis == 0 ? s.h : s.w, lines = axis == 0 ? s.w : s.h;
  for (int count = 16; count > 1; count /= 2) {
    if (lines % count == 0 && kTilePixels % (length * count) == 0) return count;
  }
  return 1;
}

FirstStagePlan plan_first_stage(const Sizes& s, Math math, const SourcePlan& source, const Gpu& gpu) {
  FirstStagePlan f{};
  const int64_t pixels = s.n * s.h * s.w;
  if (pixels > std::numeric_limits<int32_t>::max() - 2 * kTilePixels) throw TooLarge("x has more than 2^31 pixels");
  for (int axis = 0; axis < 2; ++axis) {
    auto& b = f.branch[axis];
    b.length = int(axis == 0 ? s.h : s.w);
    b.taps = clip_taps(axis == 0 ? s.k1 : s.k3, b.length, axis);
    b.mid = int(axis == 0 ? s.m_l : s.m_r);
    b.interleave = interleaved_lines(s, axis, math, source);
    b.overhang = kTilePixels % (b.length * b.interleave) == 0 ? 0 : b.taps.radius * b.interleave;
  }

  // The number of columns that leaves least empty; each further block reads x once more.
  double least = std::numeric_limits<double>::infinity();
  for (int column_blocks : kFirstStageColumnBlocks) {
    if (!first_stage_compiled(math, column_blocks)) continue;
    double cost = 0;
    FirstStagePlan trial = f;
    for (auto& b : trial.branch) {
      group_columns(b, 8 * column_blocks);
      cost += double(used_column_blocks(b)) + 1.5 * b.groups;
    }
    if (cost < least) least = cost, trial.column_blocks = column_blocks, f = trial;
  }

  f.tiles = int(ceil_div(pixels, kTilePixels));
  f.k_blocks = int(ceil_div(s.c, kBlockBytes / element_bytes(math)));
  if (int64_t(f.tiles) * (f.branch[0].groups + f.branch[1].groups) > std::numeric_limits<int32_t>::max()) {
    throw TooLarge("the first stage would have more than 2^31 blocks");
  }
  int sums = 0;
  for (const auto& b : f.branch) sums = std::max(sums, b.group_mid * (kTilePixels + 2 * b.overhang));
  f.shared_bytes = first_stage_shared_bytes(f.column_blocks, sums);
  require_shared("the first stage", f.shared_bytes, gpu);

  // Splits of the channels: small maps would leave multiprocessors idle, but sums have to be completed.
  constexpr int kSplitsMax = 32;
  double best = std::numeric_limits<double>::infinity();
  for (int splits = 1; splits <= std::min(kSplitsMax, f.k_blocks); ++splits) {
    const double completing = 8 * partial_floats(f, splits) / gpu.l2 + (partial_floats(f, splits) > 0 ? gpu.dependent_launch : 0);
    const double seconds = first_stage_clocks(f, math, gpu, splits) / gpu.clock + completing;
    if (seconds < best) best = seconds, f.splits = splits;
  }
  for (auto& b : f.branch) {
    b.slots = f.splits * b.tap_groups;
    b.complete = b.slots == 1 && b.overhang == 0;
    b.packed_bytes = size_t(b.groups) * f.k_blocks * f.column_blocks * 8 * kBlockBytes;
    b.partial_bytes = b.complete ? 0 : size_t(b.slots) * f.tiles * b.mid * (kTilePixels + 2 * b.overhang) * 4;
  }
  return f;
}

// --- line convolution ----------------------------------------------------------------------------------------------------------

LineTile choose_line_tile(Math math, int64_t outputs, int64_t pixels, int jobs, const Gpu& gpu) {
  const auto blocks = [&](LineTile tile) {
    const LineTileShape shape = line_tile_shape(tile);
    return ceil_div(pixels, shape.pixels()) * ceil_div(outputs, shape.outputs()) * jobs;
  };
  if (outputs <= line_tile_shape(LineTile::kNarrow).outputs()) {
    return blocks(LineTile::kNarrow) >= gpu.multiprocessors ? LineTile::kNarrow : LineTile::kNarrowSmall;
  }
  if (outputs <= line_tile_shape(LineTile::kMedium).outputs()) return LineTile::kMedium;
  const bool wide = line_conv_compiled(math, LineTile::kWide) && blocks(LineTile::kWide) >= gpu.multiprocessors;
  return wide ? LineTile::kWide : LineTile::kWideSmall;
}

LinePatches patches_of(const LineConvPlan& l) { return line_patches(l.tile_h, l.tile_w, line_tile_shape(l.tile).warps_m); }

// Of both terms.
int64_t window_bytes(const LineConvPlan& l, Math math) {
  const int pixel = window_pixel_bytes(l.chunk / piece_elements(math), kPieceBytes), patch_w = patches_of(l).w();
  int64_t bytes = 0;
  for (const auto& t : l.terms) {
    const int halo = 2 * t.taps.radius, width = l.tile_w + (t.taps.axis == 1 ? halo : 0);
    bytes += int64_t(l.tile_h + (t.taps.axis == 0 ? halo : 0)) * window_row_bytes(width, pixel, patch_w);
  }
  return bytes;
}

int64_t line_shared_bytes(const LineConvPlan& l, Math math) {
  const LineTileShape shape = line_tile_shape(l.tile);
  const int64_t loop = kPieceBytes + line_table_bytes(l.k_blocks) + kLineStages * line_stage_bytes(shape) + window_bytes(l, math);
  const int64_t minor = l.out.c == 1 ? shape.outputs() : shape.pixels(), major = l.out.c == 1 ? shape.pixels() : shape.outputs();
  const int64_t tile = major * (minor + piece_elements(math)) * element_bytes(math);
  const int64_t warps = int64_t(shape.warps_k - 1) * shape.blocks_m * shape.blocks_n * 4 * 32 * 4;
  return std::max({loop, tile, warps});
}

// Products of two pieces of the depth that groups of group_h x group_w pixels need, on average over the map: those whose taps
// lead from any of their pixels to a place inside. The kernel's fragments are such groups.
double line_products(const LineConvPlan& l, const Sizes& s, Math math, int group_h, int group_w) {
  const double all_rows = double(l.tiles_h) * l.tile_h / group_h, all_columns = double(l.tiles_w) * l.tile_w / group_w;
  const double rows = double(ceil_div(s.h, group_h)) / all_rows, columns = double(ceil_div(s.w, group_w)) / all_columns;
  double products = 0;
  for (int phase = 0; phase < l.phases; ++phase) {
    int64_t begin = 0;
    double last_needed = 0;  // share of the groups that need the last tap of the term before
    for (const auto& t : l.terms) {
      const int64_t per_tap = std::max(0, std::min(l.chunk, t.channels - phase * l.chunk)) / piece_elements(math);
      if (per_tap == 0) continue;
      const bool down = t.taps.axis == 0;
      const int length = int(down ? s.h : s.w), group = down ? group_h : group_w;
      int64_t sum = 0, with_first = 0, with_last = 0;
      for (int position = 0; position < length; position += group) {
        const TapRange taps = taps_inside(position, group, length, t.taps.taps, t.taps.radius);
        if (taps.last < taps.first) continue;
        sum += (begin + (taps.last + 1) * per_tap - 1) / 2 - (begin + taps.first * per_tap) / 2 + 1;
        with_first += taps.first == 0, with_last += taps.last == t.taps.taps - 1;
      }
      const double all = down ? all_rows : all_columns, across = down ? columns : rows;
      products += double(sum) / all * across;
      if (begin % 2) products -= last_needed * double(with_first) / all;  // a product that both terms share
      last_needed = double(with_last) / all;
      begin += t.taps.taps * per_tap;
    }
  }
  return products;
}

// Multiply-adds of a block, if all of its fragments need a product.
double line_product_size(const LineConvPlan& l, Math math) {
  const LineTileShape shape = line_tile_shape(l.tile);
  return double(shape.pixels()) * shape.outputs() * kBlockBytes / 2 / element_bytes(math);
}

// The busiest warp decides: along the pixels, where patches are dealt out evenly by several rows or columns together only, and
// along the depth, where the warps of a round have different taps, so that nothing is taken off.
double busiest_warp_products(const LineConvPlan& l, const Sizes& s, Math math) {
  if (line_tile_shape(l.tile).warps_k > 1) return 2.0 * l.k_blocks * l.phases;
  const LinePatches p = patches_of(l);
  return line_products(l, s, math, p.h() * p.even_rows(), p.w() * p.even_columns());
}

BlockCost line_block_cost(const LineConvPlan& l, const Sizes& s, Math math, const Gpu& gpu) {
  const LineTileShape shape = line_tile_shape(l.tile);
  const double bytes = double(l.k_blocks) * l.phases * kBlockBytes;
  BlockCost c{};
  c.tensor = line_product_size(l, math) * busiest_warp_products(l, s, math) / fma_per_clock(math, gpu);
  c.shared = bytes * (double(shape.pixels()) * shape.warps_n + double(shape.outputs()) * shape.warps_m) / 128;
  c.l2 = bytes * shape.outputs() + double(l.phases) * double(window_bytes(l, math));
  c.epilogue = 2.0 * shape.pixels() * shape.outputs() * element_bytes(math) / 128;
  return c;
}

LineConvPlan plan_line_conv(const Sizes& s, Math math, LineTile tile, const std::vector<LineConvPlan::Term>& terms,
                            int64_t outputs, int64_t outputs_written, const Strides& out, bool out_aligned, const Gpu& gpu) {
  LineConvPlan l{};
  l.tile = tile;
  l.terms = terms;
  l.outputs = int(outputs);
  l.outputs_written = int(outputs_written);
  l.out = out;
  const LineTileShape shape = line_tile_shape(tile);
  l.n_tiles = int(ceil_div(outputs_written, shape.outputs()));
  const int piece = piece_elements(math);
  int channels = 0;
  for (const auto& t : terms) channels = std::max(channels, t.channels);

  // Few phases, and two blocks to a multiprocessor if that can be had; within that, the rectangle with least to do.
  constexpr int kChunkMax = 64;
  for (int goal : {gpu.shared_per_multiprocessor / 2 - 1024, gpu.shared_per_block}) {
    double least = std::numeric_limits<double>::infinity();
    LineConvPlan best = l;
    for (int phases = int(ceil_div(channels, kChunkMax)); phases <= ceil_div(channels, kOctet); ++phases) {
      l.phases = phases;
      l.chunk = int(round_up(ceil_div(channels, phases), kOctet));
      if (ceil_div(channels, l.chunk) != phases) continue;
      int64_t depth = 0;
      for (const auto& t : terms) depth += int64_t(t.taps.taps) * std::min(l.chunk, t.channels) / piece;
      l.k_blocks = int(round_up(ceil_div(depth, 4), shape.warps_k));
      for (l.tile_h = 1; l.tile_h <= shape.pixels(); l.tile_h *= 2) {
        l.tile_w = shape.pixels() / l.tile_h;
        l.tiles_h = int(ceil_div(s.h, l.tile_h)), l.tiles_w = int(ceil_div(s.w, l.tile_w));
        const int64_t bytes = line_shared_bytes(l, math);
        if (bytes > goal) continue;
        const bool scattered = out.c != 1 && l.tile_w < piece;  // stores would not be whole pieces
        const BlockCost block = line_block_cost(l, s, math, gpu);
        const double loop = std::max(block.tensor, block.shared) + phases * (double(bytes) / 32 + 500);
        const double work = loop + (scattered ? 5000 : 0);
        const double cost = double(l.tiles_h) * l.tiles_w * work;
        if (cost < least) least = cost, best = l;
      }
      if (least < std::numeric_limits<double>::infinity()) break;
    }
    if (least < std::numeric_limits<double>::infinity()) {
      l = best;
      l.shared_bytes = int(line_shared_bytes(l, math));
      l.packed_bytes = size_t(l.n_tiles) * l.phases * l.k_blocks * shape.outputs() * kBlockBytes;
      const auto whole = [&](int64_t stride, int64_t size) { return size == 1 || stride % piece == 0; };
      const bool rows = whole(out.n, s.n) && whole(out.h, s.h);
      l.vector = out_aligned && rows &&
                 (out.c == 1 ? whole(out.w, s.w) && outputs_written % piece == 0
                             : out.w == 1 && whole(out.c, outputs) && s.w % piece == 0 && l.tile_w % piece == 0);
      return l;
    }
  }
  throw TooLarge("the window of a line convolution does not fit shared memory");
}

// --- weight gradient -----------------------------------------------------------------------------------------------------------

int64_t weight_grad_shared_bytes(const WeightGradPlan& g, Math math) {
  int64_t window = 0, places = 0;
  for (const auto& b : g.branch) {
    if (!b.groups) continue;
    const int halo = 2 * b.taps.radius;
    const int64_t pixels = int64_t(g.patch_h + (b.taps.axis == 0 ? halo : 0)) * (g.patch_w + (b.taps.axis == 1 ? halo : 0));
    window = std::max(window, pixels * window_pixel_bytes(b.octets, kOctet * element_bytes(math)));
    places = std::max(places, (pixels + patch_pixels(element_bytes(math))) * kWeightGradPlaceBytes);
  }
  const int64_t loop = kWeightGradStages * (weight_grad_a_bytes(g.narrow) + window) + places;
  const int64_t warps = g.narrow ? int64_t(g.column_blocks) * 2 * 4 * 32 * 4 : 0;
  return std::max(loop, warps);
}

// The most octets of channels that one group of consecutive (octet, tap) blocks touches.
int octets_of_groups(int blocks, int taps, int column_blocks) {
  int most = 0;
  for (int first = 0; first < blocks; first += column_blocks) {
    most = std::max(most, (std::min(first + column_blocks, blocks) - 1) / taps - first / taps + 1);
  }
  return most;
}

// The share of its column blocks that a step multiplies, on average: those with a tap that leads from one of the step's pixels to
// another place in the map, in pairs, as find_wanted() of weight_grad.cuh has them.
double wanted_share(const WeightGradPlan& g, const Sizes& s, Math math) {
  const int depth = 32 / element_bytes(math), steps = patch_pixels(element_bytes(math)) / depth;
  int64_t wanted = 0, all = 0;
  for (const auto& b : g.branch) {
    const int length = int(b.taps.axis == 0 ? s.h : s.w), patches = b.taps.axis == 0 ? g.patches_h : g.patches_w;
    const int patch = b.taps.axis == 0 ? g.patch_h : g.patch_w;
    const bool across = b.by_columns == (b.taps.axis == 1);
    const int width = across ? ((depth - 1) >> b.inner_log2) + 1 : patch;
    for (int i = 0; i < patches * steps && b.groups; ++i) {
      const int first = i / steps * patch + (across ? (i % steps * depth) >> b.inner_log2 : 0);
      const int last = std::min(first + width, length) - 1;
      const int low = std::max(0, b.taps.radius - last);
      const int high = first <= last ? std::min(b.taps.taps, length - first + b.taps.radius) : low;
      const int octets = b.channels / kOctet;
      wanted += octets * std::min<int64_t>(2 * (ceil_div(high, 2) - low / 2), b.taps.taps);
      all += octets * b.taps.taps;
    }
  }
  return all ? double(wanted) / double(all) : 1;
}

// Of a block with this many patches.
BlockCost weight_grad_block_cost(const WeightGradPlan& g, double patches, double share, Math math, const Gpu& gpu) {
  const double rows = weight_grad_rows(g.narrow), columns = 8.0 * g.column_blocks, depth = patch_pixels(element_bytes(math));
  BlockCost c{};
  c.tensor = patches * share * rows * columns * depth / fma_per_clock(math, gpu);
  c.shared = patches * depth * element_bytes(math) * (rows + share * columns * (g.narrow ? 1 : 4)) / 128;
  c.l2 = patches * double(weight_grad_shared_bytes(g, math)) / kWeightGradStages;
  c.epilogue = rows * columns * 4 / 32;  // sums to memory
  return c;
}

double weight_grad_clocks(const WeightGradPlan& g, const Sizes& s, int64_t splits, double share, Math math, const Gpu& gpu) {
  const int64_t tiles = ceil_div(g.channels, weight_grad_rows(g.narrow)), patches = s.n * g.patches_h * g.patches_w;
  const BlockCost cost = weight_grad_block_cost(g, double(ceil_div(patches, splits)), share, math, gpu);
  const int per_sm = blocks_per_multiprocessor(g.shared_bytes, 2, gpu);
  return clocks_of((g.branch[0].groups + g.branch[1].groups) * tiles * splits, per_sm, cost, gpu);
}

WeightGradPlan plan_weight_grad(const Sizes& s, Math math, int64_t channels, bool narrow, bool channels_last,
                                const Taps (&taps)[2], const int64_t (&b_channels)[2], const bool (&wanted)[2], const Gpu& gpu) {
  WeightGradPlan g{};
  g.narrow = narrow;
  g.channels = int(channels);
  for (int i = 0; i < 2; ++i) {
    auto& b = g.branch[i];
    b.taps = taps[i];
    b.channels = padded(b_channels[i]);
    b.blocks = wanted[i] ? b.channels / kOctet * b.taps.taps : 0;
    b.first_block = g.blocks_per_row;
    g.blocks_per_row += b.blocks;
  }
  double least = std::numeric_limits<double>::infinity();
  for (int column_blocks : kWeightGradColumnBlocks) {
    if (!weight_grad_compiled(math, column_blocks)) continue;
    double cost = 0;
    for (const auto& b : g.branch) cost += double(ceil_div(b.blocks, column_blocks)) * (column_blocks + 2);
    if (cost < least) least = cost, g.column_blocks = column_blocks;
  }
  for (auto& b : g.branch) {
    b.groups = int(ceil_div(b.blocks, g.column_blocks));
    b.octets = octets_of_groups(b.blocks, b.taps.taps, g.column_blocks);
  }

  const int pixels = patch_pixels(element_bytes(math));
  double fewest = std::numeric_limits<double>::infinity();
  WeightGradPlan best = g;
  for (g.patch_h = 1; g.patch_h <= pixels; g.patch_h *= 2) {
    g.patch_w = pixels / g.patch_h;
    if (!channels_last && g.patch_w < piece_elements(math)) continue;  // NCHW pieces are along a row
    g.patches_h = int(ceil_div(s.h, g.patch_h)), g.patches_w = int(ceil_div(s.w, g.patch_w));
    const int64_t bytes = weight_grad_shared_bytes(g, math);
    if (bytes > gpu.shared_per_block) continue;
    const BlockCost block = weight_grad_block_cost(g, 1, 1, math, gpu);
    const double cost = double(g.patches_h) * g.patches_w * (std::max(block.tensor, block.shared) + double(bytes) / 64);
    if (cost < fewest) fewest = cost, best = g;
  }
  if (fewest == std::numeric_limits<double>::infinity())
    throw TooLarge("the window of a weight gradient does not fit shared memory");
  g = best;
  g.shared_bytes = int(weight_grad_shared_bytes(g, math));
  for (auto& b : g.branch) {
    b.by_columns = channels_last && b.taps.axis == 1;
    for (const int inner = b.by_columns ? g.patch_h : g.patch_w; 1 << b.inner_log2 < inner;) ++b.inner_log2;
  }

  const int64_t patches = s.n * g.patches_h * g.patches_w;
  const double share = wanted_share(g, s, math);
  constexpr int64_t kSplitsMax = 64;
  double quickest = std::numeric_limits<double>::infinity();
  for (int64_t splits = 1; splits <= std::min(kSplitsMax, patches); ++splits) {
    const double partial = double(splits) * double(channels) * g.blocks_per_row * kOctet * 4;
    const double seconds = weight_grad_clocks(g, s, splits, share, math, gpu) / gpu.clock + 2 * partial / gpu.l2;
    if (seconds < quickest) quickest = seconds, g.splits = int(splits);
  }
  g.partial_bytes = size_t(g.splits) * size_t(channels) * g.blocks_per_row * kOctet * 4;
  return g;
}

// --- notes of launches -----------------------------------------------------------------------------------------------------

void note_line_conv(Plan& plan, const char* name, const LineConvPlan* const* jobs, int count, Math math, const Gpu& gpu) {
  const Sizes& s = plan.sizes;
  LaunchFacts facts{name, 0, kThreads, 0, 0, 0};
  BlockCost most{};
  Traffic traffic;
  for (int i = 0; i < count; ++i) {
    const LineConvPlan& l = *jobs[i];
    const int64_t own = s.n * l.tiles_h * l.tiles_w * l.n_tiles;
    const BlockCost cost = line_block_cost(l, s, math, gpu);
    const LinePatches patches = patches_of(l);
    facts.blocks += own;
    facts.shared_bytes = std::max(facts.shared_bytes, l.shared_bytes);
    facts.flops += 2 * double(own) * line_product_size(l, math) * line_products(l, s, math, patches.h(), patches.w());
    if (cost.tensor > most.tensor) most = cost;
    traffic.leave(double(s.n * s.h * s.w) * l.outputs_written * element_bytes(math), gpu);
    for (const auto& t : l.terms) traffic.leave(double(s.n * s.h * s.w) * t.channels * element_bytes(math), gpu);
  }
  facts.blocks_per_multiprocessor =
      blocks_per_multiprocessor(facts.shared_bytes, line_blocks_per_multiprocessor(jobs[0]->tile), gpu);
  note(plan, facts, clocks_of(facts.blocks, facts.blocks_per_multiprocessor, most, gpu), traffic, gpu);
}

void note_weight_grad(Plan& plan, const char* name, const WeightGradPlan& g, double a_bytes, Math math, const Gpu& gpu) {
  const Sizes& s = plan.sizes;
  const int64_t tiles = ceil_div(g.channels, weight_grad_rows(g.narrow)), patches = s.n * g.patches_h * g.patches_w;
  const int64_t groups = (g.branch[0].groups + g.branch[1].groups) * tiles;
  const double share = wanted_share(g, s, math);
  const double macs = weight_grad_block_cost(g, double(patches), share, math, gpu).tensor * fma_per_clock(math, gpu);
  Traffic traffic{a_bytes, 0};
  traffic.leave(double(g.partial_bytes), gpu);
  const int per_sm = blocks_per_multiprocessor(g.shared_bytes, 2, gpu);
  note(plan, {name, groups * g.splits, kThreads, g.shared_bytes, per_sm, 2 * macs * double(groups)},
       weight_grad_clocks(g, s, g.splits, share, math, gpu), traffic, gpu);
}

void note_direct(Plan& plan, const Gpu& gpu, const char* name, double multiplications) {
  constexpr double kPerClock = 16;  // loads from L1 that end in a multiplication, of an SM
  constexpr int kBlocks = 8;        // to a multiprocessor
  note(plan, {name, int64_t(gpu.multiprocessors) * kBlocks, 128, 0, kBlocks, 2 * multiplications},
       multiplications / kPerClock / gpu.multiprocessors, {}, gpu);
}

struct Work {
  double first, second, x_bytes, y_bytes;  // multiply-adds of each stage, bytes
};

Work work_of(const Sizes& s, Math math) {
  const double pixels = double(s.n * s.h * s.w), bytes = element_bytes(math);
  return {pixels * double(s.c * (s.k1 * s.m_l + s.k3 * s.m_r)), pixels * double(s.o * (s.k2 * s.m_l + s.k4 * s.m_r)),
          pixels * double(s.c) * bytes, pixels * double(s.o) * bytes};
}

// The GPU's whole matrix rate, which mma.sync does not reach on Hopper: floors are the hardware's, not the method's.
double matrix_floor(double multiplications, Math math, const Gpu& gpu) {
  constexpr double kMmaSyncShare = 0.6;
  return multiplications / (fma_per_clock(math, gpu) / kMmaSyncShare * gpu.multiprocessors * gpu.clock);
}

}  // namespace

Taps clip_taps(int64_t kernel, int64_t length, int axis) {
  const int radius = int(std::min(kernel / 2, length - 1));
  return {int(kernel), 2 * radius + 1, radius, int(kernel / 2) - radius, axis};
}

double Plan::predicted() const {
  double seconds = 0;
  for (const auto& l : launches) seconds += l.seconds;
  return seconds;
}

ForwardPlan plan_forward(const Sizes& s, Math math, const MapLayout& x, Strides y, bool y_aligned, const Gpu& gpu) {
  ForwardPlan plan{};
  plan.sizes = s;
  plan.math = math;
  plan.x_strides = x.strides, plan.y_strides = y;
  const Work work = work_of(s, math);
  plan.floor = std::max(matrix_floor(work.first + work.second, math, gpu), (work.x_bytes + work.y_bytes) / gpu.memory);
  try {
    if (math == Math::kDouble) throw TooLarge("float64 has no tensor core kernels");
    plan.source = plan_source(s, math, x);
    plan.first = plan_first_stage(s, math, plan.source, gpu);
    const std::vector<LineConvPlan::Term> terms = {{clip_taps(s.k2, s.w, 1), padded(s.m_l)},
                                                   {clip_taps(s.k4, s.h, 0), padded(s.m_r)}};
    const LineTile tile = choose_line_tile(math, s.o, s.n * s.h * s.w, 1, gpu);
    plan.second = plan_line_conv(s, math, tile, terms, s.o, s.o, y, y_aligned, gpu);
  } catch (const TooLarge& reason) {
    plan.why_direct = reason.what();
    note_direct(plan, gpu, "direct_conv u_l and u_r", work.first);
    note_direct(plan, gpu, "direct_conv y", work.second);
    return plan;
  }
  plan.tensor_cores = true;
  if (wants_hopper(s, false, gpu)) {
    plan.hopper.why_portable = plan_hopper_first_stage(math, plan.source, gpu, plan.first, plan.hopper.first);
  }

  size_t& bytes = plan.workspace_bytes;
  plan.x_at = take(bytes, plan.source.packed ? padded_map_bytes(s, s.c, math) : 0);
  double packed = 0, partial = 0;
  for (int i = 0; i < 2; ++i) {
    plan.first_at[i] = take(bytes, plan.first.branch[i].packed_bytes);
    plan.partial_at[i] = take(bytes, plan.first.branch[i].partial_bytes);
    packed += double(plan.first.branch[i].packed_bytes), partial += double(plan.first.branch[i].partial_bytes);
  }
  plan.second_at = take(bytes, plan.second.packed_bytes);

  const FirstStagePlan& f = plan.first;
  const double u_bytes = double(padded_map_bytes(s, s.m_l, math) + padded_map_bytes(s, s.m_r, math));
  Traffic prepare{packed, 0};
  prepare.leave(packed, gpu);
  if (plan.source.packed) prepare.memory += work.x_bytes, prepare.leave(work.x_bytes, gpu);
  note_copy(plan, "prepare", prepare, gpu);
  const double wanted = wanted_column_blocks(f.branch[0], f.column_blocks) + wanted_column_blocks(f.branch[1], f.column_blocks);
  Traffic first{work.x_bytes, packed};
  first.leave(partial > 0 ? partial : u_bytes, gpu);
  if (plan.hopper.first.used) {
    note_hopper_first_stage(plan, f, plan.hopper.first, first, gpu);
  } else {
    note(plan,
         {"first_stage", first_stage_blocks(f, f.splits), kThreads, f.shared_bytes,
          blocks_per_multiprocessor(f.shared_bytes, 2, gpu),
          2 * wanted * 8 * double(f.tiles) * kTilePixels * f.k_blocks * (kBlockBytes / element_bytes(math))},
         first_stage_clocks(f, math, gpu, f.splits), first, gpu);
  }
  if (partial > 0) {
    Traffic combine;
    combine.leave(partial, gpu), combine.leave(u_bytes, gpu);
    note_copy(plan, "combine", combine, gpu);
  }
  const LineConvPlan* second = &plan.second;
  note_line_conv(plan, "line_conv y", &second, 1, math, gpu);
  return plan;
}

BackwardPlan plan_backward(const Sizes& s, Math math, const MapLayout& x, Strides dy, Strides dx, const Wanted& wanted,
                           const Gpu& gpu) {
  BackwardPlan plan{};
  plan.sizes = s;
  plan.math = math;
  plan.x_strides = x.strides, plan.dy_strides = dy, plan.dx_strides = dx;
  plan.wanted = wanted;
  const int64_t pixels = s.n * s.h * s.w;
  const Work work = work_of(s, math);
  const bool first = wanted.w_l1 || wanted.w_r1, second = wanted.w_l2 || wanted.w_r2, du = wanted.first_stage();
  const double operations = work.first * (double(wanted.x) + double(first)) + work.second * (double(du) + double(second));
  plan.floor = std::max(matrix_floor(operations, math, gpu), (2 * work.x_bytes + work.y_bytes) / gpu.memory);
  plan.sum_chunks = int(std::min<int64_t>(ceil_div(pixels, 64), 2 * gpu.multiprocessors));
  const int64_t mid[2] = {s.m_l, s.m_r};
  size_t& bytes = plan.workspace_bytes;
  // In either case dy and du stand in the workspace as padded maps.
  plan.dy_at = take(bytes, padded_map_bytes(s, s.o, math));
  for (int i = 0; i < 2; ++i) plan.du_at[i] = take(bytes, du ? padded_map_bytes(s, mid[i], math) : 0);
  const int64_t sum_channels[3] = {s.o, s.m_l, s.m_r};
  for (int i = 0; i < 3; ++i) plan.sums_at[i] = take(bytes, size_t(plan.sum_chunks) * padded(sum_channels[i]) * 8);
  try {
    if (math == Math::kDouble) throw TooLarge("float64 has no tensor core kernels");
    const Taps first_taps[2] = {clip_taps(s.k1, s.h, 0), clip_taps(s.k3, s.w, 1)};
    const Taps second_taps[2] = {clip_taps(s.k2, s.w, 1), clip_taps(s.k4, s.h, 0)};
    plan.source = plan_source(s, math, x);
    if (pixels > std::numeric_limits<int32_t>::max() - 2 * kTilePixels) throw TooLarge("x has more than 2^31 pixels");
    const LineTile du_tile = choose_line_tile(math, std::max(s.m_l, s.m_r), pixels, 2, gpu);
    for (int i = 0; i < 2 && du; ++i) {
      const int width = padded(mid[i]);
      plan.du[i] =
          plan_line_conv(s, math, du_tile, {{second_taps[i], padded(s.o)}}, mid[i], width, padded_strides(s, width), true, gpu);
    }
    if (wanted.x) {
      const std::vector<LineConvPlan::Term> terms = {{first_taps[0], padded(s.m_l)}, {first_taps[1], padded(s.m_r)}};
      plan.dx = plan_line_conv(s, math, choose_line_tile(math, s.c, pixels, 1, gpu), terms, s.c, s.c, dx, true, gpu);
    }
    if (first) {
      plan.first =
          plan_weight_grad(s, math, s.c, false, plan.source.channels_last, first_taps, mid, {wanted.w_l1, wanted.w_r1}, gpu);
    }
    if (second) {
      constexpr int kNarrowMax = 64;
      plan.second = plan_weight_grad(s, math, s.o, s.o <= kNarrowMax, true, second_taps, mid, {wanted.w_l2, wanted.w_r2}, gpu);
    }
  } catch (const TooLarge& reason) {
    plan.why_direct = reason.what();
    if (du) note_direct(plan, gpu, "direct_conv du_l and du_r", work.second);
    if (wanted.x) note_direct(plan, gpu, "direct_conv dx", work.first);
    if (first) note_direct(plan, gpu, "direct_weight_grad dw_l1 and dw_r1", work.first);
    if (second) note_direct(plan, gpu, "direct_weight_grad dw_l2 and dw_r2", work.second);
    note_copy(plan, "channel_sum", {work.y_bytes, 0}, gpu);
    return plan;
  }
  plan.tensor_cores = true;
  HopperInputGradPlan& dx_hopper = plan.hopper.input_grad;
  if (wants_hopper(s, true, gpu)) {
    if (wanted.x) add_reason(plan.hopper, plan_hopper_input_grad(s, math, gpu, plan.dx, dx_hopper));
    if (first) {
      add_reason(plan.hopper, plan_hopper_weight_grad(s, math, plan.source, gpu, plan.first, plan.hopper.weight_grad));
    }
  }
  if (dx_hopper.used) plan.dx.packed_bytes = 0;
  const bool packs_x = first && plan.source.packed;
  plan.x_at = take(bytes, packs_x ? padded_map_bytes(s, s.c, math) : 0);
  for (int i = 0; i < 2; ++i) plan.du_weights_at[i] = take(bytes, plan.du[i].packed_bytes);
  plan.dx_weights_at = take(bytes, plan.dx.packed_bytes);
  for (int i = 0; i < 2; ++i) dx_hopper.weights_at[i] = take(bytes, dx_hopper.packed_bytes[i]);
  plan.first_partial_at = take(bytes, plan.first.partial_bytes);
  plan.second_partial_at = take(bytes, plan.second.partial_bytes);

  const double packed = double(plan.du[0].packed_bytes + plan.du[1].packed_bytes + plan.dx.packed_bytes +
                               dx_hopper.packed_bytes[0] + dx_hopper.packed_bytes[1]);
  Traffic prepare{packed + work.y_bytes, 0};
  prepare.leave(packed, gpu), prepare.leave(work.y_bytes, gpu);
  if (packs_x) prepare.memory += work.x_bytes, prepare.leave(work.x_bytes, gpu);
  note_copy(plan, "prepare", prepare, gpu);
  if (du) {
    const LineConvPlan* both[2] = {&plan.du[0], &plan.du[1]};
    note_line_conv(plan, "line_conv du_l and du_r", both, 2, math, gpu);
  }
  if (dx_hopper.used) {
    Traffic traffic{work.x_bytes, double(dx_hopper.packed_bytes[0] + dx_hopper.packed_bytes[1])};
    traffic.leave(double(padded_map_bytes(s, s.m_l, math) + padded_map_bytes(s, s.m_r, math)), gpu);
    note_hopper_input_grad(plan, dx_hopper, traffic, gpu);
  } else if (wanted.x) {
    const LineConvPlan* dx_plan = &plan.dx;
    note_line_conv(plan, "line_conv dx", &dx_plan, 1, math, gpu);
  }
  if (plan.hopper.weight_grad.used) {
    Traffic traffic{work.x_bytes, 0};
    traffic.leave(double(plan.first.partial_bytes), gpu);
    note_hopper_weight_grad(plan, plan.first, plan.hopper.weight_grad, traffic, gpu);
  } else if (first) {
    note_weight_grad(plan, "weight_grad dw_l1 and dw_r1", plan.first, work.x_bytes, math, gpu);
  }
  if (second) note_weight_grad(plan, "weight_grad dw_l2 and dw_r2", plan.second, work.y_bytes, math, gpu);
  if (first || second) {
    Traffic sums;
    sums.leave(double(plan.first.partial_bytes + plan.second.partial_bytes), gpu);
    note_copy(plan, "finish_weight_grad", sums, gpu);
  }
  if (wanted.b_l1 || wanted.b_l2 || wanted.b_r1 || wanted.b_r2) {
    Traffic maps;
    for (int i = 0; i < 3; ++i) maps.leave(work.y_bytes, gpu);
    note_copy(plan, "channel_sum", maps, gpu);
    note_copy(plan, "finish_channel_sum", {}, gpu);
  }
  return plan;
}

}  // namespace gcn::cuda
