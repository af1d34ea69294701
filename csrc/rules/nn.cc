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

// ---- Convolution ----
// y = conv(x, w) is bilinear, and so are its two adjoints. Each of the three is differentiated by the other two.

Grads ConvGrad(const Op& o) {
  const V x = IN(input), w = IN(filter), dy = o.dy();
  const std::vector<int64_t> strides = o.integers("strides");
  const bool flat = strides.size() == 4, last = o.text("data_format") == "CHANNELS_LAST";
  std::vector<int64_t> dilations = o.integers("dilations");
  if (dilations.empty()) dilations.assign(strides.size(), 1);
  const Attr format("data_format", flat ? (last ? "NHWC" : "NCHW") : (last ? "NDHWC" : "NCDHW"));
  const Attr dilation("dilations", dilations);
  const auto one_batch = [&o](const V& v) {
    return reshape(v, concat({ints({-1}), tail(shape(v), o.integer("batch_dims"))}, 0));
  };
  const V images = one_batch(x), g = one_batch(dy);
  const char* const input = flat ? "Conv2DBackpropInput" : "Conv3DBackpropInputV2";
  const char* const filter = flat ? "Conv2DBackpropFilter" : "Conv3DBackpropFilterV2";
  return GRADS(reshape_like(o.like(input, shape(images), w, g, format, dilation), x),
               o.like(filter, images, shape(w), g, format, dilation));
}

// y = conv(pad(resize(x)), w), of which the resizing is left out in one of the two ops.
Grads FusedConvGrad(const Op& o, bool resizes) {
  const V x = IN(input), paddings = IN(paddings), w = IN(filter), dy = o.dy();
  const Attr corners("align_corners", resizes && o.flag("resize_align_corners"));
  const V resized = resizes ? op("ResizeBilinear", x, IN(size), corners) : x;
  const V padded = o.like("MirrorPad", resized, paddings);
  const V dx = o.like("MirrorPadGrad", o.like("Conv2DBackpropInput", shape(padded), w, dy), paddings);
  const V dw = o.like("Conv2DBackpropFilter", padded, shape(w), dy);
  return only(IN(input), resizes ? op("ResizeBilinearGrad", dx, x, corners) : dx, IN(filter), dw);
}

// ---- Pooling ----

// MaxPoolGradGrad knows no explicit padding: pad with what can't be a maximum, and pool what is there.
Grads MaxPoolGradGrad(const Op& o) {
  const V x = IN(orig_input), y = IN(orig_output), dy = o.dy();
  if (o.text("padding") != "EXPLICIT") return only(IN(grad), o.like("MaxPoolGradGrad", x, y, dy));
  const V pads = reshape(ints(o.integers("explicit_paddings")), ints({4, 2}));
  return only(IN(grad), o.like("MaxPoolGradGrad", op("PadV2", x, pads, constant(-INFINITY, x.dtype())), y,
                               pad(dy, pads), Attr("padding", "VALID")));
}

// The cotangents that the maxima took: dy at `argmax`, an index into the flat batch, or into the flat image.
Grads MaxPoolGradWithArgmaxGrad(const Op& o) {
  const V dy = o.dy(), argmax = IN(argmax);
  if (o.flag("include_batch_in_index")) return only(IN(grad), gather(flatten(dy), argmax));
  const auto per_image = [](const V& v) {
    const V s = shape(v);
    return reshape(v, pack({gather(s, 0), prod(tail(s, 1))}));
  };
  const V taken = op("GatherV2", per_image(dy), per_image(argmax), 1, Attr("batch_dims", 1));
  return only(IN(grad), reshape_like(taken, argmax));
}

