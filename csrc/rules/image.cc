// Resampling and colours of images [batch, height, width, channels].
#include <cmath>
#include <utility>

#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

V HeightWidth(const V& image) { return part(shape(image), 1, 3); }

constexpr char kNoPlaces[] = "TensorFlow has no derivative of an image by the places of its pixels";

// A resampling op is linear in its images. `gradient`, its adjoint, reads the shape of an original image alone. Both
// have single precision on the side of the resampled image, whatever that of the other side.
Grads ResampleGrad(const Op& o, const char* gradient, bool has_double, const Values& arguments = {}) {
  const V x = IN(images);
  const V original =
      x.dtype() == DType::kFloat || (has_double && x.dtype() == DType::kDouble) ? x : cast(x, DType::kFloat);
  const V dx = arguments.empty() ? o.like(gradient, o.dy(), original)
                                 : o.like(gradient, o.dy(), original, arguments[0], arguments[1]);
  Grads grads = {cast_like(dx, x), none};
  if (!arguments.empty()) grads.insert(grads.end(), 2, missing(kNoPlaces));
  return grads;
}

// Sampling at places beside the pixels is smooth in the boxes; of the nearest pixels TensorFlow defines the gradient as
// if they had been interpolated.
V BoxesGrad(const V& dy, const V& image, const V& boxes, const V& box_indices) {
  return op("CropAndResizeGradBoxes", dy, image, boxes, box_indices, Attr{"method", "bilinear"});
}

// ---- Colours ----

// The indicators M and m of the largest and the smallest channel of a pixel: range = (M - m) . x.
V Indicator(const char* extreme, const V& x) { return one_hot(op(extreme, x, -1), 3, x.dtype()); }
V Largest(const V& x) { return Indicator("ArgMax", x); }
V Smallest(const V& x) { return Indicator("ArgMin", x); }

// 1 for the channel that follows the largest one in the circle of red, green and blue, -1 for that before it. The hue,
// in sixths of the circle, is P . x / range + a multiple of 2.
V Neighbours(const V& M) {
  const V channels = rank(M) - 1;
  return op("Roll", M, 1, channels) - op("Roll", M, -1, channels);
}

V Dot(const V& a, const V& b) { return sum(a * b, -1, true); }
// With range = s v: v = M . x, s = 1 - m . x / v, and the hue h as a part of the circle.
V RgbToHsvGrad(const V& x, const V& hsv, const V& dy) {
  const V M = Largest(x), m = Smallest(x), P = Neighbours(M);
  const Values y = split(hsv, 3, -1), d = split(dy, 3, -1);
  const V &s = y[1], &v = y[2];
  const V range = s * v, hue = div_no_nan(Dot(P, x), range);
  return d[2] * M + d[1] * div_no_nan(M * (1 - s) - m, v) + d[0] * div_no_nan(P - hue * (M - m), 6 * range);
}

// y = v (1 - s + s f), where f of each channel rises from 0 to 1, and falls again, as the hue goes round.
V HsvToRgbGrad(const V& hsv, const V& dy) {
  const Values x = split(hsv, 3, -1);
  const V &h = x[0], &s = x[1], &v = x[2];
  auto each = [&](int64_t red, int64_t green, int64_t blue) { return constant(ints({red, green, blue}), h.dtype()); };
  const V from_peak = 6 * h - each(3, 2, 4), up = each(1, -1, -1), ramp = up * abs(from_peak) + each(-1, 2, 2);
  const V f = minimum(maximum(ramp, 0), 1), slope = select(equal(f, ramp), 6 * up * sign(from_peak), 0);
  return concat({s * v * Dot(dy, slope), v * Dot(dy, f - 1), Dot(dy, 1 - s + s * f)}, -1);
}

