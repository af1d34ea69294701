#include "csrc/rules/traits/finite.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <unordered_set>

#include "csrc/rules/traits/trait.h"
#include "csrc/rules/words.h"

namespace symgrad {
namespace {

// How far back the operands of an operand are looked at.
constexpr int kDepth = 12;

using Names = std::unordered_set<std::string>;

bool In(const Names& names, const V& x) { return x.is_tensor() && names.count(Op(x.node()).op_type()) > 0; }

// Elements of their first input, or of all inputs, as they are.
const Names& Movers() {
  static const auto* const names =
      new Names{"BroadcastTo", "Cast",         "EnsureShape",  "ExpandDims", "Gather",    "GatherNd",
                "GatherV2",    "Identity",     "Reshape",      "Slice",      "Snapshot",  "Squeeze",
                "Split",       "StopGradient", "StridedSlice", "Tile",       "Transpose", "Unpack"};
  return *names;
}
const Names& Sums() {
  static const auto* const names = new Names{"Add", "AddN", "AddV2", "Mean", "Sum"};
  return *names;
}
bool IsReduction(const std::string& op) { return op == "Mean" || op == "Sum"; }

V Operand(const Op& o, int i = 0) { return o.in(o.op_type() == "Split" ? 1 : i); }

template <typename Predicate>
bool All(const Op& o, const Predicate& holds) {
  const int n = IsReduction(o.op_type()) ? 1 : o.num_in();
  for (int i = 0; i < n; ++i)
    if (!holds(o.in(i))) return false;
  return n > 0;
}

// x * x, or x * conj(x).
bool IsSquare(const Op& o) {
  const V a = o.in(0), b = o.in(1);
  const auto same = [](const V& p, const V& q) { return p.node() == q.node() && p.port() == q.port(); };
  const auto conjugate = [&](const V& p, const V& q) {
    return p.is_tensor() && Op(p.node()).op_type() == "Conj" && same(Op(p.node()).in(0), q);
  };
  return same(a, b) || conjugate(a, b) || conjugate(b, a);
}

bool IsNonNegative(const V& x, int depth);

bool IsPositive(const V& x, int depth) {
  if (!x.is_tensor() || depth == 0) return false;
  const Op o(x.node());
  const std::string& type = o.op_type();
  const auto positive = [&](int i) { return IsPositive(Operand(o, i), depth - 1); };
  const auto non_negative = [&](int i) { return IsNonNegative(o.in(i), depth - 1); };
  if (const auto bounds = o.bounds()) return bounds->first > 0;
  if (type == "AddV2" || type == "Add") return (positive(0) && non_negative(1)) || (non_negative(0) && positive(1));
  if (type == "Maximum") return positive(0) || positive(1);
  if (type == "Minimum") return positive(0) && positive(1);
  if (type == "Sqrt" || Movers().count(type)) return positive(0);
  return false;
}

bool IsNonNegative(const V& x, int depth) {
  static const auto* const always =
      new Names{"Abs", "ComplexAbs", "EuclideanNorm", "Exp", "Relu", "Relu6", "Sigmoid", "Softmax", "Softplus", "Sqrt"};
  if (!x.is_tensor() || depth == 0) return false;
  if (In(*always, x)) return true;
  const Op o(x.node());
  const std::string& type = o.op_type();
  const auto non_negative = [&](const V& v) { return IsNonNegative(v, depth - 1); };
  if (const auto bounds = o.bounds()) return bounds->first >= 0;
  if (type == "Square" || type == "SquaredDifference") return !IsComplex(x.dtype());
  if (type == "Pow") {
    const auto exponent = Op(o.in(1).node()).bounds();
    return exponent && exponent->first == exponent->second && std::fmod(exponent->first, 2) == 0;
  }
  if (type == "Mul") return (IsSquare(o) && !IsComplex(x.dtype())) || All(o, non_negative);
  if (type == "Real") return Flat(o.in(0));  // of x conj(x)
  if (type == "Maximum") return non_negative(o.in(0)) || non_negative(o.in(1));
  if (type == "Max" || Movers().count(type)) return non_negative(Operand(o));
  if (Sums().count(type) || type == "Minimum" || type == "RealDiv") return All(o, non_negative);
  return false;
}

bool IsFlat(const V& x, int depth) {
  static const auto* const always =
      new Names{"Abs", "Exp", "Relu", "Relu6", "Sigmoid", "Softmax", "Square", "SquaredDifference"};
  if (!x.is_tensor() || depth == 0) return false;
  if (In(*always, x)) return true;
  const Op o(x.node());
  const std::string& type = o.op_type();
  const auto flat = [&](const V& v) { return IsFlat(v, depth - 1); };
  if (type == "Mul") {
    const auto scaled = [&](int i) { return flat(o.in(i)) && Op(o.in(1 - i).node()).bounds().has_value(); };
    return IsSquare(o) || All(o, flat) || scaled(0) || scaled(1);
  }
  if (type == "Pow") {
    const auto exponent = Op(o.in(1).node()).bounds();
    return exponent && exponent->first > 1;
  }
  if (type == "RealDiv") return flat(o.in(0)) && IsPositive(o.in(1), depth - 1);
  if (type == "Real" || Movers().count(type)) return flat(Operand(o));
  if (Sums().count(type)) return All(o, flat);
  return false;
}

// A power of whole exponent is a polynomial.
bool IsWhole(const V& exponent) {
  const auto bounds = exponent.is_tensor() ? Op(exponent.node()).bounds() : std::nullopt;
  return bounds && bounds->first == bounds->second && bounds->first >= 1 && std::floor(bounds->first) == bounds->first;
}

bool IsNotZero(const V& x) {
  const auto bounds = x.is_tensor() ? Op(x.node()).bounds() : std::nullopt;
  return bounds ? bounds->first > 0 || bounds->second < 0 : Positive(x);
}

bool NotPositive(const Op& o) { return !Positive(o.in(0)); }
bool MayDivideByZero(const Op& o) { return !IsNotZero(o.in(1)); }

constexpr Trait kTraits[] = {
    // Where they overflow, or end, or at poles beyond zero.
    diverges("Acos"),
    diverges("Acosh"),
    diverges("Asin"),
    diverges("Atanh"),
    diverges("BesselI0"),
    diverges("BesselI1"),
    diverges("Betainc"),
    diverges("Cosh"),
    diverges("Erfinv"),
    diverges("Exp"),
    diverges("Expm1"),
    diverges("Igamma"),
    diverges("Igammac"),
    diverges("InvGrad"),
    diverges("Ndtri"),
    diverges("ReciprocalGrad"),
    diverges("RsqrtGrad"),
    diverges("Sinh"),

    // Not where their operand is positive.
    diverges("BesselK0", NotPositive),
    diverges("BesselK0e", NotPositive),
    diverges("BesselK1", NotPositive),
    diverges("BesselK1e", NotPositive),
    diverges("BesselY0", NotPositive),
    diverges("BesselY1", NotPositive),
    diverges("Digamma", NotPositive),
    diverges("Expint", NotPositive),
    diverges("Inv", NotPositive),
    diverges("Lgamma", NotPositive),
    diverges("Log", NotPositive),
    diverges("Reciprocal", NotPositive),
    diverges("Rsqrt", NotPositive),
    diverges("Spence", NotPositive),
    diverges("Sqrt", NotPositive),
    diverges("SqrtGrad", NotPositive),

    // Not where their second operand is.
    diverges("Div", MayDivideByZero),
    diverges("FloorMod", MayDivideByZero),
    diverges("Mod", MayDivideByZero),
    diverges("Polygamma", MayDivideByZero),
    diverges("RealDiv", MayDivideByZero),
    diverges("TruncateMod", MayDivideByZero),
    diverges("Xdivy", MayDivideByZero),
    diverges("Xlogy", MayDivideByZero),
    diverges("Zeta", MayDivideByZero),

    diverges("Atan", [](const Op& o) { return IsComplex(o.in(0).dtype()); }),  // at i and -i
    diverges("Log1p", [](const Op& o) { return !NonNegative(o.in(0)); }),
    diverges("Pow", [](const Op& o) { return !IsWhole(o.in(1)) && !Positive(o.in(0)); }),
    diverges("Xlog1py", [](const Op& o) { return !NonNegative(o.in(1)); }),

    mixes("BatchMatMul"),
    mixes("BatchMatMulV2"),
    mixes("BatchMatMulV3"),
    mixes("Conv"),
    mixes("Conv2D"),
    mixes("Conv3D"),
    mixes("DepthwiseConv2dNative"),
    mixes("Einsum"),
    mixes("LogSoftmax"),
    mixes("MatMul"),
    mixes("Softmax"),
    mixes("XlaEinsum"),
};
SYMGRAD_REGISTER_TRAITS(kTraits)

}  // namespace

bool Positive(const V& x) { return IsPositive(x, kDepth); }
bool NonNegative(const V& x) { return IsNonNegative(x, kDepth); }
bool Flat(const V& x) { return IsFlat(x, kDepth); }

}  // namespace symgrad
