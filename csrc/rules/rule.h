// How to write a rule
// ===================
//
// A rule says how a cotangent passes backwards through one op: it is given the op's inputs, its outputs and the
// cotangents `dy` of the outputs, and returns a cotangent for each input. Add a row to the table of the op's family
// (csrc/rules/<family>.cc) and a line to the family's cases (tests/cases/<family>.py); nothing else is needed.
//
//   constexpr Rule kRules[] = {
//       // One input, one output. In scope: o, x, y, dy.
//       UNARY(Tanh, op("TanhGrad", y, dy))
//
//       // The same when the rule is dx = dy * conj(df/dx): state the partial derivative alone. An op that may be, or
//       // have a derivative that is, infinite or NaN is also named in csrc/rules/traits/finite.cc.
//       PARTIAL(Sin, cos(x))
//
//       // Two inputs that broadcast, one output. In scope: o, a, b, y, dy. What broadcasting added is summed away
//       for you, and a formula whose gradient nobody wants is not evaluated.
//       BINARY(Mul, dy * conj(b), dy * conj(a))
//
//       // Anything else: a body that returns one value an input. In scope: o, x (= input 0), y (= output 0), dy.
//       RULE(Conv2D, V w = o.in(1);
//            return {o.like("Conv2DBackpropInput", shape(x), w, dy),
//                    o.like("Conv2DBackpropFilter", x, shape(w), dy)};)
//
//       // A longer rule is a function `Grads MatMulGrad(const Op& o)` above the table.
//       {"MatMul", MatMulGrad},
//
//       // No gradient flows through these, mathematically or by definition.
//       NO_GRAD(Floor) NO_GRAD(Less)
//   };
//   SYMGRAD_REGISTER(kRules)
//
// What to know:
//   * Values of type V are tensors of the graph being built, literals (`2`, `0.5`, `ints({0, 1})`), or `none`, the
//     symbolic zero, which linear words alone take. A literal takes the dtype of its sibling: `1 - y * y` is right in
//     every dtype.
//   * op("Type", inputs..., Attr{"name", value}...) emits any TensorFlow op. Dtypes and list lengths are inferred
//     from the inputs, other attrs take their defaults. o.like("Type", ...) also copies from the forward node each
//     attr that "Type" has as well: padding, strides, data_format and dilations can't be forgotten. A list input is
//     `list({a, b})`.
//   * Write rules for shapes that are not known. The builder folds integer arithmetic on what it does know:
//     `shape(x)` of a static shape is a constant, `range(0, rank(x))` too, a reshape to the shape that a value
//     already has is no node at all, equal constants are one node. Use known() and dim() only where the formula
//     itself differs.
//   * Emit only ops that have a rule themselves: that is what makes the second derivative work.
//   * There is no error handling in a rule: the builder keeps the first error and the engine says which node it was.
//     Where the mathematics ends, `return o.unsupported("why, and what to do");`.
//   * Inputs of integer, bool or string dtype at the end of the list may be left out. Every other input gets a value;
//     `none` if there is no dependence, with a comment that says why; `missing("why")` if there is one that nothing
//     computes, or that is no function: an error for those who ask for this gradient, and for nobody else.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace symgrad {

// TensorFlow's dtypes, by the numbers of types.proto.
// clang-format off
enum class DType : int {
  kInvalid = 0, kFloat = 1, kDouble = 2, kInt32 = 3, kUInt8 = 4, kInt16 = 5, kInt8 = 6, kString = 7, kComplex64 = 8,
  kInt64 = 9, kBool = 10, kBFloat16 = 14, kUInt16 = 17, kComplex128 = 18, kHalf = 19, kResource = 20, kVariant = 21,
  kUInt32 = 22, kUInt64 = 23,
};
// clang-format on
bool IsComplex(DType dtype);
DType RealPart(DType dtype);   // kComplex64 -> kFloat, kComplex128 -> kDouble, a real dtype itself
DType ComplexOf(DType dtype);  // kFloat -> kComplex64, kDouble -> kComplex128, a complex dtype itself

// A value in a rule: an output of a node of the graph being built, a literal, sparse rows, or `none`. Cheap to copy.
class V {
 public:
  enum class Kind : uint8_t { kNone, kTensor, kNumber, kInts, kRows, kMissing };

