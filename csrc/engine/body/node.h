// What a Body is made of: nodes, their outputs, and what is known of each output.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"
#include "tensorflow/core/framework/node_def.pb.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/types.pb.h"

namespace symgrad {

namespace tf = ::tensorflow;
using tf::shape_inference::InferenceContext;
using Dim = tf::shape_inference::DimensionHandle;
using Shape = tf::shape_inference::ShapeHandle;

inline bool IsIntegral(tf::DataType t) { return t == tf::DT_INT32 || t == tf::DT_INT64 || t == tf::DT_BOOL; }

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

// An output of a node, and what is known of it.
struct Output {
  tf::DataType dtype = tf::DT_INVALID;
  Shape shape;            // owned by the body's arena; dims that are the same handle are equal at run time
  IntsPtr ints;           // null if nothing is known
  bool diverges = false;  // whether it may be infinite or NaN (traits/finite.h), once that was looked for
};

// An argument of the function, or a node of it.
struct Node {
  const tf::OpRegistrationData* op = nullptr;  // null: an argument of the function
  const tf::NodeDef* def = nullptr;            // its inputs are not kept up to date: see `inputs`; null for arguments
  absl::InlinedVector<Port, 3> inputs;
  absl::InlinedVector<int, 1> controls;
  int first_output = 0;
  int num_outputs = 0;
  int origin = -1;  // for a node that the engine emitted: the forward node it was emitted for

  bool is_arg() const { return op == nullptr; }
  absl::string_view type() const { return op->op_def.name(); }
};

}  // namespace symgrad
