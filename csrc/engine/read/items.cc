#include "csrc/engine/read/items.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/body/node_check.h"

namespace symgrad {

// A constant that something is ordered by, or that has a place of its own, stays; large ones are rarely the same.
int Constants::Share(const Item& item, int node) {
  constexpr size_t kMaxBytes = 128;
  const auto& attrs = item.def->attr();
  if (item.def->op() != "Const" || !item.controls.empty() || item.def->input_size() > 0) return node;
  for (const auto& [name, value] : attrs)
    if (name != "dtype" && name != "value" && name != "_output_shapes") return node;
  const auto value = attrs.find("value");
  if (value == attrs.end() || value->second.ByteSizeLong() > kMaxBytes) return node;
  return nodes_.try_emplace(absl::StrCat(item.def->device(), "|", value->second.SerializeAsString()), node)
      .first->second;
}

void Items::Reserve(int more) {
  items_.reserve(items_.size() + more);
  by_name_.reserve(items_.size() + more);
}

bool Items::Add(absl::string_view name, Item item) {
  const bool added = by_name_.emplace(name, static_cast<int>(size())).second;
  items_.push_back(std::move(item));
  return added;
}

int Items::Find(absl::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? -1 : it->second;
}

Port Items::BodyPort(Port p) const {
  const Item& item = items_[p.node];
  return item.def == nullptr ? Port{item.id + p.index, 0} : Port{item.id, p.index};
}

bool Items::Resolve(absl::string_view reference, Source* source, std::string* error) const {
  const size_t colon = reference.find(':');
  source->item = Find(reference.substr(0, colon));
  if (source->item < 0) {
    *error = absl::StrCat("'", reference, "' names no node or argument of the function");
    return false;
  }
  const Item& item = items_[source->item];
  source->first = 0;
  source->count = static_cast<int>(item.out.size());
  if (colon == absl::string_view::npos) {
    if (item.def == nullptr) return true;
    *error = absl::StrCat("'", reference, "' must be written 'node:output:index' within a function");
    return false;
  }
  absl::string_view rest = reference.substr(colon + 1);
  if (item.def != nullptr) {
    if (item.op == nullptr) return false;  // reported already
    const absl::string_view output = rest.substr(0, rest.find(':'));
    rest = output.size() < rest.size() ? rest.substr(output.size() + 1) : absl::string_view();
    bool found = false;
    for (const tf::OpDef::ArgDef& arg : item.op->op_def.output_arg()) {
      source->count = static_cast<int>(ArgCount(arg, item.def->attr()));
      found = arg.name() == output;
      if (found) break;
      source->first += source->count;
    }
    if (!found) {
      *error = absl::StrCat("'", reference, "': op ", item.def->op(), " has no output '", output, "'");
      return false;
    }
    if (rest.empty()) return true;
  }
  int index;
  if (!absl::SimpleAtoi(rest, &index) || index < 0 || index >= source->count) {
    *error = absl::StrCat("'", reference, "': there is no output ", rest, ", only ", source->count);
    return false;
  }
  source->first += index;
  source->count = 1;
  return true;
}

void InferHandleDtypes(const Items& items, Body* body) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].def == nullptr) continue;
    const auto dtype = items[i].def->attr().find("dtype");
    if (dtype == items[i].def->attr().end()) continue;
    for (const Port& p : items[i].inputs) {
      const Item& source = items[p.node];
      if (source.def != nullptr || source.out[p.index] != tf::DT_RESOURCE) continue;
      auto& handle = body->handles[body->output_index(items.BodyPort(p))][0];
      if (handle.dtype == tf::DT_INVALID) handle.dtype = dtype->second.type();
    }
  }
  // A handle of unknown dtype would be taken for a dtype that differs from the reader's.
  absl::erase_if(body->handles, [](const auto& handle) { return handle.second[0].dtype == tf::DT_INVALID; });
}

}  // namespace symgrad