// First and last index of each window of a fractional pooling to `pooled`, along an axis of `shape`. TensorFlow's
// shape function takes the sequence of their borders for one shorter than it is: nothing here asks for its size.
struct Windows {
  Windows(const Op& o, const V& sequence, const V& pooled, const V& shape, int axis) {
    const V count = dim(pooled, axis);
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
  const V size = IN(orig_input_tensor_shape);
  const auto averages = [&](const V& sequence, int axis) {
    const V at = range(constant(0, DType::kInt64), gather(size, axis));
    const Windows w(o, sequence, IN(out_backprop), size, axis);
    const V inside = cast(logical_and(at >= expand_dims(w.first, -1), at <= expand_dims(w.last, -1)), dy.dtype());
    return inside / sum(inside, ints({-1}), true);
  };
  const V rows = einsum("ih,bhwc->biwc", averages(IN(row_pooling_sequence), 1), dy);
  return only(IN(out_backprop), einsum("jw,biwc->bijc", averages(IN(col_pooling_sequence), 2), rows));
}

// Gathers dy at each window's maximum. A window shorter than the longest one repeats its last element.
Grads FractionalMaxPoolGradGrad(const Op& o) {
  const V x = IN(orig_input), y = IN(orig_output), dy = o.dy(), all = ints({0});
  const auto indices = [&](const V& sequence, int axis) {
    const Windows w(o, sequence, y, shape(x, DType::kInt64), axis);
    const V longest = op("Max", w.last - w.first, all) + 1;
    return minimum(expand_dims(w.first, -1) + range(constant(0, DType::kInt64), longest), expand_dims(w.last, -1));
  };
  const V i = indices(IN(row_pooling_sequence), 1), j = indices(IN(col_pooling_sequence), 2),
          windows = concat({shape(y), ints({-1})}, 0);
  const auto apart = [&](const V& v) {  // [b, h, w, c] -> [b, rows, columns, c, elements of the window]
    return reshape(transpose(gather(gather(v, i, 1), j, 3), ints({0, 1, 3, 5, 2, 4})), windows);
  };
  const V at = op("ArgMax", apart(x), -1);
  return only(IN(out_backprop), squeeze(op("GatherV2", apart(dy), expand_dims(at, -1), 4, Attr("batch_dims", 4)), {4}));
}

// ---- Morphology ----

// y[b, i, j, c] = max_k (patches(x)[b, i, j, k, c] + filter[k, c]): the one-hot choice of k, and the patches.
struct Dilation {
  explicit Dilation(const Op& o) : op_(o), filter_(IN(filter)) {
    const V x = IN(input), scores = Patches(x) + Taps(filter_), outside = equal(Patches(ones_like(x)), 0);
    const V k = op("ArgMax", select(outside, constant(-INFINITY, scores.dtype()), scores), 3);
    chosen_ = one_hot(k, filter_.dim(0) * filter_.dim(1), scores.dtype(), 3);
  }
  V Taps(const V& filter) const { return reshape(filter, pack({-1, dim(filter, 2)})); }
  V Patches(const V& x) const {
    const std::vector<int64_t> window = {1, filter_.dim(0), filter_.dim(1), 1};
    const V p = op_.like("ExtractImagePatches", x, Attr("ksizes", window));
    return reshape(p, concat({head(shape(p), 3), shape(Taps(filter_))}, 0));
  }
  V Choose(const V& v) const { return sum(chosen_ * v, ints({3})); }

