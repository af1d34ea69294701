#include "csrc/engine/vjp/row_sum.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/node_hash_map.h"
#include "csrc/engine/emit/builder.h"
#include "csrc/rules/traits/trait.h"

namespace symgrad {
namespace {

bool IsConstant(const Body& body, Port p) { return !body.node(p.node).is_arg() && body.node(p.node).type() == "Const"; }

// The inputs whose rows an op sums over, so that op(rows_1) + op(rows_2) = op(rows_1 and rows_2): a set of bits, empty
// if it does not.
unsigned RowInputs(int node) {
  const Trait* sums = FindTrait(Op(node), Trait::kSumsRows);
  return sums == nullptr ? 0 : sums->bits;
}

int64_t Size(const Body& body, Port p) {
  int64_t size = 1;
  for (int i = 0; i < body.rank(p); ++i) size *= std::min<int64_t>(std::max<int64_t>(body.dim(p, i), 0), 1 << 20);
  return body.FullyDefined(p) ? size : -1;
}

bool Contains(const std::vector<Port>& ports, Port p) {
  return std::find(ports.begin(), ports.end(), p) != ports.end();
}

// Walks back from a gradient through sums, to the terms that sum over rows.
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
    if (const unsigned rows = RowInputs(p.node)) return OfTerm(n, rows);
    const bool adds = HasTrait(n.type(), Trait::kAdds);
    const size_t count = adds ? n.inputs.size() : HasTrait(n.type(), Trait::kLinear) ? 1 : 0;
    std::vector<Port> operands;
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      if (i >= count && !IsConstant(body_, n.inputs[i])) return std::nullopt;
      if (i >= count) continue;
      // A sum of different shapes broadcasts: then it does more than add up.
      if (adds && !body_.SameShape(n.inputs[i], p)) return std::nullopt;
      const Operands& more = Find(n.inputs[i], depth + 1);
      if (!more) return std::nullopt;
      for (const Port& q : *more)
        if (!Contains(operands, q)) operands.push_back(q);
      if (operands.size() > kMaxOperands) return std::nullopt;
    }
    if (operands.empty()) return std::nullopt;
    return operands;
  }

  Operands OfTerm(const Node& n, unsigned rows) const {
    std::vector<Port> operands;
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      const bool is_operand = rows >> i & 1;
      if (is_operand ? !HasKnownRows(body_, n.inputs[i]) : !IsConstant(body_, n.inputs[i])) return std::nullopt;
      if (is_operand) operands.push_back(n.inputs[i]);
    }
    return operands;
  }

  const Body& body_;
  absl::node_hash_map<std::pair<int, int>, Operands> found_;  // of a node, so many sums away
};

}  // namespace

bool HasKnownRows(const Body& body, Port p) {
  for (int i = 1; i < body.rank(p); ++i)
    if (body.dim(p, i) < 0) return false;
  return body.rank(p) > 0;
}

RowSums FindRowSums(Body* body_of_loop, const std::vector<Port>& gradients, const std::vector<bool>& invariant) {
  const Body& body = *body_of_loop;
  Builder reader(body_of_loop);  // traits ask it
  const Builder::Scope scope(&reader);
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
