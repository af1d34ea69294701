// Nodes that stand for functions, as functions that are split: each half is a node of the same kind.
#pragma once

#include "absl/status/statusor.h"
#include "csrc/engine/emit/builder.h"
#include "csrc/engine/structure/split.h"

namespace symgrad {

// Splits the node that the query is of. Its inputs are the x, its outputs the y. (Loops have a room of their own.)
// With `in_place`, that is what the forward half is.
absl::StatusOr<SplitVjp> SplitBranch(Splitter* splitter, const Body& body, const VjpQuery& query,
                                     InPlace* in_place = nullptr);                                  // If, Case
absl::StatusOr<SplitVjp> SplitRemote(Splitter* splitter, const Body& body, const VjpQuery& query);  // RemoteCall

}  // namespace symgrad
