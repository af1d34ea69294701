// All rules, by op.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "csrc/rules/rule.h"

namespace symgrad {

// The rule for an op; null if there is none. A rule whose `gradient` is null says that no gradient flows.
const Rule* FindRule(absl::string_view op);

// Every op with a rule, in order of name, and whether it has a gradient.
std::vector<std::pair<std::string, bool>> RegisteredRules();

// Calls `observer` with every rule that there is, and with each that another library brings later. One observer.
void ObserveRules(void (*observer)(const Rule&));

// How many rules and traits there are: a library that brings more may change what was built before.
int NumRules();

// An error if two tables have a rule, or a trait of one kind, for the same op: which one would be used must not depend
// on the order of loading.
absl::Status CheckRegistry();

}  // namespace symgrad
