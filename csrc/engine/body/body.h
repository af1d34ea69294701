// The engine's view of a function: nodes in topological order, with what is known of every output.
//
// A Body is filled from a FunctionDef (import.h), extended by a Builder (builder.h) and written back as a FunctionDef
// (export.h). It is not a tensorflow::Graph: that one CHECKs on malformed input and costs more per node than all the
// rest together.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tensorflow/core/framework/function.pb.h"
#include "tensorflow/core/framework/node_def.pb.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/types.pb.h"

namespace symgrad {

namespace tf = ::tensorflow;
using tf::shape_inference::InferenceContext;
using Dim = tf::shape_inference::DimensionHandle;
using Shape = tf::shape_inference::ShapeHandle;

// Output `index` of node `node`.
struct Port {
  int node = -1;
  int index = 0;
  bool operator==(const Port& other) const { return node == other.node && index == other.index; }
};

// What is known when building of a small integer (or bool) tensor. An element may be the size of a dimension that is
// not known as a number: then `dim` tells which one. Of a list of tensors of one shape: its length, then that shape.
struct Ints {
  static constexpr int64_t kUnknown = std::numeric_limits<int64_t>::min();
  static constexpr int64_t kMaxElements = 1024;
  struct Element {
    int64_t value = kUnknown;
    Dim dim;
    bool known() const { return value != kUnknown; }
  };

  std::vector<int64_t> dims;
  std::vector<Element> elements;  // row-major

  bool known() const {
    for (const Element& e : elements)
      if (!e.known()) return false;
    return true;
  }
};
using IntsPtr = std::shared_ptr<const Ints>;

// Between which numbers an integer scalar is, as far as that is known.
struct Range {
  static constexpr int64_t kMax = int64_t{1} << 42;  // stands for infinity
  int64_t low = -kMax, high = kMax;
};

struct Output {
  tf::DataType dtype = tf::DT_INVALID;
  Shape shape;   // owned by the body's arena; dims that are the same handle are equal at run time
  IntsPtr ints;  // null if nothing is known
};

struct Node {
  const tf::OpRegistrationData* op = nullptr;  // null: an argument of the function
  const tf::NodeDef* def = nullptr;            // its inputs are not kept up to date: see `inputs`; null for arguments
  absl::InlinedVector<Port, 3> inputs;
  absl::InlinedVector<int, 1> controls;
  int first_output = 0;
  int num_outputs = 0;
  int origin = -1;  // for a node that the engine emitted: the forward node it was emitted for

  bool is_arg() const { return op == nullptr; }
  const std::string& type() const { return op->op_def.name(); }
};

class Body {
 public:
  Body();
  Body(const Body&) = delete;
  Body& operator=(const Body&) = delete;

  const Node& node(int i) const { return nodes_[i]; }
  Node& node(int i) { return nodes_[i]; }
  int num_nodes() const { return static_cast<int>(nodes_.size()); }
  int num_outputs() const { return static_cast<int>(outputs_.size()); }
  int output_index(Port p) const { return nodes_[p.node].first_output + p.index; }
  const Output& output(Port p) const { return outputs_[output_index(p)]; }
  Output& output(Port p) { return outputs_[output_index(p)]; }
  std::string name(int node) const;  // of a forward node or argument

  // Appends an argument, or a node whose inputs exist. Nothing but dtypes is known of its outputs until InferFacts.
  int AddArg(std::string name, tf::DataType dtype);
  int AddNode(const tf::OpRegistrationData* op, const tf::NodeDef* def, absl::Span<const Port> inputs,
              const tf::DataTypeVector& dtypes, int origin);
  // Gives a node new outputs (a call that now returns residuals, too).
  void ReplaceOutputs(int node, const tf::DataTypeVector& dtypes);
  // A NodeDef that lives as long as the body.
  tf::NodeDef* NewDef() { return &defs_.emplace_back(); }
  void Keep(std::shared_ptr<const void> resource) { kept_.push_back(std::move(resource)); }

  // The arena of all shapes.
  InferenceContext* shapes() { return &arena_; }
  const InferenceContext* shapes() const { return &arena_; }
  int rank(Port p) const { return InferenceContext::Rank(output(p).shape); }  // -1: not known
  int64_t dim(Port p, int axis) const;                                        // -1: not known
  bool SameShape(Port a, Port b) const;
  bool FullyDefined(Port p) const;

  // What a resource refers to, where that is known: by output index.
  absl::flat_hash_map<int, std::vector<tf::shape_inference::ShapeAndType>> handles;

  // The element dtype of the array that a flow is of (flows.h): by output index.
  absl::flat_hash_map<int, tf::DataType> flows;
  tf::DataType flow(Port p) const {  // DT_INVALID: p is no flow
    const auto it = flows.find(output_index(p));
    return it == flows.end() ? tf::DT_INVALID : it->second;
  }

  // The tensors that a node's custom gradient takes (kCustomInputs), by node.
  absl::flat_hash_map<int, std::vector<Port>> custom_inputs;

  // A forward half that does no more than values need, where the function does more: the one that does all, by node.
  // Its outputs are the first of the node's.
  struct Call {
    const tf::OpRegistrationData* op;
    const tf::NodeDef* def;
  };
  absl::flat_hash_map<int, Call> whole;

  // Arguments that nobody may have asked about: a derivative by them that is missing is left out, and is no error.
  absl::flat_hash_set<int> unasked;

  std::vector<int> args;      // nodes
  std::vector<Range> ranges;  // of the arguments
  std::vector<Port> results;
  bool compiled = false;             // by XLA, for sure
  std::vector<int> control_results;  // nodes that the function says it runs
  std::string function;              // the name of the function this is, for messages
  int num_forward = 0;               // nodes [0, num_forward) came with the function

 private:
  std::deque<Node> nodes_;  // references to nodes stay valid while nodes are added
  std::vector<Output> outputs_;
  absl::flat_hash_map<int, std::string> arg_names_;
  std::deque<tf::NodeDef> defs_;
  std::vector<std::shared_ptr<const void>> kept_;
  tf::OpDef arena_op_;
  tf::NodeDef arena_node_;
  InferenceContext arena_;
};

// What a tensor is, through nodes that change nothing.
Port Origin(const Body& body, Port p);

// Derives shapes and integer values of a node's outputs from those of its inputs.
absl::Status InferFacts(Body* body, int node);

// The integer values of all outputs of a node that computes `op` of `inputs`, as far as they are known; empty if
// nothing is.
std::vector<IntsPtr> FoldInts(Body* body, const std::string& op, const tf::NodeDef& def, absl::Span<const Port> inputs);

// What a constant is, if it is small and of integers.
IntsPtr ReadInts(const tf::TensorProto& value);

inline bool IsIntegral(tf::DataType t) { return t == tf::DT_INT32 || t == tf::DT_INT64 || t == tf::DT_BOOL; }

}  // namespace symgrad
