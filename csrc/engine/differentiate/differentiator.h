// One build: the one primitive, Vjp, over functions and all that they call.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "csrc/engine/body/body.h"
#include "csrc/engine/emit/builder.h"
#include "csrc/engine/gradient.h"
#include "csrc/engine/library/functions.h"
#include "csrc/engine/vjp/cut.h"
#include "csrc/engine/write/part.h"

namespace symgrad {

// A function as the two halves of its vector-Jacobian product:
//
//   forward:  x -> y, residuals
//   pullback: some of x, residuals, dy (of the seeded outputs) -> dx (of the inputs that matter)
//
// The forward half does of f's effects (effects.h) what y and residuals need, and its checks. Where that is not all
// that f does, `whole` is the same with all of it, for a caller who has something ordered after the call.
//
// Of the body of a loop, what is the same in all iterations is no residual. A third function computes it, and the
// pullback takes it after the residuals:
//
//   invariants: the invariant x -> what the pullback needs of them
//
// And gradients of invariants that are sums over rows (row_sum.h) are none of the pullback's results: it returns their
// operands after its gradients, and a fourth function computes these gradients once, after the loop:
//
//   finish: operands, each concatenated over the iterations -> dx (of the `finished` inputs)
//
// A gradient may be sparse rows: two results, values and indices; the dense shape is the input's. Those of an invariant
// are operands, too, so that `finish` returns the rows of all iterations.
struct SplitVjp {
  std::string forward, whole, pullback;  // whole: the forward half's name if that does all
  bool stateful_forward = false, stateful_whole = false, stateful_pullback = false;
  std::vector<int> args;                  // the inputs of f that the pullback takes, in order
  tf::DataTypeVector results, residuals;  // dtypes
  std::vector<tf::PartialTensorShape> residual_shapes;
  std::vector<int> residual_results;  // for each residual: which result it is as well, or -1
  std::string invariants;             // empty if there are none
  bool stateful_invariants = false;
  tf::DataTypeVector invariant_dtypes;
  std::vector<tf::PartialTensorShape> invariant_shapes;
  std::string finish;  // empty if there are no operands
  tf::DataTypeVector operands, finished_dtypes;
  std::vector<tf::PartialTensorShape> operand_shapes;
  std::vector<int> finished;   // for each input of f: which result of `finish`, or -1
  std::vector<int> gradients;  // for each input of f: which output of the pullback, or -1: no dependence
  std::vector<int> indices;  // for each input of f whose gradient is rows: the output next to it that is their indices
  tf::DataTypeVector gradient_dtypes;
  std::vector<tf::PartialTensorShape> gradient_shapes;  // of the pullback's outputs, or empty

  bool is_rows(size_t i) const { return i < indices.size() && indices[i] >= 0; }
  // The gradient of input i, which is x, of the results of the pullback or, where it is finished, of `finish`.
  V Gradient(size_t i, const V& results, const V& x) const;
};

// Memoised by function and masks: a function that is called a thousand times is differentiated once.
class Differentiator final : public Functions {
 public:
  using Functions::Functions;

  // Pullback after forward in one function, pruned to the wanted inputs (empty: all): g(x…, dy…) -> dx…; with `values`,
  // dx…, y…, and all that f does.
  absl::StatusOr<std::string> Gradient(const tf::NameAttrList& f, std::vector<bool> wrt, bool values) override {
    return Gradient(f, std::move(wrt), values, nullptr);
  }
  // With `indices`, gradients that are sparse rows stay so: the result is their values, and `indices` says for each
  // wanted input which result, after all others, has their indices, or -1 where the gradient is dense.
  absl::StatusOr<std::string> Gradient(const tf::NameAttrList& f, std::vector<bool> wrt, bool values,
                                       std::vector<int>* indices);
  absl::StatusOr<std::vector<InputGradient>> Inputs(const tf::NameAttrList& f);
  // `loop`, where f is the body of one: what is known of its arguments. `dense`: no gradient is rows.
  absl::StatusOr<const SplitVjp*> Split(const tf::NameAttrList& f, const std::vector<bool>& wrt,
                                        const std::vector<bool>& seeds, const LoopArguments* loop = nullptr,
                                        bool dense = false);
  // With cotangents of all outputs, and dense gradients.
  absl::StatusOr<const SplitVjp*> Split(const tf::NameAttrList& f, const std::vector<bool>& wrt);

  // The cotangents of the inputs of a node that stands for functions: a call, a branch or a loop. The node itself
  // becomes a call that returns residuals, too.
  absl::StatusOr<Grads> StructureGradient(Builder* builder, const Frame& frame);

  // The cotangents of the inputs of a node that comes with a gradient function of its own.
  absl::StatusOr<Grads> CustomGradient(Builder* builder, const Frame& frame);

  const std::vector<ResultFacts>& FactsOfResults(const tf::NameAttrList& f) override;
  // To be told before a function is split that nobody has asked the gradient of.
  void ExpectArrays() { has_arrays_ = true; }
  bool has_arrays() const override { return has_arrays_.value_or(false); }
  const Flows& FlowsOf(const tf::NameAttrList& f) override;

 private:
  // Puts the forward half in the place of a node, and what does all (see Body::whole) beside it.
  absl::Status ReplaceByForward(Body* body, int node, const SplitVjp& split);
  // Does so for nodes that no cotangent came to, but whose effects nothing waits for that the signature keeps.
  absl::Status Lighten(Body* body, const Signature& signature);
  absl::StatusOr<SplitVjp> SplitNode(const Body& body, const Frame& frame);
  absl::StatusOr<SplitVjp> BuildSplit(const tf::NameAttrList& f, const std::vector<bool>& wrt,
                                      const std::vector<bool>& seeds, const LoopArguments* loop, bool dense);
  absl::Status WriteForward(Body* body, Signature forward, const std::string& f, SplitVjp* split);

  absl::flat_hash_map<std::string, SplitVjp> splits_;
  absl::flat_hash_map<std::string, std::string> gradients_;
  absl::flat_hash_map<std::string, std::vector<ResultFacts>> result_facts_;
  absl::flat_hash_map<std::string, Flows> flows_;
  std::optional<bool> has_arrays_;           // whether anything that is reached has arrays
  absl::flat_hash_set<std::string> active_;  // what is being built now: meeting it again is recursion
};

// The same for the node that the frame is of: If or Case (branch.cc), While (loop.cc), RemoteCall (remote.cc). Its
// inputs are the x, its outputs the y.
absl::StatusOr<SplitVjp> SplitBranch(Differentiator* differentiator, const Body& body, const Frame& frame);
absl::StatusOr<SplitVjp> SplitRemote(Differentiator* differentiator, const Body& body, const Frame& frame);
absl::StatusOr<SplitVjp> SplitLoop(Differentiator* differentiator, const Body& body, const Frame& frame);

// Zeros for the cotangent, of this dtype, of a tensor, of a variable, or of a flow.
V ZerosOf(const V& x, tf::DataType dtype, tf::DataType flow);
// The shape of a tensor, or of the value of a variable.
V ShapeOf(const V& x);

}  // namespace symgrad
