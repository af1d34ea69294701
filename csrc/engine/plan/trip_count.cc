#include "csrc/engine/plan/trip_count.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string>

#include "csrc/engine/body/calls.h"
#include "csrc/engine/facts/known_inputs.h"
#include "csrc/engine/read/import.h"

namespace symgrad {
namespace {

constexpr int64_t kMaxNumber = Range::kMax / 4;  // far from overflow
constexpr int kMaxDepth = 12;                    // of conditions joined: a tree of them, in two branches each

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

int64_t Clamp(int64_t value) { return std::clamp(value, -Range::kMax, Range::kMax); }

Range RangeTo(const Body& body, Port p, const std::vector<Range>& args, int depth) {
  p = Origin(body, p);
  if (const auto value = Scalar(body.output(p).ints)) return {*value, *value};
  if (const size_t arg = Argument(body, p); arg < args.size()) return args[arg];
  const Node& n = body.node(p.node);
  if (n.is_arg() || n.inputs.empty() || n.inputs.size() > 2 || depth > kMaxDepth) return {};
  const absl::string_view op = n.type();
  const Range a = RangeTo(body, n.inputs[0], args, depth + 1);
  const auto exact = [&](Range range) {  // of int32, which wraps around
    using Int32 = std::numeric_limits<int32_t>;
    const bool wraps = body.output(p).dtype == tf::DT_INT32 && (range.low < Int32::min() || range.high > Int32::max());
    return wraps ? Range() : range;
  };
  if (op == "Cast") return IsIntegral(body.output(n.inputs[0]).dtype) ? exact(a) : Range();
  if (n.inputs.size() != 2) return {};
  const Range b = RangeTo(body, n.inputs[1], args, depth + 1);
  const auto bounded = [](int64_t x) { return x > -kMaxNumber && x < kMaxNumber; };
  if (op == "Minimum") return {std::min(a.low, b.low), std::min(a.high, b.high)};
  if (op == "Maximum") return {std::max(a.low, b.low), std::max(a.high, b.high)};
  if (!bounded(a.low) || !bounded(a.high) || !bounded(b.low) || !bounded(b.high)) return {};
  if (op == "AddV2" || op == "Add") return exact({a.low + b.low, a.high + b.high});
  if (op == "Sub") return exact({a.low - b.high, a.high - b.low});
  constexpr int64_t kSmall = int64_t{1} << 20;
  if (op != "Mul" || std::max({-a.low, a.high, -b.low, b.high}) > kSmall) return {};
  const auto [low, high] = std::minmax({a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high});
  return exact({low, high});
}

class Reader {
 public:
  Reader(Functions* functions, const Body& condition, const Body& body, const std::vector<Range>& initial)
      : functions_(functions), condition_(condition), body_(body), initial_(initial) {}

  // How long `p` of the condition holds.
  Trips Count(Port p, int depth) const {
    p = Origin(condition_, p);
    const Node& n = condition_.node(p.node);
    if (const auto value = Scalar(condition_.output(p).ints)) return *value ? Trips() : Trips{0, true, std::nullopt};
    if (n.is_arg() || depth > kMaxDepth) return {};
    if (IsCall(*n.def, *n.op)) return CountOfCall(p, depth);
    if (n.inputs.size() != 2) return {};
    const absl::string_view op = n.type();
    const Port a = n.inputs[0], b = n.inputs[1];
    if (op == "LogicalAnd" || op == "LogicalOr") {
      const Trips left = Count(a, depth + 1), right = Count(b, depth + 1);
      if (op == "LogicalAnd") return Both(left, right);
      return left.most < 0 || right.most < 0 ? Trips() : Trips{std::max(left.most, right.most), false, std::nullopt};
    }
    if (op == "Less" || op == "LessEqual") return Compared(a, b, op == "LessEqual");
    if (op == "Greater" || op == "GreaterEqual") return Compared(b, a, op == "GreaterEqual");
    return {};
  }

