#include "csrc/engine/body/node_check.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/attr_value_util.h"
#include "tensorflow/core/framework/node_def_util.h"
#include "tensorflow/core/framework/op_def_util.h"

namespace symgrad {

int64_t ArgCount(const tf::OpDef::ArgDef& arg, const AttrMap& attrs) {
  const std::string& attr = !arg.number_attr().empty() ? arg.number_attr() : arg.type_list_attr();
  if (attr.empty()) return 1;
  const auto it = attrs.find(attr);
  if (it == attrs.end()) return -1;
  return arg.number_attr().empty() ? it->second.list().type_size() : it->second.i();
}

std::string InputName(const tf::NodeDef& node, const tf::OpDef& op, int64_t input) {
  for (const tf::OpDef::ArgDef& arg : op.input_arg()) {
    const int64_t count = ArgCount(arg, node.attr());
    if (input < count)
      return arg.number_attr().empty() && arg.type_list_attr().empty() ? arg.name()
                                                                       : absl::StrCat(arg.name(), "[", input, "]");
    input -= count;
  }
  return absl::StrCat(input);
}

bool IsComplete(const tf::NodeDef& node, const tf::OpDef& op) {
  const auto given = [&](const tf::OpDef::AttrDef& attr) {
    return !attr.has_default_value() || node.attr().contains(attr.name());
  };
  const auto placeholder = [](const auto& attr) { return tf::HasPlaceHolder(attr.second); };
  return std::all_of(op.attr().begin(), op.attr().end(), given) &&
         std::none_of(node.attr().begin(), node.attr().end(), placeholder);
}

tf::NodeDef CompleteNode(tf::NodeDef node, const tf::OpDef& op, const AttrMap& function_attrs) {
  tf::AddDefaultsToNodeDef(op, &node);
  const auto substitute = [&](const std::string& placeholder, tf::AttrValue* out) {
    const auto it = function_attrs.find(placeholder);
    if (it != function_attrs.end()) *out = it->second;
    return it != function_attrs.end();
  };
  for (auto& [name, value] : *node.mutable_attr()) tf::SubstitutePlaceholders(substitute, &value);
  return node;
}

std::vector<std::string> CheckNode(const tf::NodeDef& node, const tf::OpDef& op, tf::DataTypeVector* in,
                                   tf::DataTypeVector* out) {
  std::vector<std::string> wrong;
  for (const tf::OpDef::AttrDef& attr : op.attr()) {
    const auto it = node.attr().find(attr.name());
    if (it == node.attr().end()) {
      wrong.push_back(absl::StrCat("attr '", attr.name(), "' is missing"));
      continue;
    }
    absl::Status status = tf::AttrValueHasType(it->second, attr.type());
    if (status.ok()) status = tf::ValidateAttrValue(it->second, attr);
    if (!status.ok()) wrong.push_back(absl::StrCat("attr '", attr.name(), "': ", status.message()));
  }
  if (!wrong.empty()) return wrong;
  if (node.op() == "Const") {  // its kernel and TensorFlow's constant folding CHECK that these agree
    const tf::DataType dtype = node.attr().at("dtype").type(), given = node.attr().at("value").tensor().dtype();
    if (given != dtype)
      wrong.push_back(
          absl::StrCat("attr 'value' is a tensor of ", tf::DataTypeString(given), ", not ", tf::DataTypeString(dtype)));
  }
  if (!wrong.empty()) return wrong;
  for (const auto* args : {&op.input_arg(), &op.output_arg()}) {
    for (const tf::OpDef::ArgDef& arg : *args) {
      const int64_t count = ArgCount(arg, node.attr());
      if (count < 0 || count > kMaxArity) wrong.push_back(absl::StrCat("'", arg.name(), "' has a length of ", count));
    }
  }
  if (!wrong.empty()) return wrong;
  const absl::Status status = tf::InOutTypesForNode(node, op, in, out);
  if (!status.ok()) wrong.push_back(std::string(status.message()));
  return wrong;
}

}  // namespace symgrad
