// Fourier transforms of the inner dimensions, and what is computed of them.
#include <cmath>

#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

constexpr double kPi = 3.14159265358979323846;

// An integer tensor as a floating one: a literal where it is known.
V Floating(const V& n, DType dtype) {
  const auto values = known(n);
  if (!values) return cast(n, dtype);
  return n.rank() == 0 ? V((*values)[0]) : constant(ints(*values), dtype);
}

// How many elements the transform of the last `dims` dimensions of x has.
V Count(const V& x, int dims, DType dtype) { return Floating(prod(tail(shape(x), rank(x) - dims)), dtype); }

// The adjoint of the transform is the inverse one but for its scale.
Grads FftGrad(const Op& o, const char* inverse, int dims) {
  return {op(inverse, o.dy()) * Count(IN(input), dims, o.dy().dtype())};
}
Grads IfftGrad(const Op& o, const char* inverse, int dims) {
  return {op(inverse, o.dy()) / Count(IN(input), dims, o.dy().dtype())};
}

// A real signal of length n has the spectrum of a symmetric one, of which n / 2 + 1 frequencies are kept: those that
// are kept without their mirror image, frequency 0 and, if n is even, n / 2. In [0, size).
V IsOwnMirror(const V& n, const V& size) {
  const V k = range(0, size);
  return equal(k * (n - 2 * k), 0);
}

// The forward op cuts its input to fft_length: what it cut off gets zeros. Of an empty input it makes a longer one.
V PadTo(const V& g, const V& x) {
  if (same_shape(g, x)) return g;
  const V added = maximum(shape(x) - shape(g), 0);
  const V padded = pad(g, pack({zeros_like(added), added}, 1));
  return same_shape(padded, x) ? padded : slice(padded, zeros_like(added), shape(x));
}

// The adjoint of a transform to dy's frequencies. The inverse counts each frequency and its mirror image, where the
// transform has one of the two.
V RfftAdjoint(const V& dy, const V& fft_length, const char* inverse, int dims) {
  const DType real = RealPart(dy.dtype());
  const V twice = select(IsOwnMirror(gather(fft_length, dims - 1), dim(dy, -1)), 2, 1);
  const V dx = op(inverse, dy * Floating(twice, dy.dtype()), fft_length, Attr("Treal", real));
  return dx * (0.5 * Floating(prod(fft_length), real));
}

Grads RfftGrad(const Op& o, const char* inverse, int dims) {
  return {PadTo(RfftAdjoint(o.dy(), IN(fft_length), inverse, dims), IN(input))};
}

Grads IrfftGrad(const Op& o, const char* inverse, int dims) {
  const V fft_length = IN(fft_length), n = gather(fft_length, dims - 1);
  const V dx = o.like(inverse, o.dy(), fft_length);
  const V mirrored = select(IsOwnMirror(n, dim(dx, -1)), 1, 2);
  return {PadTo(dx * (Floating(mirrored, dx.dtype()) / Floating(prod(fft_length), dx.dtype())), IN(input))};
}

// ---- Features of sound ----

// The squares, or the absolute values, of the spectra of windows of x [samples, channels], one beginning every so many
// samples, each weighted by a Hann window and filled up to a power of two.
Grads AudioSpectrogramGrad(const Op& o) {
  const V x = IN(input), y = o.out(), dy = o.dy();
  const int64_t size = o.integer("window_size"), stride = o.integer("stride");
  if (size > 1 << 30) return o.unsupported("of windows of so many samples");  // positions are int32
  int64_t length = 1;
  while (length < size) length *= 2;
  const V t = range(0, constant(size, DType::kInt32)), fft_length = ints({length});
  const V weights = 0.5 - 0.5 * cos(cast(t, DType::kFloat) * (2 * kPi / static_cast<double>(size)));
  const V samples = expand_dims(range(0, dim(y, 1)) * stride, 1) + t;
  const V windows = transpose(gather(x, samples), ints({2, 0, 1})) * weights;
  const V z = op("RFFT", pad(windows, reshape(ints({0, 0, 0, 0, 0, length - size}), ints({3, 2}))), fft_length);
  const V dz = o.flag("magnitude_squared") ? 2 * dy : div_no_nan(dy, y);  // silence has the subgradient zero
  const V dfilled = RfftAdjoint(complex(dz * real(z), dz * imag(z)), fft_length, "IRFFT", 1);
  const V dwindows = slice(dfilled, ints({0, 0, 0}), ints({-1, -1, size})) * weights;
  return {segment_sum(transpose(dwindows, ints({1, 2, 0})), samples, dim(x, 0))};
}

