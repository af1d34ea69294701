#include "csrc/engine/read/function_facts.h"

#include <algorithm>

#include "csrc/engine/body/calls.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/facts/known_inputs.h"

namespace symgrad {
namespace {

void Learn(Body* body, Port p, const tf::PartialTensorShape& shape, const IntsPtr& ints) {
  Shape known;
  Output& output = body->output(p);
  if (!shape.unknown_rank() && body->shapes()->MakeShapeFromPartialTensorShape(shape, &known).ok())
    output.shape = known;
  const bool is_list = ints != nullptr && output.dtype == tf::DT_VARIANT;
  if (is_list || (ints != nullptr && IsIntegral(output.dtype))) output.ints = ints;
}

void InferCall(Functions* functions, Body* body, int id) {
  const Node& n = body->node(id);
  const std::vector<ResultFacts>& facts = functions->FactsOfResults(WithInputs(Callee(*n.def), *body, n.inputs));
  for (int i = 0; i < static_cast<int>(facts.size()) && i < n.num_outputs; ++i)
    Learn(body, {id, i}, facts[i].shape, facts[i].ints);
}

bool Equal(const IntsPtr& a, const IntsPtr& b) {
  const auto same = [](const Ints::Element& x, const Ints::Element& y) { return x.value == y.value; };
  return a != nullptr && b != nullptr && a->dims == b->dims &&
         std::equal(a->elements.begin(), a->elements.end(), b->elements.begin(), b->elements.end(), same);
}

// What is known whichever branch is taken.
void InferBranch(Functions* functions, Body* body, int id) {
  const Node& n = body->node(id);
  std::vector<std::vector<ResultFacts>> facts;
  for (const tf::NameAttrList& f : Branches(*n.def)) {
    facts.push_back(functions->FactsOfResults(WithInputs(f, *body, absl::MakeSpan(n.inputs).subspan(1))));
    if (static_cast<int>(facts.back().size()) != n.num_outputs) return;
  }
  for (int i = 0; !facts.empty() && i < n.num_outputs; ++i) {
    const auto shared = [&](const auto& same) {
      return std::all_of(facts.begin(), facts.end(), [&](const auto& f) { return same(f[i], facts[0][i]); });
    };
    const bool same_shape = shared([](const auto& a, const auto& b) { return a.shape.IsIdenticalTo(b.shape); });
    const bool same_ints = shared([](const auto& a, const auto& b) { return Equal(a.ints, b.ints); });
    Learn(body, {id, i}, same_shape ? facts[0][i].shape : tf::PartialTensorShape(),
          same_ints ? facts[0][i].ints : nullptr);
  }
}

void InferLoop(Body* body, int id) {
  const Node& n = body->node(id);
  for (int i = 0; i < static_cast<int>(n.inputs.size()) && i < n.num_outputs; ++i)
    if (body->output({id, i}).dtype != tf::DT_RESOURCE)
      Learn(body, {id, i}, StaticShape(body->output(n.inputs[i]).shape), nullptr);
}

}  // namespace

void InferFromFunctions(Functions* functions, Body* body, int node) {
  const Node& n = body->node(node);
  if (n.is_arg()) return;
  if (IsCall(*n.def, *n.op)) InferCall(functions, body, node);
  else if (body->compiled && IsBranch(*n.def)) InferBranch(functions, body, node);
  else if (body->compiled && IsLoop(*n.def)) InferLoop(body, node);
}

}  // namespace symgrad