// y = v - k (v - x) with v = M . x: k is the scale, as long as it takes the saturation range / v to no more than 1,
// then v / range. Neither 0 nor less of a scale or a v leaves any colour.
Grads AdjustSaturationGrad(const Op& o) {
  const V x = IN(images), dy = o.dy(), scale = cast_like(IN(scale), x), M = Largest(x), m = Smallest(x);
  const V v = Dot(M, x), range = Dot(M - m, x), coloured = logical_and(v > 0, scale > 0), scaled = scale * range < v;
  const V k = select(coloured, select(scaled, scale, div_no_nan(v, range)), 0), dk = -Dot(dy, v - x);
  const V by_pixel = select(logical_and(coloured, logical_not(scaled)), div_no_nan(dk, range), 0) * (M - k * (M - m));
  const V dscale = total(select(logical_and(coloured, scaled), dk, 0));
  return {k * dy + (1 - k) * sum(dy, -1, true) * M + by_pixel, cast_like(dscale, IN(scale))};
}

// y = m . x + range f, where f is 1 for the largest channel of y and 0 for the smallest. That between them rises or
// falls by one as the hue goes on by a sixth of the circle.
Grads AdjustHueGrad(const Op& o) {
  const V x = IN(images), y = o.out(), dy = o.dy(), M = Largest(x), m = Smallest(x), P = Neighbours(M);
  const V My = Largest(y), my = Smallest(y), range = Dot(M - m, x);
  const V turn = Dot(dy, Neighbours(My) * (1 - My - my));
  const V dx =
      sum(dy, -1, true) * m + turn * P + div_no_nan(Dot(dy, y - Dot(m, x)) - turn * Dot(P, x), range) * (M - m);
  return {select(range > 0, dx, dy), cast_like(total(6 * range * turn), IN(delta))};  // grey stays as it is
}

// y = mean + factor (x - mean), the mean of each channel of an image.
Grads AdjustContrastGrad(const Op& o) {
  const V x = IN(images), dy = o.dy(), factor = cast_like(IN(contrast_factor), x), plane = ints({-3, -2});
  return GRADS(factor * dy + (1 - factor) * mean(dy, plane, true),
               cast_like(total(dy * (x - mean(x, plane, true))), IN(contrast_factor)));
}

// ---- Places of pixels ----

// The sum of g [batch, h, w, channels] over the pixels [batch, h, w] that have the same number in images of shape
// `dims`; -1 is none. Numbers are int64: there may be more pixels than an int32 counts.
V AddUp(const V& g, const V& pixels, const V& dims) {
  return reshape(segment_sum(g, pixels, prod(head(dims, 3))), dims);
}

// The transforms [a b c d e f g h] of matrices [a b c; d e f; g h 1], moved by one pixel:
// [a+g b+h c+1; d+g e+h f+1; g h 1].
V MovedByOne(const V& transforms) {
  const V one_more = reshape(ints({0, 0, 0, 1}), ints({2, 2}));
  const V extended = pad(op("PadV2", transforms, one_more, 1), one_more);  // [... 1 0]
  return transforms + gather(extended, ints({6, 7, 8, 6, 7, 8, 9, 9}), 1);
}

// Each pixel gets a share of the cotangents of what was taken from it, or interpolated between it and others. Where
// that was, the op itself tells if its images are numbers or coordinates of pixels: in single precision, as it has
// them, too.
V TransformedImageGrad(const Op& o) {
  const V x = IN(images), dy = o.dy(), transforms = IN(transforms), dims = shape(x, DType::kInt64);
  const V batch = gather(dims, 0), height = gather(dims, 1), width = gather(dims, 2);
  auto transformed = [&](const V& images, const V& by, double fill_value) {
    return o.like("ImageProjectiveTransformV3", images, by, IN(output_shape), fill_value);
  };
  auto add_up = [&](const V& g, const V& pixels) { return AddUp(g, pixels, dims); };
  if (o.text("interpolation") == "NEAREST") {
    const V numbers = reshape(range(0, batch * height * width), pack({batch, height, width, 1}));
    return add_up(dy, squeeze(transformed(numbers, transforms, -1), {3}));
  }

  // A constant around the images takes part in the interpolation: coordinates go one pixel beyond them, then are NaN.
  const bool constant_fill = o.text("fill_mode") == "CONSTANT";
  const int margin = constant_fill ? 1 : 0;
  const V grid = pack({gather(shape(transforms, DType::kInt64), 0), height + 2 * margin, width + 2 * margin});
  auto coordinates = [&](const V& size) { return cast(range(-margin, size + margin), DType::kFloat); };
  const V images =
      pack({broadcast_to(coordinates(width), grid), broadcast_to(expand_dims(coordinates(height), 1), grid)}, 3);
  const V sources =
      constant_fill ? transformed(images, MovedByOne(transforms), std::nan("")) : transformed(images, transforms, 0);
  const Values from = unpack(sources, 2, 3);
  const V left = op("Floor", from[0]), above = op("Floor", from[1]);
  const V to_right = from[0] - left, to_below = from[1] - above;

  const V first_row = reshape(range(0, batch) * height, ints({-1, 1, 1}));
  V dx = none;
  for (const int below : {0, 1}) {
    for (const int right : {0, 1}) {
      const V row = above + below, column = left + right;
      const V inside = logical_and(logical_and(row >= 0, row < cast(height, DType::kFloat)),
                                   logical_and(column >= 0, column < cast(width, DType::kFloat)));
      const V number = (first_row + cast(row, DType::kInt64)) * width + cast(column, DType::kInt64);
      const V share = select(inside, (below ? to_below : 1 - to_below) * (right ? to_right : 1 - to_right), 0);
      dx = dx + add_up(dy * cast_like(expand_dims(share, 3), dy), select(inside, number, -1));
    }
  }
  return dx;
}

