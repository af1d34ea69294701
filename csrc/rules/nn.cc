// Rules of neural-network ops: convolutions, pooling, activations, normalisation, losses, top-k and the fused RNN
// layers.
#include <cmath>

#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

// The cotangent of output i, `none` where none reached it: for outputs that seldom have one.
V MaybeDy(const Op& o, int i) { return o.has_dy(i) ? o.dy(i) : none; }

DType AtLeastFloat(DType dtype) { return dtype == DType::kHalf || dtype == DType::kBFloat16 ? DType::kFloat : dtype; }

constexpr double kSeluScale = 1.0507009873554804934193349852946, kSeluAlpha = 1.6732632423543772848170429916717;

V First(const V& vector, const V& n) { return slice(vector, ints({0}), reshape(n, ints({1}))); }
V From(const V& vector, int64_t begin) { return slice(vector, ints({begin}), ints({-1})); }

// ---- Convolution ----
// y = conv(x, w) is bilinear, and so are its two adjoints. Each of the three is differentiated by the other two.

Grads ConvGrad(const Op& o) {
  const V x = o.in(0), w = o.in(1), dy = o.dy();
  const std::vector<int64_t> strides = o.integers("strides");
  const bool flat = strides.size() == 4, last = o.text("data_format") == "CHANNELS_LAST";
  std::vector<int64_t> dilations = o.integers("dilations");
  if (dilations.empty()) dilations.assign(strides.size(), 1);
  const Attr format("data_format", flat ? (last ? "NHWC" : "NCHW") : (last ? "NDHWC" : "NCDHW"));
  const Attr dilation("dilations", dilations);
  const auto one_batch = [&o](const V& v) {
    return reshape(v, concat({ints({-1}), From(shape(v), o.integer("batch_dims"))}, 0));
  };
  const V images = one_batch(x), g = one_batch(dy);
  return {reshape_like(
              o.like(flat ? "Conv2DBackpropInput" : "Conv3DBackpropInputV2", shape(images), w, g, format, dilation), x),
          o.like(flat ? "Conv2DBackpropFilter" : "Conv3DBackpropFilterV2", images, shape(w), g, format, dilation)};
}

// y = conv(pad(resize(x)), w), of which the resizing is left out in one of the two ops.
Grads FusedConvGrad(const Op& o, bool resizes) {
  const V x = o.in(0), paddings = o.in(resizes ? 2 : 1), w = o.in(resizes ? 3 : 2), dy = o.dy();
  const Attr align("align_corners", resizes && o.flag("resize_align_corners"));
  const V resized = resizes ? op("ResizeBilinear", x, o.in(1), align) : x;
  const V padded = o.like("MirrorPad", resized, paddings);
  const V dx = o.like("MirrorPadGrad", o.like("Conv2DBackpropInput", shape(padded), w, dy), paddings);
  const V dw = o.like("Conv2DBackpropFilter", padded, shape(w), dy);
  Grads grads(static_cast<size_t>(o.num_in()));
  grads[0] = resizes ? op("ResizeBilinearGrad", dx, x, align) : dx;
  grads[o.num_in() - 1] = dw;
  return grads;
}

// ---- Pooling ----

// MaxPoolGradGrad knows no explicit padding: pad with what can't be a maximum, and pool what is there.
Grads MaxPoolGradGrad(const Op& o) {
  const V x = o.in(0), y = o.in(1), dy = o.dy();
  if (o.text("padding") != "EXPLICIT") return {none, none, o.like("MaxPoolGradGrad", x, y, dy)};
  const V pads = reshape(ints(o.integers("explicit_paddings")), ints({4, 2}));
  return {none, none,
          o.like("MaxPoolGradGrad", op("PadV2", x, pads, constant(-INFINITY, x.dtype())), y, op("Pad", dy, pads),
                 Attr("padding", "VALID"))};
}

// The cotangents that the maxima took: dy at `argmax`, an index into the flat batch, or into the flat image.
Grads MaxPoolGradWithArgmaxGrad(const Op& o) {
  const V dy = o.dy(), argmax = o.in(2);
  if (o.flag("include_batch_in_index")) return {none, gather(flatten(dy), argmax), none};
  const auto per_image = [](const V& v) {
    const V s = shape(v);
    return reshape(v, pack({gather(s, 0), prod(From(s, 1))}));
  };
  return {none, reshape_like(op("GatherV2", per_image(dy), per_image(argmax), 1, Attr("batch_dims", 1)), argmax), none};
}

