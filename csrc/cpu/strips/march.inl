// One unit of work: a channel group, a column tile and a row band, for some of the images, marching down in row blocks.
//
// In the block that starts at row r every map is written at the rows [r + rh, r + rows + rh): what lies below the block by
// the reach of the steps that follow. So a map's rows up to there are all that exists of it, and all that is read.

template <class A>
class March {
  using V = typename Arithmetic<A>::V;
  static constexpr int kWidth = Arithmetic<A>::lanes;

  // Where a map's elements lie: rows are pitch bytes apart, in a ring of `ring` rows (0: in place, in an image).
  struct View {
    intptr_t data;
    int64_t pitch, step, ring;
    int64_t row0, row1, column0, column1;  // what exists of it in this tile

    intptr_t row(int64_t h) const { return data + (ring ? (uint32_t)h % (uint32_t)ring : h) * pitch; }
    intptr_t column(int64_t w) const { return (w - column0) * step; }
  };

 public:
  March(const Call& call, int64_t unit) : call_(call), program_(*call.program), plan_(*call.plan) {
    const Plan& p = plan_;
    group_ = unit % p.groups;
    const int64_t part = unit / p.groups % p.parts;
    tile_ = unit / (p.groups * p.parts) % p.tiles;
    const int64_t band = unit / (p.groups * p.parts * p.tiles);
    n0_ = part * p.sizes.n / p.parts, n1_ = (part + 1) * p.sizes.n / p.parts;
    h0_ = band * p.band_rows, h1_ = smaller(h0_ + p.band_rows, p.sizes.h);
    w0_ = tile_ * p.tile_width, w1_ = smaller(w0_ + p.tile_width, p.sizes.w);
    lanes_ = (int)smaller(kWidth, p.sizes.c - group_ * kWidth);
    sums_size_ = (call.taps + call.kernel_count) * kWidth;
    place_parameters();
    if (call.sums) {
      sums_ = call.sums + ((group_ * p.parts + part) * p.tiles + tile_) * p.cells * sums_size_;
      const int64_t cell0 = h0_ / p.cell_rows, cell1 = (h1_ + p.cell_rows - 1) / p.cell_rows;
      memset(sums_ + cell0 * sums_size_, 0, (size_t)((cell1 - cell0) * sums_size_) * sizeof(double));
    }
  }

  void run() {
    for (n_ = n0_; n_ < n1_; n_++) {
      place();
      const int64_t rows = program_.rows;
      const int64_t ahead = (2 * call_.max_rh + rows - 1) / rows * rows;
      for (int64_t r = h0_ - ahead; r < h1_; r += rows) block(r);
    }
  }