// The nearest pixel does not change with a transform, mostly. The share that the value to fill with has in each pixel
// is what one makes of images of zeros.
Grads ProjectiveTransformGrad(const Op& o) {
  const V places = o.text("interpolation") == "NEAREST" ? none : missing(kNoPlaces);
  auto dfill = [&] {
    const V zeros = zeros_like(cast(IN(images), DType::kFloat));
    const V shares = o.like("ImageProjectiveTransformV3", zeros, IN(transforms), IN(output_shape), 1);
    return total(cast(o.dy(), DType::kFloat) * shares);
  };
  return GRADS(TransformedImageGrad(o), places, none, dfill());
}

// Where crops [n, h, w, channels] of images are interpolated, along the rows or the columns. `begin` and `end`, of the
// boxes, are [n, 1]; what is `at` a sample is [n, h, 1, 1] or [n, 1, w, 1]. TensorFlow takes nothing beyond the last
// pixel, and at a pixel itself takes it for both neighbours.
struct Samples {
  V last, far, near;  // the share that each sample has in the end of its box, and in the begin
  V at, low, inside;
  int64_t other;  // the other dimension of the two

  Samples(const V& begin, const V& end, const V& image_size, const V& size, int64_t other)
      : last(cast(image_size - 1, DType::kFloat)), other(other) {
    const V i = cast(range(0, size), DType::kFloat), steps = cast(size - 1, DType::kFloat), one = equal(size, 1);
    far = select(one, 0.5, div_no_nan(i, steps));
    near = 1 - far;
    at = Spread(select(one, 0.5 * (begin + end) * last, begin * last + i * div_no_nan((end - begin) * last, steps)));
    low = op("Floor", at);
    inside = logical_and(at >= 0, at <= last);
  }
  V Spread(const V& samples) const { return expand_dims(expand_dims(samples, other), 3); }
  V Neighbour(bool high) const { return cast(high ? op("Ceil", at) : low, DType::kInt32); }
  V Weight(bool high) const { return high ? at - low : 1 - (at - low); }
  // How far samples move with the box, and the adjoint: how much the box moves with them.
  V Moved(const V& begin, const V& end) const { return Spread(last * (begin * near + end * far)); }
  V Begin(const V& g) const { return sum(last * near * sum(g, ints({other, 3})), -1, true); }
  V End(const V& g) const { return sum(last * far * sum(g, ints({other, 3})), -1, true); }
};

