#include "csrc/engine/read/arguments.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/facts/known_inputs.h"

namespace symgrad {
namespace {

// The list that an attr is; empty where it is absent.
const tf::AttrValue::ListValue& List(const AttrMap& attrs, const char* name) {
  const auto it = attrs.find(name);
  return it == attrs.end() ? tf::AttrValue::ListValue::default_instance() : it->second.list();
}

// The integers of an argument, where the caller knows them; of a list, its length and shape.
IntsPtr ReadValue(const AttrMap& known, int flat, tf::DataType dtype) {
  const auto& values = List(known, kInputValues).tensor();
  if (flat >= values.size()) return nullptr;
  const tf::TensorProto& value = values.Get(flat);
  const tf::TensorShapeProto& shape = value.tensor_shape();
  const bool fits = dtype == tf::DT_VARIANT
                        ? value.dtype() == tf::DT_INT64 && shape.dim_size() == 1 && shape.dim(0).size() > 0
                        : value.dtype() == dtype;
  return fits ? ReadInts(value) : nullptr;
}

}  // namespace

void ReadArgument(const tf::FunctionDef& fdef, const AttrMap& known, int arg, size_t k, Body* body, Errors* errors) {
  const int flat = static_cast<int>(body->args.size()) - 1;
  const Port p{body->args.back(), 0};
  const tf::DataType dtype = body->output(p).dtype;
  Shape shape = body->shapes()->UnknownShape(), more = shape;
  if (const auto attrs = fdef.arg_attr().find(arg); attrs != fdef.arg_attr().end()) {
    const auto& shapes = List(attrs->second.attr(), "_output_shapes").shape();
    if (k < static_cast<size_t>(shapes.size())) {
      const absl::Status status = body->shapes()->MakeShapeFromShapeProto(shapes.Get(static_cast<int>(k)), &shape);
      if (!status.ok())
        errors->Add(absl::StrCat("argument '", body->name(p.node), "': _output_shapes: ", status.message()));
    }
  }
  const auto& shapes = List(known, kInputShapes).shape();
  const bool more_known = flat < shapes.size() && body->shapes()->MakeShapeFromShapeProto(shapes.Get(flat), &more).ok();
  if (dtype == tf::DT_RESOURCE) {
    const auto& dtypes = List(known, kInputDtypes).type();
    const auto value = flat < dtypes.size() ? static_cast<tf::DataType>(dtypes.Get(flat)) : tf::DT_INVALID;
    body->handles[body->output_index(p)] = {{more, value}};
  } else if (Shape merged; more_known) {  // anybody may call a function with other shapes than it was traced for
    shape = body->shapes()->Merge(shape, more, &merged).ok() && IsCountable(merged) ? merged : more;
  }
  if (const IntsPtr ints = ReadValue(known, flat, dtype)) {
    body->output(p).ints = ints;
    std::vector<Dim> dims;
    for (const int64_t d : ints->dims) dims.push_back(body->shapes()->MakeDim(d));
    if (dtype != tf::DT_VARIANT) shape = body->shapes()->MakeShape(dims);  // whatever attrs say
  }
  body->output(p).shape = shape;
  const auto& divergent = List(known, kInputDivergent).b();
  body->output(p).diverges = flat < divergent.size() && divergent.Get(flat);
}

void ReadRanges(const AttrMap& known, Body* body) {
  body->ranges.resize(body->args.size());
  const auto& ends = List(known, kInputRanges).i();
  for (int i = 0; i < static_cast<int>(body->ranges.size()) && 2 * i + 1 < ends.size(); ++i)
    body->ranges[i] = {ends.Get(2 * i), ends.Get(2 * i + 1)};
  if (const auto it = known.find(kCompiled); it != known.end()) body->compiled = it->second.b();
}

void ReadArgFlows(const AttrMap& known, Body* body) {
  const auto& elements = List(known, kInputFlows).type();
  for (int i = 0; i < static_cast<int>(body->args.size()) && i < elements.size(); ++i) {
    const Port arg{body->args[i], 0};
    const auto element = static_cast<tf::DataType>(elements.Get(i));
    if (element != tf::DT_INVALID && body->output(arg).dtype == tf::DT_FLOAT)
      body->flow_elements[body->output_index(arg)] = element;
  }
}

}  // namespace symgrad
