// Where knowledge of integers begins: constants, shapes, and lists of tensors of one shape. And the door to all
// folding.
#include "csrc/engine/facts/fold.h"

#include <algorithm>

#include "csrc/engine/facts/facts.h"
#include "tensorflow/core/framework/tensor.h"

namespace symgrad {
namespace fold {
namespace {

Elements ShapeElements(const Shape& s) {
  Elements elements;
  for (int i = 0; i < InferenceContext::Rank(s); ++i) {
    const Dim d = InferenceContext::DimKnownRank(s, i);
    elements.push_back(InferenceContext::ValueKnown(d) ? Element{InferenceContext::Value(d), {}}
                                                       : Element{Ints::kUnknown, d});
  }
  return elements;
}

// -- Sources.

template <typename T>
OutputInts FromTensor(const tf::Tensor& t) {
  Elements elements;
  const auto flat = t.flat<T>();
  for (int64_t i = 0; i < t.NumElements(); ++i) elements.push_back({static_cast<int64_t>(flat(i)), {}});
  const auto dims = t.shape().dim_sizes();
  return One({dims.begin(), dims.end()}, std::move(elements));
}

OutputInts Values(const tf::TensorProto& proto) {
  if (!IsIntegral(proto.dtype())) return {};
  int64_t n = 1;
  for (const auto& d : proto.tensor_shape().dim()) {
    if (d.size() < 0 || d.size() > Ints::kMaxElements) return {};
    n *= d.size();
    if (n > Ints::kMaxElements) return {};
  }
  tf::Tensor t;
  if (!t.FromProto(proto)) return {};
  if (t.dtype() == tf::DT_INT32) return FromTensor<int32_t>(t);
  if (t.dtype() == tf::DT_INT64) return FromTensor<int64_t>(t);
  return FromTensor<bool>(t);
}

OutputInts Const(const Folding& c) {
  const auto it = c.def->attr().find("value");
  return it == c.def->attr().end() ? OutputInts{} : Values(it->second.tensor());
}

OutputInts ShapeOp(const Folding& c) {
  OutputInts all;
  for (const Port& p : c.inputs) {
    const OutputInts ints = c.body->rank(p) < 0 ? OutputInts{} : Vector(ShapeElements(c.body->output(p).shape));
    all.push_back(ints.empty() ? nullptr : ints[0]);  // a shape function may make more dimensions than a tensor has
  }
  return all;
}

OutputInts VariableShape(const Folding& c) {
  const auto handle = c.body->handles.find(c.body->output_index(c.inputs[0]));
  if (handle == c.body->handles.end() || InferenceContext::Rank(handle->second[0].shape) < 0) return {};
  return Vector(ShapeElements(handle->second[0].shape));
}

OutputInts RankOp(const Folding& c) {
  const int rank = c.body->rank(c.inputs[0]);
  return rank < 0 ? OutputInts{} : Number(rank);
}

OutputInts SizeOp(const Folding& c) {
  if (!c.body->FullyDefined(c.inputs[0])) return {};
  int64_t size = 1;
  for (int i = 0; i < c.body->rank(c.inputs[0]); ++i) size *= c.body->dim(c.inputs[0], i);
  return Number(size);
}

// -- Lists. What is known of a list is the shape of the tensor that its elements are the rows of.

OutputInts ListFromTensor(const Folding& c) {
  return c.body->rank(c.inputs[0]) < 1 ? OutputInts{} : Vector(ShapeElements(c.body->output(c.inputs[0]).shape));
}

OutputInts ListReserve(const Folding& c) {
  const Ints* shape = c.in(0);
  int64_t length;
  if (shape == nullptr || shape->dims.size() != 1 || !shape->known() || !c.Scalar(1, &length)) return {};
  Elements elements = {{length, {}}};
  elements.insert(elements.end(), shape->elements.begin(), shape->elements.end());
  const auto unknown = [](const Element& e) { return e.value < 0; };
  return std::any_of(elements.begin(), elements.end(), unknown) ? OutputInts{} : Vector(std::move(elements));
}

// The list as it was, if the new element has the shape of the others.
OutputInts ListSetItem(const Folding& c) {
  const Ints* list = c.in(0);
  if (list == nullptr || c.body->rank(c.inputs[2]) < 0 || c.attr("resize_if_index_out_of_bounds", 0)) return {};
  const Elements item = ShapeElements(c.body->output(c.inputs[2]).shape);
  const bool same = std::equal(item.begin(), item.end(), list->elements.begin() + 1, list->elements.end(), SameElement);
  return same ? OutputInts{c.body->output(c.inputs[0]).ints} : OutputInts{};
}

OutputInts ListLength(const Folding& c) {
  const Ints* list = c.in(0);
  return list == nullptr || !list->elements[0].known() ? OutputInts{} : Number(list->elements[0].value);
}

OutputInts ListElementShape(const Folding& c) {
  const Ints* list = c.in(0);
  return list == nullptr ? OutputInts{} : Vector({list->elements.begin() + 1, list->elements.end()});
}

// These make integers of tensors of any dtype; all others fold integers alone.
const FoldTable& SourceFolds() {
  static const auto* const folds = new FoldTable{{"Const", Const},
                                                 {"Shape", ShapeOp},
                                                 {"ShapeN", ShapeOp},
                                                 {"VariableShape", VariableShape},
                                                 {"Rank", RankOp},
                                                 {"Size", SizeOp},
                                                 {"TensorListFromTensor", ListFromTensor},
                                                 {"TensorListReserve", ListReserve},
                                                 {"TensorListSetItem", ListSetItem},
                                                 {"TensorListLength", ListLength},
                                                 {"TensorListElementShape", ListElementShape}};
  return *folds;
}

// Whether integers are none of int32, whose arithmetic wraps around: then they are not what comes out.
bool Wraps(const Ints& ints) {
  return std::any_of(ints.elements.begin(), ints.elements.end(),
                     [](const Element& e) { return e.known() && e.value != static_cast<int32_t>(e.value); });
}

OpFold Find(const FoldTable& table, absl::string_view op) {
  const auto it = table.find(op);
  return it == table.end() ? nullptr : it->second;
}

}  // namespace
}  // namespace fold

bool ReadTensor(const tf::TensorProto& value, tf::Tensor* tensor) {
  constexpr int64_t kAlways = 1 << 16;  // elements; of more, each must have been written
  tf::TensorShape shape;
  if (!tf::TensorShape::BuildTensorShape(value.tensor_shape(), &shape).ok()) return false;
  if (shape.num_elements() > kAlways && shape.num_elements() > static_cast<int64_t>(value.ByteSizeLong())) return false;
  return tensor->FromProto(value);
}

IntsPtr ReadInts(const tf::TensorProto& value) {
  const fold::OutputInts ints = fold::Values(value);
  return ints.empty() ? nullptr : ints[0];
}

std::vector<IntsPtr> FoldInts(Body* body, absl::string_view op, const tf::NodeDef& def, absl::Span<const Port> inputs) {
  const fold::Folding folding{body, &def, inputs};
  if (const fold::OpFold source = fold::Find(fold::SourceFolds(), op)) return source(folding);
  const tf::DataType first = inputs.empty() ? tf::DT_INVALID : body->output(inputs[0]).dtype;
  const bool passes_list = op == "Identity" && first == tf::DT_VARIANT;
  if (!IsIntegral(first) && !passes_list) return {};
  if (const fold::OpFold structure = fold::Find(fold::StructureFolds(), op)) return structure(folding);
  const fold::OpFold math = fold::Find(fold::MathFolds(), op);
  std::vector<IntsPtr> ints = math == nullptr ? fold::OutputInts() : math(folding);
  for (IntsPtr& result : ints)
    if (first == tf::DT_INT32 && result != nullptr && fold::Wraps(*result)) result = nullptr;
  return ints;
}

}  // namespace symgrad
