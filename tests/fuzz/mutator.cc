#include "tests/fuzz/mutator.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/vjp/registry.h"
#include "tensorflow/core/framework/attr_value_util.h"
#include "tensorflow/core/framework/op.h"

namespace symgrad::fuzz {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr tf::DataType kTypes[] = {tf::DT_FLOAT,    tf::DT_FLOAT,     tf::DT_FLOAT,    tf::DT_DOUBLE,
                                   tf::DT_INT32,    tf::DT_INT32,     tf::DT_INT64,    tf::DT_BOOL,
                                   tf::DT_BFLOAT16, tf::DT_COMPLEX64, tf::DT_HALF,     tf::DT_COMPLEX128,
                                   tf::DT_UINT8,    tf::DT_STRING,    tf::DT_RESOURCE, tf::DT_VARIANT};
constexpr int64_t kInts[] = {0,
                             1,
                             1,
                             2,
                             2,
                             3,
                             4,
                             5,
                             7,
                             -1,
                             -1,
                             -2,
                             8,
                             16,
                             100,
                             1 << 20,
                             -(int64_t{1} << 31),
                             (int64_t{1} << 31) - 1,
                             int64_t{1} << 40,
                             int64_t{1} << 62};
const char* const kWords[] = {"",        "x",    "SAME",  "VALID", "NHWC",   "NCHW",       "ij,jk->ik", "...ij,jk",
                              "T",       "auto", "^tanh", "_Arg",  "a:b:-1", "a:output:0", "^",         "sqrt(",
                              "REFLECT", ":",    "mean",  "min",   "LINEAR", "_Retval",    "While"};
// More would be TensorFlow's to refuse, and takes memory.
constexpr int64_t kMaxArity = 8;
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

// ---- Mutations. ----

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

// Something, somewhere in a message, well-formed or not.
void Mutator::ChangeAnything(Message* message) {
  const Reflection* reflection = message->GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(*message, &fields);
  if (fields.empty() || Chance(0.1)) {
    fields.clear();
    for (int i = 0; i < message->GetDescriptor()->field_count(); ++i)
      fields.push_back(message->GetDescriptor()->field(i));
  }
  if (fields.empty()) return;
  const FieldDescriptor* field = Any(fields);
  if (field->is_repeated()) {
    const int size = reflection->FieldSize(*message, field);
    const int i = static_cast<int>(Below(size));
    if (size > 0 && Chance(0.2)) {
      reflection->SwapElements(message, field, i, size - 1);
      reflection->RemoveLast(message, field);
    } else if (size > 0 && Chance(0.2)) {
      reflection->SwapElements(message, field, i, static_cast<int>(Below(size)));
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      ChangeAnything(size > 0 ? reflection->MutableRepeatedMessage(message, field, i)
                              : reflection->AddMessage(message, field));
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      size > 0 ? reflection->SetRepeatedString(message, field, i, Any(kWords))
               : reflection->AddString(message, field, Any(kWords));
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
      reflection->AddInt64(message, field, AnyInt());
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
      reflection->AddEnumValue(message, field, static_cast<int>(Below(130)));
    }
    return;
  }
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_MESSAGE:
      if (Chance(0.1)) reflection->ClearField(message, field);
      else ChangeAnything(reflection->MutableMessage(message, field));
      break;
    case FieldDescriptor::CPPTYPE_STRING: reflection->SetString(message, field, Any(kWords)); break;
    case FieldDescriptor::CPPTYPE_BOOL: reflection->SetBool(message, field, Chance(0.5)); break;
    case FieldDescriptor::CPPTYPE_INT64: reflection->SetInt64(message, field, AnyInt()); break;
    case FieldDescriptor::CPPTYPE_INT32: reflection->SetInt32(message, field, static_cast<int32_t>(AnyInt())); break;
    case FieldDescriptor::CPPTYPE_ENUM: reflection->SetEnumValue(message, field, static_cast<int>(Below(130))); break;
    case FieldDescriptor::CPPTYPE_FLOAT: reflection->SetFloat(message, field, 1e30F); break;
    default: reflection->ClearField(message, field);
  }
}

// ---- Parts. ----

