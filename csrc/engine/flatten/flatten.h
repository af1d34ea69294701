// Calls written out in place.
#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "csrc/engine/library/functions.h"

namespace symgrad {

// So that what is kept can be chosen among all tensors: f with what it calls in place of its calls, and so on in depth.
// A call stays as it is where that would make a difference: its gradient is given, XLA is to compile it, it is not to
// be inlined, or its function is polymorphic. Nodes are called <call>/<node>. f itself if there is nothing to do.
absl::StatusOr<tf::NameAttrList> Flatten(Functions* functions, const tf::NameAttrList& f);

// f, whose function `fdef` is, with these in place of what stands for them; nothing if there is nothing to do.
//  - Gradient functions in place of the gradient ops, and halves in place of their calls, where they are called once:
//    then nothing is shared that way, and to the next derivative a call would only hand on residuals, of which each
//    order has more, and hide which shapes are the same.
//  - Functions of a few nodes that call none, in place of their calls, unless `functions` keeps calls or f spans
//  devices.
//  - What is the same as a node (kSameAs).
std::optional<tf::FunctionDef> InlineFew(Functions* functions, const tf::NameAttrList& f, const tf::FunctionDef& fdef);

}  // namespace symgrad
