#include "csrc/engine/plan/list_step.h"

#include <algorithm>
#include <string>

#include "csrc/engine/body/calls.h"
#include "csrc/engine/facts/known_inputs.h"
#include "csrc/engine/read/import.h"

namespace symgrad {
namespace {

constexpr int kMaxDepth = 20;  // of calls

// A list as one of the arguments, and what has been done to that.
struct Change {
  int arg;
  ListStep step;
};

std::optional<Change> ChangeOf(Functions* functions, const Body& body, Port p, int depth) {
  ListStep step{0, tf::DT_INVALID};
  while (true) {
    p = Origin(body, p);
    const Node& n = body.node(p.node);
    if (n.is_arg()) {
      const auto arg = std::find(body.args.begin(), body.args.end(), p.node);
      return Change{static_cast<int>(arg - body.args.begin()), step};
    }
    if (IsCall(*n.def, *n.op)) {
      if (depth == kMaxDepth) return std::nullopt;
      const auto callee = ImportFunction(functions, WithInputs(Callee(*n.def), body, n.inputs));
      if (!callee.ok() || p.index >= static_cast<int>((*callee)->results.size())) return std::nullopt;
      const auto change = ChangeOf(functions, **callee, (*callee)->results[p.index], depth + 1);
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
}

}  // namespace

std::optional<ListStep> StepOfList(Functions* functions, const Body& body, int variable) {
  const auto change = ChangeOf(functions, body, body.results[variable], 0);
  const bool same = change && change->arg == variable && change->step.element != tf::DT_INVALID;
  return same ? std::optional(change->step) : std::nullopt;
}

}  // namespace symgrad
