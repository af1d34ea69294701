#include "csrc/engine/read/function_facts.h"

#include <algorithm>

#include "csrc/engine/body/calls.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/facts/known_inputs.h"
#include "csrc/rules/traits/trait.h"

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

// A variable of a loop diverges where it may before an iteration, or after one.
void MarkLoop(Functions* functions, Body* body, int id) {
  constexpr int kRounds = 4;  // then all of them may
  const Node& n = body->node(id);
  std::vector<Port> variables;
  for (int i = 0; i < n.num_outputs && i < static_cast<int>(n.inputs.size()); ++i) {
    variables.push_back({id, i});
    body->output({id, i}).diverges = body->output(n.inputs[i]).diverges;
  }
  tf::NameAttrList f = WithInputs(n.def->attr().at("body").func(), *body, n.inputs);
  bool more = true;
  for (int round = 0; more; ++round) {
    SetDivergent(*body, variables, &f);
    const std::vector<bool> results = functions->DivergentResults(f);
    const bool any = std::find(results.begin(), results.end(), true) != results.end();
    more = false;
    for (size_t i = 0; any && i < variables.size(); ++i) {
      Output& variable = body->output(variables[i]);
      if (variable.diverges || !(round >= kRounds || (i < results.size() && results[i]))) continue;
      variable.diverges = more = true;
    }
  }
}

void MarkStructure(Functions* functions, Body* body, int id) {
  const Node& n = body->node(id);
  if (IsLoop(*n.def)) return MarkLoop(functions, body, id);
  const bool call = IsCall(*n.def, *n.op);
  const auto inputs = absl::MakeSpan(n.inputs).subspan(call ? 0 : 1);  // without the branch's index, the call's target
  for (const tf::NameAttrList& f : IsBranch(*n.def) ? Branches(*n.def) : std::vector{Callee(*n.def)}) {
    const std::vector<bool>& results = functions->DivergentResults(WithInputs(f, *body, inputs));
    for (int i = 0; i < n.num_outputs && i < static_cast<int>(results.size()); ++i)
      if (results[i]) body->output({id, i}).diverges = true;
  }
}

}  // namespace

void MarkDivergent(Functions* functions, Body* body) {
  for (int id = 0; id < body->num_forward; ++id) {
    const Node& n = body->node(id);
    if (n.is_arg()) continue;
    if (IsStructure(*n.def, *n.op)) {
      MarkStructure(functions, body, id);
      continue;
    }
    const auto diverges = [&](const Port& p) { return body->output(p).diverges; };
    const bool may =
        FindTrait(Op(id), Trait::kDiverges) != nullptr || std::any_of(n.inputs.begin(), n.inputs.end(), diverges);
    if (!may || FindTrait(Op(id), Trait::kMixes)) continue;
    for (int i = 0; i < n.num_outputs; ++i) body->output({id, i}).diverges = true;
  }
}

void InferFromFunctions(Functions* functions, Body* body, int node) {
  const Node& n = body->node(node);
  if (n.is_arg()) return;
  if (IsCall(*n.def, *n.op)) InferCall(functions, body, node);
  else if (body->compiled && IsBranch(*n.def)) InferBranch(functions, body, node);
  else if (body->compiled && IsLoop(*n.def)) InferLoop(body, node);
}

}  // namespace symgrad
