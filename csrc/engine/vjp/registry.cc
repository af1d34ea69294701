#include "csrc/engine/vjp/registry.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <set>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "csrc/rules/traits/trait.h"
#include "tensorflow/core/framework/op.h"

namespace symgrad {
namespace {

namespace tf = ::tensorflow;

struct Registry {
  struct Entry {
    const Rule* rule;
    const char* file;
    bool replaces;
  };
  struct File {
    std::vector<const char*> ops;
    std::set<absl::string_view> names;  // of inputs and outputs
  };
  absl::Mutex mutex;  // a library with rules of its own may be loaded at any time
  absl::flat_hash_map<absl::string_view, Entry> entries;
  std::map<std::string, File> files;
  int count = 0;
  std::vector<std::string> conflicts;
  void (*observer)(const Rule&) = nullptr;
};

Registry& Rules() {
  static auto* const registry = new Registry;
  return *registry;
}

// The names that no op has which the rules of their file are for. Where an op is not there, nobody knows.
std::vector<std::string> UnknownNames(const Registry& all) {
  std::vector<std::string> unknown;
  for (const auto& [name, file] : all.files) {
    std::set<absl::string_view> names;
    bool complete = !file.ops.empty();
    for (const char* op : file.ops) {
      const tf::OpRegistrationData* data = nullptr;
      complete = tf::OpRegistry::Global()->LookUp(op, &data).ok() && complete;
      if (data == nullptr) continue;
      for (const auto& arg : data->op_def.input_arg()) names.insert(arg.name());
      for (const auto& arg : data->op_def.output_arg()) names.insert(arg.name());
    }
    for (const absl::string_view used : file.names)
      if (complete && names.count(used) == 0) unknown.push_back(absl::StrCat(used, " in ", name));
  }
  return unknown;
}

}  // namespace

internal::Name::Name(const char* file, const char* name) {
  Registry& all = Rules();
  absl::MutexLock lock(&all.mutex);
  all.files[file].names.insert(name);
}

Registration::Registration(const Rule* rules, int count, const char* file, bool replaces) {
  Registry& all = Rules();
  absl::MutexLock lock(&all.mutex);
  for (const Rule* rule = rules; rule != rules + count; ++rule) {
    all.files[file].ops.push_back(rule->op);
    ++all.count;
    const Registry::Entry entry{rule, file, replaces};
    const auto [it, added] = all.entries.try_emplace(rule->op, entry);
    if (!added && it->second.replaces == replaces)
      all.conflicts.push_back(absl::StrCat(rule->op, " in ", it->second.file, " and in ", file));
    if (!added && !(replaces && !it->second.replaces)) continue;
    it->second = entry;
    if (all.observer != nullptr) all.observer(*rule);
  }
}

void ObserveRules(void (*observer)(const Rule&)) {
  Registry& all = Rules();
  absl::MutexLock lock(&all.mutex);
  all.observer = observer;
  for (const auto& [op, entry] : all.entries) observer(*entry.rule);
}

const Rule* FindRule(absl::string_view op) {
  Registry& all = Rules();
  absl::ReaderMutexLock lock(&all.mutex);
  const auto it = all.entries.find(op);
  return it == all.entries.end() ? nullptr : it->second.rule;
}

std::vector<std::pair<std::string, bool>> RegisteredRules() {
  Registry& all = Rules();
  absl::ReaderMutexLock lock(&all.mutex);
  std::vector<std::pair<std::string, bool>> rules;
  for (const auto& [op, entry] : all.entries) rules.emplace_back(op, entry.rule->gradient != nullptr);
  std::sort(rules.begin(), rules.end());
  return rules;
}

int NumRules() {
  Registry& all = Rules();
  absl::ReaderMutexLock lock(&all.mutex);
  return all.count + NumTraits();
}

absl::Status CheckRegistry() {
  Registry& all = Rules();
  absl::ReaderMutexLock lock(&all.mutex);
  if (const std::string traits = TraitConflicts(); !traits.empty())
    return absl::InternalError(absl::StrCat("more than one trait of a kind for: ", traits));
  if (!all.conflicts.empty())
    return absl::InternalError(absl::StrCat("more than one rule for: ", absl::StrJoin(all.conflicts, "; ")));
  static std::atomic<int> checked = 0;
  if (checked == all.count) return absl::OkStatus();
  if (const std::vector<std::string> unknown = UnknownNames(all); !unknown.empty())
    return absl::InternalError(
        absl::StrCat("rules read what no op of their tables has: ", absl::StrJoin(unknown, "; ")));
  checked = all.count;
  return absl::OkStatus();
}

}  // namespace symgrad
