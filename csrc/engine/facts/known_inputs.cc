#include "csrc/engine/facts/known_inputs.h"

#include <algorithm>

#include "csrc/engine/facts/facts.h"

namespace symgrad {

void SetDivergent(const Body& body, absl::Span<const Port> ports, tf::NameAttrList* f) {
  f->mutable_attr()->erase(kInputDivergent);
  if (std::none_of(ports.begin(), ports.end(), [&](const Port& p) { return body.output(p).diverges; })) return;
  auto* list = (*f->mutable_attr())[kInputDivergent].mutable_list();
  for (const Port& p : ports) list->add_b(body.output(p).diverges);
}

tf::NameAttrList WithInputs(tf::NameAttrList f, const Body& body, absl::Span<const Port> inputs) {
  auto* shapes = (*f.mutable_attr())[kInputShapes].mutable_list();
  auto* dtypes = (*f.mutable_attr())[kInputDtypes].mutable_list();
  shapes->Clear();
  dtypes->Clear();
  for (const Port& p : inputs) {
    const Output& in = body.output(p);
    const auto handle = body.handles.find(body.output_index(p));
    const bool variable = in.dtype == tf::DT_RESOURCE && handle != body.handles.end();
    StaticShapeOfValue(body, p).AsProto(shapes->add_shape());
    dtypes->add_type(variable ? handle->second[0].dtype : in.dtype == tf::DT_RESOURCE ? tf::DT_INVALID : in.dtype);
  }
  // Of a list, its length and shape: the zeros of its cotangent are a constant then. XLA must know integers, too.
  const auto known = [&](const Port& p) {
    const Output& in = body.output(p);
    const bool asked =
        in.dtype == tf::DT_VARIANT || (body.compiled && (in.dtype == tf::DT_INT32 || in.dtype == tf::DT_INT64));
    return asked && in.ints != nullptr && in.ints->known() ? in.ints.get() : nullptr;
  };
  if (std::any_of(inputs.begin(), inputs.end(), known)) {
    auto* values = (*f.mutable_attr())[kInputValues].mutable_list();
    values->Clear();
    for (const Port& p : inputs) {
      tf::TensorProto* value = values->add_tensor();
      const tf::DataType dtype = body.output(p).dtype == tf::DT_VARIANT ? tf::DT_INT64 : body.output(p).dtype;
      if (const Ints* ints = known(p); ints != nullptr && !FillInts(*ints, dtype, value)) value->Clear();
    }
  }
  SetDivergent(body, inputs, &f);
  if (body.compiled) (*f.mutable_attr())[kCompiled].set_b(true);
  if (body.flow_elements.empty()) return f;
  auto* flows = (*f.mutable_attr())[kInputFlows].mutable_list();
  flows->Clear();
  for (const Port& p : inputs) flows->add_type(body.flow_element(p));
  return f;
}

}  // namespace symgrad
