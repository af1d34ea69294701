#include "csrc/engine/remat/plan.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "csrc/engine/remat/min_cut.h"

namespace symgrad {
namespace {

using Stays = std::vector<bool>;

// Finds what to keep by measuring candidates.
//
// The forward part in topological order is cut into segments. What crosses a cut stays, and what lies within a segment
// is computed again from that when the sweep comes to it. So the peak is what stays and the largest segment; that a
// cotangent comes to the last segment at once, all of it stays.
class Planner {
 public:
  explicit Planner(const Schedule& schedule) : schedule_(schedule), body_(schedule.body()) {
    FindUses();
    FindCrossings();
  }

  Stays All() const { return Stays(body_.num_outputs(), true); }

  // A minimum cut by bytes between what is not cheap to compute and the backward part.
  Stays Cheap() const {
    Stays stays(body_.num_outputs(), false);
    absl::flat_hash_map<int, int> vertex_of;  // by node and by ~buffer; of a buffer the next vertex, too
    int count = 2;
    for (const int id : nodes_) vertex_of.emplace(id, count++);
    for (const Tensor& t : tensors_) vertex_of.emplace(~t.buffer, std::exchange(count, count + 2));
    Network network(count);
    for (const int id : nodes_) {
      const int vertex = vertex_of[id];
      if (!schedule_.IsCheap(id)) network.AddEdge(Network::kSource, vertex, Network::kInfinite);
      const Node& n = body_.node(id);
      for (const Port& p : n.inputs)
        if (const auto it = vertex_of.find(~schedule_.buffer(p)); it != vertex_of.end() && !schedule_.IsFixed(p))
          network.AddEdge(it->second + 1, vertex, Network::kInfinite);
      for (int i = 0; i < n.num_outputs; ++i)
        if (const auto it = vertex_of.find(~(n.first_output + i)); it != vertex_of.end())
          network.AddEdge(vertex, it->second, Network::kInfinite);
    }
    for (const Tensor& t : tensors_) {
      const int vertex = vertex_of[~t.buffer];
      network.AddEdge(vertex, vertex + 1, std::max<int64_t>(1, schedule_.bytes(t.buffer)));
      if (t.used) network.AddEdge(vertex + 1, Network::kSink, Network::kInfinite);
    }
    constexpr int64_t kMaxSteps = 50'000'000;
    const std::vector<bool> side = network.SourceSide(kMaxSteps);
    if (side.empty()) return All();
    for (const Tensor& t : tensors_) stays[t.buffer] = side[vertex_of[~t.buffer]] && !side[vertex_of[~t.buffer] + 1];
    return stays;
  }

  // Segments of about so many bytes over the first nodes, up to position `end`; what lies behind the last cut stays as
  // `rest` says.
  Stays Segments(double bytes, int end, const Stays& rest) const {
    std::vector<int> cuts;
    double within = 0;  // bytes since the last cut
    int best = -1;
    double since_best = 0;
    for (int i = 0; i < end; ++i) {
      within += static_cast<double>(weight_[i]);
      since_best += static_cast<double>(weight_[i]);
      if (within >= bytes / 2 && (best < 0 || crossing_[i + 1] <= crossing_[best])) {
        best = i + 1;
        since_best = 0;
      }
      if (within < bytes || best < 0) continue;
      cuts.push_back(best);
      within = since_best;
      best = -1;
    }
    Stays stays(body_.num_outputs(), false);
    const int last = cuts.empty() ? 0 : cuts.back();
    for (const Tensor& t : tensors_) {
      const auto cut = std::upper_bound(cuts.begin(), cuts.end(), t.made);  // the first cut after it was made
      stays[t.buffer] = t.made >= last ? rest[t.buffer] : cut != cuts.end() && *cut <= t.last;
    }
    return stays;
  }

  struct Plan {
    Stays stays;
    Schedule::Estimate estimate;
  };
  Plan Measured(Stays stays) const {
    const Schedule::Estimate estimate = schedule_.Measure(stays);
    return {std::move(stays), estimate};
  }

  // All stays; what is cheap does not; segments, of 2, 2.8, 4 … of them, over all or a part of the nodes.
  std::vector<Plan> Candidates(bool parts) const {
    std::vector<Plan> plans;
    const Stays cheap = Cheap();
    plans.push_back(Measured(All()));
    plans.push_back(Measured(cheap));
    const int n = static_cast<int>(nodes_.size());
    double total = 0;
    for (const int64_t w : weight_) total += static_cast<double>(w);
    const double most = std::clamp(0.5 * n, 2.0, 1024.0);
    for (int k = 2; std::exp2(0.5 * k) <= most; ++k)
      for (int eighth = parts ? 1 : 8; eighth <= 8; ++eighth) {
        const double segments = std::exp2(0.5 * k);
        const int end = static_cast<int>(int64_t{n} * eighth / 8);
        plans.push_back(Measured(Segments(total / segments, end, All())));
        if (cheap != All()) plans.push_back(Measured(Segments(total / segments, end, cheap)));
      }
    return plans;
  }

  Stays ByNames(const Policy& policy, std::vector<bool>* met) const {
    Stays stays(body_.num_outputs(), false);
    met->assign(policy.names.size(), false);
    for (int id = 0; id < body_.num_nodes(); ++id) {
      if (schedule_.IsBackward(id) || body_.node(id).is_arg()) continue;
      const Node& n = body_.node(id);
      bool named = false;
      for (size_t k = 0; k < policy.names.size(); ++k)
        if (IsNamed(id, policy.names[k])) named = (*met)[k] = true;
      for (int i = 0; i < n.num_outputs; ++i) stays[n.first_output + i] = named == (policy.kind == Policy::kKeep);
    }
    return stays;
  }

