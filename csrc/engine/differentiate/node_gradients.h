// The cotangents of nodes that rules know nothing of: those that stand for functions, and those that come with a
// gradient function of their own.
#pragma once

#include "absl/status/statusor.h"
#include "csrc/engine/emit/builder.h"
#include "csrc/engine/structure/split.h"
#include "csrc/engine/write/part.h"

namespace symgrad {

// See NodeGradients (sweep.h). A call asks for the halves of its callee, branches and loops for those of their
// functions.
absl::StatusOr<Grads> StructureGradient(Splitter* splitter, Builder* builder, const VjpQuery& query);
// The same with zeros and rows where TensorFlow's Python makes such: it differentiates all outputs of a node together,
// where a branch's gradient is rows, all are, and those of loops are dense. With `in_place`, the node stays what it is,
// but gets outputs, if its gradient needs any.
absl::StatusOr<Grads> StructureGradientAsPython(Splitter* splitter, Builder* builder, VjpQuery query,
                                                InPlace* in_place);
absl::StatusOr<Grads> CustomGradient(const Functions& functions, Builder* builder, const VjpQuery& query);

// Puts forward halves, which do no more than what is needed of them, in the place of nodes that no cotangent came to,
// but whose effects nothing waits for that the signature keeps.
absl::Status Lighten(Splitter* splitter, Body* body, const Signature& signature);

}  // namespace symgrad
