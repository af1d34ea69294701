// What is known of a node's outputs: shapes by TensorFlow's own shape functions, small integers by folding (fold.cc).
#include <utility>

#include "absl/container/inlined_vector.h"
#include "csrc/engine/body/body.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/public/version.h"

namespace symgrad {
namespace {

using tf::shape_inference::ShapeAndType;

template <typename T>
void Fill(const Ints& ints, tf::Tensor* t) {
  auto flat = t->flat<T>();
  for (size_t i = 0; i < ints.elements.size(); ++i) flat(i) = static_cast<T>(ints.elements[i].value);
}

tf::Tensor ToTensor(const Ints& ints, tf::DataType dtype) {
  tf::Tensor t(dtype, tf::TensorShape(ints.dims));  // folding makes only shapes that can be
  if (dtype == tf::DT_INT32) Fill<int32_t>(ints, &t);
  if (dtype == tf::DT_INT64) Fill<int64_t>(ints, &t);
  if (dtype == tf::DT_BOOL) Fill<bool>(ints, &t);
  return t;
}

// The shape that an integer vector stands for, -1 meaning an unknown dimension.
Shape ToShape(Body* body, const Ints& ints) {
  std::vector<Dim> dims;
  for (const Ints::Element& e : ints.elements) {
    if (e.known() && e.value < -1) return body->shapes()->UnknownShape();
    const bool same_dim = !e.known() && e.dim.Handle() != 0;
    dims.push_back(same_dim ? e.dim : e.value >= 0 ? body->shapes()->MakeDim(e.value) : body->shapes()->UnknownDim());
  }
  return body->shapes()->MakeShape(dims);
}

// Carries shapes from the context of one node, which dies, to the arena. A dimension that came in keeps its identity,
// so that the engine can tell that two dimensions that it does not know are equal.
class Importer {
 public:
  explicit Importer(Body* body) : body_(body) {}

  void AddInput(Shape s) {
    shapes_.push_back(s);
    for (int i = 0; i < InferenceContext::Rank(s); ++i) {
      const Dim d = InferenceContext::DimKnownRank(s, i);
      if (!InferenceContext::ValueKnown(d)) dims_.push_back({d, d});
    }
  }

  Shape Import(Shape s) {
    for (const Shape& known : shapes_)
      if (s.SameHandle(known)) return s;
    const int rank = InferenceContext::Rank(s);
    if (rank < 0) return body_->shapes()->UnknownShape();
    std::vector<Dim> dims(rank);
    for (int i = 0; i < rank; ++i) dims[i] = Import(InferenceContext::DimKnownRank(s, i));
    return body_->shapes()->MakeShape(dims);
  }

 private:
  Dim Import(Dim d) {
    if (InferenceContext::ValueKnown(d)) return body_->shapes()->MakeDim(InferenceContext::Value(d));
    for (const auto& [from, to] : dims_)
      if (from.SameHandle(d)) return to;
    return dims_.emplace_back(d, body_->shapes()->UnknownDim()).second;
  }

