// What is known of the arguments of a function when it is read: what the function says of them, and what the caller has
// said in the attrs of the function's name (known_inputs.h).
#pragma once

#include "csrc/engine/body/body.h"
#include "csrc/engine/body/errors.h"
#include "csrc/engine/body/node_check.h"
#include "tensorflow/core/framework/function.pb.h"

namespace symgrad {

// Of the body's last argument, which is tensor `k` of argument `arg` of the signature: its static shape, integers, and
// what it is a handle of. `known`: the attrs of the function's name.
void ReadArgument(const tf::FunctionDef& fdef, const AttrMap& known, int arg, size_t k, Body* body, Errors* errors);

// Of all arguments: the ranges of integers, and whether XLA compiles the function; and which are flows of arrays.
void ReadRanges(const AttrMap& known, Body* body);
void ReadArgFlows(const AttrMap& known, Body* body);

}  // namespace symgrad
