// A call of the op: checked, and resolved to the function that computes it. Shared by the graph pass and the kernel, so
// that a wrong call gets the same error through both doors.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "csrc/engine/gradient.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/node_def.pb.h"
#include "tensorflow/core/framework/types.h"

namespace symgrad {

// A node of the op that has this attr is left to XLA's kernel (csrc/xla), in a function that XLA compiles.
inline constexpr char kLeftToXla[] = "_symgrad_left_to_xla";

// A node's attrs.
struct Call {
  tensorflow::NameAttrList f;
  tensorflow::DataTypeVector tin;
  tensorflow::DataTypeVector tout;
  std::vector<bool> wrt;  // empty: all
  bool values = false;
  std::string checkpoint;
  bool native = false;

  // How many inputs f has, if the call is right.
  size_t num_inputs() const { return wrt.empty() ? tout.size() : wrt.size(); }
  static absl::StatusOr<Call> Parse(tensorflow::AttrSlice attrs);
};

// Whether a node asks for its gradient function to be run as it is, without TensorFlow's optimiser: attr optimize.
bool IsNative(tensorflow::AttrSlice attrs);

// Checks `call` against the signature of its f and builds the gradient function, whose inputs then are call.tin and
// whose outputs are call.tout. No function of it has the name of another function of the library.
//
// Errors: InvalidArgument that lists everything that is wrong with Tin and Tout, and what BuildGradient returns.
absl::StatusOr<GradientFunction> PrepareCall(const tensorflow::FunctionLibraryDefinition& library, const Call& call);

// Adds the functions of `gradient`, which was prepared for `library`, to it, but those that it has.
absl::Status AddFunctions(const GradientFunction& gradient, tensorflow::FunctionLibraryDefinition* library);

// What the pass leaves to a node of the op that asks for its gradient function to be run as it is: a library,
// serialized, whose first function is that. Who optimises the graph changes the functions that it sees, f among them,
// of which the gradient must be made before.
inline constexpr char kBuilt[] = "_symgrad_built";

// Gives `node` that, with what `gradient` calls of `library`.
void KeepBuilt(const GradientFunction& gradient, const tensorflow::FunctionLibraryDefinition& library,
               tensorflow::NodeDef* node);

// Turns `node`, a node of the op, into a call of `gradient`. Name, device, inputs and outputs stay, and so do the attrs
// that speak to the runtime (those that start with '_': colocation, XLA scopes).
absl::Status RewriteToCall(const GradientFunction& gradient, tensorflow::NodeDef* node);

}  // namespace symgrad
