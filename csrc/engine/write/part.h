// What of a body goes into a function, and in which order it runs there.
//
// Order is part of what a function means. TensorFlow orders effects by edges, data or control, and through nodes that
// do nothing: Const ^read, then AssignAdd of that constant. So of any two nodes that have effects and are kept, one
// that the body runs before the other runs before it in the function too, also where all that lies between them is left
// out.
#pragma once

#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "csrc/engine/library/functions.h"

namespace symgrad {

// Which effects of the body's own nodes a function has, besides those that come with what its results need.
enum class Keeps {
  kNothing,  // a pullback: the forward half has had them
  kChecks,   // what f refuses its gradient refuses: assertions
  kEffects,  // all that the body did when it was read
  kAll,      // all that was emitted, too: a function that the engine writes
};

// The part of a body that computes `results` from `args`. An argument may be any tensor of the body: what computes it
// is then left out.
struct Signature {
  std::vector<Port> args;
  std::vector<Port> results;
  Keeps keeps = Keeps::kNothing;
  bool results_wait = false;  // for all checks
  bool any_rows = false;      // its arguments have as many rows as they come with, whatever the body knows of them
};

// What FindPart has found.
struct Part {
  // By node: it is kept; something that is kept is ordered after it, so all that it does is to happen (Body::whole).
  std::vector<bool> kept, awaited;
  // A node that only joins edges: hub k is node num_nodes() + k. It is written before node `before`.
  struct Hub {
    absl::InlinedVector<int, 4> controls;
    int before;
  };
  std::vector<Hub> hubs;
  // What nodes are ordered after beyond those of their own control inputs that are kept; a constant takes these alone.
  absl::flat_hash_map<int, absl::InlinedVector<int, 2>> order;
  int gate = -1;  // the hub that results wait for; -1: for none
};

Part FindPart(const Functions& functions, const Body& body, const Signature& signature);

}  // namespace symgrad