// The gradient of the boxes is <dcrops, D>, where D is how the crops change with the boxes moved by `dy`:
//   D = sum of image[b, r] d(Y_b X_r), b and r in {0, 1}, with Y and X the weights (1 - y, y) and (1 - x, x)
// of the four pixels around a sample, y and x moving. It is linear in `dcrops` and in the image; y matters for dX
// alone.
Grads CropAndResizeGradBoxesGrad(const Op& o) {
  const V dcrops = IN(grads), image = cast(IN(image), DType::kFloat), dims = shape(image), crop = shape(dcrops);
  const Values box = split(IN(boxes), 4, 1), moved = split(o.dy(), 4, 1);
  const V height = gather(dims, 1), width = gather(dims, 2);
  const Samples y(box[0], box[2], height, gather(crop, 1), 2), x(box[1], box[3], width, gather(crop, 2), 1);
  const V dy = y.Moved(moved[0], moved[2]), dx = x.Moved(moved[1], moved[3]);
  const V inside = logical_and(y.inside, x.inside), first = reshape(IN(box_ind), ints({-1, 1, 1, 1})) * height;
  const V pixels = reshape(image, pack({-1, gather(dims, 3)}));
  V D = none, dimage = none, twist = none;
  for (const bool below : {false, true}) {
    for (const bool right : {false, true}) {
      const V number = squeeze(select(inside, (first + y.Neighbour(below)) * width + x.Neighbour(right), -1), {3});
      const V pixel = gather(pixels, maximum(number, 0));
      const V by_y = (below ? 1 : -1) * x.Weight(right) * dy, by_x = (right ? 1 : -1) * y.Weight(below) * dx;
      const V weight = select(inside, by_y + by_x, 0);
      D = D + weight * pixel;
      twist = twist + (below == right ? 1 : -1) * pixel;
      if (o.wants(1)) dimage = dimage + AddUp(dcrops * weight, number, dims);
    }
  }
  const V both = select(inside, Dot(dcrops, twist), 0), in_y = both * dx, in_x = both * dy;
  return {D, dimage ? cast_like(dimage, IN(image)) : none,
          concat({y.Begin(in_y), x.Begin(in_x), y.End(in_y), x.End(in_x)}, 1)};
}

// Glimpses at an image of its own rows and columns, in single precision as the op has it, tell where each pixel is
// from. They count from 1, for 0 is what is outside.
V GlimpseGrad(const Op& o, const char* type) {
  const V dims = shape(IN(input), DType::kInt64);
  const V batch = gather(dims, 0), height = gather(dims, 1), width = gather(dims, 2);
  const V grid = pack({batch, height, width});
  auto count = [&](const V& n) { return cast(range(1, n + 1), DType::kFloat); };
  const V image = pack({broadcast_to(expand_dims(count(height), 1), grid), broadcast_to(count(width), grid)}, 3);
  const V sources = o.like(type, image, IN(size), IN(offsets), Attr{"noise", "zero"}, Attr{"uniform_noise", false});
  const Values at = unpack(cast(sources, DType::kInt64), 2, 3);
  const V number = (reshape(range(0, batch), ints({-1, 1, 1})) * height + at[0] - 1) * width + at[1] - 1;
  return AddUp(o.dy(), select(at[0] > 0, number, -1), dims);
}

// The op takes means along rows and columns apart: those of unit vectors are the weights. There is no gradient op.
V ResizeAreaGrad(const Op& o) {
  const V x = IN(images), size = IN(size);
  auto unit = [&](const V& n, std::vector<V> dims) { return reshape(eye(n, DType::kFloat), pack(std::move(dims))); };
  const V h = dim(x, 1), w = dim(x, 2);
  const V rows = o.like("ResizeArea", unit(h, {1, h, 1, h}), pack({gather(size, 0), 1}));
  const V columns = o.like("ResizeArea", unit(w, {1, 1, w, w}), pack({1, gather(size, 1)}));
  const V along_rows = einsum("bijc,iy->byjc", o.dy(), squeeze(rows, {0, 2}));
  return cast_like(einsum("byjc,jx->byxc", along_rows, squeeze(columns, {0, 1})), x);
}