// First and last index of each window of a fractional pooling to `pooled`, along an axis of `shape`. TensorFlow's
// shape function takes the sequence of their borders for one shorter than it is: nothing here asks for its size.
struct Windows {
  Windows(const Op& o, const V& sequence, const V& pooled, const V& shape, int axis) {
    const V count = gather(symgrad::shape(pooled), axis);
    const V end = gather(sequence, range(1, count + 1)) - (o.flag("overlapping") ? 0 : 1);
    first = gather(sequence, range(0, count));
    last = minimum(end, gather(shape, axis) - 1);
  }
  V first, last;
};

// Each window's mean is a product with a matrix of rows that sum to one, once along the rows and once along the
// columns.
Grads FractionalAvgPoolGradGrad(const Op& o) {
  const V dy = o.dy();
  const auto averages = [&](int axis) {
    const V at = range(constant(0, DType::kInt64), gather(o.in(0), axis));
    const Windows w(o, o.in(axis + 1), o.in(1), o.in(0), axis);
    const V inside = cast(logical_and(at >= expand_dims(w.first, -1), at <= expand_dims(w.last, -1)), dy.dtype());
    return inside / sum(inside, ints({-1}), true);
  };
  const V rows = op("Einsum", list({averages(1), dy}), Attr("equation", "ih,bhwc->biwc"));
  return {none, op("Einsum", list({averages(2), rows}), Attr("equation", "jw,biwc->bijc")), none, none};
}

// Gathers dy at each window's maximum. A window shorter than the longest one repeats its last element.
Grads FractionalMaxPoolGradGrad(const Op& o) {
  const V x = o.in(0), y = o.in(1), dy = o.dy(), all = ints({0});
  const auto indices = [&](int axis) {
    const Windows w(o, o.in(axis + 2), y, shape(x, DType::kInt64), axis);
    const V longest = op("Max", w.last - w.first, all) + 1;
    return minimum(expand_dims(w.first, -1) + range(constant(0, DType::kInt64), longest), expand_dims(w.last, -1));
  };
  const V i = indices(1), j = indices(2), windows = concat({shape(y), ints({-1})}, 0);
  const auto split = [&](const V& v) {  // [b, h, w, c] -> [b, rows, columns, c, elements of the window]
    return reshape(transpose(gather(gather(v, i, 1), j, 3), ints({0, 1, 3, 5, 2, 4})), windows);
  };
  const V at = op("ArgMax", split(x), -1);
  return {none, none, squeeze(op("GatherV2", split(dy), expand_dims(at, -1), 4, Attr("batch_dims", 4)), {4}), none,
          none};
}

// ---- Morphology ----

// y[b, i, j, c] = max_k (patches(x)[b, i, j, k, c] + filter[k, c]): the one-hot choice of k, and the patches.
struct Dilation {
  explicit Dilation(const Op& o) : op_(o), filter_(o.in(1)) {
    const V scores = Patches(o.in(0)) + Taps(filter_);
    const V outside = equal(Patches(ones_like(o.in(0))), 0);
    const V k = op("ArgMax", select(outside, constant(-INFINITY, scores.dtype()), scores), 3);
    chosen_ = op("OneHot", k, cast(filter_.dim(0) * filter_.dim(1), DType::kInt32), constant(1, scores.dtype()),
                 constant(0, scores.dtype()), Attr("axis", 3));
  }
  V Taps(const V& filter) const { return reshape(filter, pack({-1, gather(shape(filter), 2)})); }
  V Patches(const V& x) const {
    const std::vector<int64_t> window = {1, filter_.dim(0), filter_.dim(1), 1};
    const V p = op_.like("ExtractImagePatches", x, Attr("ksizes", window));
    return reshape(p, concat({First(shape(p), 3), shape(Taps(filter_))}, 0));
  }
  V Choose(const V& v) const { return sum(chosen_ * v, ints({3})); }

 private:
  const Op& op_;
  const V filter_;
  V chosen_;
};

// The choice does not change with x and the filter, so that both adjoints are linear in the third input alone.
Grads DilationBackpropGrad(const Op& o, bool wrt_filter) {
  if (o.in(1).dim(0) < 0 || o.in(1).dim(1) < 0) return o.unsupported("the filter's shape must be known when building");
  const Dilation dilation(o);
  return {none, none, dilation.Choose(wrt_filter ? dilation.Taps(o.dy()) : dilation.Patches(o.dy()))};
}

// ---- Normalisation ----

