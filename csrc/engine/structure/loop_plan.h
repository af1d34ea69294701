// What there is to know of a loop before the loops that take its place are written (loop.cc).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "csrc/engine/body/body.h"
#include "csrc/engine/differentiate/differentiator.h"
#include "csrc/engine/emit/builder.h"
#include "csrc/engine/structure/trip_count.h"
#include "tensorflow/core/framework/partial_tensor_shape.h"

namespace symgrad {

// A tensor of each iteration, kept on a TensorList.
struct Stack {
  tf::DataType dtype;
  tf::PartialTensorShape shape;
};

// A list of elements of this shape after a loop: popped until it is empty, or as long as before it.
struct LastList {
  tf::DataType element;
  tf::PartialTensorShape shape;
  int64_t length;  // before the loop
  bool popped;
};

class LoopPlan {
 public:
  // Of the While node that the frame is of.
  static absl::StatusOr<LoopPlan> Make(Differentiator* differentiator, const Body& body, const Frame& frame);

  const tf::NodeDef* node;
  size_t n;                    // loop variables
  std::unique_ptr<Body> body;  // the loop's, read with all that is known of its variables
  SplitVjp split;              // of the body

  // By loop variable.
  tf::DataTypeVector dtypes, cotangent_dtypes;      // DT_INVALID where no cotangent comes from behind the loop
  tf::DataTypeVector flows;                         // of a flow of an array the elements' dtype, for others DT_INVALID
  std::vector<tf::PartialTensorShape> shapes;       // in all iterations
  std::vector<bool> invariant;                      // the body returns it as it came
  std::vector<bool> counter;                        // the body adds a number to it
  std::vector<bool> carried;                        // its cotangent goes from iteration to iteration
  std::vector<bool> summed;                         // an invariant whose cotangents add up
  std::vector<std::optional<LastList>> last_lists;  // of what XLA compiles, where that is known

  std::vector<Stack> stacks;    // of the body's arguments, then of its residuals
  std::vector<int> next;        // for each residual: the stacked variable whose next value it is, or -1
  std::vector<Stack> operands;  // of gradients that are computed after the loop
  bool compiled;                // by XLA: stacks leave the loop as one tensor each, which may go wherever tensors go
  Trips trips;                  // how often it runs; no number where that is so high that a list should grow as needed

  // Whether a cotangent of variable i comes into the backward loop from behind.
  bool seeded(size_t i) const { return cotangent_dtypes[i] != tf::DT_INVALID; }
  // Whether an argument that the pullback takes has to be kept for each iteration.
  bool stacked(size_t i) const { return !invariant[i] && !counter[i]; }
  bool is_flow(size_t i) const { return flows[i] != tf::DT_INVALID; }
  // The variables whose next value the pullback takes, and has from the iteration that was before it.
  std::vector<int> Ahead() const;
};

}  // namespace symgrad
