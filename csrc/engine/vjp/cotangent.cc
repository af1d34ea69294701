#include "csrc/engine/vjp/cotangent.h"

#include "csrc/engine/body/calls.h"
#include "csrc/engine/vjp/registry.h"
#include "csrc/rules/traits/arrays.h"
#include "tensorflow/core/framework/types.h"

namespace symgrad {

bool IsDifferentiable(tf::DataType dtype) {
  dtype = tf::BaseType(dtype);
  // Floats of eight bits and less are a format to keep others in, as they are to TensorFlow's tapes.
  const bool real = tf::DataTypeIsFloating(dtype) && tf::DataTypeSize(dtype) > 1;
  return real || tf::DataTypeIsComplex(dtype) || dtype == tf::DT_RESOURCE || dtype == tf::DT_VARIANT;
}

bool HasNoGradient(const Node& node) {
  if (HasOwnGradient(*node.def)) return false;
  const auto element = node.def->attr().find("element_dtype");  // of a list
  if (element != node.def->attr().end() && !IsDifferentiable(element->second.type())) return true;
  const Rule* rule = FindRule(node.type());
  return rule != nullptr && rule->gradient == nullptr;
}

V ZerosOf(const V& x, tf::DataType dtype, tf::DataType flow_element) {
  if (flow_element != tf::DT_INVALID) return EmptyList(static_cast<DType>(flow_element));
  return x.dtype() == DType::kResource ? zeros(ShapeOf(x), static_cast<DType>(dtype)) : zeros_like(x);
}

V ShapeOf(const V& x) { return x.dtype() == DType::kResource ? op("VariableShape", x) : shape(x); }

}  // namespace symgrad