 private:
  // A forward tensor that has memory of its own and would have to be computed again if nothing stayed.
  struct Tensor {
    int buffer;
    int made, last;     // positions in nodes_: of what makes it, and of the last that uses it, forward or backward
    bool used = false;  // by the backward part
  };

  bool IsNamed(int id, const std::string& name) const {
    const Node& n = body_.node(id);
    if (n.type() == name) return true;
    const int forward = id < body_.num_forward ? id : n.origin;
    if (forward < 0 || body_.node(forward).is_arg()) return false;
    // Between slashes: a function's nodes are in the scope of the call that it stands in place of.
    return absl::StrContains(absl::StrCat("/", body_.node(forward).def->name(), "/"), absl::StrCat("/", name, "/"));
  }

  void FindUses() {
    const std::vector<Step> steps = schedule_.Steps(Stays(body_.num_outputs(), false));
    for (const Step& step : steps)
      if (step.again) nodes_.push_back(step.node);
    std::sort(nodes_.begin(), nodes_.end());
    std::vector<int> tensor_of(body_.num_outputs(), -1);
    for (size_t k = 0; k < nodes_.size(); ++k) {
      const Node& n = body_.node(nodes_[k]);
      for (int i = 0; i < n.num_outputs; ++i) {
        const int output = n.first_output + i;
        if (schedule_.buffer({nodes_[k], i}) != output) continue;
        tensor_of[output] = static_cast<int>(tensors_.size());
        tensors_.push_back({output, static_cast<int>(k), static_cast<int>(k)});
      }
    }
    for (const Step& step : steps) {
      const Node& n = body_.node(step.node);
      const int at = Position(step.again ? step.node : n.origin);
      for (const Port& p : n.inputs) {
        const int t = schedule_.IsBackward(p.node) ? -1 : tensor_of[schedule_.buffer(p)];
        if (t < 0) continue;
        tensors_[t].last = std::max(tensors_[t].last, at);
        tensors_[t].used = tensors_[t].used || !step.again;
      }
    }
  }

  // Of the first node that is not before this one.
  int Position(int node) const {
    return static_cast<int>(std::lower_bound(nodes_.begin(), nodes_.end(), node) - nodes_.begin());
  }

  // What each node adds to the memory of a segment, and the bytes that cross before each.
  void FindCrossings() {
    weight_.assign(nodes_.size(), 0);
    crossing_.assign(nodes_.size() + 2, 0);
    for (const Tensor& t : tensors_) {
      const int64_t bytes = schedule_.bytes(t.buffer);
      if (t.used) weight_[t.made] += bytes;
      crossing_[t.made + 1] += bytes;
      crossing_[t.last + 1] -= bytes;
    }
    for (size_t i = 1; i < crossing_.size(); ++i) crossing_[i] += crossing_[i - 1];
  }

  const Schedule& schedule_;
  const Body& body_;
  std::vector<int> nodes_;  // forward nodes that would have to be computed again if nothing stayed, in order
  std::vector<Tensor> tensors_;
  std::vector<int64_t> weight_, crossing_;
};

absl::Status CheckNames(const Policy& policy, const std::vector<bool>& met) {
  std::vector<std::string> unknown;
  for (size_t k = 0; k < met.size(); ++k) {
    const tf::OpRegistrationData* op = nullptr;
    if (!met[k] && !tf::OpRegistry::Global()->LookUp(policy.names[k], &op).ok())
      unknown.push_back(absl::StrCat("'", policy.names[k], "'"));
  }
  if (unknown.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("checkpoint names what is neither an op type nor a name scope of the ",
                                                 "function: ", absl::StrJoin(unknown, ", ")));
}

}  // namespace

absl::StatusOr<std::vector<bool>> ChooseWhatStays(const Schedule& schedule, const Policy& policy) {
  const Planner planner(schedule);
  if (policy.kind == Policy::kKeep || policy.kind == Policy::kRecompute) {
    std::vector<bool> met;
    Stays stays = planner.ByNames(policy, &met);
    TF_RETURN_IF_ERROR(CheckNames(policy, met));
    return stays;
  }
  if (policy.kind == Policy::kNone) return planner.All();
  if (policy.kind == Policy::kCheap) return planner.Cheap();
  std::vector<Planner::Plan> plans = planner.Candidates(/*parts=*/policy.kind == Policy::kBudget);
  const auto peak = [](const Planner::Plan& plan) { return plan.estimate.peak; };
  const auto less = [&](const Planner::Plan& a, const Planner::Plan& b) { return peak(a) < peak(b); };
  auto best = std::min_element(plans.begin(), plans.end(), less);
  if (policy.kind == Policy::kEverything) return std::move(best->stays);
  // The cheapest of those that fit; if none does, the smallest.
  constexpr double kAbout = 1.1;
  const double limit =
      policy.kind == Policy::kAuto ? kAbout * static_cast<double>(peak(*best)) : static_cast<double>(policy.budget);
  for (auto plan = plans.begin(); plan != plans.end(); ++plan)
    if (static_cast<double>(peak(*plan)) <= limit &&
        (static_cast<double>(peak(*best)) > limit || plan->estimate.cost < best->estimate.cost))
      best = plan;
  return std::move(best->stays);
}

}  // namespace symgrad
