// Which forward tensors a gradient function keeps for its backward part, and which it computes again, as users say it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace symgrad {

// What the texts mean that attr `checkpoint` of the op can have:
//
//   ""                     all that the backward part uses stays
//   "cheap"                what ops that cost next to nothing compute of the rest does not: a minimum cut by bytes
//   "auto"                 as little is computed again as it takes for about the smallest peak of memory
//   "everything"           whatever it takes for the smallest peak: of a chain of n layers, about the root of n stay
//   "200MB", "1500000"     as little is computed again as it takes for a peak of so many bytes
//   "keep:MatMul,block"    only results of ops of these types, and in these name scopes, stay
//   "recompute:Relu,tail"  only these do not
struct Policy {
  enum Kind { kNone, kCheap, kAuto, kEverything, kBudget, kKeep, kRecompute } kind = kNone;
  int64_t budget = 0;              // bytes
  std::vector<std::string> names;  // op types and name scopes
};

// InvalidArgument, which lists what there is, for any other text.
absl::StatusOr<Policy> ParsePolicy(absl::string_view text);

}  // namespace symgrad
