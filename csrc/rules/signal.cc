// Fourier transforms of the inner dimensions.
#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

// An integer tensor as a floating one: a literal where it is known.
V Floating(const V& n, DType dtype) {
  const auto values = known(n);
  if (!values) return cast(n, dtype);
  return n.rank() == 0 ? V((*values)[0]) : constant(ints(*values), dtype);
}

// How many elements the transform of the last `dims` dimensions of x has.
V Count(const V& x, int dims, DType dtype) {
  return Floating(prod(slice(shape(x), pack({rank(x) - dims}), ints({dims}))), dtype);
}

// The adjoint of the transform is the inverse one but for its scale.
Grads FftGrad(const Op& o, const char* inverse, int dims) {
  return {op(inverse, o.dy()) * Count(o.in(0), dims, o.dy().dtype())};
}
Grads IfftGrad(const Op& o, const char* inverse, int dims) {
  return {op(inverse, o.dy()) / Count(o.in(0), dims, o.dy().dtype())};
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
  const V padded = op("Pad", g, pack({zeros_like(added), added}, 1));
  return same_shape(padded, x) ? padded : slice(padded, zeros_like(added), shape(x));
}

// The inverse counts each frequency and its mirror image, where the forward op has one of the two.
Grads RfftGrad(const Op& o, const char* inverse, int dims) {
  const V fft_length = o.in(1), dy = o.dy(), n = gather(fft_length, dims - 1);
  const V twice = select(IsOwnMirror(n, gather(shape(dy), rank(dy) - 1)), 2, 1);
  const V dx = o.like(inverse, dy * Floating(twice, dy.dtype()), fft_length);
  return {PadTo(dx * (0.5 * Floating(prod(fft_length), dx.dtype())), o.in(0))};
}

Grads IrfftGrad(const Op& o, const char* inverse, int dims) {
  const V fft_length = o.in(1), n = gather(fft_length, dims - 1);
  const V dx = o.like(inverse, o.dy(), fft_length);
  const V mirrored = select(IsOwnMirror(n, gather(shape(dx), rank(dx) - 1)), 1, 2);
  return {PadTo(dx * (Floating(mirrored, dx.dtype()) / Floating(prod(fft_length), dx.dtype())), o.in(0))};
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
};
// clang-format on
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