// y = x s^-beta with s = bias + alpha W(x^2), W the sum over a window of channels. With p = beta s^(-beta-1):
//   dx = s^-beta dy - 2 alpha x W(p x dy),
// and this rule is the vector-Jacobian product of that line with u. All dependence on x is on input 1, none on y.
Grads LRNGradGrad(const Op& o) {
  const DType dtype = AtLeastFloat(o.in(1).dtype());
  const V dy = cast(o.in(0), dtype), x = cast(o.in(1), dtype), u = cast(o.dy(), dtype);
  const double alpha = o.number("alpha"), beta = o.number("beta");
  const V c = gather(shape(x, DType::kInt64), 3), radius = minimum(c, o.integer("depth_radius"));
  const V band = op("MatrixBandPart", fill(pack({c, c}), constant(1, dtype)), radius, radius);
  const auto W = [&band](const V& v) { return matmul(v, band); };
  const V s = W(square(x)) * alpha + o.number("bias"), scale = pow(s, -beta), p = scale / s * beta;
  const V v = W(u * x), t = W(p * x * dy);
  const V ds = p / s * (beta + 1) * (2 * alpha) * x * dy * v - p * u * dy;
  const V ddy = scale * u - 2 * alpha * x * p * v;
  const V ddx = 2 * alpha * (x * W(ds) - u * t - p * dy * v);
  return {cast_like(ddy, o.in(0)), cast_like(ddx, o.in(1)), none};
}

// How a batch normalisation sees its input: all axes but the channels are one.
struct BatchAxes {
  explicit BatchAxes(const Op& o) : format(o.text("data_format")), channels_first(format[1] == 'C') {
    for (int64_t axis = 0; axis < rank(); ++axis) {
      if (axis != (channels_first ? 1 : rank() - 1)) axes.push_back(axis);
    }
  }
  int64_t rank() const { return static_cast<int64_t>(format.size()); }
  V Sum(const V& v) const { return sum(v, ints(axes)); }
  V Mean(const V& v) const { return mean(v, ints(axes)); }
  // A vector of the channels, to broadcast against x.
  V Channels(const V& v) const {
    if (!channels_first || !v) return v;
    std::vector<int64_t> aligned(rank() - 1, 1);
    aligned[0] = -1;
    return reshape(v, ints(aligned));
  }
  V ChannelsLast(const V& v) const { return channels_first ? Permute(v, 1, rank() - 1) : v; }
  V ChannelsBack(const V& v) const { return channels_first ? Permute(v, rank() - 1, 1) : v; }

  std::string format;
  bool channels_first;
  std::vector<int64_t> axes;

 private:
  V Permute(const V& v, int64_t from, int64_t to) const {
    std::vector<int64_t> order;
    for (int64_t axis = 0; axis < rank(); ++axis) {
      if (axis != from) order.push_back(axis);
    }
    order.insert(order.begin() + to, from);
    return transpose(v, ints(order));
  }
};

// FusedBatchNormGrad, V2 or V3, of which the last has one reserve space more.
V FusedGrad(const Op& o, const char* type, const V& dy, const V& x, const V& scale, const V& mean, const V& variance,
            const V& reserve, const std::string& format) {
  const Attr data_format("data_format", format);
  return reserve ? o.like(type, dy, x, scale, mean, variance, reserve, data_format)
                 : o.like(type, dy, x, scale, mean, variance, data_format);
}

// y = (x - mean) rsqrt(variance + epsilon) scale + offset, with the batch's statistics or with given ones.
Grads BatchNorm(const Op& o, const char* grad) {
  const BatchAxes batch(o);
  const V x = o.in(0), scale = o.in(1), dy = o.dy(), reserve = o.num_out() == 6 ? o.out(5) : none;
  const V mean_dy = MaybeDy(o, 1), variance_dy = MaybeDy(o, 2);
  if (!o.flag("is_training")) {
    // The kernels take given statistics with the channels last only.
    const V mean = o.in(3), variance = o.in(4), shifted = variance + o.number("epsilon");
    const V g = FusedGrad(o, grad, batch.ChannelsLast(dy), batch.ChannelsLast(x), scale, mean, variance, reserve,
                          batch.rank() == 4 ? "NHWC" : "NDHWC");
    return {batch.ChannelsBack(g.out(0)), g.out(1), g.out(2),
            o.wants(3) ? mean_dy - g.out(2) * scale * rsqrt(shifted) : none,
            o.wants(4) ? variance_dy - 0.5 * g.out(1) * scale / shifted : none};
  }
  const V g = FusedGrad(o, grad, dy, x, scale, o.out(3), o.out(4), reserve, batch.format);
  if (!mean_dy && !variance_dy) return {g, g.out(1), g.out(2), none, none};
  // Outputs 1 and 2 are the running mean and the running variance, the latter without bias:
  //   m' = (1 - f) m + f mean(x),   v' = (1 - f) v + f sum((x - mean(x))^2) / max(n - 1, 1).
  const double f = o.number("exponential_avg_factor");
  const V wide = cast(x, DType::kFloat), n = cast(size(x), DType::kFloat) / cast(size(scale), DType::kFloat);
  const V centred = wide - batch.Channels(batch.Mean(wide));
  const V dx = batch.Channels(mean_dy * (f / n)) + batch.Channels(variance_dy * (2 * f / maximum(n - 1, 1))) * centred;
  return {g + cast_like(broadcast_like(dx, x), x), g.out(1), g.out(2), mean_dy * (1 - f), variance_dy * (1 - f)};
}

