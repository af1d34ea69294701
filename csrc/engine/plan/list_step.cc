#include "csrc/engine/plan/list_step.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/facts/known_inputs.h"
#include "csrc/engine/library/fingerprint.h"
#include "csrc/engine/read/import.h"

namespace symgrad {
namespace {

constexpr int kMaxDepth = 200;                  // of calls
constexpr int64_t kMaxStep = int64_t{1} << 31;  // no list is longer

// A list as one of the arguments, and what has been done to that.
struct Change {
  int arg;
  ListStep step;
};

// Each function is read once, however often it is called: what is not told of one of its results is not told at all.
class Changes {
 public:
  explicit Changes(Functions* functions) : functions_(functions) {}

  std::optional<Change> Of(const Body& body, Port p, int depth = 0) {
    ListStep step{0, tf::DT_INVALID};
    while (std::abs(step.by) <= kMaxStep) {
      p = Origin(body, p);
      const Node& n = body.node(p.node);
      if (n.is_arg()) {
        const auto arg = std::find(body.args.begin(), body.args.end(), p.node);
        return Change{static_cast<int>(arg - body.args.begin()), step};
      }
      if (IsCall(*n.def, *n.op)) {
        const auto change = OfCall(body, p, depth);
        if (!change || change->arg >= static_cast<int>(n.inputs.size())) return std::nullopt;
        step.by += change->step.by;
        if (change->step.element != tf::DT_INVALID) step.element = change->step.element;
        p = n.inputs[change->arg];
        continue;
      }
      const absl::string_view op = n.type();
      const bool push = op == "TensorListPushBack", pop = op == "TensorListPopBack" && p.index == 0;
      const auto resize = n.def->attr().find("resize_if_index_out_of_bounds");
      const bool set = op == "TensorListSetItem" && (resize == n.def->attr().end() || !resize->second.b());
      if (!push && !pop && !set) return std::nullopt;
      step.by += push ? 1 : pop ? -1 : 0;
      step.element = n.def->attr().at("element_dtype").type();
      p = n.inputs[0];
    }
    return std::nullopt;
  }

 private:
  std::optional<Change> OfCall(const Body& body, Port p, int depth) {
    const Node& n = body.node(p.node);
    const tf::NameAttrList f = WithInputs(Callee(*n.def), body, n.inputs);
    std::string key = absl::StrCat(p.index, " ", ContentText(f));
    if (const auto it = known_.find(key); it != known_.end()) return it->second;
    if (depth == kMaxDepth) return std::nullopt;
    const auto callee = ImportFunction(functions_, f);
    if (!callee.ok() || p.index >= static_cast<int>((*callee)->results.size())) return std::nullopt;
    const auto change = Of(**callee, (*callee)->results[p.index], depth + 1);
    known_.emplace(std::move(key), change);
    return change;
  }

  Functions* const functions_;
  absl::flat_hash_map<std::string, std::optional<Change>> known_;  // by function and result
};

}  // namespace

std::optional<ListStep> StepOfList(Functions* functions, const Body& body, int variable) {
  const auto change = Changes(functions).Of(body, body.results[variable]);
  const bool same = change && change->arg == variable && change->step.element != tf::DT_INVALID;
  return same ? std::optional(change->step) : std::nullopt;
}

}  // namespace symgrad
