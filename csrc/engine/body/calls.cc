#include "csrc/engine/body/calls.h"

#include <algorithm>
#include <iterator>

namespace symgrad {

bool IsCall(const tf::NodeDef& node, const tf::OpRegistrationData& op) {
  const absl::string_view type = node.op();
  return op.is_function_op || type == "PartitionedCall" || type == "StatefulPartitionedCall";
}

bool IsLoop(const tf::NodeDef& node) { return node.op() == "While" || node.op() == "StatelessWhile"; }

bool IsBranch(const tf::NodeDef& node) {
  return node.op() == "If" || node.op() == "StatelessIf" || node.op() == "Case" || node.op() == "StatelessCase";
}

std::vector<tf::NameAttrList> Branches(const tf::NodeDef& node) {
  const auto& attrs = node.attr();
  if (node.op() == "If" || node.op() == "StatelessIf")
    return {attrs.at("then_branch").func(), attrs.at("else_branch").func()};
  const auto& list = attrs.at("branches").list().func();
  return {list.begin(), list.end()};
}

bool IsStructureOp(absl::string_view op) {
  return std::find(std::begin(kStructureOps), std::end(kStructureOps), op) != std::end(kStructureOps);
}

bool IsStructure(const tf::NodeDef& node, const tf::OpRegistrationData& op) {
  return op.is_function_op || IsStructureOp(node.op());
}

tf::NameAttrList Callee(const tf::NodeDef& node) {
  const auto f = node.attr().find("f");
  if (IsStructureOp(node.op()) && f != node.attr().end()) return f->second.func();
  tf::NameAttrList callee;
  callee.set_name(node.op());
  *callee.mutable_attr() = node.attr();
  return callee;
}

}  // namespace symgrad
