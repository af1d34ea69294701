// One build: the one primitive, Vjp, over functions and all that they call.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/container/node_hash_map.h"
#include "absl/status/statusor.h"
#include "csrc/engine/body/body.h"
#include "csrc/engine/emit/builder.h"
#include "csrc/engine/gradient_function.h"
#include "csrc/engine/library/functions.h"
#include "csrc/engine/read/function_facts.h"
#include "csrc/engine/structure/split.h"
#include "csrc/engine/vjp/sweep.h"
#include "csrc/engine/write/part.h"

namespace symgrad {

// Memoised by function and masks: a function that is called a thousand times is differentiated once. Knows what the
// rooms below ask for: the reader gradient functions, the sweep the cotangents of calls, branches and loops the halves
// of their functions.
class Differentiator : public Splitter, public NodeGradients {
 public:
  using Splitter::Splitter;

  // Pullback after forward in one function, pruned to the wanted inputs (empty: all): g(x…, dy…) -> dx…; with `values`,
  // dx…, y…, and all that f does.
  absl::StatusOr<std::string> Gradient(const tf::NameAttrList& f, std::vector<bool> wrt, bool values) override {
    return Gradient(f, std::move(wrt), values, nullptr);
  }
  // With `indices`, gradients that are sparse rows stay so: the result is their values, and `indices` says for each
  // wanted input which result, after all others, has their indices, or -1 where the gradient is dense.
  absl::StatusOr<std::string> Gradient(const tf::NameAttrList& f, std::vector<bool> wrt, bool values,
                                       std::vector<int>* indices);
  absl::StatusOr<std::vector<InputGradient>> Inputs(const tf::NameAttrList& f, const std::vector<bool>& asked);

  absl::StatusOr<const SplitVjp*> Split(const tf::NameAttrList& f, const std::vector<bool>& wrt,
                                        const std::vector<bool>& seeds, const LoopArguments* loop, bool dense) override;
  // With cotangents of all outputs, and dense gradients.
  absl::StatusOr<const SplitVjp*> SplitAll(const tf::NameAttrList& f, const std::vector<bool>& wrt);

  absl::StatusOr<Grads> StructureGradient(Builder* builder, const VjpQuery& query) override;
  absl::StatusOr<Grads> CustomGradient(Builder* builder, const VjpQuery& query) override;
  absl::Status SpendOn(int64_t made) override { return Spend(made); }

  const std::vector<ResultFacts>& FactsOfResults(const tf::NameAttrList& f) override;
  const std::vector<bool>& DivergentResults(const tf::NameAttrList& f) override;
  void MarkDivergent(Body* body) override { symgrad::MarkDivergent(this, body); }
  // For who differentiates nodes without having asked for the gradient of a function.
  void ExpectArrays() { has_arrays_ = true; }
  bool has_arrays() const override { return has_arrays_.value_or(false); }
  const FunctionFlows& FlowsOf(const tf::NameAttrList& f) override;

 private:
  // What Gradient and Split have not made before.
  absl::StatusOr<std::string> MakeGradient(const tf::NameAttrList& f, std::vector<bool> wrt, bool values,
                                           std::vector<int>* indices);
  absl::StatusOr<SplitVjp> MakeSplit(const tf::NameAttrList& f, const std::vector<bool>& wrt,
                                     const std::vector<bool>& seeds, const LoopArguments* loop, bool dense);
  void LookForArrays(const tf::NameAttrList& f);
  // f, which names an op and gives its attrs, as a function.
  absl::StatusOr<tf::NameAttrList> AddOpFunction(const tf::OpDef& op, const tf::NameAttrList& f);
  // Extends the body by its gradients; what of it the gradient function is.
  absl::StatusOr<Signature> Differentiate(Body* body, const std::vector<bool>& wrt, bool values,
                                          std::vector<int>* indices);

  // What is handed out of these stays where it is.
  absl::node_hash_map<std::string, SplitVjp> splits_;
  absl::node_hash_map<std::string, std::vector<ResultFacts>> result_facts_;
  absl::node_hash_map<std::string, FunctionFlows> flows_;
  absl::node_hash_map<std::string, std::vector<bool>> divergent_results_;
  absl::flat_hash_map<std::string, bool> may_diverge_;  // whether a function reaches an op that diverges
  absl::flat_hash_map<std::string, std::string> gradients_;
  absl::flat_hash_map<std::string, absl::Status> failed_;  // who asks again gets no other answer
  std::optional<bool> has_arrays_;                         // whether anything that is reached has arrays
  absl::flat_hash_set<std::string> active_;                // what is being built now: meeting it again is recursion
};

}  // namespace symgrad
