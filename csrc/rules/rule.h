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
//       // for you, and a formula whose gradient nobody wants is not evaluated.
//       BINARY(Mul, dy * conj(b), dy * conj(a))
//
//       // Of several inputs, one has a gradient. IN(name) is the input that the op's signature calls so, INS(name) one
//       // that is a list.
//       ONLY(GatherNd, params, scatter_nd(IN(indices), dy, shape(x)))
//
//       // Handed on as it is. A linear op and its adjoint, and a linear op that is its own.
//       PASS(Identity) ADJOINTS(SpaceToDepth, DepthToSpace) SELF_ADJOINT(MatrixBandPart)
//
//       // Anything else: a body that returns one value an input. GRADS(...) evaluates those that somebody wants.
//       RULE(Cross, return GRADS(op("Cross", IN(b), dy), op("Cross", dy, x));)
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
//   * IN, INS, OUT and DY take the names of the op's signature. One that no op of the table has is an error when the
//     table is loaded, one that this op lacks when the rule runs.
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

#include "csrc/rules/op.h"
#include "csrc/rules/words.h"

namespace symgrad {

using RuleFn = Grads (*)(const Op& o);
struct Rule {
  const char* op;
  RuleFn gradient;  // nullptr: no gradient flows
};

// Adds a table to the registry when the library is loaded. A second rule for an op is an error that every build
// reports, unless the table is there to replace rules.
struct Registration {
  Registration(const Rule* rules, int count, const char* file, bool replaces);
  template <int n>
  Registration(const Rule (&rules)[n], const char* file, bool replaces = false)
      : Registration(rules, n, file, replaces) {}
};
#define SYMGRAD_REGISTER(rules) static const ::symgrad::Registration symgrad_registration(rules, __FILE__);
// The rules take the place of those that other tables have for these ops.
#define SYMGRAD_REPLACE(rules) static const ::symgrad::Registration symgrad_replacement(rules, __FILE__, true);

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
  const Op& forward() const { return o_; }
  int index() const { return i_; }

 private:
  const Op& o_;
  V (Op::* const read_)(int) const;
  const int i_;
};

// A name of a signature that a file's rules use. N is a type for each place, so that all are known when the file is
// loaded, whether or not the rules run.
struct Name {
  Name(const char* file, const char* name);
};
template <typename N>
struct Declared {
  static const Name name;
};
template <typename N>
const Name Declared<N>::name(N::file(), N::text());
template <typename N>
const char* Declare() {
  (void)&Declared<N>::name;
  return N::text();
}

inline Values ListInput(const Op& o, const char* name) {
  const int begin = o.input(name);
  return begin < 0 ? Values{} : o.ins(begin, begin + o.input_size(name));
}

template <typename Grad>
void SetOnly(Grads& grads, const Named& input, const Grad& dx) {
  if (input.index() >= 0) grads[input.index()] = dx;
}
template <typename Grad, typename... Rest>
void SetOnly(Grads& grads, const Named& input, const Grad& dx, const Named& next, const Rest&... rest) {
  SetOnly(grads, input, dx);
  SetOnly(grads, next, rest...);
}
// What is there for inputs that the op of this version has not is left out.
template <typename... Grad>
Grads Lazy(const Op& o, const Grad&... dx) {
  Grads grads(static_cast<size_t>(o.num_in()));
  int i = 0;
  ((o.wants(i) ? static_cast<void>(grads[i] = dx()) : void(), ++i), ...);
  return grads;
}
template <typename... Grad>
Grads LazyBroadcast(const Op& o, const Grad&... dx) {
  Grads grads = Lazy(o, dx...);
  for (int i = 0; i < static_cast<int>(sizeof...(dx)); ++i)
    grads[i] = sizeof...(dx) == 2 ? sum_to_input(o, i, grads[i]) : sum_to(grads[i], o.in(i));
  return grads;
}
// A linear op's cotangent goes through its adjoint, which takes what else the op takes.
Grads Adjoint(const Op& o, const char* adjoint);
// The ops that are linear in x and w, in dy and w, and in x and dy: y = f(x, w), dx and dw, whose first two take the
// shape of what they are the cotangent of.
struct Bilinear {
  const char *y, *dx, *dw;
};
Grads BilinearGrad(const Op& o, const Bilinear& ops);
Grads BilinearInputGrad(const Op& o, const Bilinear& ops);
Grads BilinearFilterGrad(const Op& o, const Bilinear& ops);
Grads Pass(const Op& o);
}  // namespace internal

// An input that is named, by IN: its value, and which one it is.
using Input = internal::Named;

// Cotangents of the inputs that are named, and of no others: only(IN(values), dx, IN(weights), dw).
template <typename... Rest>
Grads only(const internal::Named& input, const Rest&... rest) {
  Grads grads(static_cast<size_t>(input.forward().num_in()));
  internal::SetOnly(grads, input, rest...);
  return grads;
}

