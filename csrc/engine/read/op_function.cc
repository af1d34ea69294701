#include "csrc/engine/read/op_function.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "csrc/engine/body/node_check.h"

namespace symgrad {

absl::StatusOr<tf::FunctionDef> FunctionOfOp(const tf::OpDef& op, const tf::NameAttrList& f) {
  tf::NodeDef node;
  node.set_name(op.name());
  node.set_op(op.name());
  for (const auto& [name, value] : f.attr())
    if (!absl::StartsWith(name, "_")) (*node.mutable_attr())[name] = value;
  node = CompleteNode(std::move(node), op, {});
  tf::DataTypeVector in, out;
  const std::vector<std::string> wrong = CheckNode(node, op, &in, &out);
  if (!wrong.empty())
    return absl::InvalidArgumentError(
        absl::StrCat("op '", op.name(), "' as a function: ", absl::StrJoin(wrong, "; "), ": give f's attrs"));

  tf::FunctionDef fdef;
  fdef.mutable_signature()->set_is_stateful(op.is_stateful());
  size_t i = 0;
  for (const tf::OpDef::ArgDef& arg : op.input_arg()) {
    const int64_t count = ArgCount(arg, node.attr());
    for (int64_t k = 0; k < count; ++k) {
      tf::OpDef::ArgDef* input = fdef.mutable_signature()->add_input_arg();
      input->set_name(count == 1 ? arg.name() : absl::StrCat(arg.name(), "_", k));
      input->set_type(tf::BaseType(in[i++]));
      node.add_input(input->name());
    }
  }
  i = 0;
  for (const tf::OpDef::ArgDef& arg : op.output_arg()) {
    const int64_t count = ArgCount(arg, node.attr());
    for (int64_t k = 0; k < count; ++k) {
      tf::OpDef::ArgDef* output = fdef.mutable_signature()->add_output_arg();
      output->set_name(absl::StrCat("out_", i));
      output->set_type(tf::BaseType(out[i++]));
      (*fdef.mutable_ret())[output->name()] = absl::StrCat(node.name(), ":", arg.name(), ":", k);
    }
  }
  *fdef.add_node_def() = std::move(node);
  return fdef;
}

}  // namespace symgrad