  Body* body_;
  absl::InlinedVector<Shape, 4> shapes_;
  absl::InlinedVector<std::pair<Dim, Dim>, 8> dims_;
};

// TensorFlow's shape function takes an unknown shape for a rank of -1, which no input has whose rank the engine knows.
bool EnsuresNothing(const Node& n) {
  const auto shape = n.def->attr().find("shape");
  return n.type() == "EnsureShape" && shape != n.def->attr().end() && shape->second.shape().unknown_rank();
}

// Where TensorFlow's shape functions claim what need not be: a dimension of 1 broadcasts to one that is not known, that
// one is taken for -1 (so that a diagonal above it has 0), and negative batch dimensions are none while the axis is not
// known.
bool ClaimsTooMuch(const Body& body, const Node& n) {
  const auto may_be_any = [&](int i, int axis) { return body.dim(n.inputs[i], axis) < 0; };
  if (n.type() == "SoftmaxCrossEntropyWithLogits") return may_be_any(0, 0) || may_be_any(1, 0);
  if (n.type() == "MatrixDiagV2" || n.type() == "MatrixDiagV3") return may_be_any(0, -1);
  if (n.type() != "GatherV2") return false;
  const auto batch_dims = n.def->attr().find("batch_dims");
  const IntsPtr axis = body.output(n.inputs[2]).ints;
  return batch_dims != n.def->attr().end() && batch_dims->second.i() < 0 && (axis == nullptr || !axis->known());
}

// And where one tells less than it is told.
Shape ToldShape(Body* body, const Node& n, int output, Shape inferred) {
  if (n.type() != "TensorListPopBack" || output != 1 || InferenceContext::Rank(inferred) >= 0) return inferred;
  const IntsPtr element = body->output(n.inputs[1]).ints;
  return element != nullptr && element->dims.size() == 1 ? ToShape(body, *element) : inferred;
}

const tf::AttrValue* ConstValue(const Body& body, Port p) {
  const Node& n = body.node(p.node);
  if (n.is_arg() || n.type() != "Const") return nullptr;
  const auto it = n.def->attr().find("value");
  return it == n.def->attr().end() ? nullptr : &it->second;
}

}  // namespace

absl::Status InferFacts(Body* body, int id) {
  const Node& n = body->node(id);
  if (n.is_arg() || n.op->shape_inference_fn == nullptr) return absl::OkStatus();
  if (EnsuresNothing(n)) return body->output({id, 0}).shape = body->output(n.inputs[0]).shape, absl::OkStatus();
  const size_t num_in = n.inputs.size();

  std::vector<Shape> shapes(num_in), as_shapes(num_in);
  std::vector<tf::Tensor> values(num_in);
  std::vector<const tf::Tensor*> tensors(num_in, nullptr);
  std::vector<std::unique_ptr<std::vector<ShapeAndType>>> handles(num_in);
  Importer importer(body);
  bool opaque = false;  // whether something is not known of an input that a shape function may insist on
  for (size_t i = 0; i < num_in; ++i) {
    const Output& in = body->output(n.inputs[i]);
    shapes[i] = in.shape;
    opaque |= InferenceContext::Rank(in.shape) < 0;
    importer.AddInput(in.shape);
    if (in.ints != nullptr && in.ints->known() && IsIntegral(in.dtype)) {
      values[i] = ToTensor(*in.ints, in.dtype);
      tensors[i] = &values[i];
    } else if (in.ints != nullptr && in.ints->dims.size() == 1 && IsIntegral(in.dtype)) {
      as_shapes[i] = ToShape(body, *in.ints);
      importer.AddInput(as_shapes[i]);
    }
    if (in.dtype == tf::DT_RESOURCE || in.dtype == tf::DT_VARIANT) {
      const auto it = body->handles.find(body->output_index(n.inputs[i]));
      if (it == body->handles.end()) {
        opaque = true;
        continue;
      }
      handles[i] = std::make_unique<std::vector<ShapeAndType>>(it->second);
      for (ShapeAndType& h : *handles[i]) {
        // The elements of a list may differ in what is not known of them: each node reads new dimensions.
        if (in.dtype == tf::DT_VARIANT) h.shape = Importer(body).Import(h.shape);
        importer.AddInput(h.shape);
      }
    }
  }

  InferenceContext c(TF_GRAPH_DEF_VERSION, tf::AttrSlice(*n.def), n.op->op_def, shapes, tensors, as_shapes,
                     std::move(handles));
  if (const absl::Status status = c.Run(n.op->shape_inference_fn); !status.ok()) {
    // Those of sparse matrices fail where they are not told a rank, or what a variant holds: unknown is not malformed.
    return opaque ? absl::OkStatus() : status;
  }
  // A shape function asks for the values it can use; those that are not integers are parsed only then.
  bool again = false;
  for (size_t i = 0; i < num_in; ++i) {
    if (tensors[i] != nullptr || !c.requested_input_tensor(i)) continue;
    const tf::AttrValue* value = ConstValue(*body, n.inputs[i]);
    if (value == nullptr || !values[i].FromProto(value->tensor())) continue;
    tensors[i] = &values[i];
    again = true;
  }
  if (again) {
    c.set_input_tensors(tensors);
    TF_RETURN_IF_ERROR(c.Run(n.op->shape_inference_fn));
  }

  for (int i = 0; i < n.num_outputs && i < c.num_outputs(); ++i) {
    Output& out = body->output({id, i});
    if (!ClaimsTooMuch(*body, n)) out.shape = ToldShape(body, n, i, importer.Import(c.output(i)));
    const auto* handle = c.output_handle_shapes_and_types(i);
    if (handle == nullptr) continue;
    std::vector<ShapeAndType> imported = *handle;
    for (ShapeAndType& h : imported) h.shape = importer.Import(h.shape);
    body->handles[body->output_index({id, i})] = std::move(imported);
  }
  const std::vector<IntsPtr> ints = FoldInts(body, n.type(), *n.def, n.inputs);
  for (size_t i = 0; i < ints.size(); ++i) body->output({id, static_cast<int>(i)}).ints = ints[i];
  return absl::OkStatus();
}

}  // namespace symgrad
