#include "csrc/rules/traits/finite.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "csrc/rules/traits/trait.h"
#include "csrc/rules/words.h"

namespace symgrad {
namespace {

// How far back the operands of an operand are looked at.
constexpr int kDepth = 12;

using Names = std::unordered_set<std::string_view>;

bool In(const Names& names, const V& x) { return x.is_tensor() && names.count(Op(x.node()).op_type()) > 0; }

// How values are made of others: of each op, the inputs that count.
struct Made {
  int first = 0, last = 0;  // last: -1 and below count from the last input
};
using Ways = std::unordered_map<std::string_view, Made>;
const Made* Find(const Ways& ways, std::string_view op) {
  const auto it = ways.find(op);
  return it == ways.end() ? nullptr : &it->second;
}

// Elements of these inputs, as they are; beside them there may be zeros.
const Ways& Movers() {
  static const auto* const ways = new Ways{{"BatchToSpaceND", {}},
                                           {"BroadcastTo", {}},
                                           {"Cast", {}},
                                           {"Concat", {1, -1}},
                                           {"ConcatV2", {0, -2}},
                                           {"DepthToSpace", {}},
                                           {"Diag", {}},
                                           {"DiagPart", {}},
                                           {"EnsureShape", {}},
                                           {"ExpandDims", {}},
                                           {"Gather", {}},
                                           {"GatherNd", {}},
                                           {"GatherV2", {}},
                                           {"Identity", {}},
                                           {"MatrixBandPart", {}},
                                           {"MatrixDiag", {}},
                                           {"MatrixDiagPart", {}},
                                           {"MatrixDiagPartV2", {}},
                                           {"MatrixDiagPartV3", {}},
                                           {"Max", {}},
                                           {"MaxPool", {}},
                                           {"Min", {}},
                                           {"Minimum", {0, 1}},
                                           {"MirrorPad", {}},
                                           {"Pack", {0, -1}},
                                           {"Pad", {}},
                                           {"PadV2", {0, -1}},
                                           {"Reshape", {}},
                                           {"Reverse", {}},
                                           {"ReverseV2", {}},
                                           {"Roll", {}},
                                           {"Select", {1, 2}},
                                           {"SelectV2", {1, 2}},
                                           {"Slice", {}},
                                           {"Snapshot", {}},
                                           {"SpaceToBatchND", {}},
                                           {"SpaceToDepth", {}},
                                           {"Split", {1, 1}},
                                           {"SplitV", {}},
                                           {"Squeeze", {}},
                                           {"StopGradient", {}},
                                           {"StridedSlice", {}},
                                           {"Tile", {}},
                                           {"Transpose", {}},
                                           {"Unpack", {}}};
  return *ways;
}

// Those that put zeros there.
const Names& AddsZeros() {
  static const auto* const names =
      new Names{"BatchToSpaceND", "Diag", "MatrixBandPart", "MatrixDiag", "Pad", "SpaceToBatchND"};
  return *names;
}

// Sums of such elements, and of products of them.
const Ways& Sums() {
  static const auto* const ways = new Ways{{"Add", {0, 1}},
                                           {"AddN", {0, -1}},
                                           {"AddV2", {0, 1}},
                                           {"AvgPool", {}},
                                           {"AvgPool3D", {}},
                                           {"BatchMatMul", {0, 1}},
                                           {"BatchMatMulV2", {0, 1}},
                                           {"BatchMatMulV3", {0, 1}},
                                           {"Conv2D", {0, 1}},
                                           {"Conv3D", {0, 1}},
                                           {"Cumsum", {}},
                                           {"DepthwiseConv2dNative", {0, 1}},
                                           {"Einsum", {0, -1}},
                                           {"MatMul", {0, 1}},
                                           {"Mean", {}},
                                           {"ScatterNd", {1, 1}},
                                           {"SegmentMean", {}},
                                           {"SegmentSum", {}},
                                           {"SparseSegmentMean", {}},
                                           {"SparseSegmentSum", {}},
                                           {"Sum", {}},
                                           {"UnsortedSegmentSum", {}}};
  return *ways;
}

// Products of elements.
const Ways& Products() {
  static const auto* const ways = new Ways{{"Cumprod", {}}, {"Mul", {0, 1}}, {"Prod", {}}};
  return *ways;
}

template <typename Predicate>
bool All(const Op& o, const Made& made, const Predicate& holds) {
  const int last = made.last < 0 ? o.num_in() + made.last : made.last;
  for (int i = made.first; i <= last; ++i)
    if (!holds(o.in(i))) return false;
  return last >= made.first;
}

bool Same(const V& a, const V& b) { return a.node() == b.node() && a.port() == b.port(); }

// x of 2 * x, or itself.
V Unscaled(const V& x) {
  if (!x.is_tensor() || Op(x.node()).op_type() != "Mul") return x;
  const Op o(x.node());
  for (const int i : {0, 1})
    if (const auto bounds = Op(o.in(i).node()).bounds(); bounds && bounds->first > 0) return o.in(1 - i);
  return x;
}

// x * x, or x * conj(x), positive multiples or sums of these.
bool IsSquare(const Op& o) {
  if (o.op_type() == "Einsum") {
    const std::string equation = o.text("equation");  // the same labels twice: "ij,ij->i"
    const size_t comma = equation.find(','), arrow = equation.find("->");
    return o.num_in() == 2 && Same(o.in(0), o.in(1)) && comma != std::string::npos && arrow != std::string::npos &&
           equation.substr(0, comma) == equation.substr(comma + 1, arrow - comma - 1);
  }
  if (o.op_type() != "Mul") return false;
  const auto conjugate = [&](const V& p, const V& q) {
    return p.is_tensor() && Op(p.node()).op_type() == "Conj" && Same(Op(p.node()).in(0), q);
  };
  const V a = Unscaled(o.in(0)), b = Unscaled(o.in(1));
  return Same(a, b) || conjugate(a, b) || conjugate(b, a);
}

bool IsNonNegative(const V& x, int depth);

bool IsPositive(const V& x, int depth) {
  if (!x.is_tensor() || depth == 0) return false;
  const Op o(x.node());
  const std::string_view type = o.op_type();
  const auto positive = [&](const V& v) { return IsPositive(v, depth - 1); };
  const auto non_negative = [&](const V& v) { return IsNonNegative(v, depth - 1); };
  if (const auto bounds = o.bounds()) return bounds->first > 0;
  if (type == "AddV2" || type == "Add")
    return (positive(o.in(0)) && non_negative(o.in(1))) || (non_negative(o.in(0)) && positive(o.in(1)));
  if (type == "Maximum") return positive(o.in(0)) || positive(o.in(1));
  if (type == "Sqrt") return positive(o.in(0));
  if (AddsZeros().count(type)) return false;
  const Made* moved = Find(Movers(), type);
  return moved != nullptr && All(o, *moved, positive);
}

bool IsNonNegative(const V& x, int depth) {
  static const auto* const always =
      new Names{"Abs", "ComplexAbs", "EuclideanNorm", "Exp", "Relu", "Relu6", "Sigmoid", "Softmax", "Softplus", "Sqrt"};
  if (!x.is_tensor() || depth == 0) return false;
  if (In(*always, x)) return true;
  const Op o(x.node());
  const std::string_view type = o.op_type();
  const auto non_negative = [&](const V& v) { return IsNonNegative(v, depth - 1); };
  if (const auto bounds = o.bounds()) return bounds->first >= 0;
  if (type == "Square" || type == "SquaredDifference" || IsSquare(o)) return !IsComplex(x.dtype());
  if (type == "Pow") {
    const auto exponent = Op(o.in(1).node()).bounds();
    return non_negative(o.in(0)) ||
           (exponent && exponent->first == exponent->second && std::fmod(exponent->first, 2) == 0);
  }
  if (type == "Real") return Flat(o.in(0));  // of x conj(x)
  if (type == "Maximum") return non_negative(o.in(0)) || non_negative(o.in(1));
  if (type == "RealDiv") return non_negative(o.in(0)) && non_negative(o.in(1));
  for (const Ways* ways : {&Movers(), &Sums(), &Products()})
    if (const Made* made = Find(*ways, type)) return All(o, *made, non_negative);
  return false;
}

bool IsFlat(const V& x, int depth) {
  static const auto* const always =
      new Names{"Abs", "Exp", "Relu", "Relu6", "Sigmoid", "Softmax", "Square", "SquaredDifference"};
  if (!x.is_tensor() || depth == 0) return false;
  if (In(*always, x)) return true;
  const Op o(x.node());
  const std::string_view type = o.op_type();
  const auto flat = [&](const V& v) { return IsFlat(v, depth - 1); };
  if (o.bounds() || IsSquare(o)) return true;  // a constant has no derivative at all
  if (type == "Pow") {
    const auto exponent = Op(o.in(1).node()).bounds();
    return exponent && exponent->first > 1;
  }
  if (type == "RealDiv") return flat(o.in(0)) && IsPositive(o.in(1), depth - 1);
  if (type == "Maximum") return flat(o.in(0)) && flat(o.in(1));
  if (type == "Neg" || type == "Real") return flat(o.in(0));
  if (const Made* moved = Find(Movers(), type)) return All(o, *moved, flat);
  // A product is zero where a factor is; a sum of what may be negative may be zero where no summand is.
  if (const Made* product = Find(Products(), type)) return All(o, *product, flat);
  const auto bottom = [&](const V& v) { return flat(v) && (IsComplex(v.dtype()) || IsNonNegative(v, depth - 1)); };
  const Made* sum = Find(Sums(), type);
  return sum != nullptr && All(o, *sum, bottom);
}

// A power of whole exponent is a polynomial.
bool IsWhole(const V& exponent) {
  const auto bounds = exponent.is_tensor() ? Op(exponent.node()).bounds() : std::nullopt;
  return bounds && bounds->first == bounds->second && bounds->first >= 1 && std::floor(bounds->first) == bounds->first;
}

bool NotPositive(const Op& o) { return !Positive(o.in(0)); }
bool MayDivideByZero(const Op& o) { return !NonZero(o.in(1)); }

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
bool NonZero(const V& x) {
  const auto bounds = x.is_tensor() ? Op(x.node()).bounds() : std::nullopt;
  return bounds ? bounds->first > 0 || bounds->second < 0 : Positive(x);
}
bool Flat(const V& x) { return IsFlat(x, kDepth); }

}  // namespace symgrad