// The rule of the rule above. With n elements a channel, r = rsqrt(variance + epsilon), z = (x - mean) r and, in
// training, the projection P(v) = v - mean(v) - z mean(v z), which is symmetric,
//   dx = scale r P(dy),   dscale = sum(dy z),   doffset = sum(dy),
// and with cotangents a, b, c of those three and S = sum(a P(dy)):
//   of dy:    scale r P(a) + b z + c
//   of scale: r S
//   of x:     r b P(dy) - scale r^2 / n (S z + dscale P(a) + sum(a z) P(dy))
// The statistics in the reserve spaces are functions of x, and their part is in the cotangent of x.
Grads BatchNormGrad(const Op& o, const char* grad) {
  const BatchAxes batch(o);
  const V dscale = o.out(1), doffset = o.out(2), scale = o.in(2);
  const V dy = cast(o.in(0), DType::kFloat), x = cast(o.in(1), DType::kFloat), a = cast(o.dy(), DType::kFloat);
  const V b = MaybeDy(o, 1), c = MaybeDy(o, 2);
  const double epsilon = o.number("epsilon");
  Grads grads;
  if (!o.flag("is_training")) {
    const V r = rsqrt(o.in(4) + epsilon), sums = batch.Sum(a * dy) * r;
    const V ddy =
        a * batch.Channels(scale * r) + batch.Channels(b * r) * (x - batch.Channels(o.in(3))) + batch.Channels(c);
    grads = {ddy, dy * batch.Channels(b * r), sums, o.wants(3) ? -b * r * doffset : none,
             o.wants(4) ? -0.5 * square(r) * (scale * sums + b * dscale) : none};
  } else {
    const V centre = x - batch.Channels(batch.Mean(x)), r = rsqrt(batch.Mean(square(centre)) + epsilon);
    const V n = cast(size(x), DType::kFloat) / cast(size(scale), DType::kFloat);
    const V z = centre * batch.Channels(r);
    const V reserve = o.num_in() == 6 ? o.in(5) : none;
    const V of_a = FusedGrad(o, grad, o.dy(), o.in(1), scale, o.in(3), o.in(4), reserve, batch.format);
    const V az = of_a.out(1), projected = dy - batch.Channels(doffset / n) - z * batch.Channels(dscale / n);
    const V S = batch.Sum(a * projected), scaled_a = cast(of_a, DType::kFloat);  // scale r P(a)
    const V ddx = projected * batch.Channels(r * (b - scale * r * az / n)) -
                  z * batch.Channels(scale * square(r) * S / n) - scaled_a * batch.Channels(r * dscale / n);
    grads = {scaled_a + batch.Channels(b) * z + batch.Channels(c), ddx, r * S, none, none};
  }
  grads[0] = cast_like(grads[0], o.in(0));
  grads[1] = cast_like(grads[1], o.in(1));
  if (o.num_in() == 6) grads.push_back(none);  // what cuDNN keeps for itself
  return grads;
}

// In plain arithmetic: the op that has this as its gradient is too old for today's graphs.
Grads BatchNormWithGlobalNormalizationGrad(const Op& o) {
  const V mean = o.in(1), variance = o.in(2), gamma = o.in(4), dy = o.dy(), batch = ints({0, 1, 2});
  const bool scaled = o.flag("scale_after_normalization");
  const V shifted = variance + o.number("variance_epsilon"), r = rsqrt(shifted), scale = scaled ? gamma * r : r;
  const V dbeta = sum(dy, batch), dxhat = sum(dy * (o.in(0) - mean), batch);
  return {dy * scale, -dbeta * scale, -0.5 * dxhat * scale / shifted, dbeta, scaled ? dxhat * r : none};
}

// ---- Losses ----

// Output 1 of a cross entropy is its gradient, softmax(logits) - labels, and has a cotangent in second derivatives.
V CrossEntropyLogits(const Op& o) {
  V g = o.has_dy(0) ? times(expand_dims(o.dy(0), -1), o.out(1)) : none;
  if (o.has_dy(1)) {
    const V u = o.dy(1), p = op("Softmax", o.in(0));
    g = g + (u - sum(u * p, ints({-1}), true)) * p;
  }
  return sum_to(g, o.in(0));
}

