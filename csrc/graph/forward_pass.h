// The gradients of a graph that somebody else builds, and whose forward pass stays as it is: what Python's tapes and
// tf.gradients ask for (tf_symgrad/_enable.py).
//
// A pullback is one function, to be called by one node. What it needs of the forward pass it takes as arguments, and
// these are tensors of the graph: nothing is computed twice, no random number drawn again, no variable read again. A
// node that stands for functions (a call, a branch, a loop) gets new outputs for it, where it stands.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "csrc/engine/body/body.h"
#include "csrc/engine/differentiate/differentiator.h"
#include "csrc/engine/library/gradient_op.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/graph.pb.h"

namespace symgrad {

class ForwardPass {
 public:
  // What only who builds the graph knows of a tensor: its shape; of a variable the dtype and the shape of its value.
  struct Facts {
    tf::DataType value = tf::DT_INVALID;
    tf::PartialTensorShape shape;
  };

  // A node that stands for functions, with what it becomes.
  struct Extended {
    std::string node;
    InPlace as;
  };

  // A pullback: tensors of the graph, cotangents of y -> gradients.
  struct Pullback {
    std::string name;
    bool stateful = false;
    // It, what the extended nodes call, and what these call, that the library lacks.
    std::shared_ptr<const tf::FunctionDefLibrary> functions = std::make_shared<tf::FunctionDefLibrary>();
    std::vector<Extended> extended;  // before it can be called
    std::vector<std::string> taken;  // the tensors
    struct Gradient {
      std::string tensor;        // of which
      int values, indices = -1;  // the results that it is; with indices it is rows
    };
    std::vector<Gradient> gradients;  // those that any flows to
    std::vector<std::string> copied;  // constants that might be differentiated by, of which the pullback has copies
  };

  // The graph, or a part of it: gradients do not pass a node some of whose inputs are missing, which is its edge.
  // `compiled`: XLA is to compile it.
  static absl::StatusOr<std::unique_ptr<ForwardPass>> Read(tf::GraphDef graph, bool compiled);

  // Which gradients are asked for. Tensors are named "node:output", as in a GraphDef.
  struct Asked {
    std::vector<std::string> y, x;
    std::vector<std::string> off;                  // tensors that carry no gradient
    std::vector<std::string> blocked;              // nodes that gradients do not pass
    std::vector<std::string> inert;                // ops that gradients do not pass
    std::map<std::string, std::vector<int>> deaf;  // of ops: inputs that no gradient flows to
  };
  // A node that the gradients pass.
  struct Passed {
    std::string node, op;
    bool own_gradient;  // its gradient is not its op's
  };
  // Those nodes, in topological order.
  absl::StatusOr<std::vector<Passed>> Between(const Asked& asked);

  // The functions that nodes which are not opaque stand for, and what these call.
  absl::Status AddFunctions(const tf::FunctionDefLibrary& functions) { return library_.AddLibrary(functions); }
  // Of one of those nodes: who asks differentiates it himself.
  absl::Status SetOpaque(absl::string_view node);
  // Of one of those nodes: its gradient is a function, see kCustomGradient; `functions` are it and what it calls.
  absl::Status SetGradient(absl::string_view node, const std::string& function, const std::vector<std::string>& tensors,
                           const std::vector<int>& outputs, const tf::FunctionDefLibrary& functions);

  // Takes a tensor from the graph in any case: somebody may differentiate a pullback by it.
  absl::Status Keep(const std::string& tensor);

  // Opaque nodes cut the way back into stages: stage k is of the nodes that lead to a y through k opaque ones at most,
  // and to one through k. Its pullback comes first, then its opaque nodes: those are returned, by stage.
  std::vector<std::vector<std::string>> Stages();
  // The stage of the node that makes a tensor; -1 where gradients do not pass it, or it is opaque.
  absl::StatusOr<int> StageOf(const std::string& tensor) const;

  // Begins the pullback of a stage: of those y that its nodes make, to the x and to what later stages make. Returns the
  // tensors of which the caller is to tell what he knows.
  absl::StatusOr<std::vector<std::string>> Begin(int stage, const std::vector<std::string>& y);
  absl::StatusOr<Pullback> Finish(const std::vector<Facts>& facts);
  // Where the last `Finish` failed: the nodes that stand for functions which can't be differentiated, and why.
  const std::vector<std::pair<std::string, absl::Status>>& failed() const { return failed_; }

 private:
  struct Item {
    tf::NodeDef* def = nullptr;
    const tf::OpRegistrationData* op = nullptr;
    tf::DataTypeVector types;
    std::vector<Port> inputs;
    std::vector<Port> custom_inputs;
    bool edge = false, passed = false, opaque = false;
    int stage = 0;
  };

  ForwardPass(tf::GraphDef graph, bool compiled)
      : graph_(std::move(graph)), compiled_(compiled), library_(tf::OpRegistry::Global(), tf::FunctionDefLibrary()) {}
  absl::Status Index();
  absl::Status ReadTypes(int node);
  absl::StatusOr<Item*> Find(absl::string_view node);
  absl::StatusOr<Port> Parse(absl::string_view tensor) const;
  absl::StatusOr<std::vector<Port>> Parse(const std::vector<std::string>& tensors) const;
  std::string Name(Port p) const;
  bool Passes(const Item& item) const;
  bool IsX(Port p) const { return x_.contains({p.node, p.index}); }
  // Whether a gradient may flow over an edge.
  bool Carries(const Item& item, size_t input) const;
  bool IsOff(Port p) const { return off_.contains({p.node, p.index}); }

  // The part of the graph that a pullback is of.
  struct Region;
  absl::StatusOr<Pullback> Differentiate(const std::vector<Facts>& facts);
  bool IsWanted(Port p, const Region& region) const;
  absl::Status AddInput(Port p, int depth, Region* region);
  using Ports = absl::flat_hash_map<std::pair<int, int>, Port>;  // of the body, by tensor of the graph
  using Tensors = absl::flat_hash_map<int, Port>;                // of the graph, by output of the body
  absl::Status Build(const Region& region, const std::vector<Facts>& facts, Functions* functions, Body* body,
                     Ports* ports, Tensors* tensors) const;
  absl::StatusOr<Pullback> Write(const Body& body, const Tensors& tensors, int num_args,
                                 const std::vector<Port>& results, Differentiator* differentiator) const;
  template <class T>
  std::map<int, std::string> NamesOf(const std::map<int, T>& nodes, const Ports& ports) const;
  void Extend(const std::map<int, InPlace>& in_place, const Ports& ports, const Differentiator& differentiator,
              Pullback* pullback) const;
  // Whether Python would find zeros where the sweep finds nothing: it gives a node the cotangents of all its outputs.
  absl::Status CheckUnconnected(const Region& region, const absl::flat_hash_set<std::pair<int, int>>& connected) const;

  tf::GraphDef graph_;
  const bool compiled_;
  tf::FunctionLibraryDefinition library_;
  std::vector<Item> items_;  // in topological order
  absl::flat_hash_map<std::string, int> by_name_;
  absl::flat_hash_set<std::pair<int, int>> off_, x_, kept_;
  absl::flat_hash_set<std::string> inert_;
  std::map<std::string, std::vector<int>> deaf_;
  std::shared_ptr<Region> region_;
  std::vector<std::pair<std::string, absl::Status>> failed_;
};

}  // namespace symgrad
