// What can be done to a function, and which of it is.
#include "tests/fuzz/mutator.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/vjp/registry.h"

namespace symgrad::fuzz {
namespace {

constexpr int kMaxNodes = 200, kMaxFunctions = 24;

// The ops to insert: all with a rule or a meaning for the engine.
const std::vector<std::string>& Ops() {
  static const auto* const ops = [] {
    auto* names = new std::vector<std::string>(std::begin(kStructureOps), std::end(kStructureOps));
    for (const auto& [name, has_gradient] : RegisteredRules()) names->push_back(name);
    names->insert(names->end(), {"SymbolicGradient", "TfSymgrad>SymbolicGradient", "Const", "Placeholder", "NoOp"});
    return names;
  }();
  return *ops;
}

// A function's inputs as the attrs of a call name them.
void AddTypes(const google::protobuf::RepeatedPtrField<tf::OpDef::ArgDef>& args, tf::AttrValue* types) {
  types->mutable_list();
  for (const tf::OpDef::ArgDef& arg : args) types->mutable_list()->add_type(arg.type());
}

}  // namespace

void Mutator::Mutate() {
  using Mutation = void (Mutator::*)(tf::FunctionDef*);
  static constexpr Mutation kMutations[] = {&Mutator::Insert,
                                            &Mutator::Insert,
                                            &Mutator::Insert,
                                            &Mutator::Insert,
                                            &Mutator::Rewire,
                                            &Mutator::Rewire,
                                            &Mutator::Replace,
                                            &Mutator::Remove,
                                            &Mutator::ChangeAttr,
                                            &Mutator::ChangeAttr,
                                            &Mutator::ChangeShape,
                                            &Mutator::ChangeShape,
                                            &Mutator::ChangeControl,
                                            &Mutator::ChangeConstant,
                                            &Mutator::ChangeConstant,
                                            &Mutator::ChangeSignature,
                                            &Mutator::Call,
                                            &Mutator::Wrap,
                                            &Mutator::Copy};
  if (library_->function_size() == 0) library_->add_function()->mutable_signature()->set_name("f");
  if (Chance(0.04)) return ChangeAnything(library_);
  tf::FunctionDef* f = AnyFunction();
  if (Chance(0.04)) return ChangeAnything(f);
  (this->*Any(kMutations))(f);
}

void Mutator::Splice(tf::FunctionDefLibrary other) {
  if (library_->function_size() == 0 || library_->function_size() > kMaxFunctions) return;
  std::set<std::string> names;
  for (const tf::FunctionDef& f : library_->function()) names.insert(f.signature().name());
  const int first = library_->function_size();
  for (tf::FunctionDef& f : *other.mutable_function())
    if (names.insert(f.signature().name()).second) *library_->add_function() = std::move(f);
  if (library_->function_size() > first) Call(library_->mutable_function(0));
}

tf::FunctionDef* Mutator::AnyFunction() {
  return library_->mutable_function(Chance(0.5) ? 0 : static_cast<int>(Below(library_->function_size())));
}

tf::NodeDef* Mutator::AnyNode(tf::FunctionDef* f) {
  return f->node_def_size() == 0 ? nullptr : f->mutable_node_def(static_cast<int>(Below(f->node_def_size())));
}

void Mutator::Insert(tf::FunctionDef* f) {
  const std::string& name = Any(Ops());
  const tf::OpDef* op = FindOp(name);
  if (op == nullptr || f->node_def_size() > kMaxNodes) return;
  tf::NodeDef node;
  node.set_name(FreshName(*f, "new"));
  node.set_op(name);
  const std::vector<Tensor> tensors = Tensors(*f);
  for (const tf::OpDef::AttrDef& attr : op->attr()) {
    tf::AttrValue* value = &(*node.mutable_attr())[attr.name()];
    if (attr.has_default_value() && Chance(0.7)) *value = attr.default_value();
    else FillAttr(attr, tensors, value);
  }
  Connect(f, &node, *op);
  Use(f, node, *op);
  *f->add_node_def() = std::move(node);
}

void Mutator::Rewire(tf::FunctionDef* f) {
  tf::NodeDef* node = AnyNode(f);
  if (node == nullptr) return;
  if (node->input_size() == 0 || Chance(0.1)) {  // a result instead
    if (f->signature().output_arg_size() == 0) return;
    const tf::OpDef::ArgDef& result = Any(f->signature().output_arg());
    (*f->mutable_ret())[result.name()] = OfType(f, result.type());
    return;
  }
  std::string* input = node->mutable_input(static_cast<int>(Below(node->input_size())));
  tf::DataType dtype = AnyType();
  for (const Tensor& tensor : Tensors(*f))
    if (tensor.name == *input) dtype = tensor.dtype;
  *input = OfType(f, dtype);
}

void Mutator::Replace(tf::FunctionDef* f) {
  tf::NodeDef* node = AnyNode(f);
  if (node == nullptr) return;
  const std::string& name = Any(Ops());
  const tf::OpDef* op = FindOp(name);
  const tf::OpDef* old = FindOp(node->op());
  if (op == nullptr || old == nullptr || op->input_arg_size() != old->input_arg_size() || op->output_arg_size() == 0)
    return;
  node->set_op(name);
  const std::vector<Tensor> tensors = Tensors(*f);
  for (const tf::OpDef::AttrDef& attr : op->attr())
    if (!node->attr().contains(attr.name())) FillAttr(attr, tensors, &(*node->mutable_attr())[attr.name()]);
  if (old->output_arg_size() == 0) return;
  const std::string was = absl::StrCat(node->name(), ":", old->output_arg(0).name(), ":0");
  const std::string is = absl::StrCat(node->name(), ":", op->output_arg(0).name(), ":0");
  for (tf::NodeDef& user : *f->mutable_node_def())
    for (std::string& input : *user.mutable_input())
      if (input == was) input = is;
  for (auto& [key, tensor] : *f->mutable_ret())
    if (tensor == was) tensor = is;
}

void Mutator::Remove(tf::FunctionDef* f) {
  if (f->node_def_size() == 0) return;
  const int i = static_cast<int>(Below(f->node_def_size()));
  const std::string prefix = f->node_def(i).name() + ":";
  const std::string instead = f->node_def(i).input_size() > 0 ? f->node_def(i).input(0) : "";
  f->mutable_node_def()->DeleteSubrange(i, 1);
  if (Chance(0.1)) return;
  for (tf::NodeDef& user : *f->mutable_node_def())
    for (std::string& input : *user.mutable_input())
      if (absl::StartsWith(input, prefix)) input = instead;
  for (auto& [key, tensor] : *f->mutable_ret())
    if (absl::StartsWith(tensor, prefix)) tensor = instead;
}

void Mutator::ChangeAttr(tf::FunctionDef* f) {
  tf::NodeDef* node = AnyNode(f);
  const tf::OpDef* op = node == nullptr ? nullptr : FindOp(node->op());
  if (op == nullptr || op->attr_size() == 0) return;
  const tf::OpDef::AttrDef& attr = Any(op->attr());
  if (Chance(0.05)) node->mutable_attr()->erase(attr.name());
  else FillAttr(attr, Tensors(*f), &(*node->mutable_attr())[attr.name()]);
}

void Mutator::ChangeShape(tf::FunctionDef* f) {
  if (f->signature().input_arg_size() == 0) return;
  const auto arg = static_cast<uint32_t>(Below(f->signature().input_arg_size()));
  auto* attrs = (*f->mutable_arg_attr())[arg].mutable_attr();
  tf::AttrValue* shapes = &(*attrs)["_output_shapes"];
  shapes->mutable_list()->clear_shape();
  if (Chance(0.1)) attrs->erase("_output_shapes");
  else FillShape(shapes->mutable_list()->add_shape(), false);
}

void Mutator::ChangeSignature(tf::FunctionDef* f) {
  tf::OpDef* signature = f->mutable_signature();
  if (signature->input_arg_size() > 0 && Chance(0.3)) {
    signature->mutable_input_arg(static_cast<int>(Below(signature->input_arg_size())))->set_type(AnyType());
  } else if (Chance(0.4)) {
    tf::OpDef::ArgDef* arg = signature->add_input_arg();
    arg->set_name(absl::StrCat("arg_", signature->input_arg_size()));
    arg->set_type(AnyType());
  } else {
    const std::vector<Tensor> tensors = Tensors(*f);
    if (tensors.empty()) return;
    const Tensor& tensor = Any(tensors);
    tf::OpDef::ArgDef* arg = signature->add_output_arg();
    arg->set_name(absl::StrCat("out_", signature->output_arg_size()));
    arg->set_type(tensor.dtype);
    (*f->mutable_ret())[arg->name()] = tensor.name;
  }
}

void Mutator::ChangeControl(tf::FunctionDef* f) {
  tf::NodeDef* node = AnyNode(f);
  if (node == nullptr) return;
  if (Chance(0.2)) {
    f->mutable_signature()->add_control_output(node->name());
    (*f->mutable_control_ret())[node->name()] = node->name();
  } else if (node->input_size() > 0 && absl::StartsWith(node->input(node->input_size() - 1), "^") && Chance(0.4)) {
    node->mutable_input()->RemoveLast();
  } else {
    node->add_input("^" + AnyNode(f)->name());
  }
}

void Mutator::ChangeConstant(tf::FunctionDef* f) {
  std::vector<tf::NodeDef*> constants;
  for (tf::NodeDef& node : *f->mutable_node_def())
    if (node.op() == "Const") constants.push_back(&node);
  if (constants.empty()) return;
  tf::NodeDef* node = Any(constants);
  tf::TensorProto* tensor = (*node->mutable_attr())["value"].mutable_tensor();
  if (Chance(0.3)) FillShape(tensor->mutable_tensor_shape(), true);
  else if (Chance(0.1)) ChangeAnything(tensor);
  else if (Chance(0.3)) DamageTensor(tensor);
  else FillTensor((*node->mutable_attr())["dtype"].type(), tensor);
}

void Mutator::Call(tf::FunctionDef* f) {
  const tf::OpDef callee = AnyFunction()->signature();
  if (callee.name() == f->signature().name() && Chance(0.9)) return;  // recursion, now and then
  tf::NodeDef node;
  node.set_name(FreshName(*f, "call"));
  const tf::OpDef* op = &callee;
  if (Chance(0.7)) {
    node.set_op(callee.is_stateful() ? "StatefulPartitionedCall" : "PartitionedCall");
    AddTypes(callee.input_arg(), &(*node.mutable_attr())["Tin"]);
    AddTypes(callee.output_arg(), &(*node.mutable_attr())["Tout"]);
    (*node.mutable_attr())["f"].mutable_func()->set_name(callee.name());
    op = FindOp(node.op());
  } else {
    node.set_op(callee.name());
  }
  Connect(f, &node, *op);
  Use(f, node, *op);
  *f->add_node_def() = std::move(node);
}

// A branch between functions, or a loop whose body is one.
void Mutator::Wrap(tf::FunctionDef* f) {
  const tf::OpDef then = AnyFunction()->signature(), other = AnyFunction()->signature();
  tf::NodeDef node;
  node.set_name(FreshName(*f, "structure"));
  auto& attrs = *node.mutable_attr();
  const bool loop = Chance(0.5);
  if (loop) {
    node.set_op(Chance(0.5) ? "While" : "StatelessWhile");
    attrs["cond"].mutable_func()->set_name(other.name());
    attrs["body"].mutable_func()->set_name(then.name());
    AddTypes(then.input_arg(), &attrs["T"]);
    attrs["output_shapes"].mutable_list();
    attrs["parallel_iterations"].set_i(10);
  } else {
    node.set_op(Chance(0.5) ? "If" : "StatelessIf");
    attrs["Tcond"].set_type(tf::DT_BOOL);
    attrs["then_branch"].mutable_func()->set_name(then.name());
    attrs["else_branch"].mutable_func()->set_name(Chance(0.5) ? then.name() : other.name());
    AddTypes(then.input_arg(), &attrs["Tin"]);
    AddTypes(then.output_arg(), &attrs["Tout"]);
    attrs["output_shapes"].mutable_list();
  }
  const tf::OpDef* op = FindOp(node.op());
  Connect(f, &node, *op);
  Use(f, node, *op);
  *f->add_node_def() = std::move(node);
}

// A function under another name, and something that refers to it: a gradient, or a call.
void Mutator::Copy(tf::FunctionDef* f) {
  if (library_->function_size() > kMaxFunctions) return;
  const std::string caller = f->signature().name();
  tf::FunctionDef copy = *AnyFunction();
  const std::string original = copy.signature().name();
  copy.mutable_signature()->set_name(absl::StrCat(original, "_", library_->function_size()));
  const std::string name = copy.signature().name();
  *library_->add_function() = std::move(copy);
  if (Chance(0.3)) {
    tf::GradientDef* gradient = library_->add_gradient();
    gradient->set_function_name(original);
    gradient->set_gradient_func(name);
    return;
  }
  for (tf::FunctionDef& user : *library_->mutable_function())
    for (tf::NodeDef& node : *user.mutable_node_def())
      for (auto& [key, value] : *node.mutable_attr())
        if (value.has_func() && value.func().name() == original && Chance(0.5)) value.mutable_func()->set_name(name);
}

}  // namespace symgrad::fuzz