// ---- Selection ----

// Zeros of x's shape but for dy at flat indices.
V Scatter(const V& indices, const V& dy, const V& x) {
  const V n = size(x, DType::kInt64);
  return reshape_like(op("ScatterNd", expand_dims(indices, -1), dy, reshape(n, ints({1}))), x);
}

// x is [outer..., n, inner...] with `axis` between; output 1 is the indices along it.
Grads TopKGrad(const Op& o, const V& axis) {
  const V x = o.in(0), s = shape(x, DType::kInt64), zero = constant(0, DType::kInt64);
  const V outer = First(s, axis), inner = slice(s, reshape(axis + 1, ints({1})), ints({-1}));
  const V one = constant(ints({1}), DType::kInt64), stride = prod(inner);
  const V rows = reshape(range(zero, prod(outer)) * gather(s, axis), concat({outer, one, ones_like(inner)}, 0));
  const V columns = reshape(range(zero, stride), concat({one, inner}, 0));
  return {Scatter((cast(o.out(1), DType::kInt64) + rows) * stride + columns, o.dy(), x)};
}

V LastAxis(const Op& o) { return rank(o.in(0)) - 1; }

// Elements that equal the n-th share its cotangent.
Grads NthElementGrad(const Op& o) {
  const V dy = single(expand_dims(o.dy(), -1)), chosen = cast_like(equal(expand_dims(o.out(), -1), o.in(0)), dy);
  return {cast_like(chosen / sum(chosen, ints({-1}), true) * dy, o.in(0))};
}

// Each element of a row becomes the mean of its segment: the projection on vectors constant on segments is its own
// adjoint.
Grads IsotonicRegressionGrad(const Op& o) {
  const V x = o.in(0), dy = single(o.dy()), s = shape(x), n = gather(s, 1);
  const V segment = o.out(1) + expand_dims(range(0, gather(s, 0)) * n, -1), count = size(x);
  const V sums = op("UnsortedSegmentSum", dy, segment, count);
  const V sizes = op("UnsortedSegmentSum", ones_like(dy), segment, count);
  return {cast_like(gather(div_no_nan(sums, sizes), segment), x)};
}

// ---- Recurrent layers ----

// TensorFlow's op takes no notice of the clipping of the cell's state. Nothing passes through a state that is clipped,
// but to the output gate: as if its input and forget gates, of which the op reads the values, were shut.
Grads BlockLSTMGrad(const Op& o, const char* grad) {
  for (const int internal : {0, 2, 3, 4, 5}) {
    if (o.has_dy(internal)) return o.unsupported("only its outputs cs and h can be differentiated; compute from those");
  }
  const double clip = o.number("cell_clip");
  auto gate = [&](int i) { return clip > 0 ? select(abs(o.out(1)) < clip, o.out(i), 0) : o.out(i); };
  const V g = o.like(grad, o.in(0), o.in(1), o.in(2), o.in(3), o.in(4), o.in(5), o.in(6), o.in(7), o.in(8), gate(0),
                     o.out(1), gate(2), o.out(3), o.out(4), o.out(5), o.out(6), o.dy(1), o.dy(6));
  return {none, g, g.out(1), g.out(2), g.out(3), g.out(4), g.out(5), g.out(6), g.out(7)};
}

// Single cells, in the notation of the ops' documentation: what is "before" a gate goes into its sigmoid or tanh.
V BeforeSigmoid(const V& gate, const V& g) { return op("SigmoidGrad", gate, g); }
V BeforeTanh(const V& gate, const V& g) { return op("TanhGrad", gate, g); }

// r, u = sigmoid([x, h] w_ru + b_ru), c = tanh([x, r h] w_c + b_c), y = u h + (1 - u) c.
Grads GRUBlockCellGrad(const Op& o) {
  const V x = o.in(0), h = o.in(1), w_ru = o.in(2), w_c = o.in(3), r = o.out(0), u = o.out(1), c = o.out(2);
  const V dy = o.dy(3), inputs = gather(shape(x), 1);
  auto parts = [&](const V& g) {
    return op("SplitV", g, pack({inputs, gather(shape(h), 1)}), 1, Attr{"num_split", 2});
  };
  const V before_c = BeforeTanh(c, MaybeDy(o, 2) + dy * (1 - u)), xrh = parts(matmul(before_c, w_c, false, true));
  const V dr = MaybeDy(o, 0) + xrh.out(1) * h, du = MaybeDy(o, 1) + dy * (h - c);
  const V before_ru = concat({BeforeSigmoid(r, dr), BeforeSigmoid(u, du)}, 1);
  const V xh = parts(matmul(before_ru, w_ru, false, true));
  return {xh + xrh,
          xh.out(1) + xrh.out(1) * r + dy * u,
          matmul(concat({x, h}, 1), before_ru, true),
          matmul(concat({x, r * h}, 1), before_c, true),
          sum(before_ru, 0),
          sum(before_c, 0)};
}

