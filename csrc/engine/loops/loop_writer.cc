#include "csrc/engine/loops/loop_writer.h"

#include "csrc/engine/body/calls.h"
#include "csrc/engine/loops/stack.h"
#include "csrc/rules/traits/arrays.h"

namespace symgrad {

V LoopWriter::EmptyStack(const TensorSpec& stack, const V& length) const {
  return op(is_set() ? "TensorListReserve" : "EmptyTensorList", ElementShape(stack), length, ElementType(stack),
            Attr("shape_type", DType::kInt32));
}

V LoopWriter::Push(const V& list, const V& iteration, const V& item) const {
  return is_set() ? op("TensorListSetItem", list, iteration, item) : op("TensorListPushBack", list, item);
}

V LoopWriter::ToTensor(const TensorSpec& stack, const V& list) const {
  return op("TensorListStack", list, ElementShape(stack), ElementType(stack),
            Attr("num_elements", static_cast<int>(plan_.trips.most)));
}

V LoopWriter::Zeros(size_t i) const {
  if (loop_[i].is_flow()) return EmptyList(static_cast<DType>(loop_[i].flow_element));
  if (loop_[i].dtype != tf::DT_VARIANT && loop_[i].dtype != tf::DT_RESOURCE && loop_[i].shape.IsFullyDefined())
    return zeros(ElementShape({loop_[i].dtype, loop_[i].shape}), static_cast<DType>(loop_[i].dtype));
  const auto& list = loop_[i].last;
  if (!list) return none;
  const TensorSpec elements{list->element, list->shape};
  return op(list->popped ? "EmptyTensorList" : "TensorListReserve", ElementShape(elements),
            constant(list->length, DType::kInt32), ElementType(elements), Attr("shape_type", DType::kInt32));
}

V LoopWriter::EmitLoop(FunctionAuthor* author, const Callable& cond, const Callable& body, const Values& variables,
                       const std::string& same_as) const {
  tf::NodeDef& node = *(*author)->body()->NewDef();
  node.set_op(cond.stateful || body.stateful ? "While" : "StatelessWhile");
  auto& attrs = *node.mutable_attr();
  CopyRuntimeAttrs(*plan_.node, &node);
  attrs["cond"].mutable_func()->set_name(cond.name);
  attrs["body"].mutable_func()->set_name(body.name);
  if (!same_as.empty()) attrs[kSameAs].mutable_func()->set_name(same_as);
  attrs["parallel_iterations"] = plan_.node->attr().at("parallel_iterations");
  SetTypes(variables, &attrs["T"]);
  for (const V& v : variables) author->StaticShapeOf(v).AsProto(attrs["output_shapes"].mutable_list()->add_shape());
  return (*author)->EmitNode(&node, variables, DtypesOf(variables));
}

}  // namespace symgrad
