// The arrays of TensorFlow 1 (TensorArray).
//
// An array is a resource. Its ops are ordered by a scalar that goes from one to the next, the array's flow. The
// cotangent of an array is a list of the cotangents of its elements, no longer than need be, and it is the flow that
// carries it: the cotangent of a flow is a TensorList. Lists are values. So loops, branches, calls and higher orders
// need nothing more, and the gradient writes into no array.
//
// A flow is a float as any other, so the engine must find out which ones there are.
#pragma once

#include "csrc/engine/library/functions.h"

namespace symgrad {

// Whether f or what it calls has arrays at all.
bool HasArrays(const Functions& functions, const std::string& f);

// Fills in body->flow_elements, where arguments may be marked already; what it finds of arguments and results.
FunctionFlows FindFlows(Functions* functions, Body* body);

// Whether an array takes what a node computes, one that is no array's, for its flow.
bool ComputesFlow(const Body& body, int id);

// Whether a node takes a gradient array, one that TensorFlow itself made for the gradients of another. Its flow is that
// of the other array, and a list can't tell the elements of the two.
bool UsesGradientArray(const Body& body, const Node& node);

}  // namespace symgrad