void Mutator::FillAttr(const tf::OpDef::AttrDef& attr, const std::vector<Tensor>& tensors, tf::AttrValue* value) {
  std::string type = attr.type();
  const bool is_list = absl::StartsWith(type, "list(");
  if (is_list) type = type.substr(5, type.size() - 6);
  const auto dtype = [&] {
    if (attr.allowed_values().list().type_size() > 0 && Chance(0.3))
      return static_cast<tf::DataType>(Any(attr.allowed_values().list().type()));
    return tensors.empty() || Chance(0.1) ? AnyType() : Any(tensors).dtype;
  };
  const auto word = [&]() -> std::string {
    if (attr.allowed_values().list().s_size() > 0 && Chance(0.95)) return Any(attr.allowed_values().list().s());
    return attr.has_default_value() && Chance(0.3) ? attr.default_value().s() : Any(kWords);
  };
  const auto function = [&] { return Any(library_->function()).signature().name(); };
  const auto number = [&] { return Chance(0.6) ? std::max<int64_t>(attr.minimum(), 1 + Below(3)) : AnyInt(); };
  value->Clear();
  if (!is_list) {
    if (type == "type") value->set_type(dtype());
    else if (type == "int") value->set_i(number());
    else if (type == "bool") value->set_b(Chance(0.5));
    else if (type == "float") value->set_f(Chance(0.8) ? 0.5F : static_cast<float>(AnyInt()));
    else if (type == "string") value->set_s(word());
    else if (type == "shape") FillShape(value->mutable_shape(), false);
    else if (type == "tensor") FillTensor(dtype(), value->mutable_tensor());
    else if (type == "func") value->mutable_func()->set_name(function());
    return;
  }
  auto* list = value->mutable_list();
  const size_t size = type == "int" && Chance(0.5) ? 4 : Below(4) + (attr.minimum() > 0 ? 1 : 0);
  for (size_t i = 0; i < size; ++i) {
    if (type == "type") list->add_type(dtype());
    else if (type == "int") list->add_i(Chance(0.8) ? 1 : number());
    else if (type == "bool") list->add_b(Chance(0.5));
    else if (type == "float") list->add_f(0.5F);
    else if (type == "string") list->add_s(word());
    else if (type == "shape") FillShape(list->add_shape(), false);
    else if (type == "func") list->add_func()->set_name(function());
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

void Mutator::FillShape(tf::TensorShapeProto* shape, bool known) {
  shape->Clear();
  if (!known && Chance(0.15)) return shape->set_unknown_rank(true);
  const size_t rank = Below(5);
  for (size_t i = 0; i < rank; ++i)
    shape->add_dim()->set_size(Chance(0.9) ? 1 + static_cast<int64_t>(Below(4)) : known ? AnyInt() : -1);
  if (!known && rank > 0 && Chance(0.05)) shape->mutable_dim(0)->set_size(AnyInt());
}

void Mutator::FillTensor(tf::DataType dtype, tf::TensorProto* tensor) {
  tensor->Clear();
  tensor->set_dtype(dtype);
  int64_t size = 1;
  if (Chance(0.6)) {
    size = 1 + static_cast<int64_t>(Below(4));
    tensor->mutable_tensor_shape()->add_dim()->set_size(size);
  } else if (Chance(0.3)) {
    FillShape(tensor->mutable_tensor_shape(), true);
  }
  const int64_t values = Chance(0.3) ? 1 : size;
  for (int64_t i = 0; i < values; ++i) {
    switch (dtype) {
      case tf::DT_FLOAT: tensor->add_float_val(0.5F + static_cast<float>(i)); break;
      case tf::DT_DOUBLE: tensor->add_double_val(0.5); break;
      case tf::DT_INT32: tensor->add_int_val(static_cast<int32_t>(Chance(0.7) ? Below(4) : AnyInt())); break;
      case tf::DT_INT64: tensor->add_int64_val(Chance(0.7) ? Below(4) : AnyInt()); break;
      case tf::DT_BOOL: tensor->add_bool_val(Chance(0.5)); break;
      case tf::DT_STRING: tensor->add_string_val(Any(kWords)); break;
      case tf::DT_HALF:
      case tf::DT_BFLOAT16: tensor->add_half_val(0x3f80); break;
      case tf::DT_COMPLEX64:
        tensor->add_scomplex_val(1);
        tensor->add_scomplex_val(2);
        break;
      case tf::DT_COMPLEX128:
        tensor->add_dcomplex_val(1);
        tensor->add_dcomplex_val(2);
        break;
      default: tensor->add_int_val(static_cast<int32_t>(i));
    }
  }
}

// Values of another dtype or number than the tensor's, absurd sizes, content that is cut off.
void Mutator::DamageTensor(tf::TensorProto* tensor) {
  switch (Below(8)) {
    case 0: tensor->set_dtype(AnyType()); break;
    case 1: tensor->mutable_tensor_shape()->add_dim()->set_size(AnyInt()); break;
    case 2: tensor->mutable_tensor_shape()->set_unknown_rank(true); break;
    case 3: tensor->set_tensor_content(std::string(Below(40), static_cast<char>(Below(256)))); break;
    case 4:
      for (size_t i = Below(9); i > 0; --i) tensor->add_half_val(static_cast<int32_t>(AnyInt()));
      break;
    case 5: tensor->clear_float_val(), tensor->clear_int_val(), tensor->clear_int64_val(); break;
    case 6: tensor->add_scomplex_val(1), tensor->add_int_val(static_cast<int32_t>(AnyInt())); break;
    default: FillTensor(AnyType(), tensor->add_variant_val()->add_tensors());
  }
}

tf::DataType Mutator::AnyType() { return Any(kTypes); }
int64_t Mutator::AnyInt() { return Any(kInts); }

}  // namespace symgrad::fuzz
