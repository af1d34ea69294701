// Elementwise ops and reductions of small integer tensors.
#include <algorithm>

#include "csrc/engine/facts/fold.h"

namespace symgrad::fold {
namespace {

// -- Elementwise, with broadcasting of scalars and of equal shapes.

template <typename Fn>
OutputInts Map2(const Ints* a, const Ints* b, Fn fn) {
  if (a == nullptr || b == nullptr) return {};
  const bool a_scalar = a->elements.size() == 1 && a->dims.size() <= b->dims.size();
  const bool b_scalar = b->elements.size() == 1 && b->dims.size() <= a->dims.size();
  if (!a_scalar && !b_scalar && a->dims != b->dims) return {};
  const Ints& shape = a_scalar ? *b : *a;
  Elements elements(shape.elements.size());
  for (size_t i = 0; i < elements.size(); ++i)
    elements[i] = fn(a->elements[a_scalar ? 0 : i], b->elements[b_scalar ? 0 : i]);
  return One(shape.dims, std::move(elements));
}

template <typename Fn>
OutputInts Numbers2(const Folding& c, Fn fn) {
  return Map2(c.in(0), c.in(1), [fn](const Element& a, const Element& b) {
    return a.known() && b.known() ? Element{fn(a.value, b.value), {}} : Element{};
  });
}

// Whether a / b lies above the quotient of real numbers, which is below zero and no integer.
bool IsAbove(int64_t a, int64_t b) { return a % b != 0 && (a < 0) != (b < 0); }

OutputInts Add(const Folding& c) {
  return Map2(c.in(0), c.in(1), [](const Element& a, const Element& b) {
    int64_t sum;
    if (a.known() && b.known()) return __builtin_add_overflow(a.value, b.value, &sum) ? Element{} : Element{sum, {}};
    return a.value == 0 ? b : b.value == 0 ? a : Element{};
  });
}
OutputInts Sub(const Folding& c) {
  return Map2(c.in(0), c.in(1), [](const Element& a, const Element& b) {
    if (SameElement(a, b)) return Element{0, {}};
    int64_t difference;
    if (a.known() && b.known())
      return __builtin_sub_overflow(a.value, b.value, &difference) ? Element{} : Element{difference, {}};
    return b.value == 0 ? a : Element{};
  });
}
OutputInts Mul(const Folding& c) {
  return Map2(c.in(0), c.in(1), [](const Element& a, const Element& b) {
    int64_t product;
    if (a.known() && b.known())
      return __builtin_mul_overflow(a.value, b.value, &product) ? Element{} : Element{product, {}};
    return a.value == 1 ? b : b.value == 1 ? a : Element{};
  });
}
OutputInts FloorDivOp(const Folding& c) {
  return Map2(c.in(0), c.in(1), [](const Element& a, const Element& b) {
    if (a.known() && b.known() && b.value != 0) return Element{a.value / b.value - IsAbove(a.value, b.value), {}};
    return b.value == 1 ? a : Element{};
  });
}
OutputInts FloorMod(const Folding& c) {
  return Map2(c.in(0), c.in(1), [](const Element& a, const Element& b) {
    if (!a.known() || !b.known() || b.value == 0) return Element{};
    return Element{a.value % b.value + (IsAbove(a.value, b.value) ? b.value : 0), {}};
  });
}
OutputInts Maximum(const Folding& c) {
  return Map2(c.in(0), c.in(1), [](const Element& a, const Element& b) {
    if (SameElement(a, b)) return a;
    return a.known() && b.known() ? Element{std::max(a.value, b.value), {}} : Element{};
  });
}
OutputInts Minimum(const Folding& c) {
  return Numbers2(c, [](int64_t a, int64_t b) { return std::min(a, b); });
}
OutputInts Equal(const Folding& c) {
  return Map2(c.in(0), c.in(1), [](const Element& a, const Element& b) {
    if (SameElement(a, b)) return Element{1, {}};
    return a.known() && b.known() ? Element{0, {}} : Element{};
  });
}
OutputInts NotEqual(const Folding& c) {
  return Map2(c.in(0), c.in(1), [](const Element& a, const Element& b) {
    if (SameElement(a, b)) return Element{0, {}};
    return a.known() && b.known() ? Element{1, {}} : Element{};
  });
}
OutputInts Less(const Folding& c) {
  return Numbers2(c, [](int64_t a, int64_t b) { return int64_t{a < b}; });
}
OutputInts LessEqual(const Folding& c) {
  return Numbers2(c, [](int64_t a, int64_t b) { return int64_t{a <= b}; });
}
OutputInts Greater(const Folding& c) {
  return Numbers2(c, [](int64_t a, int64_t b) { return int64_t{a > b}; });
}
OutputInts GreaterEqual(const Folding& c) {
  return Numbers2(c, [](int64_t a, int64_t b) { return int64_t{a >= b}; });
}
OutputInts LogicalAnd(const Folding& c) {
  return Numbers2(c, [](int64_t a, int64_t b) { return a & b; });
}
OutputInts LogicalOr(const Folding& c) {
  return Numbers2(c, [](int64_t a, int64_t b) { return a | b; });
}

OutputInts Map(const Folding& c, Element (*fn)(const Element&)) {
  const Ints* x = c.in(0);
  if (x == nullptr) return {};
  Elements elements(x->elements.size());
  std::transform(x->elements.begin(), x->elements.end(), elements.begin(), fn);
  return One(x->dims, std::move(elements));
}
OutputInts Neg(const Folding& c) {
  return Map(c, [](const Element& x) { return x.known() ? Element{-x.value, {}} : Element{}; });
}
OutputInts LogicalNot(const Folding& c) {
  return Map(c, [](const Element& x) { return x.known() ? Element{!x.value, {}} : Element{}; });
}
OutputInts ZerosLike(const Folding& c) {
  return Map(c, [](const Element&) { return Element{0, {}}; });
}
OutputInts OnesLike(const Folding& c) {
  return Map(c, [](const Element&) { return Element{1, {}}; });
}
OutputInts Identity(const Folding& c) { return {c.body->output(c.inputs[0]).ints}; }
OutputInts Cast(const Folding& c) {
  const auto to = c.def->attr().find("DstT");
  if (to == c.def->attr().end() || !IsIntegral(to->second.type())) return {};
  if (to->second.type() == tf::DT_BOOL)
    return Map(c, [](const Element& x) { return x.known() ? Element{x.value != 0, {}} : Element{}; });
  if (to->second.type() == tf::DT_INT32)
    return Map(c, [](const Element& x) { return x.known() ? Element{static_cast<int32_t>(x.value), {}} : x; });
  return Identity(c);
}

OutputInts Select(const Folding& c) {
  const Ints *p = c.in(0), *a = c.in(1), *b = c.in(2), *shape = p;
  if (p == nullptr || a == nullptr || b == nullptr || !p->known()) return {};
  for (const Ints* x : {a, b})
    if (x->dims.size() > shape->dims.size() || (x->dims.size() == shape->dims.size() && x->elements.size() != 1))
      shape = x;
  for (const Ints* x : {p, a, b})
    if (x->elements.size() != 1 && x->dims != shape->dims) return {};
  const auto at = [](const Ints& x, size_t i) { return x.elements[x.elements.size() == 1 ? 0 : i]; };
  Elements elements(shape->elements.size());
  for (size_t i = 0; i < elements.size(); ++i) elements[i] = at(at(*p, i).value ? *a : *b, i);
  return One(shape->dims, std::move(elements));
}

// -- Reductions of everything.

template <typename Fn>
OutputInts Reduce(const Folding& c, int64_t initial, Fn fn) {
  const Ints *x = c.in(0), *axes = c.in(1);
  if (x == nullptr || axes == nullptr || !x->known() || x->dims.size() != 1 || axes->elements.size() != 1) return {};
  int64_t result = initial;
  for (const Element& e : x->elements) result = fn(result, e.value);
  return c.attr("keep_dims", 0) ? One({1}, {{result, {}}}) : Number(result);
}
// Unsigned arithmetic wraps where signed overflow would be undefined.
OutputInts Prod(const Folding& c) {
  return Reduce(c, 1, [](uint64_t a, uint64_t b) { return static_cast<int64_t>(a * b); });
}
OutputInts Sum(const Folding& c) {
  return Reduce(c, 0, [](uint64_t a, uint64_t b) { return static_cast<int64_t>(a + b); });
}
OutputInts Max(const Folding& c) {
  return Reduce(c, std::numeric_limits<int64_t>::min() + 1, [](int64_t a, int64_t b) { return std::max(a, b); });
}
OutputInts Min(const Folding& c) {
  return Reduce(c, std::numeric_limits<int64_t>::max(), [](int64_t a, int64_t b) { return std::min(a, b); });
}

}  // namespace

const FoldTable& MathFolds() {
  static const auto* const folds = new FoldTable{{"Add", Add},
                                                 {"AddV2", Add},
                                                 {"Sub", Sub},
                                                 {"Mul", Mul},
                                                 {"FloorDiv", FloorDivOp},
                                                 {"FloorMod", FloorMod},
                                                 {"Maximum", Maximum},
                                                 {"Minimum", Minimum},
                                                 {"Equal", Equal},
                                                 {"NotEqual", NotEqual},
                                                 {"Less", Less},
                                                 {"LessEqual", LessEqual},
                                                 {"Greater", Greater},
                                                 {"GreaterEqual", GreaterEqual},
                                                 {"LogicalAnd", LogicalAnd},
                                                 {"LogicalOr", LogicalOr},
                                                 {"LogicalNot", LogicalNot},
                                                 {"Neg", Neg},
                                                 {"ZerosLike", ZerosLike},
                                                 {"OnesLike", OnesLike},
                                                 {"Identity", Identity},
                                                 {"StopGradient", Identity},
                                                 {"Cast", Cast},
                                                 {"Select", Select},
                                                 {"SelectV2", Select},
                                                 {"Prod", Prod},
                                                 {"Sum", Sum},
                                                 {"Max", Max},
                                                 {"Min", Min}};
  return *folds;
}

}  // namespace symgrad::fold
