#include "csrc/engine/vjp/row_sum.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/node_hash_map.h"

namespace symgrad {
namespace {

bool Flag(const Node& n, const char* attr) {
  const auto it = n.def->attr().find(attr);
  return it != n.def->attr().end() && it->second.b();
}

bool IsConstant(const Body& body, Port p) { return !body.node(p.node).is_arg() && body.node(p.node).type() == "Const"; }

// Whether a reduction is one over dimension 0, and perhaps others.
bool ReducesRows(const Body& body, const Node& n) {
  const IntsPtr axes = body.output(n.inputs[1]).ints;
  if (axes == nullptr || Flag(n, "keep_dims")) return false;
  const int64_t rank = body.rank(n.inputs[0]);
  return std::any_of(axes->elements.begin(), axes->elements.end(), [&](const Ints::Element& axis) {
    return axis.known() && (axis.value == 0 || axis.value + rank == 0);
  });
}

// The inputs whose rows an op sums over, so that op(rows_1) + op(rows_2) = op(rows_1 and rows_2); empty if it does not.
std::vector<int> RowInputs(const Body& body, const Node& n) {
  const std::string& op = n.type();
  if (op == "MatMul")
    return Flag(n, "transpose_a") && !Flag(n, "transpose_b") ? std::vector<int>{0, 1} : std::vector<int>{};
  if (op == "Sum") return ReducesRows(body, n) ? std::vector<int>{0} : std::vector<int>{};
  if (op == "BiasAddGrad") return {0};
  if (op == "Conv2DBackpropFilter" || op == "Conv3DBackpropFilterV2" || op == "DepthwiseConv2dNativeBackpropFilter")
    return {0, 2};
  return {};
}

bool IsSum(const std::string& op) { return op == "AddV2" || op == "Add" || op == "AddN"; }
// Of its input 0, where the others are constants.
bool IsLinear(const std::string& op) { return op == "Identity" || op == "Neg" || op == "Reshape" || op == "Transpose"; }

int64_t Size(const Body& body, Port p) {
  int64_t size = 1;
  for (int i = 0; i < body.rank(p); ++i) size *= std::min<int64_t>(std::max<int64_t>(body.dim(p, i), 0), 1 << 20);
  return body.FullyDefined(p) ? size : -1;
}

// All dimensions but the first are known: what a concatenation, even of nothing, needs.
bool HasKnownRows(const Body& body, Port p) {
  for (int i = 1; i < body.rank(p); ++i)
    if (body.dim(p, i) < 0) return false;
  return body.rank(p) > 0;
}

bool Contains(const std::vector<Port>& ports, Port p) {
  return std::find(ports.begin(), ports.end(), p) != ports.end();
}

class Finder {
 public:
  using Operands = std::optional<std::vector<Port>>;

  explicit Finder(const Body& body) : body_(body) {}

  // The operands, each once, of a sum of terms that sum over rows.
  const Operands& Find(Port p, int depth = 0) {
    const auto [it, added] = found_.try_emplace({p.node, depth});
    Operands& operands = it->second;  // stays where it is while others are found
    if (added) operands = Search(p, depth);
    return operands;
  }

 private:
  Operands Search(Port p, int depth) {
    constexpr int kMaxDepth = 16;
    constexpr size_t kMaxOperands = 64;
    const Node& n = body_.node(p.node);
    if (p.node < body_.num_forward || n.is_arg() || depth > kMaxDepth) return std::nullopt;
    if (const std::vector<int> rows = RowInputs(body_, n); !rows.empty()) return OfTerm(n, rows);
    const size_t count = IsSum(n.type()) ? n.inputs.size() : IsLinear(n.type()) ? 1 : 0;
    std::vector<Port> operands;
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      if (i >= count && !IsConstant(body_, n.inputs[i])) return std::nullopt;
      if (i >= count) continue;
      // A sum of different shapes broadcasts: then it does more than add up.
      if (IsSum(n.type()) && !body_.SameShape(n.inputs[i], p)) return std::nullopt;
      const Operands& more = Find(n.inputs[i], depth + 1);
      if (!more) return std::nullopt;
      for (const Port& q : *more)
        if (!Contains(operands, q)) operands.push_back(q);
      if (operands.size() > kMaxOperands) return std::nullopt;
    }
    if (operands.empty()) return std::nullopt;
    return operands;
  }

  Operands OfTerm(const Node& n, const std::vector<int>& rows) const {
    std::vector<Port> operands;
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      const bool is_operand = std::find(rows.begin(), rows.end(), static_cast<int>(i)) != rows.end();
      if (is_operand ? !HasKnownRows(body_, n.inputs[i]) : !IsConstant(body_, n.inputs[i])) return std::nullopt;
      if (is_operand) operands.push_back(n.inputs[i]);
    }
    return operands;
  }

  const Body& body_;
  absl::node_hash_map<std::pair<int, int>, Operands> found_;  // of a node, so many sums away
};

}  // namespace

RowSums FindRowSums(const Body& body, const std::vector<Port>& gradients, const std::vector<bool>& invariant) {
  RowSums sums;
  sums.transformed.assign(gradients.size(), false);
  std::vector<std::optional<std::vector<Port>>> operands(gradients.size());
  Finder finder(body);
  for (size_t i = 0; i < gradients.size(); ++i)
    if (invariant[i]) operands[i] = finder.Find(gradients[i]);
  // Those that pay for their operands come first; then those, such as of a bias, that need no operands but theirs.
  for (const bool paid : {false, true}) {
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (!operands[i] || sums.transformed[i]) continue;
      int64_t cost = 0;
      bool known = true;
      for (const Port& p : *operands[i]) {
        if (Contains(sums.operands, p)) continue;
        cost += std::max<int64_t>(Size(body, p), 0);
        known = known && Size(body, p) >= 0;
      }
      const int64_t gain = Size(body, gradients[i]);
      sums.transformed[i] = paid ? known && cost == 0 : known && gain >= 0 && cost < gain;
      if (!sums.transformed[i]) continue;
      for (const Port& p : *operands[i])
        if (!Contains(sums.operands, p)) sums.operands.push_back(p);
    }
  }
  return sums;
}

}  // namespace symgrad
