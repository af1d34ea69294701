// Calls written out in place, so that what is kept can be chosen among all tensors.
#pragma once

#include "absl/status/statusor.h"
#include "csrc/engine/library/functions.h"

namespace symgrad {

// f with what it calls in place of its calls, and so on in depth. A call stays as it is where that would make a
// difference: its gradient is given, XLA is to compile it, it is not to be inlined, or its function is polymorphic.
// Nodes are called <call>/<node>. f itself if there is nothing to do.
absl::StatusOr<tf::NameAttrList> Flatten(Functions* functions, const tf::NameAttrList& f);

}  // namespace symgrad