  V() = default;
  V(int number) : kind_(Kind::kNumber), integral_(true), number_(number) {}      // NOLINT: literals convert
  V(int64_t number) : kind_(Kind::kNumber), integral_(true), number_(number) {}  // NOLINT
  V(double number) : kind_(Kind::kNumber), number_(number) {}                    // NOLINT
  explicit V(std::vector<int64_t> ints) : kind_(Kind::kInts), integral_(true), ints_(std::move(ints)) {}
  static V Tensor(int node, int port) { return V(Kind::kTensor, node, port); }
  static V Rows(int id) { return V(Kind::kRows, id, 0); }
  static V Missing(const char* why) {
    V v(Kind::kMissing, -1, 0);
    v.why_ = why;
    return v;
  }

  Kind kind() const { return kind_; }
  explicit operator bool() const { return kind_ != Kind::kNone; }
  bool is_tensor() const { return kind_ == Kind::kTensor; }
  bool integral() const { return integral_; }
  double number() const { return number_; }
  const std::vector<int64_t>& ints() const { return ints_; }
  const char* why() const { return why_; }
  int node() const { return node_; }
  int port() const { return port_; }

  // Another output of the node that this value is an output of: op("Qr", a).out(1).
  V out(int port) const { return V(kind_, node_, port); }

  DType dtype() const;          // kInvalid for literals and `none`
  int rank() const;             // -1 if not known when building
  int64_t dim(int axis) const;  // -1 if not known when building; a negative axis counts from the end

 private:
  V(Kind kind, int node, int port) : kind_(kind), node_(node), port_(port) {}

  Kind kind_ = Kind::kNone;
  bool integral_ = false;
  int node_ = -1;
  int port_ = 0;
  double number_ = 0;
  const char* why_ = nullptr;
  std::vector<int64_t> ints_;
};

using Values = std::vector<V>;
using Grads = Values;  // one cotangent for each input of the forward node

// The symbolic zero: none + a = a, none * a = none. Only the words that are linear take it; that an op is given it, or
// that it is a divisor, is a mistake of the rule.
inline const V none;

// In place of a cotangent: a rule does not know it. Who asks for it gets an error that names the input and says why.
inline V missing(const char* why) { return V::Missing(why); }

// A list input (`N * T` or `Tlist`) of an op that a rule emits.
struct List {
  Values values;
};
inline List list(Values values) { return {std::move(values)}; }
inline V ints(std::vector<int64_t> values) { return V(std::move(values)); }

struct Attr {
  using Value = std::variant<bool, int64_t, double, std::string, DType, std::vector<int64_t>>;
  Attr(const char* name, bool value) : name(name), value(value) {}
  Attr(const char* name, int value) : name(name), value(int64_t{value}) {}
  Attr(const char* name, int64_t value) : name(name), value(value) {}
  Attr(const char* name, double value) : name(name), value(value) {}
  Attr(const char* name, const char* value) : name(name), value(std::string(value)) {}
  Attr(const char* name, std::string value) : name(name), value(std::move(value)) {}
  Attr(const char* name, DType value) : name(name), value(value) {}
  Attr(const char* name, std::vector<int64_t> value) : name(name), value(std::move(value)) {}

  const char* name;
  Value value;
};

// What op() takes: an input, a list of inputs, or an attr.
using Arg = std::variant<V, List, Attr>;
class Op;
namespace internal {
inline Arg ToArg(V value) { return value; }
inline Arg ToArg(List list) { return list; }
inline Arg ToArg(Attr attr) { return attr; }
inline Arg ToArg(int value) { return V(value); }
inline Arg ToArg(int64_t value) { return V(value); }
inline Arg ToArg(double value) { return V(value); }
V Emit(const char* type, const std::vector<Arg>& args);
V EmitLike(const Op& forward, const char* type, const std::vector<Arg>& args);
}  // namespace internal

// Emits a node of an op that TensorFlow registers and returns its output 0.
template <typename... Args>
V op(const char* type, const Args&... args) {
  return internal::Emit(type, {internal::ToArg(args)...});
}

// The forward node that a rule differentiates.
class Op {
 public:
  explicit Op(int node) : node_(node) {}

  const std::string& op_type() const;  // empty of an argument
  int num_in() const;
  int num_out() const;
  V in(int i) const;
  V out(int i = 0) const;
  Values ins(int begin, int end) const;  // inputs [begin, end); a negative end counts from the last

  // The cotangent of output i: dense, and zeros where none reached it.
  V dy(int i = 0) const;
  // The same as it came: `none`, or sparse rows, for rules that can make use of that. has_dy(i): something came.
  V raw_dy(int i = 0) const;
  bool has_dy(int i = 0) const;
  // Whether anybody asks for the cotangent of input i.
  bool wants(int i) const;

