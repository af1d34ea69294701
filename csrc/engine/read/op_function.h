// Ops where functions are expected.
#pragma once

#include "absl/status/statusor.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/function.pb.h"
#include "tensorflow/core/framework/op_def.pb.h"

namespace symgrad {

// The function of one node that an op is, where f names an op and gives its attrs: NameAttrList("Square", T=float). It
// has no name yet.
absl::StatusOr<tensorflow::FunctionDef> FunctionOfOp(const tensorflow::OpDef& op, const tensorflow::NameAttrList& f);

}  // namespace symgrad
