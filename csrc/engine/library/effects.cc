#include "csrc/engine/library/effects.h"

#include <algorithm>

namespace symgrad {
namespace {

namespace tf = ::tensorflow;

bool TakesResource(const tf::OpDef& op) {
  return std::any_of(op.input_arg().begin(), op.input_arg().end(),
                     [](const tf::OpDef::ArgDef& arg) { return arg.type() == tf::DT_RESOURCE || arg.is_ref(); });
}
bool IsRandom(const tf::OpDef& op) {
  return std::any_of(op.attr().begin(), op.attr().end(),
                     [](const tf::OpDef::AttrDef& attr) { return attr.name() == "seed" || attr.name() == "seed2"; });
}
// VarHandleOp and its like.
bool MakesHandle(const tf::OpDef& op) {
  return op.input_arg_size() == 0 && op.output_arg_size() == 1 &&
         (op.output_arg(0).type() == tf::DT_RESOURCE || op.output_arg(0).is_ref());
}

}  // namespace

Effects EffectsOfOp(const tf::OpDef& op) {
  if (const Trait* said = FindTrait(op.name(), Trait::kEffects)) return static_cast<Effects>(said->bits);
  const bool ordered_by_data = HasTrait(op.name(), Trait::kArray);  // by its flow
  if (!op.is_stateful() || ordered_by_data || MakesHandle(op)) return kNoEffects;
  return IsRandom(op) && !TakesResource(op) ? kNoEffects : kStateful;
}

std::vector<std::string> CalledFunctions(const tf::NodeDef& node, bool is_function_op) {
  std::vector<std::string> functions;
  if (is_function_op) functions.push_back(node.op());
  for (const auto& [name, value] : node.attr()) {
    if (value.has_func()) functions.push_back(value.func().name());
    for (const tf::NameAttrList& f : value.list().func()) functions.push_back(f.name());
  }
  return functions;
}

}  // namespace symgrad