  // Whether its values, or its partials, may be infinite or NaN where nobody looks, for itself or for what its operands
  // are (csrc/rules/traits/finite.h). Then `times` and `over` let a cotangent of zero be zero.
  bool diverges() const;
  // The least and the greatest element of a constant of real numbers.
  std::optional<std::pair<double, double>> bounds() const;

  // Attrs of the forward node. Missing ones are an error of the forward function, reported as such.
  bool has_attr(const char* name) const;
  bool flag(const char* name) const;
  int64_t integer(const char* name) const;
  double number(const char* name) const;
  std::string text(const char* name) const;
  DType type(const char* name) const;
  std::vector<int64_t> integers(const char* name) const;

  // Emits a node as op() does, with all attrs of this node that `type` has too (but those that the inputs decide).
  template <typename... Args>
  V like(const char* type, const Args&... args) const {
    return internal::EmitLike(*this, type, {internal::ToArg(args)...});
  }

  // Ends a rule with an error for the caller of the gradient: what is not supported and what to do.
  Grads unsupported(const std::string& why) const;

  int node() const { return node_; }

 private:
  int node_;
};

// ---- Vocabulary. Everything folds when shapes or values are known. ----

// Elementwise, with broadcasting.
V operator+(const V& a, const V& b);
V operator-(const V& a, const V& b);
V operator*(const V& a, const V& b);
V operator/(const V& a, const V& b);  // RealDiv; on integers FloorDiv
V operator%(const V& a, const V& b);  // FloorMod
V operator-(const V& a);
V operator<(const V& a, const V& b);
V operator>(const V& a, const V& b);
V operator<=(const V& a, const V& b);
V operator>=(const V& a, const V& b);
V logical_and(const V& a, const V& b);
V logical_or(const V& a, const V& b);
V logical_not(const V& a);
// A value is a truth value only when building (`none` or not), never by what it will be.
V operator&&(const V& a, const V& b) = delete;
V operator||(const V& a, const V& b) = delete;
V equal(const V& a, const V& b);
V not_equal(const V& a, const V& b);
V maximum(const V& a, const V& b);
V minimum(const V& a, const V& b);
V div_no_nan(const V& a, const V& b);  // 0 where b is 0
V mul_no_nan(const V& a, const V& b);  // 0 where b is 0
// A cotangent times a partial, and by a divisor: 0 where dy is 0, though the partial be infinite or NaN.
V times(const V& dy, const V& partial);
V over(const V& dy, const V& divisor);
V pow(const V& a, const V& b);
V select(const V& condition, const V& a, const V& b);  // SelectV2: broadcasts
V conj(const V& x);                                    // x itself where it is real
V real(const V& x);
V imag(const V& x);
V complex(const V& re, const V& im);
V abs(const V& x);
V sign(const V& x);
V square(const V& x);
V sqrt(const V& x);
V rsqrt(const V& x);
V reciprocal(const V& x);
V exp(const V& x);
V log(const V& x);
V log1p(const V& x);
V sin(const V& x);
V cos(const V& x);
V sinh(const V& x);
V cosh(const V& x);
V tanh(const V& x);
V sigmoid(const V& x);
V digamma(const V& x);
V lgamma(const V& x);

// Shapes. Integers are int32 unless said otherwise.
V shape(const V& x, DType dtype = DType::kInt32);
V rank(const V& x);
V size(const V& x, DType dtype = DType::kInt32);
V range(const V& begin, const V& end);
V prod(const V& vector);  // of all elements
V reshape(const V& x, const V& shape);
V reshape_like(const V& x, const V& like);
V flatten(const V& x);  // to a vector
V broadcast_to(const V& x, const V& shape);
V broadcast_like(const V& x, const V& like);
V expand_dims(const V& x, const V& axis);
V squeeze(const V& x, std::vector<int64_t> axes);
V transpose(const V& x, const V& permutation);
V swap_last_two(const V& x);  // a matrix transposed, in a batch
V adjoint(const V& x);        // swap_last_two and conj
V concat(Values values, const V& axis);
V pack(Values values, int axis = 0);
V slice(const V& x, const V& begin, const V& size);
V gather(const V& params, const V& indices, const V& axis = V(0));
V where(const V& condition);  // indices [n, rank] of the true elements
V invert_permutation(const V& permutation);
V keep(const V& condition, const V& x);  // x, but 0 where the condition, of x's first dimensions, does not hold

