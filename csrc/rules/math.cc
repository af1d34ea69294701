// Rules of elementwise mathematics, reductions, scans, products and segments.
//
// Cotangents of complex values follow TensorFlow's convention, dx = dy * conj(df/dx). Where a function is not
// holomorphic the rule is the adjoint of its real-linear derivative.
#include <algorithm>
#include <cmath>
#include <string>

#include "csrc/rules/rule.h"
#include "csrc/rules/traits/finite.h"

namespace symgrad {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr double kRootPi = 1.77245385090551602730;
constexpr double kRootTwo = 1.41421356237309504880;

// ---- Elementwise ----

// x with its imaginary part dropped, in x's own dtype.
V RealOf(const V& x) { return IsComplex(x.dtype()) ? cast(real(x), x.dtype()) : x; }

// 1, but 0 where zero times f is zero although f does not exist: what stands for d(x f)/df at x = 0.
V Factor(const V& x, const V& f_exists) { return cast_like(logical_or(not_equal(x, 0), f_exists), x); }
V HasLogarithm(const V& x) { return IsComplex(x.dtype()) ? not_equal(x, 0) : x > 0; }

// ---- Special functions ----

// near(x) where `is_near`, else far(x): two forms of one function, of which each is evaluated where it is good.
template <typename Near, typename Far>
V Pieces(const V& is_near, const V& x, double some_near, double some_far, const Near& near, const Far& far) {
  return select(is_near, near(select(is_near, x, some_near)), far(select(is_near, some_far, x)));
}

// The mean of f(x t) with the weight that makes J1(x) / x of the cosine and I1(x) / x of the hyperbolic one: the
// integral over an angle of a periodic function, and so a sum with an error below the term of x^24
// (DLMF 10.9.4, 10.32.2). Smooth, where the quotient of the functions cancels at the second derivative.
V PoissonIntegral(V (*f)(const V&), const V& x) {
  const V angle = kPi / 13 * cast_like(range(1, 7), x);
  return sum(f(expand_dims(x, -1) * cos(angle)) * (2.0 / 13 * square(sin(angle))), -1);
}

// y / x for y = J1(x) or I1(x), or a multiple of it.
V BesselQuotient(const V& y, const V& x, V (*f)(const V&), const V& multiple = 1) {
  const V near = abs(x) < 2;
  return Pieces(
      near, x, 0, 1, [&](const V& t) { return multiple * PoissonIntegral(f, t); }, [&](const V& t) { return y / t; });
}

// log(x) / (1 - x). Near one, with w = (x - 1) / (x + 1), by log(x) = 2 (w + w^3/3 + w^5/5 + ...).
V SpencePartial(const V& x) {
  const auto series = [](const V& t) {
    const V w = (t - 1) / (t + 1), k = cast_like(range(0, 11), t);
    return -2 / (t + 1) * sum(pow(expand_dims(square(w), -1), k) / (2 * k + 1), -1);
  };
  return Pieces(abs(x - 1) < 0.25, x, 1, 2, series, [](const V& t) { return log(t) / (1 - t); });
}

V Polygamma(const V& n, const V& x) { return cast_like(op("Polygamma", cast_like(n, single(x)), single(x)), x); }

// x^(a-1) e^-x / Γ(a), in logarithms because Γ soon overflows; MulNoNan for a = 1 at x = 0.
V GammaDensity(const V& a, const V& x) { return exp(mul_no_nan(log(x), a - 1) - x - lgamma(a)); }

// f(x), but 0 for an x that is not positive, where f diverges while what it is a part of vanishes.
template <typename Function>
V WherePositive(const V& x, const Function& f) {
  const V positive = x > 0;
  return select(positive, f(select(positive, x, 0.5)), 0);
}

// The integral of f over [0, inf), f being smooth and decaying exponentially, on a scale that need not be exact: the
// trapezoidal rule in v for u = scale * exp(v - exp(-v)), which is good to all digits there (Takahasi and Mori, Double
// Exponential Formulas for Numerical Integration, 1974). It is so for the derivatives of f, too.
template <typename Integrand>
V IntegralOverHalfLine(const V& scale, const Integrand& f) {
  const V v = (cast_like(range(0, 139), scale) - 64) / 16, speed = 1 + exp(-v);
  const V u = op("StopGradient", expand_dims(scale, -1)) * exp(v - exp(-v));
  return sum(f(u) * u * speed / 16, -1);
}

// The second derivative of igamma by a over x^a e^-x / Γ(a). With t = x e^-u in its integral,
//   P(a, x) = x^a / Γ(a) * integral of exp(-a u - x e^-u) over u > 0,
// and with t = x e^u the same, other signs given, for 1 - P, which is the smaller one for large x.
V GammaCurvature(const V& a, const V& x) {
  const V lower = x < maximum(a, 1), width = abs(a - x) + sqrt(x);  // of the integrand where its decay begins
  const V s = expand_dims(select(lower, constant(-1, x.dtype()), 1), -1);
  const V a1 = expand_dims(a, -1), x1 = expand_dims(x, -1);
  const V second = IntegralOverHalfLine(reciprocal(select(lower, minimum(a, width), width)), [&](const V& u) {
    const V w = square(log(x1) + s * u - digamma(a1)) - Polygamma(1, a1);
    return w * exp(s * a1 * u - x1 * op("Expm1", s * u));
  });
  return select(lower, second, -second);
}

Grads IgammaGradAGrad(const Op& o) {
  const V a = single(IN(a)), x = single(IN(x)), dy = single(o.dy());
  auto by_a = [&](const V& t) { return GammaCurvature(a, t) * exp(a * log(t) - t - lgamma(a)); };
  auto grad = [&](const V& partial) { return cast_like(times(dy, partial), o.dy()); };
  return BROADCAST(grad(WherePositive(x, by_a)), grad(mul_no_nan(log(x) - digamma(a), GammaDensity(a, x))));
}

// A sample x of the distribution with the density g moves with a as y = -P_a / g.
Grads RandomGammaGradGrad(const Op& o) {
  const V a = IN(alpha), x = IN(sample), y = o.out(), dy = o.dy();
  auto log_ratio = [&](const V& t) { return log(t) - digamma(a); };
  auto by_a = [&](const V& t) { return t * GammaCurvature(a, t) + log_ratio(t) * y; };
  auto by_x = [&](const V& t) { return log_ratio(t) + y * ((a - 1) / t - 1); };
  return BROADCAST(times(-dy, WherePositive(x, by_a)), times(-dy, WherePositive(x, by_x)));
}

// The derivative of zeta by its exponent s: that of the Euler-Maclaurin formula with A = q + 20 (DLMF 25.11.5, 2.10.1),
//   sum of (q + k)^-s over k < 20, and A^(1-s) / (s-1) + A^-s / 2 + sum of B_n / n! * Γ(s + n - 1) / Γ(s) * A^(1-s-n)
// over n = 2, 4, ..., 10, where B_n / n! = -2 cos(n π / 2) zeta(n, 1) / (2 π)^n (DLMF 25.6.2).
V ZetaByExponent(const V& s, const V& q) {
  const V s1 = expand_dims(s, -1), q1 = expand_dims(q, -1) + cast_like(range(0, 20), q), A = q + 20, L = log(A);
  const V n = 2 * cast_like(range(1, 6), s),
          c = -2 * cos(kPi / 2 * n) * op("Zeta", n, 1) * pow(constant(2 * kPi, s.dtype()), -n);
  const V L1 = expand_dims(L, -1), m = s1 + n - 1;
  const V rest = sum(c * exp(lgamma(m) - lgamma(s1) - m * L1) * (digamma(m) - digamma(s1) - L1), -1);
  return rest - sum(log(q1) * pow(q1, -s1), -1) - pow(A, -s) * (0.5 * L + A / (s - 1) * (L + reciprocal(s - 1)));
}

// x^(a-1) (1-x)^(b-1) / B(a, b), likewise.
V BetaDensity(const V& a, const V& b, const V& x) {
  return exp(mul_no_nan(log(x), a - 1) + mul_no_nan(log1p(-x), b - 1) - lgamma(a) - lgamma(b) + lgamma(a + b));
}

// With t = x e^-u in its integral, y = x^a / B(a, b) * integral of exp(-a u) (1 - x e^-u)^(b-1) over u > 0. Where x is
// beyond the mean a / (a + b), 1 - y is the smaller one: that of b, a and 1 - x.
Grads BetaincGrad(const Op& o) {
  const V a = IN(a), b = IN(b), x = IN(x), dy = o.dy();
  const V beyond = x * (a + b) > a, p = select(beyond, b, a), q = select(beyond, a, b);
  const V p1 = expand_dims(p, -1), q1 = expand_dims(q, -1), mean = digamma(p1 + q1);
  auto derivative = [&](bool by_p) {
    return WherePositive(select(beyond, 1 - x, x), [&](const V& t) {
      const V odds = t / (1 - t), slope = maximum(p - (q - 1) * odds, 0),
              width = slope + sqrt(maximum(q - 1, 0) * odds / (1 - t));
      const V t1 = expand_dims(t, -1), front = exp(p * log(t) + lgamma(p + q) - lgamma(p) - lgamma(q));
      return front * IntegralOverHalfLine(reciprocal(minimum(p, width)), [&](const V& u) {
               const V rest = log1p(-t1 * exp(-u)), by = by_p ? log(t1) - u - digamma(p1) : rest - digamma(q1);
               return (by + mean) * exp((q1 - 1) * rest - p1 * u);
             });
    });
  };
  return BROADCAST(times(dy, select(beyond, -derivative(false), derivative(true))),
                   times(dy, select(beyond, -derivative(true), derivative(false))), times(dy, BetaDensity(a, b, x)));
}

// ---- Signs, quotients, powers and choices ----

// y = x / |x| turns with a complex x: the part of dy along y is lost, the rest is scaled by 1 / |x|.
Grads SignGrad(const Op& o) {
  const V x = IN(x), y = o.out(), dy = o.dy();
  if (!IsComplex(x.dtype())) return {none};  // constant almost everywhere
  const V size = cast_like(op("ComplexAbs", x, Attr("Tout", RealPart(x.dtype()))), x);
  return {div_no_nan(dy - y * RealOf(conj(y) * dy), size)};
}

// dy / x, and zero where x is.
V OverNoNan(const Op& o, const V& dy, const V& x) {
  return o.diverges() ? times(dy, div_no_nan(1, x)) : div_no_nan(dy, x);
}

// y = a / b, where da is dy by conj(b), divided as the op itself divides.
Grads DivGrad(const Op& o, const V& da) { return BROADCAST(da, times(da, -conj(o.out()))); }

// y = sqrt(x). Where x is flat the tangent is vertical at its minimum: the subgradient there is zero.
V SqrtBack(const Op& o) {
  const V y = o.out(), dy = o.dy();
  if (!o.diverges()) return op("SqrtGrad", y, dy);
  return Flat(IN(x)) ? div_no_nan(0.5 * dy, conj(y)) : over(0.5 * dy, conj(y));
}

// da = b a^(b-1) dy: MulNoNan because at a = 0 and b = 0 (for the next derivative b = 1, and so on) a zero meets an
// infinity. db = dy y log a: by definition zero where a real a has no logarithm. As for the square root, a root of what
// is flat has the subgradient zero where that is zero.
Grads PowGrad(const Op& o) {
  const V a = conj(IN(x)), b = conj(IN(y)), y = conj(o.out()), dy = o.dy();
  auto da = [&] {
    const bool root = o.diverges() && !IsComplex(a.dtype()) && Flat(IN(x));
    const V g = root ? select(logical_and(equal(a, 0), b < 1), 0, dy) : dy;
    const auto bounds = Op(V(IN(y)).node()).bounds();
    const bool number = bounds && bounds->first == bounds->second;
    const V slope = number && bounds->first == 2 ? a : pow(a, number ? V(bounds->first - 1) : b - 1);
    return NonZero(IN(y)) ? times(g * b, slope) : times(g, mul_no_nan(slope, b));
  };
  return BROADCAST(da(), times(dy, y * log(select(HasLogarithm(a), a, 1))));
}

// y = a b, and zero where b is zero. There db is that of zero, too, if a is not finite.
Grads MulNoNanGrad(const Op& o) {
  const V a = IN(x), b = IN(y), dy = o.dy();
  return BROADCAST(mul_no_nan(dy, conj(b)),
                   mul_no_nan(select(logical_or(not_equal(b, 0), abs(a) < INFINITY), conj(a), 0), dy));
}

// The whole cotangent goes to a where it was chosen, ties included, else to b.
Grads ChosenGrad(const Op& o, const V& a_chosen) {
  const V dy = o.dy();
  return BROADCAST(select(a_chosen, dy, 0), select(a_chosen, 0, dy));
}

// An angle does not exist at the origin, where its partials are taken for zero.
Grads Atan2Grad(const Op& o) {
  const V a = IN(y), b = IN(x), g = OverNoNan(o, o.dy(), square(a) + square(b));
  return BROADCAST(times(g, b), times(-g, a));
}

// y = |a - b|^2.
Grads SquaredDifferenceGrad(const Op& o) {
  const V da = times(2 * RealOf(o.dy()), IN(x) - IN(y));
  return BROADCAST(da, -da);
}

// ---- Reductions ----

// The axes of a reduction, none negative, where they are known.
std::optional<std::vector<int64_t>> KnownAxes(const Op& o) {
  const int64_t rank = IN(input).rank();
  std::optional<std::vector<int64_t>> axes = known(IN(reduction_indices));
  if (rank < 0 || !axes || (rank == 0 && !axes->empty())) return std::nullopt;
  for (int64_t& axis : *axes) axis = (axis % rank + rank) % rank;
  return axes;
}

bool OneAxis(const V& axes) { return axes.rank() == 0 || (axes.rank() == 1 && axes.dim(0) == 1); }

// A reduction's result, or its cotangent, so that it broadcasts against the operand: as keep_dims would have it.
V Kept(const Op& o, const V& y) {
  const V x = IN(input), axes = IN(reduction_indices);
  if (o.flag("keep_dims") || y.rank() == 0) return y;
  if (auto known_axes = KnownAxes(o)) {
    const auto leading = [&](int64_t axis) { return axis < static_cast<int64_t>(known_axes->size()); };
    if (std::all_of(known_axes->begin(), known_axes->end(), leading)) return y;  // broadcasting adds these itself
    std::vector<int64_t> kept;
    for (int i = 0; i < x.rank(); ++i) kept.push_back(x.dim(i));
    for (int64_t axis : *known_axes) kept[axis] = 1;
    const auto unknown = std::count(kept.begin(), kept.end(), -1), empty = std::count(kept.begin(), kept.end(), 0);
    if (unknown == 0 || (unknown == 1 && empty == 0)) return reshape(y, ints(kept));
  }
  if (OneAxis(axes)) return expand_dims(y, axes);
  const V n = rank(x), reduced = cast(axes, DType::kInt32) % n;
  return reshape(y, op("DynamicStitch", list({range(0, n), reduced}), list({shape(x), ones_like(reduced)})));
}

// The share that each element has in its mean: one divided by their number (of none, anything finite).
V Share(const Op& o) {
  const V x = IN(input), dy = o.dy();
  auto axes = KnownAxes(o);
  if (!axes || std::any_of(axes->begin(), axes->end(), [&](int64_t axis) { return x.dim(axis) < 0; })) {
    auto count = [](const V& v) { return cast(size(v, DType::kInt64), DType::kDouble); };  // half ends at 65504
    return cast_like(div_no_nan(count(dy), count(x)), single(dy));
  }
  double share = 1;
  for (int64_t axis : *axes) share /= std::max<int64_t>(x.dim(axis), 1);
  return share;
}

// Elements that tie share the cotangent.
Grads ExtremumGrad(const Op& o) {
  const V x = IN(input), dy = single(o.dy()), hit = cast_like(equal(x, Kept(o, o.out())), dy);
  return {cast_like(hit / Kept(o, o.like("Sum", hit, IN(reduction_indices))) * Kept(o, dy), x)};
}

// The product of all other elements along an axis. No division, so zeros are no exception.
V ProductOfOthers(const V& x, const V& axis) {
  auto up_to = [&](bool reverse) { return op("Cumprod", x, axis, Attr("exclusive", true), Attr("reverse", reverse)); };
  return up_to(false) * up_to(true);
}

Grads ProdGrad(const Op& o) {
  const V x = IN(input), axes = IN(reduction_indices), first = constant(0, DType::kInt32);
  V others;
  if (OneAxis(axes)) {
    others = ProductOfOthers(x, reshape(axes, ints({})));
  } else if (o.out().rank() == 0) {
    others = reshape_like(ProductOfOthers(flatten(x), first), x);
  } else {  // the reduced axes brought to the front and made one
    const V n = rank(x), reduced = flatten(cast(axes, DType::kInt32)) % n, kept = op("ListDiff", range(0, n), reduced);
    const V order = concat({reduced, kept}, 0), front = transpose(x, order);
    const V merged = concat({pack({prod(gather(shape(x), reduced))}), gather(shape(x), kept)}, 0);
    others =
        transpose(reshape(ProductOfOthers(reshape(front, merged), first), shape(front)), invert_permutation(order));
  }
  return {Kept(o, o.dy()) * conj(others)};
}

// ---- Scans. Reverse is from the end, where a neighbour is the next element instead of the previous one ----

// By the axis's number from the front: vectorized_map adds its dimension there, and takes -1 for that one.
V Roll(const V& x, bool reverse) { return op("Roll", x, reverse ? -1 : 1, rank(x) - 1); }
V HasNeighbour(const V& x, bool reverse) {
  const V n = dim(x, -1), k = range(0, n);
  return reverse ? k < n - 1 : k > 0;
}
V Neighbour(const V& x, bool reverse) { return select(HasNeighbour(x, reverse), Roll(x, reverse), 0); }

// s_k = b_k + a_k s_{k-1} along the last axis: a system of two diagonals, one of them ones, and so solved without a
// division. What divides by elements that may be zero, or masks these, is wrong at some order; a recurrence is not.
V Recurrence(const V& a, const V& b, bool reverse) {
  if (a.dim(-1) == 0) return b;  // XLA solves no empty system
  const V c = -single(a), rhs = expand_dims(single(b), -1);
  const V zero = zeros_like(c), one = ones_like(c);
  const V system = pack(reverse ? Values{c, one, zero} : Values{zero, one, c}, -2);
  return cast_like(squeeze(op("TridiagonalSolve", system, rhs, Attr("partial_pivoting", false)), {-1}), a);
}

// A scan's operand, result or cotangent with the axis of the scan and the last one exchanged; and back.
V AlongLast(const Op& o, const V& x) {
  const V n = rank(x), axis = cast(IN(axis), DType::kInt32) % n, i = range(0, n);
  return transpose(x, select(equal(i, axis), n - 1, select(equal(i, n - 1), axis, i)));
}

// The running sum that passes back what the forward scan passed on.
V SumBack(const Op& o, const V& g) {
  return op("Cumsum", g, IN(axis), Attr("exclusive", o.flag("exclusive")), Attr("reverse", !o.flag("reverse")));
}

// dx_k is the product of the elements before x_k times sum_i dy_i of the products of those between x_k and y_i.
Grads CumprodGrad(const Op& o) {
  const bool exclusive = o.flag("exclusive"), reverse = o.flag("reverse");
  const V x = AlongLast(o, conj(IN(x))), dy = AlongLast(o, o.dy());
  const V before = op("Cumprod", x, -1, Attr("exclusive", true), Attr("reverse", reverse));
  const V sums = Recurrence(Neighbour(x, !reverse), exclusive ? Neighbour(dy, !reverse) : dy, !reverse);
  return {AlongLast(o, before * sums)};
}

// dx_k = sum_i dy_i exp(x_k - y_i): with s_k the sum of dy_i exp(y_k - y_i), exp(x_k - y_k) s_k. No exponent is
// positive, and the logarithm of zero is as good as the lowest number, which can be subtracted from itself.
Grads CumulativeLogsumexpGrad(const Op& o) {
  const bool exclusive = o.flag("exclusive"), reverse = o.flag("reverse");
  const V x = AlongLast(o, IN(x)), dy = AlongLast(o, o.dy());
  const V lowest = constant(x.dtype() == DType::kHalf ? -6e4 : -1e38, x.dtype());
  const V y = maximum(op("CumulativeLogsumexp", x, -1, Attr("reverse", reverse)), lowest);
  const V decay = exp(minimum(y - Neighbour(y, !reverse), 0));
  const V sums = Recurrence(decay, exclusive ? Neighbour(dy, !reverse) : dy, !reverse);
  return {AlongLast(o, exp(x - y) * sums)};
}

// ---- Products ----

// y = a' b', where a prime transposes (in a batched product: takes the adjoint) or not, as the flags say:
// da' = dy b'^H and db' = a'^H dy, with the primes taken off again.
template <typename Product>
Grads ProductGrad(const Op& o, bool prime_a, bool prime_b, const V& a, const V& b, const Product& product) {
  const V dy = o.dy();
  return GRADS(prime_a ? product(b, dy, prime_b, true, 0) : product(dy, b, false, !prime_b, 0),
               prime_b ? product(dy, a, true, prime_a, 1) : product(a, dy, !prime_a, false, 1));
}

Grads MatMulGrad(const Op& o) {
  return ProductGrad(o, o.flag("transpose_a"), o.flag("transpose_b"), conj(IN(a)), conj(IN(b)),
                     [](const V& a, const V& b, bool transpose_a, bool transpose_b, int wrt) {
                       return op("MatMul", a, b, Attr("transpose_a", transpose_a), Attr("transpose_b", transpose_b),
                                 Attr(wrt == 0 ? "grad_a" : "grad_b", true));
                     });
}

// The result is float whatever the operands are; dy is taken to be dense, and multiplied as such with what is.
Grads SparseMatMulGrad(const Op& o) {
  Grads grads =
      ProductGrad(o, o.flag("transpose_a"), o.flag("transpose_b"), IN(a), IN(b),
                  [&o](const V& a, const V& b, bool transpose_a, bool transpose_b, int wrt) {
                    const bool sparse = o.flag(wrt == 0 ? "b_is_sparse" : "a_is_sparse");
                    const bool first = wrt == 0 ? o.flag("transpose_a") : !o.flag("transpose_b");
                    if (!sparse && a.dtype() == DType::kFloat && b.dtype() == DType::kFloat)
                      return op("MatMul", a, b, Attr("transpose_a", transpose_a), Attr("transpose_b", transpose_b));
                    return op("SparseMatMul", a, b, Attr("transpose_a", transpose_a), Attr("transpose_b", transpose_b),
                              Attr("a_is_sparse", sparse && first), Attr("b_is_sparse", sparse && !first));
                  });
  for (int i = 0; i < 2; ++i) grads[i] = grads[i] ? cast_like(grads[i], o.in(i)) : none;
  return grads;
}

Grads BatchMatMulGrad(const Op& o) {
  return ProductGrad(o, o.flag("adj_x"), o.flag("adj_y"), IN(x), IN(y),
                     [](const V& a, const V& b, bool adjoint_a, bool adjoint_b, int wrt) {
                       return op("BatchMatMulV2", a, b, Attr("adj_x", adjoint_a), Attr("adj_y", adjoint_b),
                                 Attr(wrt == 0 ? "grad_x" : "grad_y", true));
                     });
}

Grads BroadcastingBatchMatMulGrad(const Op& o) {
  const Grads grads = BatchMatMulGrad(o);
  return {sum_to(grads[0], IN(x)), sum_to(grads[1], IN(y))};
}

// y = einsum("left,right->result", a, b).
Grads XlaEinsumGrad(const Op& o) {
  const std::string equation = o.text("equation");
  const size_t comma = equation.find(','), arrow = equation.find("->");
  if (comma > arrow || arrow == std::string::npos)
    return o.unsupported("its equation '" + equation + "' is not 'x,y->z'");
  const std::string left = equation.substr(0, comma), right = equation.substr(comma + 1, arrow - comma - 1);
  const std::string result = equation.substr(arrow + 2);
  return GRADS(op("XlaEinsum", o.dy(), conj(IN(b)), Attr("equation", result + "," + right + "->" + left)),
               op("XlaEinsum", o.dy(), conj(IN(a)), Attr("equation", result + "," + left + "->" + right)));
}

// ---- Segments ----

// Rows to segments, as the forward op does it.
V Reduce(const Op& o, const std::string& kind, const V& rows) {
  if (o.num_in() == 2) return op(("Segment" + kind).c_str(), rows, IN(segment_ids));
  return op(("UnsortedSegment" + kind).c_str(), rows, IN(segment_ids), IN(num_segments));
}

// Segments to rows. A row with a negative id is in no segment and gets zero; only the unsorted ops allow that.
V Spread(const Op& o, const V& segments) {
  const V ids = IN(segment_ids);
  return o.num_in() == 2 ? gather(segments, ids) : keep(ids >= 0, gather(segments, maximum(ids, 0)));
}

// Empty segments are divided by no zero: what an emitted op makes of them goes nowhere, its next derivative would.
Grads SegmentMeanGrad(const Op& o) {
  const V dy = single(o.dy()), ids = IN(segment_ids);
  const V ones = align(fill(shape(ids), constant(1, DType::kDouble)), rank(IN(data)));
  return {Spread(o, cast_like(div_no_nan(dy, cast_like(Reduce(o, "Sum", ones), dy)), o.dy()))};
}

// Rows that tie share the cotangent.
Grads SegmentExtremumGrad(const Op& o) {
  const V dy = single(o.dy()), hit = cast_like(equal(IN(data), Spread(o, o.out())), dy);
  return {cast_like(hit * Spread(o, div_no_nan(dy, Reduce(o, "Sum", hit))), o.dy())};
}

// The product of the other rows of a row's segment is that of the rows before it times that of those behind it, with
// the rows sorted by segment.
Grads SegmentProdGrad(const Op& o) {
  const V x = IN(data), ids = flatten(IN(segment_ids)), n = size(ids);
  const bool sorted = o.num_in() == 2;
  const V order = sorted ? none : op("TopKV2", -ids, n).out(1), segments = sorted ? ids : gather(ids, order);
  const V m = prod(tail(shape(x), rank(IN(segment_ids)))), rows = reshape(conj(x), pack({n, m}));
  const V columns = swap_last_two(sorted ? rows : gather(rows, order));
  auto product = [&](bool reverse) {
    const V joined = logical_and(HasNeighbour(ids, reverse), equal(segments, Roll(segments, reverse)));
    const V start = broadcast_like(cast_like(logical_not(joined), x), columns);
    return Recurrence(select(joined, Roll(columns, reverse), 0), start, reverse);
  };
  const V others = swap_last_two(product(false) * product(true));
  return {Spread(o, o.dy()) * reshape_like(sorted ? others : gather(others, invert_permutation(order)), x)};
}

// clang-format off
constexpr Rule kRules[] = {
    // No gradient: integers, truth values, and what is constant almost everywhere.
    NO_GRAD(ApproximateEqual) NO_GRAD(ArgMax) NO_GRAD(ArgMin) NO_GRAD(BitwiseAnd) NO_GRAD(BitwiseOr) NO_GRAD(BitwiseXor)
    NO_GRAD(Ceil) NO_GRAD(Equal) NO_GRAD(Floor) NO_GRAD(FloorDiv) NO_GRAD(Greater) NO_GRAD(GreaterEqual) NO_GRAD(Invert)
    NO_GRAD(LeftShift) NO_GRAD(Less) NO_GRAD(LessEqual) NO_GRAD(LogicalAnd) NO_GRAD(LogicalNot)
    NO_GRAD(LogicalOr) NO_GRAD(NotEqual) NO_GRAD(PopulationCount)  NO_GRAD(RightShift) NO_GRAD(Rint)
    NO_GRAD(Round) NO_GRAD(TruncateDiv)
    NO_GRAD(All) NO_GRAD(Any) NO_GRAD(Bucketize) NO_GRAD(IsFinite) NO_GRAD(IsInf) NO_GRAD(IsNan)

    // Powers, exponentials and logarithms. Constants multiply cotangents, which may be a number for all elements, and
    // meet other constants there.
    UNARY(Neg, -dy)
    UNARY(Square, times(2 * dy, conj(x)))
    UNARY(Sqrt, SqrtBack(o))
    FUSED(Rsqrt, op("RsqrtGrad", y, dy), times(dy, conj(-0.5 * y / x)))
    FUSED(Inv, op("ReciprocalGrad", y, dy), times(dy, -conj(square(y))))
    FUSED(Reciprocal, op("ReciprocalGrad", y, dy), times(dy, -conj(square(y))))
    PARTIAL(Exp, y)
    PARTIAL(Expm1, exp(x))   // not y + 1, which cancels
    UNARY(Log, over(dy, conj(x)))
    UNARY(Log1p, over(dy, conj(1 + x)))
    FUSED(Sigmoid, op("SigmoidGrad", conj(y), dy), times(dy, conj(y * (1 - y))))

    // Trigonometric and hyperbolic functions. By y where that is right on every branch of the inverse.
    PARTIAL(Sin, cos(x))
    PARTIAL(Cos, -sin(x))
    PARTIAL(Tan, 1 + square(y))
    PARTIAL(Asin, rsqrt(1 - square(x)))
    PARTIAL(Acos, -rsqrt(1 - square(x)))
    UNARY(Atan, over(dy, conj(1 + square(x))))
    PARTIAL(Sinh, cosh(x))
    PARTIAL(Cosh, sinh(x))
    FUSED(Tanh, op("TanhGrad", conj(y), dy), times(dy, conj(1 - square(y))))
    UNARY(Asinh, over(dy, conj(cosh(y))))
    UNARY(Acosh, over(dy, conj(sinh(y))))
    UNARY(Atanh, over(dy, conj(1 - square(x))))
    {"Atan2", Atan2Grad},

    // The first derivatives that are ops. SqrtGrad, RsqrtGrad and ReciprocalGrad conjugate their first input themselves.
    RULE(SigmoidGrad, V g = IN(dy); return {dy * conj(g * (1 - 2 * x)), op("SigmoidGrad", conj(x), dy)};)
    RULE(TanhGrad, V g = IN(dy); return {dy * conj(-2 * g * x), op("TanhGrad", conj(x), dy)};)
    RULE(SqrtGrad, V g = over(dy, x); return {times(-conj(g), y), 0.5 * g};)
    RULE(RsqrtGrad, V g = IN(dy); return {-1.5 * conj(dy) * g * square(conj(x)), op("RsqrtGrad", conj(x), dy)};)
    RULE(ReciprocalGrad, V g = IN(dy); return {-2 * conj(dy) * g * conj(x), op("ReciprocalGrad", conj(x), dy)};)
    RULE(InvGrad, V g = IN(dy); return {-2 * conj(dy) * g * conj(x), op("ReciprocalGrad", conj(x), dy)};)

    // Special functions.
    UNARY(Erf, times(2 / kRootPi * dy, exp(-square(x))))
    UNARY(Erfc, times(-2 / kRootPi * dy, exp(-square(x))))
    UNARY(Erfinv, times(kRootPi / 2 * dy, exp(square(y))))
    UNARY(Ndtri, times(kRootTwo * kRootPi * dy, exp(0.5 * square(y))))
    PARTIAL(Lgamma, digamma(x))
    PARTIAL(Digamma, Polygamma(1, x))
    BINARY(Polygamma, missing("the order of a derivative is a whole number"), times(dy, Polygamma(a + 1, b)))
    BINARY(Zeta, times(dy, ZetaByExponent(a, b)), times(dy, -a * op("Zeta", a + 1, b)))
    BINARY(Igamma, times(dy, op("IgammaGradA", a, b)), times(dy, GammaDensity(a, b)))
    BINARY(Igammac, times(-dy, op("IgammaGradA", a, b)), times(-dy, GammaDensity(a, b)))
    {"IgammaGradA", IgammaGradAGrad},
    {"RandomGammaGrad", RandomGammaGradGrad},
    {"Betainc", BetaincGrad},
    PARTIAL(Dawsn, 1 - 2 * x * y)
    PARTIAL(Expint, exp(x) / x)
    PARTIAL(FresnelCos, cos(kPi / 2 * square(x)))
    PARTIAL(FresnelSin, sin(kPi / 2 * square(x)))
    PARTIAL(Spence, SpencePartial(x))

    // Bessel functions. The scaled ones are the plain ones times e^-|x| (I) or e^x (K).
    PARTIAL(BesselI0, op("BesselI1", x))
    PARTIAL(BesselI1, op("BesselI0", x) - BesselQuotient(y, x, cosh))
    PARTIAL(BesselI0e, op("BesselI1e", x) - sign(x) * y)
    PARTIAL(BesselI1e, op("BesselI0e", x) - sign(x) * y - BesselQuotient(y, x, cosh, exp(-abs(x))))
    PARTIAL(BesselJ0, -op("BesselJ1", x))
    PARTIAL(BesselJ1, op("BesselJ0", x) - BesselQuotient(y, x, cos))
    PARTIAL(BesselK0, -op("BesselK1", x))
    PARTIAL(BesselK1, -op("BesselK0", x) - y / x)
    PARTIAL(BesselK0e, y - op("BesselK1e", x))
    PARTIAL(BesselK1e, y * (1 - reciprocal(x)) - op("BesselK0e", x))   // -inf at 0, not the difference of two infinities
    PARTIAL(BesselY0, -op("BesselY1", x))
    PARTIAL(BesselY1, op("BesselY0", x) - y / x)

    // Absolute values, complex numbers, dtypes.
    PARTIAL(Abs, sign(x))
    {"Sign", SignGrad},
    UNARY(ComplexAbs, times(cast_like(OverNoNan(o, dy, y), x), x))
    UNARY(Angle, div_no_nan(complex(0, dy), conj(x)))   // zero at zero, where no angle is
    UNARY(Real, cast_like(dy, x))
    UNARY(Imag, complex(0, dy))
    UNARY(Conj, conj(dy))
    BINARY(Complex, real(dy), imag(dy))
    RULE(Cast, return GRADS(cast_like(dy, x));)

    // Arithmetic.
    BINARY(Add, dy, dy)
    BINARY(AddV2, dy, dy)
    BINARY(Sub, dy, -dy)
    BINARY(Mul, times(dy, conj(b)), times(dy, conj(a)))
    {"MulNoNan", MulNoNanGrad},
    RULE(Div, return DivGrad(o, over(dy, conj(IN(y))));)
    RULE(RealDiv, return DivGrad(o, over(dy, conj(IN(y))));)
    RULE(DivNoNan, return DivGrad(o, OverNoNan(o, dy, conj(IN(y))));)
    BINARY(FloorMod, dy, times(-dy, op("FloorDiv", a, b)))
    BINARY(Mod, dy, times(-dy, op("TruncateDiv", a, b)))
    BINARY(TruncateMod, dy, times(-dy, op("TruncateDiv", a, b)))
    {"Pow", PowGrad},
    BINARY(Xlogy, times(dy, conj(op("Xlogy", Factor(a, HasLogarithm(b)), b))), times(dy, conj(op("Xdivy", a, b))))
    BINARY(Xlog1py, times(dy, conj(op("Xlog1py", Factor(a, HasLogarithm(1 + b)), b))),
           times(dy, conj(op("Xdivy", a, 1 + b))))
    BINARY(Xdivy, times(dy, conj(op("Xdivy", Factor(a, not_equal(b, 0)), b))), times(-dy, conj(op("Xdivy", y, b))))
    {"SquaredDifference", SquaredDifferenceGrad},
    RULE(AddN, return Grads(o.num_in(), o.raw_dy());)
    RULE(AccumulateNV2, return Grads(o.num_in(), o.raw_dy());)
    RULE(Cross, return GRADS(op("Cross", IN(b), dy), op("Cross", dy, x));)
    BINARY(NextAfter, dy, none)   // b only says which way

    // Choices.
    RULE(Maximum, return ChosenGrad(o, x >= IN(y));)
    RULE(Minimum, return ChosenGrad(o, x <= IN(y));)
    RULE(ClipByValue, const V low = IN(clip_value_min), high = IN(clip_value_max);
         return BROADCAST(select(equal(x, y), dy, 0), select(x < low, dy, 0), select(x > high, dy, 0));)
    // Select's condition may be a vector that chooses rows: SelectV2 would broadcast it otherwise.
    RULE(Select, V zero = zeros_like(dy); return {none, op("Select", x, dy, zero), op("Select", x, zero, dy)};)
    RULE(SelectV2, return BROADCAST(none, select(x, dy, 0), select(x, 0, dy));)

    // Reductions.
    UNARY(Sum, broadcast_like(Kept(o, dy), x))
    UNARY(Mean, broadcast_like(Kept(o, cast_like(single(dy) * Share(o), dy)), x))
    {"Max", ExtremumGrad},
    {"Min", ExtremumGrad},
    {"Prod", ProdGrad},
    // sqrt(sum |x|^2): the subgradient zero at x = 0.
    UNARY(EuclideanNorm, times(Kept(o, RealOf(dy)), div_no_nan(x, Kept(o, y))))

    // Scans.
    UNARY(Cumsum, SumBack(o, dy))
    {"Cumprod", CumprodGrad},
    {"CumulativeLogsumexp", CumulativeLogsumexpGrad},

    // Sequences.
    // start + k delta: where it ends only says how many there are.
    RULE(Range, return {sum(dy, 0), none, sum(dy * cast_like(range(0, size(dy)), dy), 0)};)
    RULE(LinSpace, const V total = sum(dy, 0), dstop = sum(dy * op("LinSpace", constant(0, dy.dtype()), 1, IN(num)), 0);
         return {total - dstop, dstop};)

    // Products.
    {"MatMul", MatMulGrad},
    {"SparseMatMul", SparseMatMulGrad},
    {"BatchMatMul", BatchMatMulGrad},
    {"BatchMatMulV2", BroadcastingBatchMatMulGrad},
    {"BatchMatMulV3", BroadcastingBatchMatMulGrad},
    {"XlaEinsum", XlaEinsumGrad},
    RULE(XlaVariadicReduce, return o.unsupported("it reduces by a function of its own: use reductions of TensorFlow");)

    // Segments.
    UNARY(SegmentSum, Spread(o, dy))
    {"SegmentMean", SegmentMeanGrad},
    {"SegmentMax", SegmentExtremumGrad},
    {"SegmentMin", SegmentExtremumGrad},
    {"SegmentProd", SegmentProdGrad},
    UNARY(UnsortedSegmentSum, Spread(o, dy))
    {"UnsortedSegmentMax", SegmentExtremumGrad},
    {"UnsortedSegmentMin", SegmentExtremumGrad},
    {"UnsortedSegmentProd", SegmentProdGrad},
};
// clang-format on

}  // namespace

SYMGRAD_REGISTER(kRules)

}  // namespace symgrad
