// What rules speak of: values of the graph that is being built, and the forward node that they differentiate.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
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
V Emit(const char* type, const Arg* args, size_t num_args);
V EmitLike(const Op& forward, const char* type, const Arg* args, size_t num_args);
}  // namespace internal

// Emits a node of an op that TensorFlow registers and returns its output 0.
template <typename... Args>
V op(const char* type, const Args&... args) {
  const Arg all[] = {internal::ToArg(args)...};
  return internal::Emit(type, all, sizeof...(args));
}

// The forward node that a rule differentiates.
class Op {
 public:
  explicit Op(int node) : node_(node) {}

  std::string_view op_type() const;  // empty of an argument
  int num_in() const;
  int num_out() const;
  V in(int i) const;
  V out(int i = 0) const;
  Values ins(int begin, int end) const;  // inputs [begin, end); a negative end counts from the last
  // The first input, and the number of inputs, that the signature calls by a name; the output. Rules say IN, INS, OUT.
  int input(const char* name) const;
  int input_size(const char* name) const;
  int output(const char* name) const;

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
    const Arg all[] = {internal::ToArg(args)...};
    return internal::EmitLike(*this, type, all, sizeof...(args));
  }

  // Ends a rule with an error for the caller of the gradient: what is not supported and what to do.
  Grads unsupported(const std::string& why) const;

  int node() const { return node_; }

 private:
  int node_;
};

}  // namespace symgrad
