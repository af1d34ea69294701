#include "csrc/engine/facts/facts.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/body/node_check.h"
#include "csrc/engine/facts/plain_shapes.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/public/version.h"

namespace symgrad {
namespace {

using tf::shape_inference::ShapeAndType;

void AddInteger(int64_t value, tf::DataType dtype, tf::TensorProto* out) {
  if (dtype == tf::DT_INT64) out->add_int64_val(value);
  if (dtype == tf::DT_INT32) out->add_int_val(static_cast<int>(value));
  if (dtype == tf::DT_BOOL) out->add_bool_val(value != 0);
}

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

// Carries shapes from the context of one node, which dies, to the arena. A shape or dimension that came in keeps its
// identity, so that the engine can tell that two dimensions that it does not know are equal.
class Importer {
 public:
  explicit Importer(Body* body) : body_(body) {}

  void AddInput(Shape s) {
    shapes_.insert(s.Handle());
    for (int i = 0; i < InferenceContext::Rank(s); ++i) {
      const Dim d = InferenceContext::DimKnownRank(s, i);
      if (!InferenceContext::ValueKnown(d)) dims_.try_emplace(d.Handle(), d);
    }
  }

  Shape Import(Shape s) {
    if (shapes_.contains(s.Handle())) return s;
    const int rank = InferenceContext::Rank(s);
    if (rank < 0) return body_->shapes()->UnknownShape();
    std::vector<Dim> dims(rank);
    for (int i = 0; i < rank; ++i) dims[i] = Import(InferenceContext::DimKnownRank(s, i));
    return body_->shapes()->MakeShape(dims);
  }

 private:
  Dim Import(Dim d) {
    if (InferenceContext::ValueKnown(d)) return body_->shapes()->MakeDim(InferenceContext::Value(d));
    const auto [it, is_new] = dims_.try_emplace(d.Handle());
    if (is_new) it->second = body_->shapes()->UnknownDim();
    return it->second;
  }

