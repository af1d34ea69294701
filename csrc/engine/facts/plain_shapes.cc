#include "csrc/engine/facts/plain_shapes.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "csrc/engine/facts/facts.h"

namespace symgrad {
namespace {

constexpr int kMaxRank = 16;
constexpr int64_t kMaxSize = int64_t{1} << 31;  // of a dimension, and of all until the last: a product is no overflow
using Dims = absl::InlinedVector<Dim, 8>;

// A node, of which each function below infers the shape; null where it is not plain.
struct Plain {
  Body* body;
  const Node& node;

  Shape in(int i) const { return body->output(node.inputs[i]).shape; }
  int rank(int i) const { return body->rank(node.inputs[i]); }
  Dim dim(int i, int axis) const { return InferenceContext::DimKnownRank(in(i), axis); }
  int64_t size(int i, int axis) const { return InferenceContext::Value(dim(i, axis)); }
  const Ints* ints(int i) const {
    const Ints* ints = body->output(node.inputs[i]).ints.get();
    return ints != nullptr && ints->known() ? ints : nullptr;
  }
  bool flag(const char* name) const {
    const auto it = node.def->attr().find(name);
    return it != node.def->attr().end() && it->second.b();
  }
  Shape Make(const Dims& dims) const {
    const Shape shape = body->shapes()->MakeShape(std::vector<Dim>(dims.begin(), dims.end()));
    return IsCountable(shape) ? shape : Shape();
  }
  // How many elements a tensor of a static shape has; -1 of any other.
  int64_t Elements(int i) const {
    if (rank(i) < 0 || rank(i) > kMaxRank) return -1;
    int64_t elements = 1;
    for (int axis = 0; axis < rank(i); ++axis) {
      if (size(i, axis) < 0 || size(i, axis) > kMaxSize || elements > kMaxSize) return -1;
      elements *= size(i, axis);
    }
    return elements;
  }
};

bool IsPlain(Shape s) { return !s.SameHandle(Shape()); }

Shape First(const Plain& p) { return p.in(0); }

Shape FirstOfTwo(const Plain& p) {
  if (p.node.inputs.size() != 2) return {};
  return p.body->SameShape(p.node.inputs[0], p.node.inputs[1]) ? p.in(0) : Shape();
}

// Of shapes that are not static, only that they are the same, or that one is a scalar's: what TensorFlow concludes of
// others hangs on which dimension is 1.
Shape Broadcast(const Plain& p) {
  if (const Shape same = FirstOfTwo(p); IsPlain(same)) return same;
  if (p.node.inputs.size() == 2 && p.rank(0) == 0) return p.in(1);
  if (p.node.inputs.size() == 2 && p.rank(1) == 0) return p.in(0);
  if (p.node.inputs.size() != 2 || p.Elements(0) < 0 || p.Elements(1) < 0) return {};
  const int rank = std::max(p.rank(0), p.rank(1));
  Dims dims(rank);
  for (int axis = 0; axis < rank; ++axis) {
    const int a = axis - rank + p.rank(0), b = axis - rank + p.rank(1);
    if (a >= 0 && b >= 0 && p.size(0, a) != p.size(1, b) && p.size(0, a) != 1 && p.size(1, b) != 1) return {};
    dims[axis] = a < 0 || (b >= 0 && p.size(0, a) == 1) ? p.dim(1, b) : p.dim(0, a);
  }
  for (const int i : {0, 1}) {
    bool same = p.rank(i) == rank;
    for (int axis = 0; same && axis < rank; ++axis) same = p.size(i, axis) == InferenceContext::Value(dims[axis]);
    if (same) return p.in(i);
  }
  return p.Make(dims);
}

Shape AllTheSame(const Plain& p) {
  for (const Port& q : p.node.inputs)
    if (!p.body->SameShape(p.node.inputs[0], q)) return {};
  return p.in(0);
}

Shape Const(const Plain& p) {
  const auto value = p.node.def->attr().find("value");
  if (value == p.node.def->attr().end() || !value->second.has_tensor()) return {};
  const tf::TensorShapeProto& shape = value->second.tensor().tensor_shape();
  if (shape.unknown_rank() || shape.dim_size() > kMaxRank) return {};
  Dims dims;
  int64_t elements = 1;
  for (const auto& dim : shape.dim()) {
    if (dim.size() < 0 || dim.size() > kMaxSize || elements > kMaxSize) return {};
    elements *= std::max<int64_t>(dim.size(), 1);
    dims.push_back(p.body->shapes()->MakeDim(dim.size()));
  }
  return p.Make(dims);
}

Shape ReadVariable(const Plain& p) {
  const auto handle = p.body->handles.find(p.body->output_index(p.node.inputs[0]));
  const auto dtype = p.node.def->attr().find("dtype");
  if (handle == p.body->handles.end() || handle->second.size() != 1 || dtype == p.node.def->attr().end()) return {};
  const auto& variable = handle->second[0];
  const bool holds_shapes = variable.dtype == tf::DT_VARIANT || variable.dtype == tf::DT_RESOURCE;
  return variable.dtype == dtype->second.type() && !holds_shapes ? variable.shape : Shape();
}

// Input 1 is the shape.
Shape Reshape(const Plain& p) {
  const Ints* shape = p.ints(1);
  const int64_t elements = p.Elements(0);
  if (shape == nullptr || shape->dims.size() != 1 || elements < 0 || shape->elements.size() > kMaxRank) return {};
  Dims dims;
  int64_t product = 1;
  for (const Ints::Element& e : shape->elements) {
    if (e.value < 0 || e.value > kMaxSize || product > kMaxSize) return {};
    product *= e.value;
    dims.push_back(p.body->shapes()->MakeDim(e.value));
  }
  return product == elements ? p.Make(dims) : Shape();
}

Shape MatMul(const Plain& p) {
  if (p.node.inputs.size() != 2 || p.rank(0) != 2 || p.rank(1) != 2) return {};
  const bool a = p.flag("transpose_a"), b = p.flag("transpose_b");
  const int64_t inner = p.size(0, a ? 0 : 1);
  if (inner < 0 || inner != p.size(1, b ? 1 : 0)) return {};
  return p.Make({p.dim(0, a ? 1 : 0), p.dim(1, b ? 0 : 1)});
}

// Input 1 is the axes.
Shape Reduction(const Plain& p) {
  const Ints* axes = p.ints(1);
  const int rank = p.rank(0);
  if (axes == nullptr || axes->dims.size() > 1 || rank < 0 || rank > kMaxRank) return {};
  bool reduced[kMaxRank] = {};
  for (const Ints::Element& e : axes->elements) {
    if (e.value < -rank || e.value >= rank) return {};
    reduced[e.value < 0 ? e.value + rank : e.value] = true;
  }
  const bool keep = p.flag("keep_dims");
  Dims dims;
  for (int axis = 0; axis < rank; ++axis) {
    if (!reduced[axis]) dims.push_back(p.dim(0, axis));
    else if (keep) dims.push_back(p.body->shapes()->MakeDim(1));
  }
  return p.Make(dims);
}

using Infer = Shape (*)(const Plain&);
using ShapeFunction = absl::Status (*)(InferenceContext*);

ShapeFunction ShapeFunctionOf(const tf::OpRegistrationData& op) {
  const ShapeFunction* function = op.shape_inference_fn.target<ShapeFunction>();
  return function == nullptr ? nullptr : *function;
}

// By op, and by what ops of many names share, their shape function.
Infer Find(const tf::OpRegistrationData& op) {
  static const auto* const by_op = new absl::flat_hash_map<absl::string_view, Infer>{{"AddN", AllTheSame},
                                                                                     {"Const", Const},
                                                                                     {"MatMul", MatMul},
                                                                                     {"ReadVariableOp", ReadVariable},
                                                                                     {"Reshape", Reshape}};
  static const auto* const by_function = [] {
    auto* functions = new absl::flat_hash_map<ShapeFunction, Infer>;
    for (const auto& [name, infer] : {std::pair<const char*, Infer>{"Tanh", First},
                                      {"Mul", Broadcast},
                                      {"ReluGrad", FirstOfTwo},
                                      {"Sum", Reduction}}) {
      const tf::OpRegistrationData* data = nullptr;
      if (!tf::OpRegistry::Global()->LookUp(name, &data).ok()) continue;
      if (const ShapeFunction function = ShapeFunctionOf(*data); function != nullptr)
        functions->emplace(function, infer);
    }
    return functions;
  }();
  if (const auto it = by_op->find(op.op_def.name()); it != by_op->end()) return it->second;
  const auto it = by_function->find(ShapeFunctionOf(op));
  return it == by_function->end() ? nullptr : it->second;
}

}  // namespace

bool InferPlainShape(Body* body, int node) {
  const Node& n = body->node(node);
  if (n.type() == "PartitionedCall" || n.type() == "StatefulPartitionedCall") return true;  // nothing is known
  if (n.num_outputs != 1) return false;
  const Infer infer = Find(*n.op);
  if (infer == nullptr || (n.inputs.empty() && infer != Const)) return false;
  const tf::DataType dtype = body->output({node, 0}).dtype;
  if (dtype == tf::DT_RESOURCE || dtype == tf::DT_VARIANT) return false;  // which hold shapes of their own
  const Shape shape = infer({body, n});
  if (IsPlain(shape)) body->output({node, 0}).shape = shape;
  return IsPlain(shape);
}

}  // namespace symgrad
