#include "csrc/engine/structure/trip_count.h"

#include <algorithm>
#include <optional>
#include <string>

namespace symgrad {
namespace {

constexpr int64_t kNever = -1;
constexpr int64_t kMaxNumber = int64_t{1} << 40;  // far from overflow
constexpr int kMaxDepth = 12;                     // of conditions joined: a tree of them, in two branches each

std::optional<int64_t> Scalar(const IntsPtr& ints) {
  if (ints == nullptr || ints->elements.size() != 1 || !ints->known()) return std::nullopt;
  const int64_t value = ints->elements[0].value;
  return value > -kMaxNumber && value < kMaxNumber ? std::optional(value) : std::nullopt;
}

// Which argument a tensor is, or -1.
int Argument(const Body& body, Port p) {
  const auto it = std::find(body.args.begin(), body.args.end(), Origin(body, p).node);
  return it == body.args.end() ? -1 : static_cast<int>(it - body.args.begin());
}

class Reader {
 public:
  Reader(const Body& condition, const Body& body, const std::vector<IntsPtr>& initial)
      : condition_(condition), body_(body), initial_(initial) {}

  // How long `p` of the condition holds.
  int64_t Bound(Port p, int depth) const {
    p = Origin(condition_, p);
    const Node& n = condition_.node(p.node);
    if (const auto value = Scalar(condition_.output(p).ints)) return *value ? kNever : 0;
    if (n.is_arg() || n.inputs.size() != 2 || depth > kMaxDepth) return kNever;
    const std::string& op = n.type();
    const Port a = n.inputs[0], b = n.inputs[1];
    if (op == "LogicalAnd" || op == "LogicalOr") {
      const int64_t left = Bound(a, depth + 1), right = Bound(b, depth + 1);
      if (op == "LogicalOr") return left == kNever || right == kNever ? kNever : std::max(left, right);
      if (left == kNever || right == kNever) return std::max(left, right);
      return std::min(left, right);
    }
    if (op == "Less" || op == "LessEqual") return Compared(a, b, op == "LessEqual");
    if (op == "Greater" || op == "GreaterEqual") return Compared(b, a, op == "GreaterEqual");
    return kNever;
  }

 private:
  // How long low < high holds (with `equal`: low <= high), where one of them counts towards the other.
  int64_t Compared(Port low, Port high, bool equal) const {
    const auto low_value = Scalar(condition_.output(low).ints), high_value = Scalar(condition_.output(high).ints);
    const int counter = Argument(condition_, low_value ? high : low);
    if (low_value.has_value() == high_value.has_value() || counter < 0) return kNever;
    const auto first = Scalar(initial_[counter]), step = CounterStep(body_, counter);
    if (!first || !step) return kNever;
    const int64_t distance = high_value ? *high_value - *first : *first - *low_value;  // until they meet
    const int64_t stride = high_value ? *step : -*step;
    if (distance < (equal ? 0 : 1)) return 0;
    if (stride <= 0) return kNever;
    return equal ? distance / stride + 1 : (distance + stride - 1) / stride;
  }

  const Body &condition_, &body_;
  const std::vector<IntsPtr>& initial_;
};

}  // namespace

std::optional<int64_t> CounterStep(const Body& body, int variable) {
  const Port p = Origin(body, body.results[variable]);
  const Node& n = body.node(p.node);
  if (n.is_arg() || (n.type() != "AddV2" && n.type() != "Add" && n.type() != "Sub")) return std::nullopt;
  const auto left = Scalar(body.output(n.inputs[0]).ints), right = Scalar(body.output(n.inputs[1]).ints);
  const bool add = n.type() != "Sub";
  if (right && Argument(body, n.inputs[0]) == variable) return add ? *right : -*right;
  return add && Argument(body, n.inputs[1]) == variable ? left : std::nullopt;
}

int64_t TripBound(const Body& condition, const Body& body, const std::vector<IntsPtr>& initial) {
  if (condition.results.size() != 1 || condition.args.size() != initial.size() || body.results.size() != initial.size())
    return kNever;
  return Reader(condition, body, initial).Bound(condition.results[0], 0);
}

}  // namespace symgrad
