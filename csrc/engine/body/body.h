// The engine's view of a function: nodes in topological order, with what is known of every output.
//
// A Body is filled from a FunctionDef (read), extended by a Builder (emit) and written back as a FunctionDef (write).
// It is not a tensorflow::Graph: that one CHECKs on malformed input and costs more per node than all the rest together.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/types/span.h"
#include "csrc/engine/body/node.h"
#include "google/protobuf/arena.h"

namespace symgrad {

// Forward nodes come first, in the order in which they can run; what is emitted comes behind them, each node after its
// inputs. So a pass over a body is a loop over numbers. Nodes are never removed: what nobody needs is not written.
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
  tf::NodeDef* NewDef() { return google::protobuf::Arena::Create<tf::NodeDef>(&defs_); }
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

  // Of a flow (flows.h), the dtype of the elements of its array: by output index.
  absl::flat_hash_map<int, tf::DataType> flow_elements;
  tf::DataType flow_element(Port p) const {  // DT_INVALID: p is no flow
    const auto it = flow_elements.find(output_index(p));
    return it == flow_elements.end() ? tf::DT_INVALID : it->second;
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
  google::protobuf::Arena defs_;
  std::vector<std::shared_ptr<const void>> kept_;
  tf::OpDef arena_op_;
  tf::NodeDef arena_node_;
  InferenceContext arena_;
};

// What a tensor is, through nodes that change nothing.
Port Origin(const Body& body, Port p);

}  // namespace symgrad
