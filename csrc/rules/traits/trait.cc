#include "csrc/rules/traits/trait.h"

#include <array>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

namespace symgrad {
namespace {

struct Registry {
  struct Entry {
    const Trait* trait = nullptr;
    const char* file = nullptr;
  };
  std::shared_mutex mutex;  // a library with traits of its own may be loaded at any time
  std::unordered_map<std::string_view, std::array<Entry, Trait::kNumKinds>> ops;
  int count = 0;
  std::string conflicts;
};

Registry& Traits() {
  static auto* const registry = new Registry;
  return *registry;
}

}  // namespace

TraitRegistration::TraitRegistration(const Trait* traits, int count, const char* file) {
  Registry& all = Traits();
  const std::unique_lock lock(all.mutex);
  for (const Trait* trait = traits; trait != traits + count; ++trait) {
    Registry::Entry& entry = all.ops[trait->op][trait->kind];
    if (entry.trait != nullptr)
      all.conflicts +=
          std::string(all.conflicts.empty() ? "" : "; ") + trait->op + " in " + entry.file + " and in " + file;
    else entry = {trait, file};
    ++all.count;
  }
}

const Trait* FindTrait(std::string_view op, Trait::Kind kind) {
  Registry& all = Traits();
  const std::shared_lock lock(all.mutex);
  const auto it = all.ops.find(op);
  return it == all.ops.end() ? nullptr : it->second[kind].trait;
}

const Trait* FindTrait(const Op& o, Trait::Kind kind) {
  const Trait* trait = FindTrait(o.op_type(), kind);
  return trait == nullptr || trait->condition == nullptr || trait->condition(o) ? trait : nullptr;
}

int NumTraits() {
  Registry& all = Traits();
  const std::shared_lock lock(all.mutex);
  return all.count;
}

std::string TraitConflicts() {
  Registry& all = Traits();
  const std::shared_lock lock(all.mutex);
  return all.conflicts;
}

}  // namespace symgrad
