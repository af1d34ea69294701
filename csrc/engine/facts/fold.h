// Folding of small integer tensors: what rules compute of shapes and axes is decided when building, as far as it is
// known.
//
// Elements are numbers or sizes of unknown dimensions, so folding is partial: [batch, 64] of an unknown batch is
// known to have 64 in its second element, and is known to be the shape of whatever else has that batch.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "csrc/engine/body/body.h"

namespace symgrad::fold {

using Element = Ints::Element;
using Elements = std::vector<Element>;

// An op that is to be folded: its inputs, of which something may be known, and its attrs.
struct Folding {
  Body* body;
  const tf::NodeDef* def;
  absl::Span<const Port> inputs;

  // null if nothing is known of input i.
  const Ints* in(int i) const { return body->output(inputs[i]).ints.get(); }
  // The value of a scalar input, if it is known.
  bool Scalar(int i, int64_t* value) const {
    const Ints* v = in(i);
    if (v == nullptr || v->elements.size() != 1 || !v->elements[0].known()) return false;
    *value = v->elements[0].value;
    return true;
  }
  int64_t attr(const char* name, int64_t otherwise) const {
    const auto it = def->attr().find(name);
    if (it == def->attr().end()) return otherwise;
    return it->second.value_case() == tf::AttrValue::kB ? it->second.b() : it->second.i();
  }
};
using OutputInts = std::vector<IntsPtr>;  // of each output; empty if nothing is known
using OpFold = OutputInts (*)(const Folding&);

constexpr size_t kMaxRank = 16;
constexpr int64_t kMaxProduct = int64_t{1} << 40;

inline OutputInts One(std::vector<int64_t> dims, Elements elements) {
  // A shape that TensorFlow would refuse is nothing to know.
  if (elements.size() > Ints::kMaxElements || dims.size() > kMaxRank) return {};
  int64_t product = 1;
  for (const int64_t d : dims) {
    if (d < 0 || d > Ints::kMaxElements) return {};
    product *= std::max<int64_t>(d, 1);
    if (product > kMaxProduct) return {};
  }
  return {std::make_shared<const Ints>(Ints{std::move(dims), std::move(elements)})};
}
inline OutputInts Number(int64_t value) { return One({}, {{value, {}}}); }
inline OutputInts Vector(Elements elements) {
  const int64_t n = static_cast<int64_t>(elements.size());
  return One({n}, std::move(elements));
}
inline int64_t Size(absl::Span<const int64_t> dims) {
  return std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<int64_t>());
}

inline bool SameElement(const Element& a, const Element& b) {
  return a.known() ? a.value == b.value : !b.known() && a.dim.Handle() != 0 && a.dim.SameHandle(b.dim);
}

using FoldTable = absl::flat_hash_map<absl::string_view, OpFold>;
const FoldTable& MathFolds();       // elementwise ops and reductions
const FoldTable& StructureFolds();  // ops that make, move and choose elements

}  // namespace symgrad::fold
