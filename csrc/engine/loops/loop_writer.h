// What the forward and the backward loop are written with (forward_loop.cc, backward_loop.cc).
#pragma once

#include <string>
#include <vector>

#include "csrc/engine/plan/loop_plan.h"
#include "csrc/engine/structure/split.h"
#include "csrc/engine/write/author.h"
#include "csrc/rules/words.h"

namespace symgrad {

class LoopWriter {
 public:
  LoopWriter(Splitter* splitter, const LoopPlan& plan, bool in_place)
      : splitter_(splitter),
        plan_(plan),
        split_(plan.split),
        loop_(plan.variables),
        in_place_(in_place),
        n_(loop_.size()) {}

 protected:
  // A stack of what XLA compiles leaves the loop as one tensor, but for a loop that stays where it stands.
  bool leaves_as_tensor() const { return plan_.compiled && !in_place_; }
  // A list of fixed length, where the length is known, is what XLA can compile. Where it compiles a loop that may end
  // early, elements are set, not pushed: then the list is as long as the tensor that it leaves the loop as.
  bool is_set() const { return plan_.compiled && !plan_.trips.exact && (plan_.trips.most >= 0 || plan_.trips.formula); }
  V EmptyStack(const TensorSpec& stack, const V& length) const;
  V Push(const V& list, const V& iteration, const V& item) const;

  // A stack that crosses from one loop to the other as one tensor.
  V ToTensor(const TensorSpec& stack, const V& list) const;

  // The zeros that the cotangent of a variable begins with, where its value is not needed to make them; else `none`.
  V Zeros(size_t i) const;

  // A While node over variables, whose shapes are those of all iterations. `same_as`: what is differentiated in its
  // place (kSameAs), if there is such a function.
  V EmitLoop(FunctionAuthor* author, const Callable& cond, const Callable& body, const Values& variables,
             const std::string& same_as = "") const;

  Splitter* const splitter_;
  const LoopPlan& plan_;
  const SplitVjp& split_;  // of the body
  const std::vector<LoopVariable>& loop_;
  const bool in_place_;
  const size_t n_;
};

}  // namespace symgrad
