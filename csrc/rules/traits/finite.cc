#include "csrc/rules/traits/finite.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <unordered_map>
#include <unordered_set>

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

enum class Pole { kAnywhere, kNotPositive, kNotPositiveDivisor };

const std::unordered_map<std::string, Pole>& Poles() {
  static const auto* const poles = new std::unordered_map<std::string, Pole>{
      // Where they overflow, or end, or at poles beyond zero.
      {"Acos", Pole::kAnywhere},
      {"Acosh", Pole::kAnywhere},
      {"Asin", Pole::kAnywhere},
      {"Atanh", Pole::kAnywhere},
      {"BesselI0", Pole::kAnywhere},
      {"BesselI1", Pole::kAnywhere},
      {"Betainc", Pole::kAnywhere},
      {"Cosh", Pole::kAnywhere},
      {"Erfinv", Pole::kAnywhere},
      {"Exp", Pole::kAnywhere},
      {"Expm1", Pole::kAnywhere},
      {"Igamma", Pole::kAnywhere},
      {"Igammac", Pole::kAnywhere},
      {"InvGrad", Pole::kAnywhere},
      {"Ndtri", Pole::kAnywhere},
      {"ReciprocalGrad", Pole::kAnywhere},
      {"RsqrtGrad", Pole::kAnywhere},
      {"Sinh", Pole::kAnywhere},
      // Not where their operand is positive.
      {"BesselK0", Pole::kNotPositive},
      {"BesselK0e", Pole::kNotPositive},
      {"BesselK1", Pole::kNotPositive},
      {"BesselK1e", Pole::kNotPositive},
      {"BesselY0", Pole::kNotPositive},
      {"BesselY1", Pole::kNotPositive},
      {"Digamma", Pole::kNotPositive},
      {"Expint", Pole::kNotPositive},
      {"Inv", Pole::kNotPositive},
      {"Lgamma", Pole::kNotPositive},
      {"Log", Pole::kNotPositive},
      {"Reciprocal", Pole::kNotPositive},
      {"Rsqrt", Pole::kNotPositive},
      {"Spence", Pole::kNotPositive},
      {"Sqrt", Pole::kNotPositive},
      {"SqrtGrad", Pole::kNotPositive},
      // Not where their second operand is.
      {"Div", Pole::kNotPositiveDivisor},
      {"FloorMod", Pole::kNotPositiveDivisor},
      {"Mod", Pole::kNotPositiveDivisor},
      {"Polygamma", Pole::kNotPositiveDivisor},
      {"RealDiv", Pole::kNotPositiveDivisor},
      {"TruncateMod", Pole::kNotPositiveDivisor},
      {"Xdivy", Pole::kNotPositiveDivisor},
      {"Xlogy", Pole::kNotPositiveDivisor},
      {"Zeta", Pole::kNotPositiveDivisor},
  };
  return *poles;
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

}  // namespace

bool Positive(const V& x) { return IsPositive(x, kDepth); }
bool NonNegative(const V& x) { return IsNonNegative(x, kDepth); }
bool Flat(const V& x) { return IsFlat(x, kDepth); }

bool Diverges(const Op& o) {
  const std::string& type = o.op_type();
  if (type == "Pow") return !IsWhole(o.in(1)) && !Positive(o.in(0));
  if (type == "Log1p") return !NonNegative(o.in(0));
  if (type == "Xlog1py") return !NonNegative(o.in(1));
  if (type == "Atan") return IsComplex(o.in(0).dtype());  // at i and -i
  const auto pole = Poles().find(type);
  if (pole == Poles().end()) return false;
  if (pole->second == Pole::kAnywhere) return true;
  return pole->second == Pole::kNotPositive ? !Positive(o.in(0)) : !IsNotZero(o.in(1));
}

bool Mixes(const Op& o) {
  static const auto* const mixing =
      new Names{"BatchMatMul",           "BatchMatMulV2", "BatchMatMulV3", "Conv",   "Conv2D",  "Conv3D",
                "DepthwiseConv2dNative", "Einsum",        "LogSoftmax",    "MatMul", "Softmax", "XlaEinsum"};
  return mixing->count(o.op_type()) > 0;
}

}  // namespace symgrad