  Body* body_;
  absl::flat_hash_set<size_t> shapes_;
  absl::flat_hash_map<size_t, Dim> dims_;
};

// TensorFlow's shape function takes an unknown shape for a rank of -1, which no input has whose rank the engine knows.
bool EnsuresNothing(const Node& n) {
  const auto shape = n.def->attr().find("shape");
  return n.type() == "EnsureShape" && shape != n.def->attr().end() && shape->second.shape().unknown_rank();
}

// Where TensorFlow's shape functions end the process: they read known values, or the last dimension, as of a tensor of
// a rank that nobody has checked, an attr as an int of fewer bits, or make a shape of a rank that is negative.
struct ReadAs {
  absl::string_view op;
  int input, least, most;  // rank
};
constexpr ReadAs kReadAs[] = {{"SplitV", 1, 1, 1},
                              {"FakeQuantWithMinMaxVarsPerChannelGradient", 1, 1, 4},
                              {"TensorArrayGradWithShape", 2, 1, 1},
                              {"QueueDequeueManyV2", 1, 0, 0}};

// Ops whose shape functions read dimensions of scalars in many places, and that no gradient passes through.
constexpr absl::string_view kUnread[] = {"BoostedTrees", "TPUPartitioned"};

bool IsUnread(const Node& n) {
  const auto is_of = [&](absl::string_view family) { return absl::StartsWith(n.type(), family); };
  return std::any_of(std::begin(kUnread), std::end(kUnread), is_of);
}

// Inputs that are a number for each dimension of a tensor, as they are called. A shape function makes a shape of so
// many.
constexpr absl::string_view kByDimension[] = {
    "perm",        "shape",       "dims",          "paddings",        "multiples", "begin",      "size",
    "block_shape", "input_sizes", "filter_sizes",  "output_shape",    "end",       "image_size", "dense_values_shape",
    "strides",     "input_shape", "element_shape", "orig_input_shape"};

// SplitV's takes sizes that are not int32 for int64.
bool Misreads(const Node& n, size_t input, tf::DataType dtype) {
  return n.type() == "SplitV" && input == 1 && !IsIntegral(dtype);
}

absl::Status CheckDimensions(const Body& body, const Node& n) {
  for (size_t i = 0; i < n.inputs.size(); ++i) {
    const Output& in = body.output(n.inputs[i]);
    if (!IsIntegral(in.dtype) || InferenceContext::Rank(in.shape) < 1) continue;
    // Those of more dimensions than one are read as lists, too; of a pair of paddings for each there are rows.
    const int64_t rows = body.dim(n.inputs[i], 0);
    const bool is_list = InferenceContext::Rank(in.shape) == 1;
    const int64_t size = is_list ? rows : std::max(rows, StaticShape(in.shape).num_elements());
    if (size <= tf::TensorShape::MaxDimensions()) continue;
    const std::string name = InputName(*n.def, n.op->op_def, static_cast<int64_t>(i));
    if (name == "paddings" && rows <= tf::TensorShape::MaxDimensions()) continue;
    if (std::find(std::begin(kByDimension), std::end(kByDimension), name) == std::end(kByDimension)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("input ", name, " has ", size, " elements, and no tensor has as many dimensions"));
  }
  return absl::OkStatus();
}

absl::Status CheckInputs(const Body& body, const Node& n) {
  TF_RETURN_IF_ERROR(CheckDimensions(body, n));
  for (const ReadAs& read : kReadAs) {
    if (n.type() != read.op) continue;
    const int rank = body.rank(n.inputs[read.input]);
    if (rank >= 0 && (rank < read.least || rank > read.most))
      return absl::InvalidArgumentError(
          absl::StrCat("input ", InputName(*n.def, n.op->op_def, read.input), " must have ", read.least,
                       read.least < read.most ? absl::StrCat(" to ", read.most) : "", " dimensions, but has ", rank));
  }
  const auto integer = [&](const char* name) {
    const auto it = n.def->attr().find(name);
    return it == n.def->attr().end() ? 0 : it->second.i();
  };
  if (n.type() == "CollectiveGather" &&
      (integer("group_size") < 1 || integer("group_size") > std::numeric_limits<int32_t>::max()))
    return absl::InvalidArgumentError("its group_size is no number of devices");
  if (n.type() == "GatherV2") {
    const int rank = body.rank(n.inputs[1]);
    if (rank >= 0 && (integer("batch_dims") > rank || integer("batch_dims") < -rank))
      return absl::InvalidArgumentError(
          absl::StrCat("its batch_dims are ", integer("batch_dims"), ", of indices of ", rank, " dimensions"));
  }
  return absl::OkStatus();
}

// Where a shape function tells less than it could.
Shape ElementShape(Body* body, const Node& n, int output, Shape inferred) {
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

// The inference of one node: what is known of its inputs, handed to the op's shape function, and what that says.
class Inference {
 public:
  Inference(Body* body, int id) : body_(body), id_(id), node_(body->node(id)), importer_(body) {
    const size_t n = node_.inputs.size();
    shapes_.resize(n);
    as_shapes_.resize(n);
    values_.resize(n);
    tensors_.resize(n, nullptr);
    handles_.resize(n);
  }

  absl::Status Run() {
    TF_RETURN_IF_ERROR(CheckInputs(*body_, node_));
    for (size_t i = 0; i < node_.inputs.size(); ++i) ReadInput(i);
    // Of a sum it reads, for each input of which something is known, as much of the last one.
    const auto unknown = [](const auto& handle) { return handle == nullptr; };
    if (node_.type() == "AddN" && std::any_of(handles_.begin(), handles_.end(), unknown))
      for (auto& handle : handles_) handle.reset();
    InferenceContext c(TF_GRAPH_DEF_VERSION, tf::AttrSlice(*node_.def), node_.op->op_def, shapes_, tensors_, as_shapes_,
                       std::move(handles_));
    if (const absl::Status status = c.Run(node_.op->shape_inference_fn); !status.ok()) {
      // Those of sparse matrices fail where they have no rank, or not what a variant holds: unknown is not malformed.
      return opaque_ ? absl::OkStatus() : status;
    }
    if (GiveRequested(&c)) TF_RETURN_IF_ERROR(c.Run(node_.op->shape_inference_fn));
    return WriteOutputs(&c);
  }

 private:
  void ReadInput(size_t i) {
    const Output& in = body_->output(node_.inputs[i]);
    shapes_[i] = in.shape;
    opaque_ |= InferenceContext::Rank(in.shape) < 0;
    importer_.AddInput(in.shape);
    if (in.ints != nullptr && in.ints->known() && IsIntegral(in.dtype)) {
      values_[i] = ToTensor(*in.ints, in.dtype);
      tensors_[i] = &values_[i];
    } else if (in.ints != nullptr && in.ints->dims.size() == 1 && IsIntegral(in.dtype)) {
      as_shapes_[i] = ToShape(body_, *in.ints);
      importer_.AddInput(as_shapes_[i]);
    }
    if (in.dtype == tf::DT_RESOURCE || in.dtype == tf::DT_VARIANT) ReadHandle(i, in.dtype);
  }

  void ReadHandle(size_t i, tf::DataType dtype) {
    const auto it = body_->handles.find(body_->output_index(node_.inputs[i]));
    if (it == body_->handles.end()) {
      opaque_ = true;
      return;
    }
    handles_[i] = std::make_unique<std::vector<ShapeAndType>>(it->second);
    for (ShapeAndType& h : *handles_[i]) {
      // The elements of a list may differ in what is not known of them: each node reads new dimensions.
      if (dtype == tf::DT_VARIANT) h.shape = Importer(body_).Import(h.shape);
      importer_.AddInput(h.shape);
    }
  }

  // A shape function asks for the values it can use; those that are not integers are parsed only then.
  bool GiveRequested(InferenceContext* c) {
    bool given = false;
    for (size_t i = 0; i < node_.inputs.size(); ++i) {
      if (tensors_[i] != nullptr || !c->requested_input_tensor(static_cast<int>(i))) continue;
      const tf::AttrValue* value = ConstValue(*body_, node_.inputs[i]);
      if (value == nullptr || Misreads(node_, i, body_->output(node_.inputs[i]).dtype) ||
          !ReadTensor(value->tensor(), &values_[i]))
        continue;
      tensors_[i] = &values_[i];
      given = true;
    }
    if (given) c->set_input_tensors(tensors_);
    return given;
  }

  // Nodes are read after one that is refused, too: its shapes then are unknown.
  absl::Status WriteOutputs(InferenceContext* c) {
    const bool claims_too_much = FalselyClaimed(*body_, *node_.def, node_.inputs) > 0;
    for (int i = 0; i < node_.num_outputs && i < c->num_outputs(); ++i) {
      const Shape shape = ElementShape(body_, node_, i, importer_.Import(c->output(i)));
      if (!IsCountable(shape))
        return absl::InvalidArgumentError(absl::StrCat("output ", i, " would have the shape ", c->DebugString(shape),
                                                       ", of more elements than an int64 counts"));
      if (!claims_too_much) body_->output({id_, i}).shape = shape;
      const auto* handle = c->output_handle_shapes_and_types(i);
      if (handle == nullptr || handle->empty()) continue;
      std::vector<ShapeAndType> imported = *handle;
      for (ShapeAndType& h : imported) h.shape = importer_.Import(h.shape);
      body_->handles[body_->output_index({id_, i})] = std::move(imported);
    }
    return absl::OkStatus();
  }

  Body* const body_;
  const int id_;
  const Node& node_;
  Importer importer_;
  bool opaque_ = false;  // whether something is not known of an input that a shape function may insist on
  // By input.
  std::vector<Shape> shapes_, as_shapes_;
  std::vector<tf::Tensor> values_;
  std::vector<const tf::Tensor*> tensors_;
  std::vector<std::unique_ptr<std::vector<ShapeAndType>>> handles_;
};

void FoldOutputs(Body* body, int node) {
  const Node& n = body->node(node);
  const std::vector<IntsPtr> ints = FoldInts(body, n.type(), *n.def, n.inputs);
  for (size_t i = 0; i < ints.size(); ++i) body->output({node, static_cast<int>(i)}).ints = ints[i];
}

}  // namespace

// A dimension of 1 broadcasts to one that is not known, that one is taken for -1 (so that a diagonal above it has 0),
// negative batch dimensions are none while the axis is not known, and patches of a volume have no depth while one of
// its sizes is not.
int FalselyClaimed(const Body& body, const tf::NodeDef& node, absl::Span<const Port> inputs) {
  const auto may_be_any = [&](int i, int axis) { return body.dim(inputs[i], axis) < 0; };
  const absl::string_view op = node.op();
  if (op == "SoftmaxCrossEntropyWithLogits") return may_be_any(0, 0) || may_be_any(1, 0) ? 2 : 0;
  if (op == "MatrixDiagV2" || op == "MatrixDiagV3") return may_be_any(0, -1);
  if (op == "ExtractVolumePatches") return may_be_any(0, 1) || may_be_any(0, 2) || may_be_any(0, 3);
  if (op != "GatherV2") return 0;
  const auto batch_dims = node.attr().find("batch_dims");
  const IntsPtr axis = body.output(inputs[2]).ints;
  return batch_dims != node.attr().end() && batch_dims->second.i() < 0 && (axis == nullptr || !axis->known());
}

Port Unveiled(const Body& body, Port p) {
  const Node& n = body.node(p.node);
  if (n.is_arg() || n.type() != "Reshape" || !n.def->attr().contains(kVeil)) return p;
  // Anybody can write that attr: it is believed of what is a veil.
  const Node& hidden = body.node(n.inputs[1].node);
  if (hidden.is_arg() || hidden.type() != "PlaceholderWithDefault") return p;
  const Node& shape = body.node(hidden.inputs[0].node);
  return !shape.is_arg() && shape.type() == "Shape" && shape.inputs[0] == n.inputs[0] ? n.inputs[0] : p;
}

absl::Status InferFacts(Body* body, int node) {
  const Node& n = body->node(node);
  if (n.is_arg() || n.op->shape_inference_fn == nullptr || IsUnread(n)) return absl::OkStatus();
  if (const Port p = Unveiled(*body, {node, 0}); p.node != node) {
    body->output({node, 0}) = body->output(p);
    return absl::OkStatus();
  }
  if (InferPlainShape(body, node)) {
    FoldOutputs(body, node);
    return absl::OkStatus();
  }
  if (!EnsuresNothing(n)) {
    if (const absl::Status status = Inference(body, node).Run(); !status.ok()) return status;
    FoldOutputs(body, node);
    return absl::OkStatus();
  }
  body->output({node, 0}).shape = body->output(n.inputs[0]).shape;
  return absl::OkStatus();
}

bool FillInts(const Ints& ints, tf::DataType dtype, tf::TensorProto* out) {
  out->set_dtype(dtype);
  out->mutable_tensor_shape();
  for (const int64_t d : ints.dims) out->mutable_tensor_shape()->add_dim()->set_size(d);
  for (const Ints::Element& e : ints.elements) {
    if (dtype == tf::DT_INT32 && e.value != static_cast<int32_t>(e.value)) return false;
    AddInteger(e.value, dtype, out);
  }
  return true;
}

bool IsCountable(const Shape& shape) {
  int64_t elements = 1;
  for (int axis = 0; axis < InferenceContext::Rank(shape); ++axis) {
    const Dim size = InferenceContext::DimKnownRank(shape, axis);
    if (!InferenceContext::ValueKnown(size)) return true;  // nor does TensorFlow multiply on
    if (__builtin_mul_overflow(elements, InferenceContext::Value(size), &elements)) return false;
  }
  return true;
}

tf::PartialTensorShape StaticShape(const Shape& shape) {
  if (InferenceContext::Rank(shape) < 0) return tf::PartialTensorShape();
  std::vector<int64_t> dims;
  for (int i = 0; i < InferenceContext::Rank(shape); ++i)
    dims.push_back(InferenceContext::Value(InferenceContext::DimKnownRank(shape, i)));
  tf::PartialTensorShape known;  // stays unknown where the shape is none that TensorFlow can have
  if (!tf::PartialTensorShape::MakePartialShape(dims.data(), static_cast<int>(dims.size()), &known).ok())
    return tf::PartialTensorShape();
  return known;
}

tf::PartialTensorShape StaticShapeOfValue(const Body& body, Port p) {
  const auto handle = body.handles.find(body.output_index(p));
  const bool variable = body.output(p).dtype == tf::DT_RESOURCE && handle != body.handles.end();
  return StaticShape(variable ? handle->second[0].shape : body.output(p).shape);
}

}  // namespace symgrad
