// The variables of the loop that goes back.
#pragma once

#include "csrc/rules/words.h"

namespace symgrad {

struct Backward {
  V done, total;  // iterations that it has gone back, and has to; the latter `none` where that is the same each time
  V end;          // of a block: what it has gone back then
  // By loop variable (stacks, computed, operands: in order); `none` where there is none.
  Values carried, summed;   // cotangents that go from iteration to iteration, that add up
  Values stacks;            // what is left of them
  Values direct, computed;  // variables that the pullback takes as they are, of a counter the first value; and what is
                            // computed of invariants
  Values ahead;             // next values
  Values operands;          // lists of those of gradients that are computed of many iterations

  Values All() const {
    Values all = {done};
    for (const V& v : {total, end})
      if (v) all.push_back(v);
    for (const Values* part : {&carried, &summed, &stacks, &direct, &computed, &ahead, &operands})
      for (const V& v : *part)
        if (v) all.push_back(v);
    return all;
  }
  // The same structure over other values.
  Backward With(const Values& all) const {
    Backward other = *this;
    size_t next = 0;
    other.done = all[next++];
    for (V* v : {&other.total, &other.end})
      if (*v) *v = all[next++];
    for (Values* part :
         {&other.carried, &other.summed, &other.stacks, &other.direct, &other.computed, &other.ahead, &other.operands})
      for (V& v : *part)
        if (v) v = all[next++];
    return other;
  }
};

}  // namespace symgrad