 private:
  const Op& op_;
  const V filter_;
  V chosen_;
};

// The choice does not change with x and the filter, so that both adjoints are linear in the third input alone.
Grads DilationBackpropGrad(const Op& o, bool wrt_filter) {
  const V w = IN(filter);
  if (w.dim(0) < 0 || w.dim(1) < 0) return o.unsupported("the filter's shape must be known when building");
  const Dilation dilation(o);
  return only(IN(out_backprop), dilation.Choose(wrt_filter ? dilation.Taps(o.dy()) : dilation.Patches(o.dy())));
}

// ---- Normalisation ----

// y = x s^-beta with s = bias + alpha W(x^2), W the sum over a window of channels. With p = beta s^(-beta-1):
//   dx = s^-beta dy - 2 alpha x W(p x dy),
// and this rule is the vector-Jacobian product of that line with u. All dependence on x is on input 1, none on y.
Grads LRNGradGrad(const Op& o) {
  const DType dtype = AtLeastFloat(IN(input_image).dtype());
  const V dy = cast(IN(input_grads), dtype), x = cast(IN(input_image), dtype), u = cast(o.dy(), dtype);
  const double alpha = o.number("alpha"), beta = o.number("beta");
  const V c = gather(shape(x, DType::kInt64), 3), radius = minimum(c, o.integer("depth_radius"));
  const V band = op("MatrixBandPart", fill(pack({c, c}), constant(1, dtype)), radius, radius);
  const auto W = [&band](const V& v) { return matmul(v, band); };
  const V s = W(square(x)) * alpha + o.number("bias"), scale = pow(s, -beta), p = scale / s * beta;
  const V v = W(u * x), t = W(p * x * dy);
  const V ds = p / s * (beta + 1) * (2 * alpha) * x * dy * v - p * u * dy;
  const V ddy = scale * u - 2 * alpha * x * p * v;
  const V ddx = 2 * alpha * (x * W(ds) - u * t - p * dy * v);
  return {cast_like(ddy, IN(input_grads)), cast_like(ddx, IN(input_image)), none};
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

// The gradient ops take scales in float32, whatever dtype the forward op has a name for.
bool HasOtherScales(const Op& o) { return o.has_attr("U") && o.type("U") != DType::kFloat; }
constexpr char kOtherScales[] = "scales and statistics other than float32 have no gradient op: cast them to float32";

// y = (x - mean) rsqrt(variance + epsilon) scale + offset, with the batch's statistics or with given ones.
Grads BatchNorm(const Op& o, const char* grad) {
  if (HasOtherScales(o)) return o.unsupported(kOtherScales);
  const BatchAxes batch(o);
  const V x = IN(x), scale = IN(scale), dy = o.dy(), reserve = o.num_out() == 6 ? OUT(reserve_space_3) : none;
  const V mean_dy = MaybeDy(o, 1), variance_dy = MaybeDy(o, 2);
  if (!o.flag("is_training")) {
    // The kernels take given statistics with the channels last only.
    const V mean = IN(mean), variance = IN(variance), shifted = variance + o.number("epsilon");
    const V g = FusedGrad(o, grad, batch.ChannelsLast(dy), batch.ChannelsLast(x), scale, mean, variance, reserve,
                          batch.rank() == 4 ? "NHWC" : "NDHWC");
    return GRADS(batch.ChannelsBack(g), g.out(1), g.out(2), mean_dy - g.out(2) * scale * rsqrt(shifted),
                 variance_dy - 0.5 * g.out(1) * scale / shifted);
  }
  const V g = FusedGrad(o, grad, dy, x, scale, OUT(reserve_space_1), OUT(reserve_space_2), reserve, batch.format);
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
  if (HasOtherScales(o)) return o.unsupported(kOtherScales);
  const BatchAxes batch(o);
  const V dscale = OUT(scale_backprop), doffset = OUT(offset_backprop), scale = IN(scale);
  const V dy = cast(IN(y_backprop), DType::kFloat), x = cast(IN(x), DType::kFloat), a = cast(o.dy(), DType::kFloat);
  const V b = MaybeDy(o, 1), c = MaybeDy(o, 2);
  const double epsilon = o.number("epsilon");
  Grads grads;
  if (!o.flag("is_training")) {
    const V r = rsqrt(IN(reserve_space_2) + epsilon), sums = batch.Sum(a * dy) * r;
    const V ddy = a * batch.Channels(scale * r) + batch.Channels(b * r) * (x - batch.Channels(IN(reserve_space_1))) +
                  batch.Channels(c);
    grads =
        GRADS(ddy, dy * batch.Channels(b * r), sums, -b * r * doffset, -0.5 * square(r) * (scale * sums + b * dscale));
  } else {
    const V centre = x - batch.Channels(batch.Mean(x)), r = rsqrt(batch.Mean(square(centre)) + epsilon);
    const V n = cast(size(x), DType::kFloat) / cast(size(scale), DType::kFloat);
    const V z = centre * batch.Channels(r);
    const V reserve = o.num_in() == 6 ? IN(reserve_space_3) : none;
    const V of_a =
        FusedGrad(o, grad, o.dy(), IN(x), scale, IN(reserve_space_1), IN(reserve_space_2), reserve, batch.format);
    const V az = of_a.out(1), projected = dy - batch.Channels(doffset / n) - z * batch.Channels(dscale / n);
    const V S = batch.Sum(a * projected), scaled_a = cast(of_a, DType::kFloat);  // scale r P(a)
    const V ddx = projected * batch.Channels(r * (b - scale * r * az / n)) -
                  z * batch.Channels(scale * square(r) * S / n) - scaled_a * batch.Channels(r * dscale / n);
    grads = {scaled_a + batch.Channels(b) * z + batch.Channels(c), ddx, r * S, none, none};
  }
  grads[0] = cast_like(grads[0], IN(y_backprop));
  grads[1] = cast_like(grads[1], IN(x));
  grads.resize(static_cast<size_t>(o.num_in()));  // nothing goes to what cuDNN keeps for itself
  return grads;
}

// In plain arithmetic: the op that has this as its gradient is too old for today's graphs.
Grads BatchNormWithGlobalNormalizationGrad(const Op& o) {
  const V mean = IN(m), variance = IN(v), gamma = IN(gamma), dy = o.dy(), batch = ints({0, 1, 2});
  const bool scaled = o.flag("scale_after_normalization");
  const V shifted = variance + o.number("variance_epsilon"), r = rsqrt(shifted), scale = scaled ? gamma * r : r;
  const V dbeta = sum(dy, batch), dxhat = sum(dy * (IN(t) - mean), batch);
  return {dy * scale, -dbeta * scale, -0.5 * dxhat * scale / shifted, dbeta, scaled ? dxhat * r : zeros_like(gamma)};
}

// ---- Losses ----

// Output 1 of a cross entropy is its gradient, softmax(logits) - labels, and has a cotangent in second derivatives.
V CrossEntropyLogits(const Op& o) {
  V g = o.has_dy(0) ? times(expand_dims(o.dy(0), -1), OUT(backprop)) : none;
  if (o.has_dy(1)) {
    const V u = DY(backprop), p = op("Softmax", IN(features));
    g = g + (u - sum(u * p, ints({-1}), true)) * p;
  }
  return g;
}

// ---- Selection ----

// Zeros of x's shape but for dy at flat indices.
V Scatter(const V& indices, const V& dy, const V& x) {
  return reshape_like(scatter_nd(expand_dims(indices, -1), dy, pack({size(x, DType::kInt64)})), x);
}

// x is [outer..., n, inner...] with `axis` between; output 1 is the indices along it.
Grads TopKGrad(const Op& o, const V& axis) {
  const V x = IN(input), s = shape(x, DType::kInt64), zero = constant(0, DType::kInt64);
  const V outer = head(s, axis), inner = tail(s, axis + 1);
  const V one = constant(ints({1}), DType::kInt64), stride = prod(inner);
  const V rows = reshape(range(zero, prod(outer)) * gather(s, axis), concat({outer, one, ones_like(inner)}, 0));
  const V columns = reshape(range(zero, stride), concat({one, inner}, 0));
  return {Scatter((cast(OUT(indices), DType::kInt64) + rows) * stride + columns, o.dy(), x)};
}

V LastAxis(const Op& o) { return rank(IN(input)) - 1; }

// Elements that equal the n-th share its cotangent.
Grads NthElementGrad(const Op& o) {
  const V dy = single(expand_dims(o.dy(), -1)), chosen = cast_like(equal(expand_dims(o.out(), -1), IN(input)), dy);
  return {cast_like(chosen / sum(chosen, ints({-1}), true) * dy, IN(input))};
}

// Each element of a row becomes the mean of its segment: the projection on vectors constant on segments is its own
// adjoint.
Grads IsotonicRegressionGrad(const Op& o) {
  const V x = IN(input), dy = single(o.dy()), s = shape(x, DType::kInt64), n = gather(s, 1);
  const V segment = cast(OUT(segments), DType::kInt64) + expand_dims(range(0, gather(s, 0)) * n, -1), count = prod(s);
  const V sums = segment_sum(dy, segment, count), sizes = segment_sum(ones_like(dy), segment, count);
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
  auto shut = [&](const V& gate) { return clip > 0 ? select(abs(OUT(cs)) < clip, gate, 0) : gate; };
  const V g = o.like(grad, IN(seq_len_max), IN(x), IN(cs_prev), IN(h_prev), IN(w), IN(wci), IN(wcf), IN(wco), IN(b),
                     shut(OUT(i)), OUT(cs), shut(OUT(f)), OUT(o), OUT(ci), OUT(co), OUT(h), DY(cs), DY(h));
  Grads grads = outputs(g, 8);
  grads.insert(grads.begin(), none);
  return grads;
}

// Single cells, in the notation of the ops' documentation: what is "before" a gate goes into its sigmoid or tanh.
V BeforeSigmoid(const V& gate, const V& g) { return op("SigmoidGrad", gate, g); }
V BeforeTanh(const V& gate, const V& g) { return op("TanhGrad", gate, g); }
// The columns of [x, h].
Values Parts(const V& xh, const V& x, const V& h) { return split(xh, pack({dim(x, 1), dim(h, 1)}), 2, 1); }

// r, u = sigmoid([x, h] w_ru + b_ru), c = tanh([x, r h] w_c + b_c), y = u h + (1 - u) c.
Grads GRUBlockCellGrad(const Op& o) {
  const V x = IN(x), h = IN(h_prev), w_ru = IN(w_ru), w_c = IN(w_c), r = o.out(0), u = OUT(u), c = OUT(c);
  const V dy = DY(h);
  const V before_c = BeforeTanh(c, MaybeDy(o, 2) + dy * (1 - u));
  const Values xrh = Parts(matmul(before_c, w_c, false, true), x, h);
  const V dr = MaybeDy(o, 0) + xrh[1] * h, du = MaybeDy(o, 1) + dy * (h - c);
  const V before_ru = concat({BeforeSigmoid(r, dr), BeforeSigmoid(u, du)}, 1);
  const Values xh = Parts(matmul(before_ru, w_ru, false, true), x, h);
  return {xh[0] + xrh[0],
          xh[1] + xrh[1] * r + dy * u,
          matmul(concat({x, h}, 1), before_ru, true),
          matmul(concat({x, r * h}, 1), before_c, true),
          sum(before_ru, 0),
          sum(before_c, 0)};
}

// [i, ci, f, o] = [x, h] w + b, i = sigmoid(i + wci cs'), f = sigmoid(f + forget_bias + wcf cs'), ci = tanh(ci),
// cs = clip(i ci + f cs'), o = sigmoid(o + wco cs), co = tanh(cs), y = o co, with cs' the cs before.
Grads LSTMBlockCellGrad(const Op& o) {
  const V x = IN(x), before = IN(cs_prev), h = IN(h_prev), i = OUT(i), cs = OUT(cs), f = OUT(f), output = OUT(o);
  const V ci = OUT(ci), co = OUT(co), dy = DY(h);
  const bool peephole = o.flag("use_peephole");
  const double clip = o.number("cell_clip");
  auto peep = [&](const V& weight, const V& g) { return peephole ? g * weight : none; };
  auto seen = [&](const V& g, const V& state) { return peephole ? sum(g * state, 0) : none; };

  const V d_o = BeforeSigmoid(output, MaybeDy(o, 3) + dy * co);
  V dcs = MaybeDy(o, 1) + BeforeTanh(co, MaybeDy(o, 5) + dy * output) + peep(IN(wco), d_o);
  if (clip > 0) dcs = select(abs(cs) < clip, dcs, 0);
  const V di = BeforeSigmoid(i, MaybeDy(o, 0) + dcs * ci), df = BeforeSigmoid(f, MaybeDy(o, 2) + dcs * before);
  const V gates = concat({di, BeforeTanh(ci, MaybeDy(o, 4) + dcs * i), df, d_o}, 1);
  const Values xh = Parts(matmul(gates, IN(w), false, true), x, h);
  return {xh[0],
          dcs * f + peep(IN(wci), di) + peep(IN(wcf), df),
          xh[1],
          matmul(concat({x, h}, 1), gates, true),
          seen(di, before),
          seen(df, before),
          seen(d_o, cs),
          sum(gates, 0)};
}

// The rules of the ops that TensorFlow has for the gradients of the cells, in its own notation: "bar" is the cotangent
// of what is before a gate, and g that of an output. SigmoidGrad is y (1 - y) dy, its derivative by y (1 - 2 y) dy;
// TanhGrad is (1 - y^2) dy, and that -2 y dy.
//
//   c_bar = (1 - c^2) d_h (1 - u),   [., d_hr] = c_bar w_c^T,   r_bar = r (1 - r) d_hr h,   u_bar = u (1 - u) d_h (h -
//   c), d_x = [r_bar, u_bar] w_ru^T + c_bar w_c^T,   d_h_prev = that, of h, + d_hr r + d_h u.
Grads GRUBlockCellGradGrad(const Op& o) {
  const V h = IN(h_prev), w_ru = IN(w_ru), w_c = IN(w_c), r = IN(r), u = IN(u), c = IN(c), d_h = IN(d_h);
  const V c_bar = OUT(d_c_bar), ru_bar = OUT(d_r_bar_u_bar), gx = o.dy(), gh = DY(d_h_prev);
  const V d_hr = Parts(matmul(c_bar, w_c, false, true), IN(x), h)[1], gxh = concat({gx, gh}, 1);
  const Values g_bar = split(DY(d_r_bar_u_bar) + matmul(gxh, w_ru), 2, 1);
  const V g_hr = gh * r + BeforeSigmoid(r, g_bar[0]) * h, gxhr = concat({gx, g_hr}, 1);
  const V g_c = DY(d_c_bar) + matmul(gxhr, w_c), gc = BeforeTanh(c, g_c), gu = BeforeSigmoid(u, g_bar[1]);
  // clang-format off
  return only(IN(h_prev), BeforeSigmoid(r, g_bar[0]) * d_hr + gu * d_h,
              IN(w_ru), matmul(gxh, ru_bar, true),
              IN(w_c), matmul(gxhr, c_bar, true),
              IN(r), gh * d_hr + g_bar[0] * d_hr * h * (1 - 2 * r),
              IN(u), gh * d_h + g_bar[1] * d_h * (h - c) * (1 - 2 * u) - gc * d_h,
              IN(c), -gu * d_h - 2 * c * g_c * d_h * (1 - u),
              IN(d_h), gh * u + gu * (h - c) + gc * (1 - u));
  // clang-format on
}

//   d_o = o (1 - o) dh co,   d_cs = (1 - co^2) dh o + dcs + d_o wco,   d_ci = (1 - ci^2) d_cs i,
//   d_f = f (1 - f) d_cs cs',   d_i = i (1 - i) d_cs ci,   d_cs' = d_cs f + d_i wci + d_f wcf,
// and the cotangents of wci, wcf and wco are the sums of d_i cs', d_f cs' and d_o cs over the batch.
Grads LSTMBlockCellGradGrad(const Op& o) {
  const bool peephole = o.flag("use_peephole");
  const V before = IN(cs_prev), i = IN(i), cs = IN(cs), f = IN(f), output = IN(o), ci = IN(ci), co = IN(co);
  const V dh = IN(h_grad), g = o.dy();
  auto peep = [&](const V& v) { return peephole ? v : none; };
  const Values d = split(OUT(dicfo), 4, 1), gd = split(DY(dicfo), 4, 1);
  const V d_cs = BeforeTanh(co, dh * output) + IN(cs_grad) + peep(d[3] * IN(wco));
  const V gwi = peep(MaybeDy(o, 2)), gwf = peep(MaybeDy(o, 3)), gwo = peep(MaybeDy(o, 4));
  const V g_i = gd[0] + peep(g * IN(wci)) + gwi * before, g_f = gd[2] + peep(g * IN(wcf)) + gwf * before;
  const V by_i = BeforeSigmoid(i, g_i), by_f = BeforeSigmoid(f, g_f), by_ci = BeforeTanh(ci, gd[1]);
  const V g_cs = g * f + by_ci * i + by_f * before + by_i * ci, g_o = gd[3] + gwo * cs + peep(g_cs * IN(wco));
  const V by_o = BeforeSigmoid(output, g_o), by_co = BeforeTanh(co, g_cs);
  // clang-format off
  return only(IN(cs_prev), by_f * d_cs + gwi * d[0] + gwf * d[2],
              IN(wci), peep(sum(g * d[0], 0)),
              IN(wcf), peep(sum(g * d[2], 0)),
              IN(wco), peep(sum(g_cs * d[3], 0)),
              IN(i), by_ci * d_cs + g_i * (1 - 2 * i) * d_cs * ci,
              IN(cs), gwo * d[3],
              IN(f), g * d_cs + g_f * (1 - 2 * f) * d_cs * before,
              IN(o), g_o * (1 - 2 * output) * dh * co + by_co * dh,
              IN(ci), -2 * ci * gd[1] * d_cs * i + by_i * d_cs,
              IN(co), by_o * dh - 2 * co * g_cs * dh * output,
              IN(cs_grad), g_cs,
              IN(h_grad), by_o * co + by_co * output);
  // clang-format on
}

Grads CudnnRNNGrad(const Op& o, const char* grad) {
  if (!o.flag("is_training")) return o.unsupported("its gradient needs is_training = true");
  const V x = IN(input), h = IN(input_h), c = IN(input_c), w = IN(params), y = o.out(0), yh = OUT(output_h),
          yc = OUT(output_c);
  const V dy = o.dy(0), dh = DY(output_h), dc = DY(output_c), reserve = OUT(reserve_space);
  const V g = o.num_in() == 5
                  ? o.like(grad, x, h, c, w, IN(sequence_lengths), y, yh, yc, dy, dh, dc, reserve, OUT(host_reserved))
              : o.num_out() == 5 ? o.like(grad, x, h, c, w, y, yh, yc, dy, dh, dc, reserve, OUT(host_reserved))
                                 : o.like(grad, x, h, c, w, y, yh, yc, dy, dh, dc, reserve);
  return outputs(g, 4);
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
    ONLY(ReluGrad, gradients, op("ReluGrad", dy, IN(features)))
    ONLY(Relu6Grad, gradients, op("Relu6Grad", dy, IN(features)))
    ONLY(LeakyReluGrad, gradients, o.like("LeakyReluGrad", dy, IN(features)))
    RULE(EluGrad, const V e = IN(outputs); return {op("EluGrad", dy, e), select(e < 0, dy * x, 0)};)
    RULE(SeluGrad, const V e = IN(outputs); return {op("SeluGrad", dy, e), select(e < 0, dy * x, 0)};)
    RULE(SoftplusGrad, const V f = IN(features);
         return {op("SoftplusGrad", dy, f), op("SigmoidGrad", sigmoid(f), dy * x)};)
    RULE(SoftsignGrad, const V f = IN(features);
         return {op("SoftsignGrad", dy, f), -2 * sign(f) * dy * y / (1 + abs(f))};)
    UNARY(Softmax, (dy - sum(dy * y, ints({-1}), true)) * y)
    UNARY(LogSoftmax, dy - sum(dy, ints({-1}), true) * exp(y))

    // Bias.
    RULE(BiasAdd, return GRADS(dy, o.like("BiasAddGrad", dy));)
    RULE(BiasAddV1, return GRADS(dy, op("BiasAddGrad", dy));)
    UNARY(BiasAddGrad, broadcast_like(o.text("data_format") == "NCHW" ? align(dy, rank(x) - 1) : dy, x))

    // Convolution.
    BILINEAR(Conv2D, Conv2DBackpropInput, Conv2DBackpropFilter)
    BILINEAR(Conv3D, Conv3DBackpropInputV2, Conv3DBackpropFilterV2)
    BILINEAR(DepthwiseConv2dNative, DepthwiseConv2dNativeBackpropInput, DepthwiseConv2dNativeBackpropFilter)
    {"Conv", ConvGrad},
    RULE(FusedPadConv2D, return FusedConvGrad(o, false);)
    RULE(FusedResizeAndPadConv2D, return FusedConvGrad(o, true);)

    // Pooling. In the ops that take x, y and a cotangent, the first two choose the element: nothing flows to them.
    RULE(AvgPool, return {o.like("AvgPoolGrad", shape(x), dy)};)
    ONLY(AvgPoolGrad, grad, o.like("AvgPool", dy))
    RULE(AvgPool3D, return {o.like("AvgPool3DGrad", shape(x), dy)};)
    ONLY(AvgPool3DGrad, grad, o.like("AvgPool3D", dy))
    RULE(MaxPool, return {o.like("MaxPoolGrad", x, y, dy)};)
    {"MaxPoolGrad", MaxPoolGradGrad},
    ONLY(MaxPoolGradGrad, grad, o.like("MaxPoolGrad", x, IN(orig_output), dy))
    RULE(MaxPoolV2, return {o.like("MaxPoolGradV2", x, y, dy, IN(ksize), IN(strides))};)
    ONLY(MaxPoolGradV2, grad, o.like("MaxPoolGradGradV2", x, IN(orig_output), dy, IN(ksize), IN(strides)))
    ONLY(MaxPoolGradGradV2, grad, o.like("MaxPoolGradV2", x, IN(orig_output), dy, IN(ksize), IN(strides)))
    RULE(MaxPoolWithArgmax, return {o.like("MaxPoolGradWithArgmax", x, dy, cast(OUT(argmax), DType::kInt64))};)
    {"MaxPoolGradWithArgmax", MaxPoolGradWithArgmaxGrad},
    RULE(MaxPool3D, return {o.like("MaxPool3DGrad", x, y, dy)};)
    ONLY(MaxPool3DGrad, grad, o.like("MaxPool3DGradGrad", x, IN(orig_output), dy))
    ONLY(MaxPool3DGradGrad, grad, o.like("MaxPool3DGrad", x, IN(orig_output), dy))
    RULE(FractionalAvgPool, const V rows = OUT(row_pooling_sequence), columns = OUT(col_pooling_sequence);
         return {o.like("FractionalAvgPoolGrad", shape(x, DType::kInt64), dy, rows, columns)};)
    {"FractionalAvgPoolGrad", FractionalAvgPoolGradGrad},
    RULE(FractionalMaxPool, const V rows = OUT(row_pooling_sequence), columns = OUT(col_pooling_sequence);
         return {o.like("FractionalMaxPoolGrad", x, y, dy, rows, columns)};)
    {"FractionalMaxPoolGrad", FractionalMaxPoolGradGrad},
    RULE(Dilation2D, const V w = IN(filter);
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
         // By the shapes of the inputs: TensorFlow claims for the outputs what need not be (facts.cc).
         return BROADCAST(CrossEntropyLogits(o), loss - MaybeDy(o, 1));)

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
    {"GRUBlockCellGrad", GRUBlockCellGradGrad},
    {"LSTMBlockCellGrad", LSTMBlockCellGradGrad},
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
