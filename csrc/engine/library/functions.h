// The functions that one build works with: those of the caller's library, and those that it generates.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "csrc/engine/body/body.h"
#include "csrc/engine/library/effects.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/partial_tensor_shape.h"

namespace symgrad {

inline constexpr char kGradientOp[] = "TfSymgrad>SymbolicGradient";

// Attrs of an f that say more of its inputs than its FunctionDef does: list(shape), the static shape of each input,
// for a variable the shape of its value; list(type), the dtype of each, for a variable that of its value. Any may be
// absent.
inline constexpr char kInputShapes[] = "_input_shapes";
inline constexpr char kInputDtypes[] = "_input_dtypes";
// list(tensor), the value of each integer input, and of a list its length and shape (see Ints), of dtype DT_INVALID
// where it is not known.
inline constexpr char kInputValues[] = "_input_values";
// list(int), the least and the greatest value of each integer scalar (see Range).
inline constexpr char kInputRanges[] = "_input_ranges";
// bool: XLA compiles the function. Then no list may be among its arguments and results, nor among a branch's.
inline constexpr char kCompiled[] = "_symgrad_compiled";
// string: which forward tensors the gradient function of f keeps for its backward part (remat/policy.h).
inline constexpr char kCheckpoint[] = "_symgrad_checkpoint";
// list(type), for each input that is the flow of an array the dtype of its elements, for others DT_INVALID.
inline constexpr char kInputFlows[] = "_input_flows";

// Attrs of a node whose gradient is a function that the caller hands over (tf.custom_gradient, a gradient registered
// in Python): the function, the tensors of the body that it takes before the cotangents of the node's outputs,
// written as inputs of a node are, and for each input of the node which of the function's outputs is its cotangent,
// -1 for none.
inline constexpr char kCustomGradient[] = "_symgrad_gradient";
inline constexpr char kCustomInputs[] = "_symgrad_gradient_inputs";
inline constexpr char kCustomOutputs[] = "_symgrad_gradient_outputs";
// Whether a node's gradient is not its op's: handed over, or one that Python has and is still to hand over.
inline bool HasOwnGradient(const tf::NodeDef& node) {
  return node.attr().contains(kCustomGradient) || node.attr().contains("_gradient_op_type");
}

// What a node calls, if it calls a function as it is: by PartitionedCall, or by an op that is a function's name.
bool IsCall(const tf::NodeDef& node, const tf::OpRegistrationData& op);
tf::NameAttrList Callee(const tf::NodeDef& node);
bool IsBranch(const tf::NodeDef& node);  // If, Case
std::vector<tf::NameAttrList> Branches(const tf::NodeDef& node);
bool IsLoop(const tf::NodeDef& node);  // While
// The ops that stand for functions, besides those that are names of functions.
inline constexpr const char* kStructureOps[] = {
    "Case",          "If",          "PartitionedCall", "RemoteCall", "StatefulPartitionedCall",
    "StatelessCase", "StatelessIf", "StatelessWhile",  "While"};
// Whether a node is one of those: all that it does is what its functions do.
bool IsStructure(const tf::NodeDef& node, const tf::OpRegistrationData& op);
// f with all that is known of the inputs that it is called with (kInputShapes, kInputDtypes, kInputFlows).
tf::NameAttrList WithInputs(tf::NameAttrList f, const Body& body, absl::Span<const Port> inputs);

tf::PartialTensorShape StaticShape(const Shape& shape);

// f as a gradient op differentiates it (attrs Tin, Tout and wrt): Tout tells the dtypes of variables (kInputDtypes),
// which f does not where it does not read them.
tf::NameAttrList WithVariableDtypes(tf::NameAttrList f, const tf::DataTypeVector& tin, const tf::DataTypeVector& tout,
                                    const std::vector<bool>& wrt);

// What a function tells of a result.
struct ResultFacts {
  tf::PartialTensorShape shape;
  IntsPtr ints;  // null unless all are known
};

// What a node of the gradient op asks for.
struct Asked {
  tf::NameAttrList f;
  std::vector<bool> wrt;
  bool values = false;
};
Asked AskedBy(const tf::NodeDef& node, const tf::DataTypeVector& tin, const tf::DataTypeVector& tout);

// Which arguments and results of a function are flows of arrays (flows.h), as the function itself tells: the dtypes of
// elements, DT_INVALID for what is no flow.
struct Flows {
  tf::DataTypeVector args, results;
  std::vector<std::pair<int, int>> passed;  // an argument and a result that are one flow, if the argument is a flow
};

class Functions {
 public:
  explicit Functions(const tf::FunctionLibraryDefinition& library);
  virtual ~Functions() = default;

  // A function by name; null if there is none.
  tf::core::RefCountPtr<tf::FunctionRecord> Find(const std::string& name) const;
  // An op or function by name.
  absl::Status LookUp(const std::string& op, const tf::OpRegistrationData** data) const;

  // The name of the gradient function that the library names for a function (GradientDef); empty if it names none.
  std::string GradientDef(const std::string& name) const { return library_.FindGradient(name); }

  // Takes a generated function and names it by `stem` and a hash of its content, which it returns: whoever meets a
  // function of that name, in a model that another version has saved, say, knows what it is.
  absl::StatusOr<std::string> AddNamedByContent(absl::string_view stem, tf::FunctionDef fdef);
  // What a node does, of its function where it stands for one; the same of a function.
  Effects EffectsOf(const Node& node) const { return EffectsOf(*node.def, *node.op, 0); }
  Effects EffectsOf(const std::string& function) const { return EffectsOf(function, 0); }
  // The same of a node that may have been cut down to what its results need: all that can happen (Body::whole).
  Effects EffectsOf(const Body& body, int id) const;
  // Counts what is made, nodes and tensors: it grows exponentially with the order, or where calls in calls keep
  // residuals. An error once it is more than TF_SYMGRAD_MAX_NODES (5 million).
  absl::Status Spend(int64_t made);
  bool IsGenerated(const std::string& name) const { return generated_.Contains(name); }
  // `name` and what it calls, of the generated functions.
  tf::FunctionDefLibrary Generated(const std::string& name) const;

  // The name of the generated function that computes the gradients of f with respect to the wanted inputs (empty: all).
  virtual absl::StatusOr<std::string> Gradient(const tf::NameAttrList& f, std::vector<bool> wrt, bool values) = 0;
  // What is known of f's results; empty if f can't be read.
  virtual const std::vector<ResultFacts>& FactsOfResults(const tf::NameAttrList& f) = 0;
  // Whether there are arrays at all, and which arguments and results of f are their flows.
  virtual bool has_arrays() const = 0;
  virtual const Flows& FlowsOf(const tf::NameAttrList& f) = 0;

 private:
  Effects EffectsOf(const tf::NodeDef& node, const tf::OpRegistrationData& op, int depth) const;
  Effects EffectsOf(const std::string& function, int depth) const;

  const tf::FunctionLibraryDefinition& library_;
  tf::FunctionLibraryDefinition generated_;
  mutable absl::flat_hash_map<std::string, Effects> effects_;  // by function
  int64_t spent_ = 0;
};

}  // namespace symgrad