// y = log(max(sqrt(x) M, 1e-12)) D, with M the triangles of a mel filter bank and D a cosine transform. The triangles
// stand one beside the other on the mel scale, between the limits; frequencies beyond these are left out. Where the
// upper limit is none of x's frequencies, the op computes nothing.
Grads MfccGrad(const Op& o) {
  const V x = IN(spectrogram), u = sqrt(x);
  const int64_t bands = o.integer("filterbank_channel_count"), features = o.integer("dct_coefficient_count");
  const double low = o.number("lower_frequency_limit"), high = o.number("upper_frequency_limit");
  auto mel = [](double hertz) { return 1127 * std::log1p(hertz / 700); };
  const double space = (mel(high) - mel(low)) / (static_cast<double>(bands) + 1);
  auto numbers = [](const V& n) { return cast(range(0, cast(n, DType::kInt32)), DType::kDouble); };
  const V n = dim(x, -1), k = numbers(n), band = numbers(bands);
  const V step = 0.5 * cast(IN(sample_rate), DType::kDouble) / cast(n - 1, DType::kDouble);
  const V at = 1127 * log1p(k * step / 700), centre = mel(low) + space * (band + 1);
  const V first = op("Floor", 1.5 + low / step), last = op("Floor", high / step);
  const V inside = logical_and(logical_and(k >= first, k <= last), last < cast(n, DType::kDouble));
  const V triangles = maximum(1 - abs(expand_dims(at, 1) - centre) / space, 0);
  const V M = cast(select(expand_dims(inside, 1), triangles, 0), DType::kFloat);
  const V waves = cos(expand_dims(band + 0.5, 1) * numbers(features) * (kPi / static_cast<double>(bands)));
  const V D = cast(std::sqrt(2.0 / static_cast<double>(bands)) * waves, DType::kFloat);
  const V m = einsum("cti,ib->ctb", u, M), dlog = einsum("ctf,bf->ctb", o.dy(), D);
  const V du = einsum("ctb,ib->cti", select(m > 1e-12, dlog / maximum(m, 1e-12), 0), M);
  return only(IN(spectrogram), div_no_nan(0.5 * du, u));  // silence has the subgradient zero
}

// clang-format off
constexpr Rule kRules[] = {
    NO_GRAD(AudioMicrofrontend)

    RULE(FFT, return FftGrad(o, "IFFT", 1);)
    RULE(FFT2D, return FftGrad(o, "IFFT2D", 2);)
    RULE(FFT3D, return FftGrad(o, "IFFT3D", 3);)
    RULE(IFFT, return IfftGrad(o, "FFT", 1);)
    RULE(IFFT2D, return IfftGrad(o, "FFT2D", 2);)
    RULE(IFFT3D, return IfftGrad(o, "FFT3D", 3);)
    RULE(RFFT, return RfftGrad(o, "IRFFT", 1);)
    RULE(RFFT2D, return RfftGrad(o, "IRFFT2D", 2);)
    RULE(RFFT3D, return RfftGrad(o, "IRFFT3D", 3);)
    RULE(IRFFT, return IrfftGrad(o, "RFFT", 1);)
    RULE(IRFFT2D, return IrfftGrad(o, "RFFT2D", 2);)
    RULE(IRFFT3D, return IrfftGrad(o, "RFFT3D", 3);)

    {"AudioSpectrogram", AudioSpectrogramGrad},
    {"Mfcc", MfccGrad},
};
// clang-format on
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
