// Line convolutions: tile, rectangle of pixels, phases of the channels.
#include <algorithm>
#include <limits>

#include "plan_parts.h"

namespace gcn::cuda {
namespace {

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
  const int64_t loop =
      kPieceBytes + line_table_bytes(l.k_blocks) + line_stages(shape) * line_stage_bytes(shape) + window_bytes(l, math);
  const int64_t tile = line_tile_bytes(shape, element_bytes(math));
  const int64_t sums = shape.warps_m * shape.outputs() * 4;
  const int64_t warps = int64_t(shape.warps_k - 1) * shape.blocks_m * shape.blocks_n * 4 * 32 * 4;
  return std::max({loop, tile + sums, warps});
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
  const LineClocks& clocks = line_tile(l.tile).clocks;
  c.issue = clocks.k_block * l.k_blocks * l.phases + clocks.block;
  c.alone = clocks.alone * l.k_blocks * l.phases / shape.warps_k;
  if (l.sums) c.epilogue += 3.0 * shape.warps_m * shape.outputs() / 4;  // shuffles: two columns to a lane, three steps
  return c;
}

}  // namespace

void choose_stores(LineConvPlan& l, const Sizes& s, Math math, bool out_aligned) {
  const int piece = piece_elements(math), outputs = l.outputs_written;
  const auto whole = [&](int64_t stride, int64_t size) { return size == 1 || stride % piece == 0; };
  const bool begins_whole = out_aligned && whole(l.out.n, s.n) && whole(l.out.h, s.h);
  if (l.out.c != 1) {
    l.order = LineOrder::kPixels;
    l.vector = begins_whole && l.out.w == 1 && whole(l.out.c, l.outputs) && s.w % piece == 0 && l.tile_w % piece == 0;
  } else if (outputs % piece && outputs == l.outputs && l.out.w == outputs && l.n_tiles == 1) {
    l.order = LineOrder::kRows;
    l.vector = begins_whole && s.w * outputs % piece == 0 && whole(int64_t(l.tile_w) * outputs, l.tiles_w);
  } else {
    l.order = LineOrder::kOutputs;
    l.vector = begins_whole && whole(l.out.w, s.w) && outputs % piece == 0;
  }
}

LineTile choose_line_tile(const Sizes& s, Math math, const std::vector<LineConvPlan::Term>& terms, int64_t outputs,
                          const Strides& out, int jobs, const Gpu& gpu) {
  LineTile large = LineTile::kNarrow, small = LineTile::kNarrowSmall;
  if (outputs > line_tile_shape(large).outputs()) {
    if (outputs <= line_tile_shape(LineTile::kMedium).outputs()) return LineTile::kMedium;
    large = LineTile::kWide, small = LineTile::kWideSmall;
    if (!line_conv_compiled(math, large)) return small;
  }
  const auto clocks = [&](LineTile tile) {
    const LineConvPlan l = plan_line_conv(s, math, tile, terms, outputs, outputs, out, false, gpu);
    // One block alone waits for its own instructions most of the time, which `line_block_cost` does not count.
    if (tile == large && jobs * s.n * l.tiles_h * l.tiles_w * l.n_tiles < gpu.multiprocessors) {
      return std::numeric_limits<double>::infinity();
    }
    const int per_sm = blocks_per_multiprocessor(l.shared_bytes, line_blocks_per_multiprocessor(math == Math::kFloat, tile), gpu);
    return clocks_of({{jobs * s.n * l.tiles_h * l.tiles_w * l.n_tiles, line_block_cost(l, s, math, gpu)}}, per_sm, gpu);
  };
  try {
    return clocks(large) <= clocks(small) ? large : small;
  } catch (const TooLarge&) {
    return small;
  }
}

LineConvPlan plan_line_conv(const Sizes& s, Math math, LineTile tile, const std::vector<LineConvPlan::Term>& terms,
                            int64_t outputs, int64_t outputs_written, const Strides& out, bool out_aligned, const Gpu& gpu) {
  LineConvPlan l{};
  l.tile = tile;
  l.terms = terms;
  l.outputs = int(outputs);
  l.outputs_written = int(outputs_written);
  l.out = out;
  l.out_aligned = out_aligned;
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
      l.k_blocks = int(round_up(ceil_div(depth, 4), line_round(shape)));
      for (l.tile_h = 1; l.tile_h <= shape.pixels(); l.tile_h *= 2) {
        l.tile_w = shape.pixels() / l.tile_h;
        l.tiles_h = int(ceil_div(s.h, l.tile_h)), l.tiles_w = int(ceil_div(s.w, l.tile_w));
        const int64_t bytes = line_shared_bytes(l, math);
        if (bytes > goal) continue;
        choose_stores(l, s, math, out_aligned);
        const BlockCost block = line_block_cost(l, s, math, gpu);
        const double loop = std::max(block.tensor, block.shared) + phases * (double(bytes) / 32 + 500);
        const double work = loop + (l.vector ? 0 : 5000);
        const double cost = double(l.tiles_h) * l.tiles_w * work;
        if (cost < least) least = cost, best = l;
      }
      if (least < std::numeric_limits<double>::infinity()) break;
    }
    if (least < std::numeric_limits<double>::infinity()) {
      l = best;
      l.shared_bytes = int(line_shared_bytes(l, math));
      l.packed_bytes = size_t(l.n_tiles) * l.phases * l.k_blocks * shape.outputs() * kBlockBytes;
      return l;
    }
  }
  throw TooLarge("the window of a line convolution does not fit shared memory");
}

LaunchWork line_conv_work(const LineConvPlan* const* jobs, int count, const Sizes& s, Math math, const Gpu& gpu) {
  LaunchWork work;
  BlockKind most{};
  for (int i = 0; i < count; ++i) {
    const LineConvPlan& l = *jobs[i];
    const int64_t own = s.n * l.tiles_h * l.tiles_w * l.n_tiles;
    const BlockCost cost = line_block_cost(l, s, math, gpu);
    const LinePatches patches = patches_of(l);
    most.blocks += own;
    work.shared_bytes = std::max(work.shared_bytes, l.shared_bytes);
    work.flops += 2 * double(own) * line_product_size(l, math) * line_products(l, s, math, patches.h(), patches.w());
    if (cost.tensor > most.cost.tensor) most.cost = cost;
    work.traffic.leave(double(s.n * s.h * s.w) * l.outputs_written * element_bytes(math), gpu);
    for (const auto& t : l.terms) work.traffic.leave(double(s.n * s.h * s.w) * t.channels * element_bytes(math), gpu);
  }
  work.kinds = {most};
  return work;
}

void note_line_conv(Plan& plan, const char* name, const LineConvPlan* const* jobs, int count, Math math, const Gpu& gpu) {
  const int most = line_blocks_per_multiprocessor(math == Math::kFloat, jobs[0]->tile);
  note(plan, name, kThreads, most, line_conv_work(jobs, count, plan.sizes, math, gpu), gpu);
}

}  // namespace gcn::cuda