 private:
  template <class T>
  T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(scratch_);
    scratch_ += (count * (int64_t)sizeof(T) + 63) / 64 * 64;
    return taken;
  }

  // Tables and this group's parameters, as the inner kernels read them: a kernel is [across][along] vectors. Those that turn
  // output gradients into input gradients are turned by half a turn.
  void place_parameters() {
    scratch_ = static_cast<char*>(fft::thread_scratch(plan_.scratch_bytes));
    views_ = take<View>(call_.buffer_count);
    table_ = take<intptr_t>(plan_.table_size);
    bases_ = take<intptr_t>(plan_.bases_size);
    weights_ = take<V>(call_.taps), flipped_ = take<V>(call_.taps), biases_ = take<V>(call_.kernel_count);
    V* to = weights_;
    for (int64_t i = 0; i < call_.kernel_count; i++) {
      const Kernel& k = call_.kernels[i];
      Image w = call_.weights[i];
      const int64_t across = k.across(), along = k.length();
      if (k.along_h()) {
        const int64_t stride_w = w.stride_w;
        w.stride_w = w.stride_h, w.stride_h = stride_w;
      }
      const RowPart part{group_ * kWidth * w.stride_c, w.stride_c, w.stride_h, w.stride_w, 0, along, lanes_};
      with_elements<A>(w, [&](auto* elements) {
        for (int64_t c = 0; c < across; c++) load_row(elements, part, c, to + c * along);
      });
      to += k.taps();
      if (call_.biases[i].data == nullptr) continue;
      const Image& b = call_.biases[i];
      with_elements<A>(b, [&](auto* elements) {
        load_row(elements, {group_ * kWidth * b.stride_c, b.stride_c, 0, 0, 0, 1, lanes_}, 0, biases_ + i);
      });
    }
    for (int64_t before = 0, i = 0; i < call_.kernel_count; i++) {
      const int64_t taps = call_.kernels[i].taps();
      for (int64_t t = 0; t < taps; t++) flipped_[before + t] = weights_[before + taps - 1 - t];
      before += taps;
    }
    rings_ = scratch_;
  }

  // Rings one after the other in this thread's scratch; maps in place where an image has what the kernels can read.
  void place() {
    scratch_ = rings_;
    for (int64_t i = 0; i < call_.buffer_count; i++) {
      const Buffer& b = call_.buffers[i];
      View& v = views_[i];
      v.row0 = larger(0, h0_ - b.rh), v.row1 = smaller(plan_.sizes.h, h1_ + b.rh);
      v.column0 = larger(0, w0_ - b.rw), v.column1 = smaller(plan_.sizes.w, w1_ + b.rw);
      if (in_place((int)i)) {
        const Image& image = call_.images[b.image];
        v.ring = 0;
        v.pitch = image.stride_h * (int64_t)sizeof(A), v.step = image.stride_w * (int64_t)sizeof(A);
        v.data = (intptr_t)image.data + (offset(image) + v.column0 * image.stride_w) * (int64_t)sizeof(A);
      } else {
        v.ring = ring_rows(program_, b, plan_.sizes.h);
        v.step = sizeof(V);
        v.pitch = ring_pitch(b, plan_, sizeof(V));
        v.data = (intptr_t)take<char>(v.ring * v.pitch);
      }
    }
  }

  int64_t offset(const Image& image) const { return n_ * image.stride_n + group_ * kWidth * image.stride_c; }

  // Where an image has what the kernels can read, and is read by one kernel along its rows or written by one step. Its columns
  // and rows fall on few sets of the caches: what comes back to them finds them in its ring.
  bool in_place(int buffer) const {
    const Buffer& b = call_.buffers[buffer];
    if (b.image < 0 || lanes_ < kWidth) return false;
    const Image& image = call_.images[b.image];
    if (image.stride_c != 1 || image.dtype != (sizeof(A) == 8 ? DType::kFloat64 : DType::kFloat32)) return false;
    int uses = 0;
    for (int64_t i = 0; i < call_.step_count; i++) {
      const Step& step = call_.steps[i];
      const Kernel& k = call_.kernels[step.kernel];
      if (step.src == buffer && (k.along_h() || k.across() > 1)) return false;
      uses += (step.src == buffer) + (step.dst == buffer) + (step.addend == buffer);
    }
    for (int64_t i = 0; i < call_.dot_count; i++) uses += (call_.dots[i].x == buffer) + (call_.dots[i].g == buffer);
    return uses == 1;
  }

  // The rows of a map that the block at r writes.
  void rows_of(int buffer, int64_t r, int64_t* from, int64_t* to) const {
    const int64_t rh = call_.buffers[buffer].rh;
    *from = larger(views_[buffer].row0, r + rh);
    *to = smaller(views_[buffer].row1, r + rh + program_.rows);
  }

  void block(int64_t r) {
    const int buffers = (int)call_.buffer_count;
    for (int i = 0; i < buffers; i++)
      if (call_.buffers[i].image >= 0 && !call_.buffers[i].result && views_[i].ring) move(i, r);
    for (int64_t i = 0; i < call_.step_count; i++) {
      const Step& step = call_.steps[i];
      int64_t from, to;
      rows_of(step.dst, r, &from, &to);
      if (from >= to) continue;
      const Kernel& k = call_.kernels[step.kernel];
      k.along_h() ? convolve_h(step, k, from, to) : convolve_w(step, k, from, to);
    }
    for (int i = 0; i < buffers; i++)
      if (call_.buffers[i].result && views_[i].ring) move(i, r);
    if (r >= h0_) {
      for (int64_t i = 0; i < call_.dot_count; i++) correlate_rows(call_.dots[i], r, smaller(r + program_.rows, h1_));
    }
  }

  // Load or store the block's rows of an image.
  void move(int buffer, int64_t r) {
    const Buffer& b = call_.buffers[buffer];
    const View& view = views_[buffer];
    const Image& image = call_.images[b.image];
    int64_t from, to;
    rows_of(buffer, r, &from, &to);
    const RowPart part{offset(image), image.stride_c, image.stride_h, image.stride_w, view.column0, view.column1 - view.column0,
                       lanes_};
    with_elements<A>(image, [&](auto* elements) {
      for (int64_t h = from; h < to; h++) {
        if (b.result)
          store_row(elements, part, h, reinterpret_cast<const V*>(view.row(h)));
        else
          load_row(elements, part, h, reinterpret_cast<V*>(view.row(h)));
      }
    });
  }

  const V* weights_of(int kernel, bool flipped) const {
    int64_t before = 0;
    for (int i = 0; i < kernel; i++) before += call_.kernels[i].taps();
    return (flipped ? flipped_ : weights_) + before;
  }

  intptr_t row_or_outside(const View& v, int64_t h) const { return h >= 0 && h < plan_.sizes.h ? v.row(h) : -1; }
  intptr_t column_or_outside(const View& v, int64_t w) const { return w >= 0 && w < plan_.sizes.w ? v.column(w) : -1; }

  LineCall line_call(const Step& step, const Kernel& k) const {
    LineCall line = {};
    line.pieces = pieces_of(k.length());
    line.across = k.across();
    line.weights = weights_of(step.kernel, step.flipped);
    if (k.bias && !step.flipped) line.bias = biases_ + step.kernel;
    // A line of rows is a whole row of pixels away from the next, one of columns a pixel.
    if (views_[step.src].ring == 0) line.fetch_in = 3;
    if (views_[step.dst].ring == 0) line.fetch_out = k.along_h() ? 6 : 2;
    return line;
  }

  // Positions are columns; the lines are rows.
  void convolve_w(const Step& step, const Kernel& k, int64_t from, int64_t to) {
    const View &src = views_[step.src], &dst = views_[step.dst];
    LineCall line = line_call(step, k);
    line.count = to - from;
    intptr_t *bases = bases_, *out_bases = bases + line.count * k.kh, *add_bases = out_bases + line.count;
    for (int64_t j = 0; j < line.count; j++) {
      for (int64_t c = 0; c < k.kh; c++) bases[j * k.kh + c] = row_or_outside(src, from + j + (c - k.kh / 2) * k.dh);
      out_bases[j] = dst.row(from + j);
      if (step.addend >= 0) add_bases[j] = views_[step.addend].row(from + j);
    }
    line.bases = bases, line.out_bases = out_bases, line.add_bases = add_bases;
    for (int64_t phase = 0; phase < smaller(k.dw, dst.column1 - dst.column0); phase++) {
      for (int64_t w = dst.column0 + phase; w < dst.column1;) {
        const int positions = positions_of((dst.column1 - w + k.dw - 1) / k.dw);
        const int64_t inputs = positions + k.kw - 1;
        for (int64_t q = 0; q < inputs; q++) table_[q] = column_or_outside(src, w + (q - k.kw / 2) * k.dw);
        for (int i = 0; i < positions; i++) {
          const int64_t column = w + i * k.dw;
          out_table_[i] = column < dst.column1 ? dst.column(column) : -1;
          if (step.addend >= 0) add_table_[i] = column < dst.column1 ? views_[step.addend].column(column) : -1;
        }
        // A position beyond the tile is computed from what there is, and not stored.
        for (int64_t q = 0; q < inputs; q++)
          if (w + (q - k.kw / 2) * k.dw >= src.column1) table_[q] = -1;
        finish(line, step, positions);
        w += positions * k.dw;
      }
    }
  }

  // Positions are rows; the lines are columns.
  void convolve_h(const Step& step, const Kernel& k, int64_t from, int64_t to) {
    const View &src = views_[step.src], &dst = views_[step.dst];
    LineCall line = line_call(step, k);
    line.count = dst.column1 - dst.column0;
    intptr_t *bases = bases_, *out_bases = bases + line.count * k.kw, *add_bases = out_bases + line.count;
    for (int64_t j = 0; j < line.count; j++) {
      const int64_t w = dst.column0 + j;
      for (int64_t c = 0; c < k.kw; c++) bases[j * k.kw + c] = column_or_outside(src, w + (c - k.kw / 2) * k.dw);
      out_bases[j] = dst.column(w);
      if (step.addend >= 0) add_bases[j] = views_[step.addend].column(w);
    }
    line.bases = bases, line.out_bases = out_bases, line.add_bases = add_bases;
    for (int64_t phase = 0; phase < smaller(k.dh, to - from); phase++) {
      for (int64_t h = from + phase; h < to;) {
        const int positions = positions_of((to - h + k.dh - 1) / k.dh);
        const int64_t inputs = positions + k.kh - 1, last = to - 1 + k.reach_h();
        for (int64_t q = 0; q < inputs; q++) {
          const int64_t row = h + (q - k.kh / 2) * k.dh;
          table_[q] = row <= last ? row_or_outside(src, row) : -1;
        }
        for (int i = 0; i < positions; i++) {
          const int64_t row = h + i * k.dh;
          out_table_[i] = row < to ? dst.row(row) : -1;
          if (step.addend >= 0) add_table_[i] = row < to ? views_[step.addend].row(row) : -1;
        }
        finish(line, step, positions);
        h += positions * k.dh;
      }
    }
  }

  void finish(LineCall& line, const Step& step, int positions) {
    line.table = table_;
    line.out_table = out_table_;
    line.add_table = step.addend >= 0 ? add_table_ : nullptr;
    convolve_any<V>(line, positions);
  }

  // Sums over the rows [from, to) of the core, which lie in one cell.
  void correlate_rows(const Dot& dot, int64_t from, int64_t to) {
    const Kernel& k = call_.kernels[dot.kernel];
    double* sums = sums_ + from / plan_.cell_rows * sums_size_;
    const View& g = views_[dot.g];
    if (dot.bias) sum_rows(g, from, to, sums + (call_.taps + dot.kernel) * kWidth);
    if (!dot.weight) return;
    for (int i = 0; i < dot.kernel; i++) sums += call_.kernels[i].taps() * kWidth;
    k.along_h() ? correlate_h(views_[dot.x], g, k, from, to, sums) : correlate_w(views_[dot.x], g, k, from, to, sums);
  }

  void correlate_w(const View& x, const View& g, const Kernel& k, int64_t from, int64_t to, double* sums) {
    const int64_t count = to - from;
    intptr_t *bases = bases_, *g_bases = bases + count * k.kh;
    for (int64_t j = 0; j < count; j++) {
      for (int64_t c = 0; c < k.kh; c++) bases[j * k.kh + c] = row_or_outside(x, from + j + (c - k.kh / 2) * k.dh);
      g_bases[j] = g.row(from + j);
    }
    for (int64_t phase = 0; phase < smaller(k.dw, w1_ - w0_); phase++) {
      for (int64_t w = w0_ + phase; w < w1_;) {
        const int positions = dot_positions_of((w1_ - w + k.dw - 1) / k.dw);
        for (int64_t q = 0; q < positions + k.kw - 1; q++) table_[q] = column_or_outside(x, w + (q - k.kw / 2) * k.dw);
        for (int i = 0; i < positions; i++) out_table_[i] = g.column(w + i * k.dw);
        correlate_lines(k, bases, g_bases, count, positions, sums);
        w += positions * k.dw;
      }
    }
  }

  void correlate_h(const View& x, const View& g, const Kernel& k, int64_t from, int64_t to, double* sums) {
    const int64_t count = w1_ - w0_;
    intptr_t *bases = bases_, *g_bases = bases + count * k.kw;
    for (int64_t j = 0; j < count; j++) {
      for (int64_t c = 0; c < k.kw; c++) bases[j * k.kw + c] = column_or_outside(x, w0_ + j + (c - k.kw / 2) * k.dw);
      g_bases[j] = g.column(w0_ + j);
    }
    for (int64_t phase = 0; phase < smaller(k.dh, to - from); phase++) {
      for (int64_t h = from + phase; h < to;) {
        const int positions = dot_positions_of((to - h + k.dh - 1) / k.dh);
        for (int64_t q = 0; q < positions + k.kh - 1; q++) table_[q] = row_or_outside(x, h + (q - k.kh / 2) * k.dh);
        for (int i = 0; i < positions; i++) out_table_[i] = g.row(h + i * k.dh);
        correlate_lines(k, bases, g_bases, count, positions, sums);
        h += positions * k.dh;
      }
    }
  }

  // All taps of a kernel at one group of positions, for lines whose tables are set up.
  void correlate_lines(const Kernel& k, const intptr_t* bases, const intptr_t* g_bases, int64_t count, int positions,
                       double* sums) {
    const Pieces pieces = pieces_of(k.length());
    for (int64_t line = 0; line < count; line += kDotLines) {
      for (int64_t c = 0; c < k.across(); c++) {
        DotCall call{smaller(kDotLines, count - line), k.across(), table_,
                     bases + line * k.across() + c,    out_table_, g_bases + line,
                     sums + c * k.length() * kWidth};
        for (int i = 0; i < pieces.full + pieces.rest; i++) {
          const int taps = i < pieces.full ? pieces.taps : pieces.taps - 1;
          correlate_any<V>(call, positions, taps);
          call.table += taps;
          call.sums += taps * kWidth;
        }
      }
    }
  }

  void sum_rows(const View& g, int64_t from, int64_t to, double* sums) {
    constexpr int64_t kAtOnce = 64, kSums = 4;
    for (int64_t h = from; h < to; h++) {
      const V* row = reinterpret_cast<const V*>(g.row(h));
      for (int64_t w = w0_; w < w1_; w += kAtOnce) {
        // Several sums at a time: one alone would wait for itself at every pixel.
        V sum[kSums] = {};
        const int64_t end = smaller(w + kAtOnce, w1_);
        for (int64_t i = w; i < end; i += kSums) {
#pragma GCC unroll 8
          for (int64_t s = 0; s < kSums; s++)
            if (i + s < end) sum[s] += load_vector<V>((intptr_t)row + g.column(i + s));
        }
        add_to_sums(sums, (sum[0] + sum[1]) + (sum[2] + sum[3]));
      }
    }
  }

  const Call& call_;
  const Program& program_;
  const Plan& plan_;
  int64_t group_, tile_, n_, n0_, n1_, h0_, h1_, w0_, w1_;
  int lanes_;
  char *scratch_, *rings_;
  V *weights_, *flipped_, *biases_;
  double* sums_ = nullptr;
  int64_t sums_size_;
  View* views_;
  intptr_t *table_, *bases_;
  intptr_t out_table_[16], add_table_[16];
};
