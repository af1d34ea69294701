// What a caller knows of the inputs of a function, as attrs of the function's name: a callee is read, and
// differentiated, with all of it.
#pragma once

#include "absl/types/span.h"
#include "csrc/engine/body/body.h"
#include "tensorflow/core/framework/attr_value.pb.h"

namespace symgrad {

// Any of these attrs may be absent. list(shape), the static shape of each input, for a variable the shape of its value;
// list(type), the dtype of each, for a variable that of its value.
inline constexpr char kInputShapes[] = "_input_shapes";
inline constexpr char kInputDtypes[] = "_input_dtypes";
// list(tensor), the value of each integer input, and of a list its length and shape (see Ints), of dtype DT_INVALID
// where it is not known.
inline constexpr char kInputValues[] = "_input_values";
// list(int), the least and the greatest value of each integer scalar (see Range).
inline constexpr char kInputRanges[] = "_input_ranges";
// bool: XLA compiles the function. Then no list may be among its arguments and results, nor among a branch's.
inline constexpr char kCompiled[] = "_symgrad_compiled";
// string: which forward tensors the gradient function of f keeps for its backward part (remat/policy.h).
inline constexpr char kCheckpoint[] = "_symgrad_checkpoint";
// list(bool), whether each input may be infinite or NaN.
inline constexpr char kInputDivergent[] = "_input_divergent";
// list(type), for each input that is the flow of an array the dtype of its elements, for others DT_INVALID.
inline constexpr char kInputFlows[] = "_input_flows";

// f with what is known of the inputs that it is called with: shapes, dtypes, the flows of arrays among them, where
// they may be infinite or NaN, what XLA must know.
tf::NameAttrList WithInputs(tf::NameAttrList f, const Body& body, absl::Span<const Port> inputs);

// f with what is known of where its inputs may be infinite or NaN: they are in `ports`, one for each input.
void SetDivergent(const Body& body, absl::Span<const Port> ports, tf::NameAttrList* f);

}  // namespace symgrad
