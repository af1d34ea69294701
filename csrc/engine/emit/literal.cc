#include "csrc/engine/emit/literal.h"

#include <cmath>
#include <limits>

#include "absl/strings/match.h"
#include "csrc/engine/facts/facts.h"
#include "tensorflow/core/framework/numeric_types.h"
#include "tensorflow/core/framework/types.h"

namespace symgrad {
namespace {

template <typename T>
bool Fits(double number) {
  return number >= static_cast<double>(std::numeric_limits<T>::min()) &&
         number < std::ldexp(1.0, std::numeric_limits<T>::digits);
}

bool IsInRange(double number, tf::DataType dtype) {
  switch (dtype) {
    case tf::DT_INT64: return Fits<int64_t>(number);
    case tf::DT_UINT64: return Fits<uint64_t>(number);
    case tf::DT_UINT32: return Fits<uint32_t>(number);
    default: return !tf::DataTypeIsInteger(dtype) || Fits<int>(number);
  }
}

bool AddNumber(double number, tf::DataType dtype, tf::TensorProto* out) {
  if (!IsInRange(number, dtype)) return false;
  switch (dtype) {
    case tf::DT_FLOAT: out->add_float_val(static_cast<float>(number)); return true;
    case tf::DT_DOUBLE: out->add_double_val(number); return true;
    case tf::DT_HALF:
      out->add_half_val(Eigen::numext::bit_cast<uint16_t>(static_cast<Eigen::half>(static_cast<float>(number))));
      return true;
    case tf::DT_BFLOAT16:
      out->add_half_val(Eigen::numext::bit_cast<uint16_t>(static_cast<tf::bfloat16>(static_cast<float>(number))));
      return true;
    case tf::DT_COMPLEX64:
      out->add_scomplex_val(static_cast<float>(number));
      out->add_scomplex_val(0);
      return true;
    case tf::DT_COMPLEX128:
      out->add_dcomplex_val(number);
      out->add_dcomplex_val(0);
      return true;
    case tf::DT_INT64: out->add_int64_val(static_cast<int64_t>(number)); return true;
    case tf::DT_UINT64: out->add_uint64_val(static_cast<uint64_t>(number)); return true;
    case tf::DT_UINT32: out->add_uint32_val(static_cast<uint32_t>(number)); return true;
    case tf::DT_BOOL: out->add_bool_val(number != 0); return true;
    case tf::DT_INT32:
    case tf::DT_INT16:
    case tf::DT_INT8:
    case tf::DT_UINT16:
    case tf::DT_UINT8: out->add_int_val(static_cast<int>(number)); return true;
    default: return false;
  }
}

}  // namespace

bool FillLiteral(const V& literal, tf::DataType dtype, tf::TensorProto* out) {
  out->set_dtype(dtype);
  out->mutable_tensor_shape();
  if (literal.kind() == V::Kind::kNumber) return AddNumber(literal.number(), dtype, out);
  if (literal.kind() != V::Kind::kInts) return false;
  const auto size = static_cast<int64_t>(literal.ints().size());
  if (IsIntegral(dtype)) {
    Ints ints{{size}, {}};
    for (const int64_t i : literal.ints()) ints.elements.push_back({i, {}});
    return FillInts(ints, dtype, out);
  }
  out->mutable_tensor_shape()->add_dim()->set_size(size);
  for (const int64_t i : literal.ints())
    if (!AddNumber(static_cast<double>(i), dtype, out)) return false;
  return true;
}

void CopyRuntimeAttrs(const tf::NodeDef& from, tf::NodeDef* to) {
  const bool is_call = absl::EndsWith(to->op(), "PartitionedCall");
  for (const auto& [name, value] : from.attr()) {
    const bool of_signature =
        name == "_output_shapes" || name == "_num_original_outputs" || name == "_read_only_resource_inputs";
    // Of branches and loops. Grappler does not inline a call that has it.
    const bool of_structure = is_call && name == "_lower_using_switch_merge";
    if (name[0] == '_' && !of_signature && !of_structure) (*to->mutable_attr())[name] = value;
  }
}

void CopyPlacement(const tf::NodeDef& forward, tf::NodeDef* emitted) {
  if (!forward.device().empty()) emitted->set_device(forward.device());
  for (const char* name : {"_class", "_XlaScope", "_XlaCompile", "_XlaSeparateCompiledGradients"}) {
    const auto it = forward.attr().find(name);
    if (it != forward.attr().end()) (*emitted->mutable_attr())[name] = it->second;
  }
}

}  // namespace symgrad
