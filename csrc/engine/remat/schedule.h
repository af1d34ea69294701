// What the backward part of a body uses of the forward part, and in which order it would compute that again.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "csrc/engine/library/functions.h"

namespace symgrad {

// A node of the backward part or, `again`, one of the forward part that is computed a second time.
struct Step {
  int node;
  bool again;
};

// What there is to know of a body that a sweep has extended, before it is decided which tensors stay. A decision
// (`stays`) is by buffer: an output whose memory is its own; others, such as those of a Reshape, are in that of
// another.
class Schedule {
 public:
  // `results`: what is computed; gradients and, it may be, results of the body itself.
  Schedule(const Functions& functions, const Body& body, const std::vector<Port>& results);

  const Body& body() const { return body_; }
  // Whether a node belongs to the backward part. The sweep emits some that do not: integers that hang on no cotangent.
  bool IsBackward(int node) const { return backward_[node]; }
  bool IsNeeded(int node) const { return needed_[node]; }
  // The output in whose memory an output is.
  int buffer(Port p) const { return buffer_[body_.output_index(p)]; }
  int64_t bytes(int output) const { return bytes_[output]; }
  // Whether a forward tensor is there in any case: an argument, a constant, a variable's value, or what can't be
  // computed again.
  bool IsFixed(Port p) const { return fixed_[buffer(p)]; }
  bool Stays(Port p, const std::vector<bool>& stays) const { return IsFixed(p) || stays[buffer(p)]; }

  // The backward part, in the order in which the sweep emitted it, and before each node what it needs and does not
  // stay.
  std::vector<Step> Steps(const std::vector<bool>& stays) const;

  // The peak of memory, in bytes, beside arguments and variables; and the costs of what is computed again: a sum over
  // nodes, where it is only the proportions that count.
  struct Estimate {
    int64_t peak = 0, cost = 0;
  };
  Estimate Measure(const std::vector<bool>& stays) const;
  // Whether computing a node is not much more than reading its inputs and writing its outputs.
  bool IsCheap(int node) const;

 private:
  void MarkBackward();
  void MarkNeeded(const std::vector<Port>& results);
  void FindBuffers(const std::vector<Port>& results);
  std::vector<bool> FindForward(const std::vector<Step>& steps, const std::vector<bool>& stays) const;

  const Body& body_;
  std::vector<bool> backward_, needed_;  // by node
  std::vector<int> results_;             // forward nodes that results need
  std::vector<int> buffer_;              // by output
  std::vector<int64_t> bytes_;           // by output: what it takes that it stays; nothing, where it does anyway
  std::vector<int64_t> returned_;        // by output: of results
  std::vector<bool> fixed_;              // by output
};

// Whether a node, run again, gives the same and does nothing else: no draws, no state that may have changed.
class Repeatable {
 public:
  Repeatable(const Functions& functions, const Body& body);
  bool operator()(int node);

 private:
  bool Check(const tf::NodeDef& node, const tf::OpRegistrationData& op, int depth);

  const Functions& functions_;
  const Body& body_;
  bool writes_ = false;                           // whether the body changes any state
  absl::flat_hash_map<std::string, bool> known_;  // by function
};

}  // namespace symgrad
