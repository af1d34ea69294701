// Emits nodes into a Body: what op() and the vocabulary of rule.h are made of.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "csrc/engine/body/body.h"
#include "csrc/engine/library/functions.h"
#include "csrc/rules/words.h"
#include "tensorflow/core/framework/op.h"

namespace symgrad {

// Sparse rows, see rule.h.
struct RowsValue {
  V indices, values, dense_shape;
};

// What the sweep asks of a node, and the rule that runs now may see.
struct VjpQuery {
  int node = -1;
  std::vector<V> cotangents;  // of each output, `none` where nothing came
  std::vector<bool> wants;    // for each input
  bool diverges = false;      // Op::diverges
  bool as_python = false;     // gradients are zeros and rows where TensorFlow's Python makes such
};

// A builder dedups: an op without state, of the same inputs and attrs on the same device, is emitted once. Of
// integers and truth values, as shapes and masks are, what the body has already is not emitted again: derivatives of
// derivatives ask for the same, and what a loop keeps of it for each iteration it keeps once.
//
// Rules reach the builder of their thread through Current(); a Scope makes a builder current.
class Builder {
 public:
  explicit Builder(Body* body);

  class Scope {
   public:
    explicit Scope(Builder* builder);
    ~Scope();
    Scope(const Scope&) = delete;

   private:
    Builder* previous_;
  };
  static Builder* Current();

  Body* body() { return body_; }
  VjpQuery& query() { return query_; }

  // Nodes emitted from here on belong to this forward node: they take its device, its name as prefix.
  void set_origin(int node) { origin_ = node; }

  // Emits a node. An error is kept for TakeStatus and `none` is returned.
  V Emit(const char* type, absl::Span<const Arg> args, const Node* like = nullptr);
  // Emits a node, of the body's NewDef, whose op and attrs are given, but those with defaults: what op() can't say,
  // such as functions in attrs.
  V EmitNode(tf::NodeDef* def, const std::vector<V>& inputs, const tf::DataTypeVector& dtypes);
  // Emits a call of a function; `like`, a forward node, gives its runtime attrs (those that start with '_').
  V Call(const Callable& f, const std::vector<V>& inputs, const tf::NodeDef* like = nullptr);
  // A literal as a tensor.
  V Constant(const V& literal, tf::DataType dtype);
  V Rows(RowsValue rows);
  const RowsValue& rows(const V& v) const { return rows_[v.node()]; }
  // The value as one tensor: rows are scattered. `none` stays.
  V Dense(const V& v);
  // The sum of cotangents of one tensor; sparse if all are. Those that are on one device are summed up there, so that
  // one tensor is copied from it and not all of them.
  V Sum(const std::vector<V>& values);

  void Fail(const absl::Status& status);
  // The first error since the last call.
  absl::Status TakeStatus();

 private:
  const tf::OpRegistrationData* Lookup(const char* type);
  // What an operand was broadcast to.
  struct Broadcast {
    V to;         // where the result is to be; `none` where the other operand is as large
    Shape shape;  // as it is known
  };
  // Takes a broadcast out of the two operands of an op that broadcasts itself.
  std::optional<Broadcast> TakeBroadcast(std::vector<Port>* inputs) const;
  bool IsBroadcast(int id) const;
  V Constant(tf::TensorProto value);
  V SumHere(const std::vector<V>& values);
  int OriginOf(const V& v) const;
  absl::string_view DeviceOf(int origin) const;
  // The node that came with the body and computes the same; -1 if there is none.
  int FindDiscrete(const tf::OpDef& op, const tf::NodeDef& def, const std::vector<Port>& inputs) const;
  // What tells a node that is emitted here from others.
  std::string KeyHere(std::string key) const;
  // The node that computes `def` of `inputs`, new or emitted before.
  V AddNode(const tf::OpRegistrationData* op, tf::NodeDef* def, const std::vector<Port>& inputs, std::string key);

  Body* const body_;
  VjpQuery query_;
  int origin_ = -1;
  absl::Status status_;
  std::vector<RowsValue> rows_;
  absl::flat_hash_map<std::string, const tf::OpRegistrationData*> ops_;
  absl::flat_hash_map<std::string, int> emitted_;  // key -> node
  // Nodes that came with the body and compute integers or truth values, by what equal ones have in common. (Not by
  // outputs, whose numbers change: a node gets others in the sweep.)
  absl::flat_hash_map<std::string, std::vector<int>> discrete_;
};

inline Port ToPort(const V& v) { return {v.node(), v.port()}; }
inline V ToValue(Port p) { return V::Tensor(p.node, p.index); }
inline Values OutputsOf(const V& node, size_t count) {
  Values outputs;
  for (size_t i = 0; i < count; ++i) outputs.push_back(node.out(static_cast<int>(i)));
  return outputs;
}
inline tf::DataType ToTf(DType t) { return static_cast<tf::DataType>(t); }

}  // namespace symgrad
