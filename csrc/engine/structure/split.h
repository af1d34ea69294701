// What a function becomes when it is split into the halves of its vector-Jacobian product.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "csrc/engine/library/functions.h"
#include "csrc/engine/vjp/cut.h"
#include "csrc/rules/words.h"

namespace symgrad {

// Where the gradient of an input of a function comes out of its split.
struct GradientPlace {
  enum { kNowhere, kPullback, kFinish } half = kNowhere;  // nowhere: nothing depends on the input
  int values = -1;   // which result of that half it is; of sparse rows, their values
  int indices = -1;  // of sparse rows, the result that is their indices; else -1

  bool in_pullback() const { return half == kPullback; }
  bool finished() const { return half == kFinish; }
  bool exists() const { return half != kNowhere; }
  bool is_rows() const { return indices >= 0; }
};

// A function as the two halves of its vector-Jacobian product:
//
//   forward:  x -> y, residuals
//   pullback: some of x, residuals, dy (of the seeded outputs) -> dx (of the inputs that matter)
//
// The forward half does of f's effects (effects.h) what y and residuals need, and its checks. `whole` is the same with
// all that f does, for a caller who has something ordered after the call; where that is no more, it is the forward
// half.
//
// A gradient may be sparse rows: two results, values and indices; the dense shape is the input's.
struct SplitVjp {
  Callable forward, whole, pullback;
  size_t num_results = 0;                // of f: the first results of the forward half
  std::vector<int> residuals;            // which results of the forward half the pullback takes; some are f's own
  std::vector<int> args;                 // the inputs of f that the pullback takes, in order
  std::vector<GradientPlace> gradients;  // for each input of f

  // Of the body of a loop, what is the same in all iterations is no residual. Two more functions compute it, and the
  // pullback takes it after the residuals:
  //
  //   reads:      the invariant x -> what variables among them make of it, as they are while the loop runs
  //   invariants: some of the invariant x -> what follows from them, whenever it is computed
  //
  // And gradients of invariants that are sums over rows (row_sum.h) are none of the pullback's results: it returns
  // their operands after its gradients, and another function computes these gradients once, after the loop:
  //
  //   finish: operands, each concatenated over the iterations -> dx (of the finished inputs)
  //
  // Sparse rows of an invariant are operands, too, so that `finish` returns the rows of all iterations.
  Callable reads, invariants, finish;
  std::vector<int> invariant_args;  // the inputs of f that `invariants` takes
  size_t num_operands = 0;          // the last results of the pullback
  // What the body pushes on a list of its own is no residual of the loop, either: the variable that is the list, or -1,
  // for each of the args and residuals.
  std::vector<int> lists;

  absl::Span<const TensorSpec> results() const { return absl::MakeSpan(forward.results).first(num_results); }
  const TensorSpec& residual(size_t r) const { return forward.results[residuals[r]]; }
  absl::Span<const TensorSpec> operands() const { return absl::MakeSpan(pullback.results).last(num_operands); }
  bool has_pullback() const { return !pullback.results.empty(); }

  // The gradient of input i, which is x, of the results of the half that it comes out of.
  V Gradient(size_t i, const V& results, const V& x) const;
};

// The forward half of a node that stands for functions, as the node itself: of the same op, and with all that it does,
// with more outputs, and of a loop more inputs. For who builds the gradient of a graph of which others hold the
// tensors.
struct InPlace {
  tf::NodeDef def;              // its op and attrs
  Callable start;               // of a loop, what computes the new inputs; else there are none
  std::vector<int> start_args;  // of its inputs, those that `start` takes
  TensorSpecs outputs;          // those that are new
};

// Splits functions: what a node that stands for functions asks for, to be split itself.
class Splitter : public Functions {
 public:
  using Functions::Functions;

  // Whether a function is split again for each gradient that somebody asks for, as tapes are. Then nothing is computed
  // beside loops: it would be one more result of each gradient's forward half.
  virtual bool repeats() const { return false; }

  // With respect to the inputs that `wrt` names, where the outputs that `seeds` names have cotangents. `loop`, where f
  // is the body of one: what is known of its arguments. `dense`: no gradient is rows.
  virtual absl::StatusOr<const SplitVjp*> Split(const tf::NameAttrList& f, const std::vector<bool>& wrt,
                                                const std::vector<bool>& seeds, const LoopArguments* loop = nullptr,
                                                bool dense = false) = 0;
};

}  // namespace symgrad
