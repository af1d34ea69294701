#include "csrc/engine/library/references.h"

#include <type_traits>

#include "csrc/engine/body/body.h"

namespace symgrad {
namespace {

// Calls visit(NameAttrList*) for each function in an attr, those in the attrs of others as well.
template <typename Value, typename Visit>
void ForEachFunction(Value& value, const Visit& visit) {
  const auto meet = [&](auto& f) {
    visit(f);
    if constexpr (std::is_const_v<Value>) {
      for (const auto& [name, inner] : f.attr()) ForEachFunction(inner, visit);
    } else {
      for (auto& [name, inner] : *f.mutable_attr()) ForEachFunction(inner, visit);
    }
  };
  if constexpr (std::is_const_v<Value>) {
    if (value.has_func()) meet(value.func());
    for (const tf::NameAttrList& f : value.list().func()) meet(f);
  } else {
    if (value.has_func()) meet(*value.mutable_func());
    if (value.has_list())
      for (tf::NameAttrList& f : *value.mutable_list()->mutable_func()) meet(f);
  }
}

}  // namespace

void VisitReferences(const tf::NodeDef& node, absl::FunctionRef<void(const std::string&)> visit) {
  visit(node.op());
  for (const auto& [name, value] : node.attr())
    ForEachFunction(value, [&](const tf::NameAttrList& f) { visit(f.name()); });
}

bool RenameFunctions(const std::map<std::string, std::string>& new_names, tf::NodeDef* node) {
  bool any = false;
  if (const auto it = new_names.find(node->op()); it != new_names.end()) {
    node->set_op(it->second);
    any = true;
  }
  for (auto& [name, value] : *node->mutable_attr()) {
    ForEachFunction(value, [&](tf::NameAttrList& f) {
      const auto it = new_names.find(f.name());
      if (it == new_names.end()) return;
      f.set_name(it->second);
      any = true;
    });
  }
  return any;
}

}  // namespace symgrad