// [i, ci, f, o] = [x, h] w + b, i = sigmoid(i + wci cs'), f = sigmoid(f + forget_bias + wcf cs'), ci = tanh(ci),
// cs = clip(i ci + f cs'), o = sigmoid(o + wco cs), co = tanh(cs), y = o co, with cs' the cs before.
Grads LSTMBlockCellGrad(const Op& op_) {
  const V x = op_.in(0), before = op_.in(1), h = op_.in(2), w = op_.in(3), i = op_.out(0), cs = op_.out(1);
  const V f = op_.out(2), o = op_.out(3), ci = op_.out(4), co = op_.out(5), dy = op_.dy(6);
  const bool peephole = op_.flag("use_peephole");
  const double clip = op_.number("cell_clip");
  auto peep = [&](int weight, const V& g) { return peephole ? g * op_.in(weight) : none; };
  auto seen = [&](const V& g, const V& state) { return peephole ? sum(g * state, 0) : none; };

  const V d_o = BeforeSigmoid(o, MaybeDy(op_, 3) + dy * co);
  V dcs = MaybeDy(op_, 1) + BeforeTanh(co, MaybeDy(op_, 5) + dy * o) + peep(6, d_o);
  if (clip > 0) dcs = select(abs(cs) < clip, dcs, 0);
  const V di = BeforeSigmoid(i, MaybeDy(op_, 0) + dcs * ci), df = BeforeSigmoid(f, MaybeDy(op_, 2) + dcs * before);
  const V gates = concat({di, BeforeTanh(ci, MaybeDy(op_, 4) + dcs * i), df, d_o}, 1);
  const V xh = op("SplitV", matmul(gates, w, false, true), pack({gather(shape(x), 1), gather(shape(h), 1)}), 1,
                  Attr{"num_split", 2});
  return {xh,
          dcs * f + peep(4, di) + peep(5, df),
          xh.out(1),
          matmul(concat({x, h}, 1), gates, true),
          seen(di, before),
          seen(df, before),
          seen(d_o, cs),
          sum(gates, 0)};
}

Grads CudnnRNNGrad(const Op& o, const char* grad) {
  if (!o.flag("is_training")) return o.unsupported("its gradient needs is_training = true");
  const V x = o.in(0), h = o.in(1), c = o.in(2), w = o.in(3), y = o.out(0), yh = o.out(1), yc = o.out(2);
  const V dy = o.dy(0), dh = o.dy(1), dc = o.dy(2), reserve = o.out(3);
  const V g = o.num_in() == 5    ? o.like(grad, x, h, c, w, o.in(4), y, yh, yc, dy, dh, dc, reserve, o.out(4))
              : o.num_out() == 5 ? o.like(grad, x, h, c, w, y, yh, yc, dy, dh, dc, reserve, o.out(4))
                                 : o.like(grad, x, h, c, w, y, yh, yc, dy, dh, dc, reserve);
  return {g, g.out(1), g.out(2), g.out(3)};
}

Grads FusedRnnOnce(const Op& o) {
  return o.unsupported("a fused recurrent layer has no second derivative; build the layer from elementary ops");
}