 private:
  // Where the condition of a loop that was differentiated is that of the loop before, of its first variables.
  Trips CountOfCall(Port p, int depth) const {
    const Node& n = condition_.node(p.node);
    for (size_t i = 0; i < n.inputs.size(); ++i)
      if (Argument(condition_, n.inputs[i]) != static_cast<int>(i)) return {};
    const auto callee = ImportFunction(functions_, WithInputs(Callee(*n.def), condition_, n.inputs));
    if (!callee.ok() || p.index >= static_cast<int>((*callee)->results.size())) return {};
    return Reader(functions_, **callee, body_, initial_).Count((*callee)->results[p.index], depth + 1);
  }

  static Trips Both(const Trips& a, const Trips& b) {
    Trips both = a.most < 0 || (b.most >= 0 && b.most < a.most) ? b : a;
    both.exact = a.exact && b.exact;
    if (both.most < 0 && !both.formula) both.formula = a.formula;
    return both;
  }

  bool IsInvariant(int arg) const { return Argument(body_, body_.results[arg]) == arg; }

  // How long low < high holds (with `equal`: low <= high), where one of them counts towards the other.
  Trips Compared(Port low, Port high, bool equal) const {
    const auto step_of = [&](Port p) -> std::optional<int64_t> {
      const int arg = Argument(condition_, p);
      return arg < 0 || IsInvariant(arg) ? std::nullopt : CounterStep(body_, arg);
    };
    const auto up = step_of(low), down = step_of(high);
    if (up.has_value() == down.has_value()) return {};
    const int counter = Argument(condition_, up ? low : high);
    const Port other = up ? high : low;
    std::vector<Range> args(initial_.size());  // of what stays as it is
    for (size_t i = 0; i < args.size(); ++i)
      if (IsInvariant(static_cast<int>(i))) args[i] = initial_[i];
    const Range first = initial_[counter], last = RangeOf(condition_, other, args);
    const int64_t distance = up ? last.high - first.low : first.high - last.low;  // until they meet
    const int64_t stride = up ? *up : -*down;
    if (distance < (equal ? 0 : 1)) return {0, true, std::nullopt};
    if (stride <= 0) return {};
    Trips trips;
    if (distance < kMaxNumber) {
      trips.most = equal ? distance / stride + 1 : (distance + stride - 1) / stride;
      trips.exact = first.low == first.high && last.low == last.high;
    } else if (const int limit = Argument(condition_, other); limit >= 0 && IsInvariant(limit)) {
      trips.formula = {counter, limit, stride, !up.has_value(), equal};
    }
    return trips;
  }

  Functions* const functions_;
  const Body &condition_, &body_;
  const std::vector<Range>& initial_;
};

}  // namespace

Range RangeOf(const Body& body, Port p, const std::vector<Range>& args) {
  const Range range = RangeTo(body, p, args, 0);
  return {Clamp(range.low), Clamp(range.high)};
}

std::optional<int64_t> CounterStep(const Body& body, int variable) {
  const Port p = Origin(body, body.results[variable]);
  const Node& n = body.node(p.node);
  if (n.is_arg() || (n.type() != "AddV2" && n.type() != "Add" && n.type() != "Sub")) return std::nullopt;
  const auto left = Scalar(body.output(n.inputs[0]).ints), right = Scalar(body.output(n.inputs[1]).ints);
  const bool add = n.type() != "Sub";
  if (right && Argument(body, n.inputs[0]) == variable) return add ? *right : -*right;
  return add && Argument(body, n.inputs[1]) == variable ? left : std::nullopt;
}

Trips CountTrips(Functions* functions, const Body& condition, const Body& body, const std::vector<Range>& initial) {
  if (condition.results.size() != 1 || condition.args.size() != initial.size() || body.results.size() != initial.size())
    return {};
  return Reader(functions, condition, body, initial).Count(condition.results[0], 0);
}

}  // namespace symgrad