// Nothing of an image is left under a box. Boxes take the colours in turn; drawn in their numbers, they tell which.
V UnderBoxes(const V& g, const V& boxes) {
  return op("DrawBoundingBoxesV2", g, boxes, fill(pack({1, dim(g, 3)}), constant(0, DType::kFloat)));
}
V ColoursOfBoxes(const V& dy, const V& boxes, const V& colours) {
  constexpr int kExact = 1 << 24;  // a float holds all numbers up to this
  const V n = gather(shape(colours, DType::kInt64), 0), numbers = range(1, n + 1);
  const V blank = fill(concat({head(shape(dy), 3), ints({1})}, 0), constant(0, DType::kFloat));
  auto drawn = [&](const V& x) {
    const V image = op("DrawBoundingBoxesV2", blank, boxes, cast(expand_dims(x, 1), DType::kFloat));
    return cast(squeeze(image, {3}), DType::kInt64);
  };
  const bool few = colours.dim(0) >= 0 && colours.dim(0) <= kExact;
  const V at = few ? drawn(numbers) : drawn(numbers / kExact) * kExact + drawn(numbers % kExact);
  return segment_sum(cast(dy, DType::kFloat), at - 1, n);
}

// clang-format off
constexpr Rule kRules[] = {
    NO_GRAD(GenerateBoundingBoxProposals)
    NO_GRAD(NonMaxSuppression)
    NO_GRAD(NonMaxSuppressionV2)
    NO_GRAD(NonMaxSuppressionWithOverlaps)
    NO_GRAD(SampleDistortedBoundingBox)
    NO_GRAD(SampleDistortedBoundingBoxV2)
    NO_GRAD(StatelessSampleDistortedBoundingBox)

    // The adjoint of the adjoint is the op itself, to the size that the cotangent of its result had.
    UNARY(ResizeNearestNeighbor, o.like("ResizeNearestNeighborGrad", dy, HeightWidth(x)))
    UNARY(ResizeNearestNeighborGrad, o.like("ResizeNearestNeighbor", dy, HeightWidth(x)))
    RULE(ResizeBilinear, return ResampleGrad(o, "ResizeBilinearGrad", true);)
    ONLY(ResizeBilinearGrad, grads, o.like("ResizeBilinear", dy, HeightWidth(x)))   // its shape alone counts
    RULE(ResizeBicubic, return ResampleGrad(o, "ResizeBicubicGrad", true);)
    ONLY(ResizeBicubicGrad, grads, o.like("ResizeBicubic", dy, HeightWidth(x)))
    RULE(ScaleAndTranslate, return ResampleGrad(o, "ScaleAndTranslateGrad", false, {IN(scale), IN(translation)});)
    UNARY(ScaleAndTranslateGrad, o.like("ScaleAndTranslate", dy, HeightWidth(x), IN(scale), IN(translation)), none,
          missing(kNoPlaces), missing(kNoPlaces))

    RULE(CropAndResize, const V boxes = IN(boxes), indices = IN(box_ind);
         return GRADS(o.like("CropAndResizeGradImage", dy, boxes, indices, shape(x)), BoxesGrad(dy, x, boxes, indices));)
    RULE(CropAndResizeGradImage, const V boxes = IN(boxes), indices = IN(box_ind);
         return GRADS(o.like("CropAndResize", dy, boxes, indices, HeightWidth(x)), BoxesGrad(x, dy, boxes, indices));)
    {"CropAndResizeGradBoxes", CropAndResizeGradBoxesGrad},

    {"ImageProjectiveTransformV2", ProjectiveTransformGrad},
    {"ImageProjectiveTransformV3", ProjectiveTransformGrad},

    UNARY(ResizeArea, ResizeAreaGrad(o))
    // Where a glimpse is at, and where a box, counts in whole pixels.
    // Offsets are rounded to pixels.
    ONLY(ExtractGlimpse, input, GlimpseGrad(o, "ExtractGlimpse"))
    ONLY(ExtractGlimpseV2, input, GlimpseGrad(o, "ExtractGlimpseV2"))
    ONLY(DrawBoundingBoxes, images, UnderBoxes(dy, IN(boxes)))
    RULE(DrawBoundingBoxesV2, const V boxes = IN(boxes);
         return GRADS(UnderBoxes(dy, boxes), none, ColoursOfBoxes(dy, boxes, IN(colors)));)

    UNARY(RGBToHSV, RgbToHsvGrad(x, y, dy))
    UNARY(HSVToRGB, HsvToRgbGrad(x, dy))
    {"AdjustContrastv2", AdjustContrastGrad},
    {"AdjustHue", AdjustHueGrad},
    {"AdjustSaturation", AdjustSaturationGrad},
};
// clang-format on
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
