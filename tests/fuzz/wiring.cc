// Which tensors there are in a function, what a new node takes of them, and who takes what it returns.
#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tests/fuzz/mutator.h"

namespace symgrad::fuzz {
namespace {

// More would be TensorFlow's to refuse, and takes memory.
constexpr int64_t kMaxArity = 8;

int64_t Arity(const tf::OpDef::ArgDef& arg, const tf::NodeDef& node) {
  const auto attr = [&](const std::string& name) {
    const auto it = node.attr().find(name);
    return it == node.attr().end() ? tf::AttrValue::default_instance() : it->second;
  };
  if (!arg.number_attr().empty()) return attr(arg.number_attr()).i();
  if (!arg.type_list_attr().empty()) return attr(arg.type_list_attr()).list().type_size();
  return 1;
}

tf::DataType TypeOf(const tf::OpDef::ArgDef& arg, const tf::NodeDef& node, int64_t i) {
  const auto attr = node.attr().find(arg.type_list_attr().empty() ? arg.type_attr() : arg.type_list_attr());
  if (attr == node.attr().end()) return arg.type();
  return arg.type_list_attr().empty() ? attr->second.type() : attr->second.list().type(static_cast<int>(i));
}

// The nodes that a node depends on.
std::set<std::string> Before(const tf::FunctionDef& f, const tf::NodeDef& node) {
  std::map<std::string, const tf::NodeDef*> nodes;
  for (const tf::NodeDef& other : f.node_def()) nodes[other.name()] = &other;
  std::set<std::string> before;
  std::vector<const tf::NodeDef*> pending = {&node};
  while (!pending.empty()) {
    const tf::NodeDef* last = pending.back();
    pending.pop_back();
    for (const std::string& input : last->input()) {
      const std::string name = input.substr(input[0] == '^' ? 1 : 0, input.find(':'));
      const auto it = nodes.find(name);
      if (it != nodes.end() && before.insert(name).second) pending.push_back(it->second);
    }
  }
  return before;
}

}  // namespace

const tf::OpDef* Mutator::FindOp(const std::string& op) const {
  for (const tf::FunctionDef& f : library_->function())
    if (f.signature().name() == op) return &f.signature();
  const tf::OpDef* def = nullptr;
  return tf::OpRegistry::Global()->LookUpOpDef(op, &def).ok() ? def : nullptr;
}

std::vector<Mutator::Tensor> Mutator::Tensors(const tf::FunctionDef& f) const {
  std::vector<Tensor> tensors;
  for (const tf::OpDef::ArgDef& arg : f.signature().input_arg()) tensors.push_back({arg.name(), arg.type()});
  for (const tf::NodeDef& node : f.node_def()) {
    const tf::OpDef* op = FindOp(node.op());
    if (op == nullptr) continue;
    for (const tf::OpDef::ArgDef& arg : op->output_arg()) {
      const int64_t arity = std::min(Arity(arg, node), kMaxArity);
      for (int64_t i = 0; i < arity; ++i)
        tensors.push_back({absl::StrCat(node.name(), ":", arg.name(), ":", i), TypeOf(arg, node, i)});
    }
  }
  return tensors;
}

std::string Mutator::FreshName(const tf::FunctionDef& f, const std::string& stem) {
  for (int i = f.node_def_size();; ++i) {
    std::string name = absl::StrCat(stem, "_", i);
    const auto is_it = [&](const tf::NodeDef& node) { return node.name() == name; };
    if (std::none_of(f.node_def().begin(), f.node_def().end(), is_it)) return name;
  }
}

void Mutator::Connect(tf::FunctionDef* f, tf::NodeDef* node, const tf::OpDef& op) {
  for (const tf::OpDef::ArgDef& arg : op.input_arg()) {
    const int64_t arity = std::min(Arity(arg, *node), kMaxArity);
    for (int64_t i = 0; i < arity; ++i) node->add_input(OfType(f, TypeOf(arg, *node, i)));
  }
}

// Lets something take a result of a node that is about to be added, but nothing that the node depends on.
void Mutator::Use(tf::FunctionDef* f, const tf::NodeDef& node, const tf::OpDef& op) {
  if (op.output_arg_size() == 0) return;
  const tf::OpDef::ArgDef& out = Any(op.output_arg());
  if (Arity(out, node) < 1) return;
  const tf::DataType dtype = TypeOf(out, node, 0);
  const std::string name = absl::StrCat(node.name(), ":", out.name(), ":0");
  std::map<std::string, tf::DataType> types;
  for (const Tensor& tensor : Tensors(*f)) types[tensor.name] = tensor.dtype;
  const auto fits = [&](const std::string& tensor) {
    const auto it = types.find(tensor);
    return it != types.end() && it->second == dtype;
  };
  const std::set<std::string> before = Before(*f, node);
  std::vector<std::string*> places;
  for (auto& [key, tensor] : *f->mutable_ret())
    if (fits(tensor)) places.push_back(&tensor);
  for (tf::NodeDef& user : *f->mutable_node_def())
    for (std::string& input : *user.mutable_input())
      if (before.count(user.name()) == 0 && fits(input)) places.push_back(&input);
  if (!places.empty() && Chance(0.7)) {
    *Any(places) = name;
  } else {
    tf::OpDef::ArgDef* result = f->mutable_signature()->add_output_arg();
    result->set_name(absl::StrCat("out_", f->signature().output_arg_size()));
    result->set_type(dtype);
    (*f->mutable_ret())[result->name()] = name;
  }
}

std::string Mutator::OfType(tf::FunctionDef* f, tf::DataType dtype) {
  std::vector<std::string> fitting;
  for (const Tensor& tensor : Tensors(*f))
    if (tensor.dtype == dtype) fitting.push_back(tensor.name);
  const bool is_integer = dtype == tf::DT_INT32 || dtype == tf::DT_INT64;
  if (fitting.empty() || Chance(is_integer ? 0.5 : 0.1)) return Constant(f, dtype);
  return Any(fitting);
}

std::string Mutator::Constant(tf::FunctionDef* f, tf::DataType dtype) {
  tf::NodeDef node;
  node.set_name(FreshName(*f, "constant"));
  node.set_op("Const");
  (*node.mutable_attr())["dtype"].set_type(dtype);
  FillTensor(dtype, (*node.mutable_attr())["value"].mutable_tensor());
  *f->add_node_def() = node;
  return absl::StrCat(node.name(), ":output:0");
}

}  // namespace symgrad::fuzz
