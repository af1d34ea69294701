// What there is to know of a loop before the loops that take its place are written (loop.cc).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "csrc/engine/body/body.h"
#include "csrc/engine/emit/builder.h"
#include "csrc/engine/plan/trip_count.h"
#include "csrc/engine/structure/split.h"
#include "tensorflow/core/framework/partial_tensor_shape.h"

namespace symgrad {

// A list of elements of this shape after a loop: popped until it is empty, or as long as before it.
struct LastList {
  tf::DataType element;
  tf::PartialTensorShape shape;
  int64_t length;  // before the loop
  bool popped;
};

// One of the loop's variables: what it is, and what becomes of its cotangent.
struct LoopVariable {
  tf::DataType dtype = tf::DT_INVALID;
  tf::PartialTensorShape shape;                   // in all iterations
  tf::DataType cotangent_dtype = tf::DT_INVALID;  // DT_INVALID where no cotangent comes from behind the loop
  tf::DataType flow_element = tf::DT_INVALID;     // of a flow of an array the elements' dtype, for others DT_INVALID
  bool invariant = false;                         // the body returns it as it came
  bool counter = false;                           // the body adds a number to it
  bool carried = false;                           // its cotangent goes from iteration to iteration
  std::optional<LastList> last;                   // of what XLA compiles, where that is known
  bool summed = false;                            // an invariant whose cotangents add up

  // Whether a cotangent of it comes into the backward loop from behind.
  bool seeded() const { return cotangent_dtype != tf::DT_INVALID; }
  // Whether, if it is an argument that the pullback takes, it has to be kept for each iteration.
  bool stacked() const { return !invariant && !counter; }
  bool is_flow() const { return flow_element != tf::DT_INVALID; }
};

// All that is decided of a loop.
struct LoopPlan {
  // Of the While node that the query is of. With `in_place`, nothing is computed beside the loop.
  static absl::StatusOr<LoopPlan> Make(Splitter* splitter, const Body& body, const VjpQuery& query, bool in_place);

  const tf::NodeDef* node;
  std::vector<LoopVariable> variables;
  std::unique_ptr<Body> body;  // the loop's, read with all that is known of its variables
  SplitVjp split;              // of the body

  // A stack is a TensorList that keeps a tensor of each iteration.
  TensorSpecs stacks;      // of the body's arguments, then of its residuals
  std::vector<int> lists;  // for each stack: the variable that is it, as the body pushes the same; or -1
  std::vector<int> next;   // for each residual: the stacked variable whose next value it is, or -1
  bool has_lists = false;  // whether what the body pushes on its own lists is taken from there
  int count = -1;          // a variable that counts the iterations from 0, if there is one
  bool compiled;           // by XLA: stacks leave the loop as one tensor each, which may go wherever tensors go
  Trips trips;             // how often it runs; no number where that is so high that a list should grow as needed

  // The variables of the forward loop: those that the loop has, a count, stacks; but for what is a variable anyway.
  // Which one counts, and which is each stack.
  int Count() const { return count < 0 ? static_cast<int>(variables.size()) : count; }
  std::vector<int> Stacks() const;
  // The variables whose next value the pullback takes, and has from the iteration that was before it.
  std::vector<int> Ahead() const;
};

}  // namespace symgrad
