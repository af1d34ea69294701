#include "csrc/engine/vjp/registry.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "csrc/rules/traits/trait.h"

namespace symgrad {
namespace {

struct Registry {
  struct Entry {
    const Rule* rule;
    const char* file;
  };
  absl::Mutex mutex;  // a library with rules of its own may be loaded at any time
  absl::flat_hash_map<absl::string_view, Entry> entries;
  std::vector<std::string> conflicts;
  void (*observer)(const Rule&) = nullptr;
};

Registry& Rules() {
  static auto* const registry = new Registry;
  return *registry;
}

}  // namespace

Registration::Registration(const Rule* rules, int count, const char* file) {
  Registry& all = Rules();
  absl::MutexLock lock(&all.mutex);
  for (const Rule* rule = rules; rule != rules + count; ++rule) {
    const auto [it, added] = all.entries.try_emplace(rule->op, Registry::Entry{rule, file});
    if (!added) all.conflicts.push_back(absl::StrCat(rule->op, " in ", it->second.file, " and in ", file));
    else if (all.observer != nullptr) all.observer(*rule);
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
  return static_cast<int>(all.entries.size()) + NumTraits();
}

absl::Status CheckRegistry() {
  Registry& all = Rules();
  absl::ReaderMutexLock lock(&all.mutex);
  if (const std::string traits = TraitConflicts(); !traits.empty())
    return absl::InternalError(absl::StrCat("more than one trait of a kind for: ", traits));
  if (all.conflicts.empty()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("more than one rule for: ", absl::StrJoin(all.conflicts, "; ")));
}

}  // namespace symgrad