// clang-format off
constexpr Rule kRules[] = {
    // No gradient.
    NO_GRAD(InTopK) NO_GRAD(InTopKV2)

    // Activations. Those whose derivative is piecewise constant pass nothing to the input that chooses the piece.
    FUSED(Relu, op("ReluGrad", dy, y), select(y > 0, dy, 0))
    FUSED(Relu6, op("Relu6Grad", dy, y), select(logical_and(y > 0, y < 6), dy, 0))
    FUSED(LeakyRelu, o.like("LeakyReluGrad", dy, x), select(x > 0, dy, o.number("alpha") * dy))
    FUSED(Elu, op("EluGrad", dy, y), select(y < 0, times(dy, y + 1), dy))
    FUSED(Selu, op("SeluGrad", dy, y), select(y < 0, times(dy, y + kSeluScale * kSeluAlpha), kSeluScale * dy))
    FUSED(Softplus, op("SoftplusGrad", dy, x), times(dy, sigmoid(x)))
    FUSED(Softsign, op("SoftsignGrad", dy, x), over(dy, square(1 + abs(x))))
    RULE(ReluGrad, return {op("ReluGrad", dy, o.in(1)), none};)
    RULE(Relu6Grad, return {op("Relu6Grad", dy, o.in(1)), none};)
    RULE(LeakyReluGrad, return {o.like("LeakyReluGrad", dy, o.in(1)), none};)
    RULE(EluGrad, const V e = o.in(1); return {op("EluGrad", dy, e), select(e < 0, dy * x, 0)};)
    RULE(SeluGrad, const V e = o.in(1); return {op("SeluGrad", dy, e), select(e < 0, dy * x, 0)};)
    RULE(SoftplusGrad, const V f = o.in(1); return {op("SoftplusGrad", dy, f), op("SigmoidGrad", sigmoid(f), dy * x)};)
    RULE(SoftsignGrad, const V f = o.in(1);
         return {op("SoftsignGrad", dy, f), -2 * sign(f) * dy * y / (1 + abs(f))};)
    UNARY(Softmax, (dy - sum(dy * y, ints({-1}), true)) * y)
    UNARY(LogSoftmax, dy - sum(dy, ints({-1}), true) * exp(y))

    // Bias.
    RULE(BiasAdd, return {dy, o.like("BiasAddGrad", dy)};)
    RULE(BiasAddV1, return {dy, op("BiasAddGrad", dy)};)
    RULE(BiasAddGrad, const V trailing = fill(reshape(rank(x) - 2, ints({1})), 1);
         const V aligned = o.text("data_format") == "NCHW" ? reshape(dy, concat({ints({-1}), trailing}, 0)) : dy;
         return {broadcast_like(aligned, x)};)

    // Convolution.
    RULE(Conv2D, const V w = o.in(1);
         return {o.like("Conv2DBackpropInput", shape(x), w, dy), o.like("Conv2DBackpropFilter", x, shape(w), dy)};)
    RULE(Conv2DBackpropInput, const V w = o.in(1);
         return {none, o.like("Conv2DBackpropFilter", dy, shape(w), o.in(2)), o.like("Conv2D", dy, w)};)
    RULE(Conv2DBackpropFilter,
         return {o.like("Conv2DBackpropInput", shape(x), dy, o.in(2)), none, o.like("Conv2D", x, dy)};)
    RULE(Conv3D, const V w = o.in(1);
         return {o.like("Conv3DBackpropInputV2", shape(x), w, dy), o.like("Conv3DBackpropFilterV2", x, shape(w), dy)};)
    RULE(Conv3DBackpropInputV2, const V w = o.in(1);
         return {none, o.like("Conv3DBackpropFilterV2", dy, shape(w), o.in(2)), o.like("Conv3D", dy, w)};)
    RULE(Conv3DBackpropFilterV2,
         return {o.like("Conv3DBackpropInputV2", shape(x), dy, o.in(2)), none, o.like("Conv3D", x, dy)};)
    RULE(DepthwiseConv2dNative, const V w = o.in(1);
         return {o.like("DepthwiseConv2dNativeBackpropInput", shape(x), w, dy),
                 o.like("DepthwiseConv2dNativeBackpropFilter", x, shape(w), dy)};)
    RULE(DepthwiseConv2dNativeBackpropInput, const V w = o.in(1);
         return {none, o.like("DepthwiseConv2dNativeBackpropFilter", dy, shape(w), o.in(2)),
                 o.like("DepthwiseConv2dNative", dy, w)};)
    RULE(DepthwiseConv2dNativeBackpropFilter,
         return {o.like("DepthwiseConv2dNativeBackpropInput", shape(x), dy, o.in(2)), none,
                 o.like("DepthwiseConv2dNative", x, dy)};)
    {"Conv", ConvGrad},
    RULE(FusedPadConv2D, return FusedConvGrad(o, false);)
    RULE(FusedResizeAndPadConv2D, return FusedConvGrad(o, true);)

    // Pooling. In the ops that take x, y and a cotangent, the first two choose the element: nothing flows to them.
    RULE(AvgPool, return {o.like("AvgPoolGrad", shape(x), dy)};)
    RULE(AvgPoolGrad, return {none, o.like("AvgPool", dy)};)
    RULE(AvgPool3D, return {o.like("AvgPool3DGrad", shape(x), dy)};)
    RULE(AvgPool3DGrad, return {none, o.like("AvgPool3D", dy)};)
    RULE(MaxPool, return {o.like("MaxPoolGrad", x, y, dy)};)
    {"MaxPoolGrad", MaxPoolGradGrad},
    RULE(MaxPoolGradGrad, return {none, none, o.like("MaxPoolGrad", x, o.in(1), dy)};)
    RULE(MaxPoolV2, return {o.like("MaxPoolGradV2", x, y, dy, o.in(1), o.in(2))};)
    RULE(MaxPoolGradV2, return {none, none, o.like("MaxPoolGradGradV2", x, o.in(1), dy, o.in(3), o.in(4))};)
    RULE(MaxPoolGradGradV2, return {none, none, o.like("MaxPoolGradV2", x, o.in(1), dy, o.in(3), o.in(4))};)
    RULE(MaxPoolWithArgmax, return {o.like("MaxPoolGradWithArgmax", x, dy, cast(o.out(1), DType::kInt64))};)
    {"MaxPoolGradWithArgmax", MaxPoolGradWithArgmaxGrad},
    RULE(MaxPool3D, return {o.like("MaxPool3DGrad", x, y, dy)};)
    RULE(MaxPool3DGrad, return {none, none, o.like("MaxPool3DGradGrad", x, o.in(1), dy)};)
    RULE(MaxPool3DGradGrad, return {none, none, o.like("MaxPool3DGrad", x, o.in(1), dy)};)
    RULE(FractionalAvgPool, return {o.like("FractionalAvgPoolGrad", shape(x, DType::kInt64), dy, o.out(1), o.out(2))};)
    {"FractionalAvgPoolGrad", FractionalAvgPoolGradGrad},
    RULE(FractionalMaxPool, return {o.like("FractionalMaxPoolGrad", x, y, dy, o.out(1), o.out(2))};)
    {"FractionalMaxPoolGrad", FractionalMaxPoolGradGrad},
    RULE(Dilation2D, const V w = o.in(1);
         return {o.like("Dilation2DBackpropInput", x, w, dy), o.like("Dilation2DBackpropFilter", x, w, dy)};)
    RULE(Dilation2DBackpropInput, return DilationBackpropGrad(o, false);)
    RULE(Dilation2DBackpropFilter, return DilationBackpropGrad(o, true);)

    // Normalisation.
    UNARY(LRN, o.like("LRNGrad", dy, x, y))
    {"LRNGrad", LRNGradGrad},
    RULE(FusedBatchNorm, return BatchNorm(o, "FusedBatchNormGrad");)
    RULE(FusedBatchNormV2, return BatchNorm(o, "FusedBatchNormGradV2");)
    RULE(FusedBatchNormV3, return BatchNorm(o, "FusedBatchNormGradV3");)
    RULE(FusedBatchNormGrad, return BatchNormGrad(o, "FusedBatchNormGrad");)
    RULE(FusedBatchNormGradV2, return BatchNormGrad(o, "FusedBatchNormGradV2");)
    RULE(FusedBatchNormGradV3, return BatchNormGrad(o, "FusedBatchNormGradV3");)
    {"BatchNormWithGlobalNormalization", BatchNormWithGlobalNormalizationGrad},

    // Losses.
    UNARY(L2Loss, x * dy)
    RULE(SparseSoftmaxCrossEntropyWithLogits, return {CrossEntropyLogits(o)};)
    RULE(SoftmaxCrossEntropyWithLogits,
         const V loss = o.has_dy(0) ? mul_no_nan(op("LogSoftmax", x), -expand_dims(dy, -1)) : none;
         return {CrossEntropyLogits(o), sum_to(loss - MaybeDy(o, 1), o.in(1))};)

    // Selection.
    RULE(TopK, return TopKGrad(o, LastAxis(o));)
    RULE(TopKV2, return TopKGrad(o, LastAxis(o));)
    RULE(ApproxTopK, const int64_t axis = o.integer("reduction_dimension");
         return TopKGrad(o, axis < 0 ? rank(x) + axis : V(axis));)
    {"NthElement", NthElementGrad},
    {"IsotonicRegression", IsotonicRegressionGrad},

    // Recurrent layers.
    RULE(BlockLSTM, return BlockLSTMGrad(o, "BlockLSTMGrad");)
    RULE(BlockLSTMV2, return BlockLSTMGrad(o, "BlockLSTMGradV2");)
    {"GRUBlockCell", GRUBlockCellGrad},
    {"LSTMBlockCell", LSTMBlockCellGrad},
    RULE(CudnnRNN, return CudnnRNNGrad(o, "CudnnRNNBackprop");)
    RULE(CudnnRNNV2, return CudnnRNNGrad(o, "CudnnRNNBackpropV2");)
    RULE(CudnnRNNV3, return CudnnRNNGrad(o, "CudnnRNNBackpropV3");)
    {"BlockLSTMGrad", FusedRnnOnce}, {"BlockLSTMGradV2", FusedRnnOnce}, {"CudnnRNNBackprop", FusedRnnOnce},
    {"CudnnRNNBackpropV2", FusedRnnOnce}, {"CudnnRNNBackpropV3", FusedRnnOnce},
};
// clang-format on
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