// Values.
V cast(const V& x, DType dtype);  // x itself where it has that dtype
V cast_like(const V& x, const V& like);
V single(const V& x);  // in single precision where its own is below that: half can't count beyond 2048, bfloat16 256
V zeros_like(const V& x);
V ones_like(const V& x);
V zeros(const V& shape, DType dtype);
V fill(const V& shape, const V& value);
V constant(const V& literal, DType dtype);  // a literal of that dtype

// Reductions and products.
V sum(const V& x, const V& axes, bool keep_dims = false);
V mean(const V& x, const V& axes, bool keep_dims = false);
V matmul(const V& a, const V& b, bool adjoint_a = false,
         bool adjoint_b = false);                       // batched, broadcasts, adjoints conjugate
V band_part(const V& x, int64_t lower, int64_t upper);  // -1: all
V diag_part(const V& x);                                // of the last two dimensions
V diag(const V& x);                                     // a matrix of the last dimension
V eye(const V& n, DType dtype);

// g has the shape that x was broadcast to: sums what broadcasting added.
V sum_to(const V& g, const V& x);
// The same for input i of an op that broadcasts its inputs 0 and 1 against each other: what every BINARY rule ends
// with.
V sum_to_input(const Op& o, int i, const V& g);

// Sparse rows: the cotangent of a tensor of `dense_shape` that is `values` in rows `indices` (a vector; repeated ones
// add up) of dimension 0 and zero elsewhere. Stays sparse through sums; the engine makes it dense where somebody
// needs that.
V rows(const V& indices, const V& values, const V& dense_shape);

// What is known when building: the elements of a small integer tensor, or of a literal.
std::optional<std::vector<int64_t>> known(const V& x);
// Whether the elements of a vector, or the rows of a matrix of integers, are sure to be different from each other.
bool distinct(const V& indices);
// Whether a and b are sure to have the same shape at run time.
bool same_shape(const V& a, const V& b);

// ---- Tables ----

using RuleFn = Grads (*)(const Op& o);
struct Rule {
  const char* op;
  RuleFn gradient;  // nullptr: no gradient flows
};

// Adds a table to the registry when the library is loaded; a second rule for an op is an error that every build
// reports.
struct Registration {
  Registration(const Rule* rules, int count, const char* file);
  template <int n>
  Registration(const Rule (&rules)[n], const char* file) : Registration(rules, n, file) {}
};
#define SYMGRAD_REGISTER(rules) static const ::symgrad::Registration symgrad_registration(rules, __FILE__);

namespace internal {
// What a macro puts in scope. It is read where a rule names it, and not before: a cotangent that came as sparse rows
// stays as it is for a rule that asks for no dense one.
class Named {
 public:
  Named(const Op& o, V (Op::*read)(int) const, int i) : o_(o), read_(read), i_(i) {}
  operator V() const { return (o_.*read_)(i_); }  // NOLINT: stands for a value
  DType dtype() const { return V(*this).dtype(); }
  int rank() const { return V(*this).rank(); }
  int64_t dim(int axis) const { return V(*this).dim(axis); }

 private:
  const Op& o_;
  V (Op::* const read_)(int) const;
  const int i_;
};
}  // namespace internal

// clang-format off
#define SYMGRAD_NAMED(name, read, i) [[maybe_unused]] const ::symgrad::internal::Named name(o, &::symgrad::Op::read, i);
#define RULE(name, ...) {#name, [](const ::symgrad::Op& o) -> ::symgrad::Grads {                                        \
    SYMGRAD_NAMED(x, in, 0) SYMGRAD_NAMED(y, out, 0) SYMGRAD_NAMED(dy, dy, 0) __VA_ARGS__ }},
#define UNARY(name, ...) RULE(name, return {__VA_ARGS__};)
#define PARTIAL(name, ...) RULE(name, return {times(dy, conj(__VA_ARGS__))};)
// The op that TensorFlow has for it, and what stands for that where values may diverge.
#define FUSED(name, kernel, ...) RULE(name, return {o.diverges() ? V(__VA_ARGS__) : V(kernel)};)
#define BINARY(name, da, db) {#name, [](const ::symgrad::Op& o) -> ::symgrad::Grads {                                   \
    SYMGRAD_NAMED(a, in, 0) SYMGRAD_NAMED(b, in, 1) SYMGRAD_NAMED(y, out, 0) SYMGRAD_NAMED(dy, dy, 0)                   \
    return {o.wants(0) ? sum_to_input(o, 0, da) : none, o.wants(1) ? sum_to_input(o, 1, db) : none}; }},
#define NO_GRAD(name) {#name, nullptr},
// clang-format on

}  // namespace symgrad