// clang-format off
#define SYMGRAD_DECLARE(name) [] { struct N { static const char* file() { return __FILE__; }                           \
    static const char* text() { return #name; } }; return ::symgrad::internal::Declare<N>(); }()
#define IN(name) ::symgrad::internal::Named(o, &::symgrad::Op::in, o.input(SYMGRAD_DECLARE(name)))
#define INS(name) ::symgrad::internal::ListInput(o, SYMGRAD_DECLARE(name))
#define OUT(name) ::symgrad::internal::Named(o, &::symgrad::Op::out, o.output(SYMGRAD_DECLARE(name)))
#define DY(name) ::symgrad::internal::Named(o, &::symgrad::Op::dy, o.output(SYMGRAD_DECLARE(name)))

#define SYMGRAD_LAZY1(e) [&]() -> ::symgrad::V { return ::symgrad::V(e); }
#define SYMGRAD_LAZY2(e, ...) SYMGRAD_LAZY1(e), SYMGRAD_LAZY1(__VA_ARGS__)
#define SYMGRAD_LAZY3(e, ...) SYMGRAD_LAZY1(e), SYMGRAD_LAZY2(__VA_ARGS__)
#define SYMGRAD_LAZY4(e, ...) SYMGRAD_LAZY1(e), SYMGRAD_LAZY3(__VA_ARGS__)
#define SYMGRAD_LAZY5(e, ...) SYMGRAD_LAZY1(e), SYMGRAD_LAZY4(__VA_ARGS__)
#define SYMGRAD_LAZY6(e, ...) SYMGRAD_LAZY1(e), SYMGRAD_LAZY5(__VA_ARGS__)
#define SYMGRAD_SIXTH(a, b, c, d, e, f, n, ...) n
#define SYMGRAD_LAZY(...) SYMGRAD_SIXTH(__VA_ARGS__, SYMGRAD_LAZY6, SYMGRAD_LAZY5, SYMGRAD_LAZY4, SYMGRAD_LAZY3,       \
                                        SYMGRAD_LAZY2, SYMGRAD_LAZY1, )(__VA_ARGS__)
// The cotangents of the first inputs, up to six, each evaluated where somebody wants it; of inputs that broadcast.
#define GRADS(...) ::symgrad::internal::Lazy(o, SYMGRAD_LAZY(__VA_ARGS__))
#define BROADCAST(...) ::symgrad::internal::LazyBroadcast(o, SYMGRAD_LAZY(__VA_ARGS__))

#define SYMGRAD_NAMED(name, read, i) [[maybe_unused]] const ::symgrad::internal::Named name(o, &::symgrad::Op::read, i);
#define RULE(name, ...) {#name, [](const ::symgrad::Op& o) -> ::symgrad::Grads {                                        \
    SYMGRAD_NAMED(x, in, 0) SYMGRAD_NAMED(y, out, 0) SYMGRAD_NAMED(dy, dy, 0) __VA_ARGS__ }},
#define UNARY(name, ...) RULE(name, return {__VA_ARGS__};)
#define PARTIAL(name, ...) RULE(name, return {times(dy, conj(__VA_ARGS__))};)
// The op that TensorFlow has for it, and what stands for that where values may diverge.
#define FUSED(name, kernel, ...) RULE(name, return {o.diverges() ? V(__VA_ARGS__) : V(kernel)};)
#define BINARY(name, da, db) {#name, [](const ::symgrad::Op& o) -> ::symgrad::Grads {                                   \
    SYMGRAD_NAMED(a, in, 0) SYMGRAD_NAMED(b, in, 1) SYMGRAD_NAMED(y, out, 0) SYMGRAD_NAMED(dy, dy, 0)                   \
    return BROADCAST(da, db); }},
#define ONLY(name, input, ...) RULE(name, return ::symgrad::only(IN(input), ::symgrad::V(__VA_ARGS__));)
#define PASS(name) {#name, ::symgrad::internal::Pass},
#define ADJOINTS(a, b) RULE(a, return ::symgrad::internal::Adjoint(o, #b);)                                             \
                       RULE(b, return ::symgrad::internal::Adjoint(o, #a);)
#define SELF_ADJOINT(name) RULE(name, return ::symgrad::internal::Adjoint(o, #name);)
#define BILINEAR(y_, dx_, dw_)                                                                                          \
    RULE(y_, return ::symgrad::internal::BilinearGrad(o, {#y_, #dx_, #dw_});)                                           \
    RULE(dx_, return ::symgrad::internal::BilinearInputGrad(o, {#y_, #dx_, #dw_});)                                     \
    RULE(dw_, return ::symgrad::internal::BilinearFilterGrad(o, {#y_, #dx_, #dw_});)
#define NO_GRAD(name) {#name, nullptr},
// clang-format on

}  // namespace symgrad
