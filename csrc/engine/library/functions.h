// The functions that one build works with: those of the caller's library, and those that it generates.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "csrc/engine/body/body.h"
#include "csrc/engine/library/effects.h"
#include "google/protobuf/arena.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/partial_tensor_shape.h"

namespace symgrad {

// A message in an arena of its own: its many parts cost little to make, and are freed at once.
template <typename Message>
std::shared_ptr<Message> InArena() {
  const auto arena = std::make_shared<google::protobuf::Arena>();
  return {arena, google::protobuf::Arena::Create<Message>(arena.get())};
}

// What is known of a tensor that goes from one function to another.
struct TensorSpec {
  tf::DataType dtype = tf::DT_INVALID;
  tf::PartialTensorShape shape;
};
using TensorSpecs = std::vector<TensorSpec>;
tf::DataTypeVector Dtypes(absl::Span<const TensorSpec> tensors);
TensorSpecs WithoutShapes(const tf::DataTypeVector& dtypes);

// A function as whoever calls it sees it.
struct Callable {
  std::string name;       // empty: there is none
  bool stateful = false;  // only a stateful op may call it
  TensorSpecs results;
};

// What a function tells of a result.
struct ResultFacts {
  tf::PartialTensorShape shape;
  IntsPtr ints;  // null unless all are known
};

// Which arguments and results of a function are flows of arrays (flows.h), as the function itself tells: the dtypes of
// elements, DT_INVALID for what is no flow.
struct FunctionFlows {
  tf::DataTypeVector args, results;
  std::vector<std::pair<int, int>> passed;  // an argument and a result that are one flow, if the argument is a flow
};

// Finds functions and ops by name, takes generated functions, and knows what each does besides computing (effects.h).
// Of what needs a gradient or a body to be told, it says what is asked, and Differentiator answers.
class Functions {
 public:
  // With `keep` calls of small functions stay (flatten): who is to say what is wrong names them.
  explicit Functions(const tf::FunctionLibraryDefinition& library, bool keep = false)
      : library_(library), keeps_calls_(keep) {}
  virtual ~Functions() = default;

  // A function by name, which stays where it is; null if there is none.
  const tf::FunctionDef* Find(const std::string& name) const;
  absl::Status LookUp(const std::string& op, const tf::OpRegistrationData** data) const;

  // The name of the gradient function that the library names for a function (GradientDef); empty if it names none.
  std::string GradientDef(const std::string& name) const { return library_.FindGradient(name); }

  // Takes a generated function and names it by `stem` and a hash of its content, which it returns: whoever meets a
  // function of that name, in a model that another version has saved, say, knows what it is.
  absl::StatusOr<std::string> AddNamedByContent(absl::string_view stem, std::shared_ptr<tf::FunctionDef> fdef);
  // What a node does, of its function where it stands for one; the same of a function.
  Effects EffectsOf(const Node& node) const { return EffectsOf(*node.def, *node.op, 0); }
  Effects EffectsOf(const std::string& function) const { return EffectsOf(function, 0); }
  // The same of a node that may have been cut down to what its results need: all that can happen (Body::whole).
  Effects EffectsOf(const Body& body, int id) const;
  // Whether f, or a function that it refers to, has a node of such an op.
  bool Reaches(const std::string& f, absl::FunctionRef<bool(const std::string& op)> is_sought) const;
  // Counts what is made, nodes and tensors: it grows exponentially with the order, or where calls in calls keep
  // residuals. An error once it is more than TF_SYMGRAD_MAX_NODES (5 million).
  absl::Status Spend(int64_t made);
  bool keeps_calls() const { return keeps_calls_; }
  bool IsGenerated(const std::string& name) const { return generated_.contains(name); }
  // Those that `names` name and what they call, of the generated functions. They are shared, not copied.
  std::shared_ptr<const tf::FunctionDefLibrary> Generated(const std::vector<std::string>& names) const;

  // The name of the generated function that computes the gradients of f with respect to the wanted inputs (empty: all).
  virtual absl::StatusOr<std::string> Gradient(const tf::NameAttrList& f, std::vector<bool> wrt, bool values) = 0;
  // What is known of f's results; empty if f can't be read.
  virtual const std::vector<ResultFacts>& FactsOfResults(const tf::NameAttrList& f) = 0;
  // Which of f's results may be infinite or NaN; empty where none is.
  virtual const std::vector<bool>& DivergentResults(const tf::NameAttrList& f) = 0;
  // Whether there are arrays at all, and which arguments and results of f are their flows.
  virtual bool has_arrays() const = 0;
  virtual const FunctionFlows& FlowsOf(const tf::NameAttrList& f) = 0;

 private:
  Effects EffectsOf(const tf::NodeDef& node, const tf::OpRegistrationData& op, int depth) const;
  Effects EffectsOf(const std::string& function, int depth) const;

  struct Generation {
    std::shared_ptr<tf::FunctionDef> fdef;
    std::unique_ptr<tf::OpRegistrationData> op;  // once that was asked for
  };

  const tf::FunctionLibraryDefinition& library_;
  const bool keeps_calls_;
  mutable absl::flat_hash_map<std::string, tf::core::RefCountPtr<tf::FunctionRecord>> found_;  // in the library
  mutable absl::flat_hash_map<std::string, Generation> generated_;
  mutable absl::flat_hash_map<std::string, Effects> effects_;                       // by function
  mutable absl::flat_hash_map<const tf::OpRegistrationData*, Effects> op_effects_;  // of those that are no functions
  int64_t spent_ = 0, most_ = 0;  // made so far; and at most, once that was read
};

}  // namespace symgrad
