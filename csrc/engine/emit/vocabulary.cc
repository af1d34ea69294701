// The words of words.h: each is one op, less what is decided when building.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <set>

#include "csrc/engine/emit/builder.h"
#include "csrc/rules/compiled.h"
#include "csrc/rules/words.h"
#include "tensorflow/core/framework/types.h"

namespace symgrad {
namespace {

Body* body() { return Builder::Current()->body(); }

bool IsNumber(const V& v, double number) { return v.kind() == V::Kind::kNumber && v.number() == number; }
bool IsLiteral(const V& v) { return v.kind() == V::Kind::kNumber || v.kind() == V::Kind::kInts; }
bool IsZero(const V& v) { return v.kind() == V::Kind::kNone; }

V Number(const V& a, const V& b, double value) {
  return a.integral() && b.integral() ? V(static_cast<int64_t>(value)) : V(value);
}
bool BothNumbers(const V& a, const V& b) { return a.kind() == V::Kind::kNumber && b.kind() == V::Kind::kNumber; }

bool IsInteger(DType t) { return tf::DataTypeIsInteger(ToTf(t)); }
V TypedOf(const V& a, const V& b) { return a.is_tensor() ? a : b; }

// An op that is linear in its first input, and so takes zero to zero.
template <typename... Args>
V Linear(const char* type, const V& x, const Args&... args) {
  return x ? op(type, x, args...) : none;
}

}  // namespace

bool IsComplex(DType t) { return t == DType::kComplex64 || t == DType::kComplex128; }
DType RealPart(DType t) {
  return t == DType::kComplex64 ? DType::kFloat : t == DType::kComplex128 ? DType::kDouble : t;
}
DType ComplexOf(DType t) {
  return t == DType::kFloat ? DType::kComplex64 : t == DType::kDouble ? DType::kComplex128 : t;
}

DType V::dtype() const {
  if (kind_ == Kind::kRows) return Builder::Current()->rows(*this).values.dtype();
  return kind_ == Kind::kTensor ? DType(tf::BaseType(body()->output({node_, port_}).dtype)) : DType::kInvalid;
}
int V::rank() const { return kind_ == Kind::kTensor ? body()->rank({node_, port_}) : -1; }
int64_t V::dim(int axis) const { return kind_ == Kind::kTensor ? body()->dim({node_, port_}, axis) : -1; }

bool Compiled() { return body()->compiled; }

int64_t CountDerivative(const Op& o) {
  if (body()->function.empty()) return -1;
  Node& forward = body()->node(o.node());
  tf::NodeDef* def = body()->NewDef();
  *def = *forward.def;
  tf::AttrValue& count = (*def->mutable_attr())["_symgrad_derivatives"];
  count.set_i(count.i() + 1);
  forward.def = def;
  return count.i() - 1;
}

namespace internal {
V Emit(const char* type, const Arg* args, size_t num_args) {
  return Builder::Current()->Emit(type, absl::MakeSpan(args, num_args));
}
V EmitLike(const Op& forward, const char* type, const Arg* args, size_t num_args) {
  return Builder::Current()->Emit(type, absl::MakeSpan(args, num_args), &body()->node(forward.node()));
}
}  // namespace internal

// -- Elementwise.

V operator+(const V& a, const V& b) {
  if (IsZero(a) || IsNumber(a, 0)) return b;
  if (IsZero(b) || IsNumber(b, 0)) return a;
  return BothNumbers(a, b) ? Number(a, b, a.number() + b.number()) : op("AddV2", a, b);
}
V operator-(const V& a, const V& b) {
  if (IsZero(a)) return -b;
  if (IsZero(b) || IsNumber(b, 0)) return a;
  return BothNumbers(a, b) ? Number(a, b, a.number() - b.number()) : op("Sub", a, b);
}
V operator*(const V& a, const V& b) {
  if (IsZero(a) || IsZero(b)) return none;
  if (BothNumbers(a, b)) return Number(a, b, a.number() * b.number());
  if (IsNumber(a, 1)) return b;
  if (IsNumber(b, 1)) return a;
  return op("Mul", a, b);
}
V operator/(const V& a, const V& b) {
  if (IsZero(a)) return none;
  const bool integers = BothNumbers(a, b) ? a.integral() && b.integral() : IsInteger(TypedOf(a, b).dtype());
  if (BothNumbers(a, b) && b.number() != 0) {
    const double quotient = a.number() / b.number();
    return integers ? V(static_cast<int64_t>(std::floor(quotient))) : V(quotient);
  }
  if (IsNumber(b, 1)) return a;
  return op(integers ? "FloorDiv" : "RealDiv", a, b);
}
V operator%(const V& a, const V& b) { return op("FloorMod", a, b); }
V operator-(const V& a) {
  if (a.kind() == V::Kind::kNumber) return Number(a, a, -a.number());
  return Linear("Neg", a);
}
V operator<(const V& a, const V& b) { return op("Less", a, b); }
V operator>(const V& a, const V& b) { return op("Greater", a, b); }
V operator<=(const V& a, const V& b) { return op("LessEqual", a, b); }
V operator>=(const V& a, const V& b) { return op("GreaterEqual", a, b); }
V logical_and(const V& a, const V& b) { return op("LogicalAnd", a, b); }
V logical_or(const V& a, const V& b) { return op("LogicalOr", a, b); }
V logical_not(const V& a) { return op("LogicalNot", a); }
V equal(const V& a, const V& b) { return op("Equal", a, b); }
V not_equal(const V& a, const V& b) { return op("NotEqual", a, b); }
V maximum(const V& a, const V& b) { return op("Maximum", a, b); }
V minimum(const V& a, const V& b) { return op("Minimum", a, b); }
V div_no_nan(const V& a, const V& b) { return Linear("DivNoNan", a, b); }
V mul_no_nan(const V& a, const V& b) {
  if (!a || !b) return none;
  const DType dtype = TypedOf(a, b).dtype();
  if (dtype != DType::kBFloat16) return op("MulNoNan", a, b);
  return cast(op("MulNoNan", cast(a, DType::kFloat), cast(b, DType::kFloat)), dtype);  // a GPU has no other kernel
}
V times(const V& dy, const V& partial) {
  return Builder::Current()->query().diverges ? mul_no_nan(partial, dy) : dy * partial;
}
V over(const V& dy, const V& divisor) {
  return Builder::Current()->query().diverges ? Linear("Xdivy", dy, divisor) : dy / divisor;
}
V pow(const V& a, const V& b) { return op("Pow", a, b); }
V select(const V& condition, const V& a, const V& b) { return op("SelectV2", condition, a, b); }
V conj(const V& x) { return IsComplex(x.dtype()) ? op("Conj", x) : x; }
V real(const V& x) { return IsComplex(x.dtype()) ? op("Real", x, Attr{"Tout", RealPart(x.dtype())}) : x; }
V imag(const V& x) { return IsComplex(x.dtype()) ? op("Imag", x, Attr{"Tout", RealPart(x.dtype())}) : zeros_like(x); }
V complex(const V& re, const V& im) { return op("Complex", re, im, Attr{"Tout", ComplexOf(TypedOf(re, im).dtype())}); }
V abs(const V& x) {
  return IsComplex(x.dtype()) ? op("ComplexAbs", x, Attr{"Tout", RealPart(x.dtype())}) : op("Abs", x);
}
V sign(const V& x) { return op("Sign", x); }
V square(const V& x) { return op("Square", x); }
V sqrt(const V& x) { return op("Sqrt", x); }
V rsqrt(const V& x) { return op("Rsqrt", x); }
V reciprocal(const V& x) { return op("Reciprocal", x); }
V exp(const V& x) { return op("Exp", x); }
V log(const V& x) { return op("Log", x); }
V log1p(const V& x) { return op("Log1p", x); }
V sin(const V& x) { return op("Sin", x); }
V cos(const V& x) { return op("Cos", x); }
V sinh(const V& x) { return op("Sinh", x); }
V cosh(const V& x) { return op("Cosh", x); }
V tanh(const V& x) { return op("Tanh", x); }
V sigmoid(const V& x) { return op("Sigmoid", x); }
V digamma(const V& x) { return op("Digamma", x); }
V lgamma(const V& x) { return op("Lgamma", x); }

// -- Shapes: see shapes.cc.

V expand_dims(const V& x, const V& axis) { return Linear("ExpandDims", x, axis); }
V squeeze(const V& x, std::vector<int64_t> axes) { return Linear("Squeeze", x, Attr{"squeeze_dims", std::move(axes)}); }
V transpose(const V& x, const V& permutation) {
  if (const auto p = known(permutation); p && std::is_sorted(p->begin(), p->end())) return x;
  return Linear("Transpose", x, permutation);
}
V swap_last_two(const V& x) {
  const V r = rank(x);
  return transpose(x, concat({range(0, r - 2), pack({r - 1, r - 2})}, 0));
}
V adjoint(const V& x) { return conj(swap_last_two(x)); }
V concat(Values values, const V& axis) {
  if (std::all_of(values.begin(), values.end(), [](const V& v) { return v.kind() == V::Kind::kInts; })) {
    std::vector<int64_t> all;
    for (const V& v : values) all.insert(all.end(), v.ints().begin(), v.ints().end());
    return ints(all);
  }
  return values.size() == 1 ? values[0] : op("ConcatV2", list(std::move(values)), axis);
}
V pack(Values values, int axis) {
  const auto number = [](const V& v) { return v.kind() == V::Kind::kNumber && v.integral(); };
  if (std::all_of(values.begin(), values.end(), number)) {
    std::vector<int64_t> all;
    for (const V& v : values) all.push_back(static_cast<int64_t>(v.number()));
    return ints(all);
  }
  return op("Pack", list(std::move(values)), Attr{"axis", axis});
}
Values split(const V& x, int parts, const V& axis) {
  return outputs(op("Split", axis, x, Attr{"num_split", parts}), parts);
}
Values split(const V& x, const V& sizes, int parts, const V& axis) {
  return outputs(op("SplitV", x, sizes, axis, Attr{"num_split", parts}), parts);
}
Values unpack(const V& x, int parts, int axis) {
  return outputs(op("Unpack", x, Attr{"num", parts}, Attr{"axis", axis}), parts);
}
V slice(const V& x, const V& begin, const V& size) { return Linear("Slice", x, begin, size); }
V pad(const V& x, const V& paddings) { return Linear("Pad", x, paddings); }
V gather_nd(const V& params, const V& indices) { return Linear("GatherNd", params, indices); }
V scatter_nd(const V& indices, const V& updates, const V& shape) {
  return updates ? op("ScatterNd", indices, updates, shape) : none;
}
V one_hot(const V& indices, const V& depth, DType dtype, int axis) {
  return op("OneHot", indices, depth, constant(1, dtype), constant(0, dtype), Attr{"axis", axis});
}
V gather(const V& params, const V& indices, const V& axis) { return Linear("GatherV2", params, indices, axis); }
V where(const V& condition) { return op("Where", condition); }
V invert_permutation(const V& permutation) { return op("InvertPermutation", permutation); }
V keep(const V& condition, const V& x) { return x ? select(align(condition, rank(x)), x, 0) : x; }

// -- Values.

V cast(const V& x, DType dtype) {
  if (IsLiteral(x)) return constant(x, dtype);
  return !x || x.dtype() == dtype ? x : op("Cast", x, Attr{"DstT", dtype});
}
V cast_like(const V& x, const V& like) { return cast(x, like.dtype()); }
V single(const V& x) {
  const bool narrow = x.dtype() == DType::kHalf || x.dtype() == DType::kBFloat16;
  return narrow ? cast(x, DType::kFloat) : x;
}
V zeros_like(const V& x) {
  // A static shape needs no value, so what computes x need not run for it.
  const bool is_arg = x.is_tensor() && body()->node(x.node()).is_arg();
  const tf::DataType dtype = ToTf(x.dtype());
  const bool real = tf::DataTypeIsFloating(dtype), number = real || tf::DataTypeIsComplex(dtype);
  if (real && tf::DataTypeSize(dtype) == 1) return cast(zeros_like(cast(x, DType::kFloat)), x.dtype());  // no kernel
  if (!is_arg && number && body()->FullyDefined(ToPort(x))) return zeros(shape(x), x.dtype());
  return op("ZerosLike", x);
}
V ones_like(const V& x) { return op("OnesLike", x); }
V zeros(const V& shape, DType dtype) { return fill(shape, constant(0, dtype)); }
V fill(const V& shape, const V& value) { return op("Fill", shape, value); }
V constant(const V& literal, DType dtype) { return Builder::Current()->Constant(literal, ToTf(dtype)); }

// -- Reductions and products.

V sum(const V& x, const V& axes, bool keep_dims) {
  if (const auto a = known(axes); a && a->empty()) return x;
  return Linear("Sum", x, axes, Attr{"keep_dims", keep_dims});
}
V mean(const V& x, const V& axes, bool keep_dims) { return Linear("Mean", x, axes, Attr{"keep_dims", keep_dims}); }
V total(const V& x) { return sum(x, range(0, rank(x))); }
V segment_sum(const V& x, const V& ids, const V& count) { return Linear("UnsortedSegmentSum", x, ids, count); }
V einsum(const char* equation, const V& a, const V& b) {
  return IsZero(a) || IsZero(b) ? none : op("Einsum", list({a, b}), Attr{"equation", equation});
}
V matmul(const V& a, const V& b, bool adjoint_a, bool adjoint_b) {
  if (!a || !b) return none;
  if (a.rank() == 2 && b.rank() == 2 && !(IsComplex(a.dtype()) && (adjoint_a || adjoint_b)))
    return op("MatMul", a, b, Attr{"transpose_a", adjoint_a}, Attr{"transpose_b", adjoint_b});
  return op("BatchMatMulV2", a, b, Attr{"adj_x", adjoint_a}, Attr{"adj_y", adjoint_b});
}
V band_part(const V& x, int64_t lower, int64_t upper) {
  // int32, which a GPU has in host memory, where the kernel wants the numbers.
  return Linear("MatrixBandPart", x, constant(lower, DType::kInt32), constant(upper, DType::kInt32));
}
V diag_part(const V& x) { return Linear("MatrixDiagPart", x); }
V diag(const V& x) { return Linear("MatrixDiag", x); }
V eye(const V& n, DType dtype) { return diag(fill(pack({n}), constant(1, dtype))); }

namespace {

// Sums g to the shape of x; `dynamic_axes` gives the axes where only run time knows them.
template <typename DynamicAxes>
V SumTo(const V& g, const V& x, const DynamicAxes& dynamic_axes) {
  if (!g || g.kind() == V::Kind::kMissing || same_shape(g, x)) return g;
  const int rank_g = g.rank(), rank_x = x.rank(), added = rank_g - rank_x;
  std::vector<int64_t> axes;
  bool decided = rank_g >= 0 && rank_x >= 0 && added >= 0, only_added = true;
  for (int i = 0; decided && i < rank_g; ++i) {
    const Dim dg = InferenceContext::DimKnownRank(body()->output(ToPort(g)).shape, i);
    const int64_t size_g = g.dim(i), size_x = i < added ? 1 : x.dim(i - added);
    if (i < added) {
      axes.push_back(i);
    } else if (size_x == 1) {
      if (size_g == 1) continue;
      axes.push_back(i);
      only_added = false;
    } else if (size_x < 0 && size_g != 1) {
      decided = dg.SameHandle(InferenceContext::DimKnownRank(body()->output(ToPort(x)).shape, i - added));
    }
  }
  if (!decided) return reshape(sum(g, dynamic_axes()), shape(x));
  if (added == 0) return sum(g, ints(axes), true);
  const V reduced = sum(g, ints(axes));
  return only_added ? reduced : reshape(reduced, shape(x));
}

}  // namespace

V sum_to(const V& g, const V& x) {
  return SumTo(g, x, [&] { return op("BroadcastGradientArgs", shape(x), shape(g)); });
}
V sum_to_input(const Op& o, int i, const V& g) {
  const V a = o.in(0), b = o.in(1);
  if ((i == 0 ? b : a).rank() == 0) return g;  // a scalar adds no dimension to the other
  return SumTo(g, i == 0 ? a : b, [&] { return op("BroadcastGradientArgs", shape(a), shape(b)).out(i); });
}

V rows(const V& indices, const V& values, const V& dense_shape) {
  return Builder::Current()->Rows({indices, values, dense_shape});
}

std::optional<std::vector<int64_t>> known(const V& x) {
  if (x.kind() == V::Kind::kInts) return x.ints();
  if (x.kind() == V::Kind::kNumber && x.integral()) return std::vector<int64_t>{static_cast<int64_t>(x.number())};
  if (!x.is_tensor()) return std::nullopt;
  const IntsPtr ints = body()->output(ToPort(x)).ints;
  if (ints == nullptr || !ints->known()) return std::nullopt;
  std::vector<int64_t> values;
  for (const Ints::Element& e : ints->elements) values.push_back(e.value);
  return values;
}

bool distinct(const V& indices) {
  const auto elements = known(indices);
  if (!elements) return false;
  const int64_t width = indices.rank() > 1 ? indices.dim(-1) : 1;
  if (width < 1 || static_cast<int64_t>(elements->size()) % width != 0) return elements->empty();
  std::set<std::vector<int64_t>> rows;
  for (auto row = elements->begin(); row != elements->end(); row += width)
    if (!rows.emplace(row, row + width).second) return false;
  return true;
}

bool same_shape(const V& a, const V& b) {
  return a.is_tensor() && b.is_tensor() && body()->SameShape(ToPort(a), ToPort(b));
}

Values outputs(const V& node, int count) {
  Values values;
  for (int i = 0; i < count; ++i) values.push_back(node.out(i));
  return values;
}

}  // namespace symgrad
