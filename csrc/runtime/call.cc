#include "csrc/runtime/call.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "csrc/engine/body/errors.h"
#include "csrc/engine/library/fingerprint.h"
#include "csrc/engine/library/functions.h"
#include "csrc/engine/library/gradient_op.h"
#include "csrc/engine/library/references.h"
#include "csrc/engine/read/op_function.h"
#include "tensorflow/core/framework/node_def_util.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/platform/errors.h"
#include "tensorflow/core/platform/statusor.h"

namespace symgrad {
namespace {

using tensorflow::AttrValue;
using tensorflow::DataType;
using tensorflow::DataTypeString;
using tensorflow::DataTypeVector;
using tensorflow::FunctionDef;
using tensorflow::FunctionLibraryDefinition;
using tensorflow::NameAttrList;
using tensorflow::NodeDef;
using tensorflow::OpDef;

// A tensor of a signature, after lists are written out.
struct Slot {
  std::string name;
  DataType dtype;
};
using Slots = std::vector<Slot>;

// The tensors that `args` stand for under the attrs of f. `limit` bounds what is written out: an absurd list length
// must be an error, not an allocation.
absl::StatusOr<Slots> Expand(const google::protobuf::RepeatedPtrField<OpDef::ArgDef>& args, const NameAttrList& f,
                             int64_t limit) {
  auto find = [&f](const std::string& name) -> absl::StatusOr<const AttrValue*> {
    auto it = f.attr().find(name);
    if (it != f.attr().end()) return &it->second;
    return absl::InvalidArgumentError(
        absl::StrCat("Function '", f.name(), "' is polymorphic: attr f must also give its attr '", name, "'."));
  };
  Slots slots;
  for (const OpDef::ArgDef& arg : args) {
    if (!arg.type_list_attr().empty()) {
      TF_ASSIGN_OR_RETURN(const AttrValue* types, find(arg.type_list_attr()));
      int i = 0;
      for (int type : types->list().type()) slots.push_back({absl::StrCat(arg.name(), ":", i++), DataType(type)});
      continue;
    }
    DataType dtype = arg.type();
    if (!arg.type_attr().empty()) {
      TF_ASSIGN_OR_RETURN(const AttrValue* type, find(arg.type_attr()));
      dtype = type->type();
    }
    if (arg.number_attr().empty()) {
      slots.push_back({arg.name(), dtype});
      continue;
    }
    TF_ASSIGN_OR_RETURN(const AttrValue* number, find(arg.number_attr()));
    if (number->i() < 0 || number->i() > limit) {
      return absl::InvalidArgumentError(absl::StrCat("Attr '", arg.number_attr(), "' of function '", f.name(),
                                                     "' makes a list of ", number->i(), " tensors of '", arg.name(),
                                                     "', but input has only ", limit, " tensors in all."));
    }
    for (int64_t i = 0; i < number->i(); ++i) slots.push_back({absl::StrCat(arg.name(), ":", i), dtype});
  }
  return slots;
}

std::string Dtypes(const Slots& slots) {
  return absl::StrCat(
      "(",
      absl::StrJoin(slots, ", ",
                    [](std::string* out, const Slot& s) { absl::StrAppend(out, DataTypeString(s.dtype)); }),
      ")");
}

// A slot of this dtype is checked against the built gradient function alone: only the engine knows a variable's dtype.
bool DecidedByEngine(DataType dtype) { return dtype == tensorflow::DT_RESOURCE || dtype == tensorflow::DT_VARIANT; }

void CheckLength(const char* list, size_t got, size_t want, const std::string& rule, Errors* errors) {
  if (got != want) errors->Add(absl::StrCat(list, " has length ", got, ", needs ", want, ": ", rule));
}

void CheckDtype(const char* list, size_t i, const DataTypeVector& got, const Slot& want, const char* role,
                Errors* errors) {
  if (i >= got.size() || got[i] == want.dtype) return;  // the length is an error of its own
  errors->Add(absl::StrCat(list, "[", i, "] is ", DataTypeString(got[i]), ", must be ", DataTypeString(want.dtype),
                           ", as it is ", role, " '", want.name, "'"));
}

absl::Status ToStatus(const Errors& errors, const NameAttrList& f, const Slots& inputs, const Slots& outputs) {
  if (errors.empty()) return absl::OkStatus();
  return errors.ToStatus(
      absl::StatusCode::kInvalidArgument,
      absl::StrCat("Wrong call of ", kGradientOp, " for function '", f.name(), "', which maps N = ", inputs.size(),
                   " inputs ", Dtypes(inputs), " to M = ", outputs.size(), " outputs ", Dtypes(outputs)));
}

Slots Wanted(const Slots& inputs, const std::vector<bool>& wrt) {
  if (wrt.empty()) return inputs;
  Slots wanted;
  for (size_t i = 0; i < std::min(inputs.size(), wrt.size()); ++i)
    if (wrt[i]) wanted.push_back(inputs[i]);
  return wanted;
}

// What the signature of f alone tells.
absl::Status CheckAgainstCallee(const Call& call, const Slots& inputs, const Slots& outputs) {
  const size_t n = inputs.size(), m = outputs.size();
  const Slots wanted = Wanted(inputs, call.wrt);
  Errors errors;
  CheckLength("input", call.tin.size(), n + m,
              "the N inputs of the function, then a gradient for each of its M outputs", &errors);
  if (call.wrt.empty()) {
    CheckLength("Tout", call.tout.size(), n, "a dtype for each of the N inputs of the function", &errors);
  } else {
    CheckLength("wrt", call.wrt.size(), n, "a flag for each of the N inputs of the function", &errors);
    CheckLength("Tout", call.tout.size(), wanted.size() + (call.values ? m : 0),
                call.values ? "a dtype for each input that wrt is true of, then one for each output"
                            : "a dtype for each input that wrt is true of",
                &errors);
  }
  for (size_t i = 0; i < n; ++i) CheckDtype("input", i, call.tin, inputs[i], "input", &errors);
  for (size_t i = 0; i < m; ++i) {
    if (!DecidedByEngine(outputs[i].dtype))
      CheckDtype("input", n + i, call.tin, outputs[i], "the gradient for output", &errors);
  }
  for (size_t k = 0; k < wanted.size(); ++k) {
    if (!DecidedByEngine(wanted[k].dtype))
      CheckDtype("Tout", k, call.tout, wanted[k], "the gradient for input", &errors);
  }
  for (size_t i = 0; call.values && i < m; ++i)
    CheckDtype("Tout", wanted.size() + i, call.tout, outputs[i], "output", &errors);
  return ToStatus(errors, call.f, inputs, outputs);
}

// What only the built gradient function tells. A call that does not fit it would end the process when the graph is
// changed.
absl::Status CheckAgainstGradient(const FunctionLibraryDefinition& library, const Call& call,
                                  const GradientFunction& gradient, const Slots& inputs, const Slots& outputs) {
  auto record = library.FindRecord(gradient.name);
  const FunctionDef* built = record == nullptr ? nullptr : &record->fdef();
  for (const FunctionDef& fdef : gradient.functions->function()) {
    if (fdef.signature().name() == gradient.name) built = &fdef;
  }
  if (built == nullptr)
    return absl::InternalError(absl::StrCat("Gradient function '", gradient.name, "' was not built."));
  const OpDef& signature = built->signature();
  Errors errors;
  CheckLength("input", call.tin.size(), signature.input_arg_size(), "the inputs of the gradient function", &errors);
  CheckLength("Tout", call.tout.size(), signature.output_arg_size(), "the outputs of the gradient function", &errors);
  for (int i = 0; i < signature.input_arg_size(); ++i) {
    const OpDef::ArgDef& arg = signature.input_arg(i);
    CheckDtype("input", i, call.tin, {arg.name(), arg.type()}, "input of the gradient function", &errors);
  }
  const Slots wanted = Wanted(inputs, call.wrt);
  for (int k = 0; k < std::min<int>(signature.output_arg_size(), wanted.size()); ++k) {
    CheckDtype("Tout", k, call.tout, {wanted[k].name, signature.output_arg(k).type()}, "the gradient for input",
               &errors);
  }
  return ToStatus(errors, call.f, inputs, outputs);
}

// Names say what is in a function, so one that the library has is the same one; but somebody may have changed that
// since (Grappler does, under its old name). Then these functions get other names.
absl::Status AvoidClashes(const FunctionLibraryDefinition& library, GradientFunction* gradient) {
  const auto clashes = [&library](const std::string& name, const FunctionDef& fdef) {
    const auto record = library.FindRecord(name);
    return record != nullptr && !SameContent(record->fdef(), fdef) &&
           !tensorflow::FunctionDefsEqual(record->fdef(), fdef);
  };
  const auto& functions = gradient->functions->function();
  if (std::none_of(functions.begin(), functions.end(),
                   [&](const FunctionDef& fdef) { return clashes(fdef.signature().name(), fdef); }))
    return absl::OkStatus();

  constexpr int kMaxTries = 100;
  for (int k = 2; k < kMaxTries; ++k) {
    std::map<std::string, std::string> new_names;
    for (const FunctionDef& fdef : functions)
      new_names[fdef.signature().name()] = absl::StrCat(fdef.signature().name(), "_", k);
    auto renamed = std::make_shared<tensorflow::FunctionDefLibrary>(*gradient->functions);
    bool free = true;
    for (FunctionDef& fdef : *renamed->mutable_function()) {
      fdef.mutable_signature()->set_name(new_names[fdef.signature().name()]);
      for (NodeDef& node : *fdef.mutable_node_def()) RenameFunctions(new_names, &node);
      free = free && !clashes(fdef.signature().name(), fdef);
    }
    if (!free) continue;
    gradient->name = new_names[gradient->name];
    gradient->functions = std::move(renamed);
    return absl::OkStatus();
  }
  return absl::AlreadyExistsError(absl::StrCat(
      "The library has ", kMaxTries, " functions called '", gradient->name,
      "_<k>' that are not what they are named for: ", "load the models that they came with into graphs of their own."));
}

}  // namespace

bool IsNative(tensorflow::AttrSlice attrs) {
  const AttrValue* optimize = attrs.Find("optimize");
  return optimize != nullptr && optimize->s() == "native";
}

absl::StatusOr<Call> Call::Parse(tensorflow::AttrSlice attrs) {
  Call call;
  const NameAttrList* f = nullptr;
  TF_RETURN_IF_ERROR(tensorflow::GetNodeAttr(attrs, "f", &f));
  TF_RETURN_IF_ERROR(tensorflow::GetNodeAttr(attrs, "Tin", &call.tin));
  TF_RETURN_IF_ERROR(tensorflow::GetNodeAttr(attrs, "Tout", &call.tout));
  if (attrs.Find("wrt") != nullptr) TF_RETURN_IF_ERROR(tensorflow::GetNodeAttr(attrs, "wrt", &call.wrt));
  if (attrs.Find("values") != nullptr) TF_RETURN_IF_ERROR(tensorflow::GetNodeAttr(attrs, "values", &call.values));
  if (attrs.Find("checkpoint") != nullptr)
    TF_RETURN_IF_ERROR(tensorflow::GetNodeAttr(attrs, "checkpoint", &call.checkpoint));
  call.native = IsNative(attrs);
  if (call.values && call.wrt.empty())
    return absl::InvalidArgumentError(absl::StrCat(kGradientOp, ": with values, wrt must be given."));
  call.f = *f;
  return call;
}

absl::StatusOr<GradientFunction> PrepareCall(const FunctionLibraryDefinition& library, const Call& call) {
  GradientRequest request = {WithVariableDtypes(call.f, call.tin, call.tout, call.wrt), call.wrt, call.values,
                             /*sparse=*/false, call.checkpoint};
  auto record = library.FindRecord(call.f.name());
  FunctionDef of_op;  // where f is an op
  if (record == nullptr) {
    const OpDef* op = nullptr;
    if (!tensorflow::OpRegistry::Global()->LookUpOpDef(call.f.name(), &op).ok())
      return BuildGradient(library, request);  // the engine says what there is instead
    TF_ASSIGN_OR_RETURN(of_op, FunctionOfOp(*op, call.f));
  }
  const OpDef& signature = record == nullptr ? of_op.signature() : record->fdef().signature();
  TF_ASSIGN_OR_RETURN(const Slots inputs, Expand(signature.input_arg(), call.f, call.tin.size()));
  TF_ASSIGN_OR_RETURN(const Slots outputs, Expand(signature.output_arg(), call.f, call.tin.size()));
  TF_RETURN_IF_ERROR(CheckAgainstCallee(call, inputs, outputs));
  if (std::find(call.wrt.begin(), call.wrt.end(), false) == call.wrt.end()) request.wrt.clear();  // one name for all
  TF_ASSIGN_OR_RETURN(GradientFunction gradient, BuildGradient(library, request));
  TF_RETURN_IF_ERROR(CheckAgainstGradient(library, call, gradient, inputs, outputs));
  TF_RETURN_IF_ERROR(AvoidClashes(library, &gradient));
  return gradient;
}

absl::Status AddFunctions(const GradientFunction& gradient, FunctionLibraryDefinition* library) {
  for (const FunctionDef& fdef : gradient.functions->function()) {
    if (!library->Contains(fdef.signature().name())) TF_RETURN_IF_ERROR(library->AddFunctionDef(fdef));
  }
  return absl::OkStatus();
}

void KeepBuilt(const GradientFunction& gradient, const FunctionLibraryDefinition& library, NodeDef* node) {
  std::map<std::string, const FunctionDef*> own;
  for (const FunctionDef& fdef : gradient.functions->function()) own[fdef.signature().name()] = &fdef;
  tensorflow::FunctionDefLibrary built;
  std::set<std::string> seen = {gradient.name};
  std::vector<std::string> pending = {gradient.name};
  while (!pending.empty()) {
    const std::string name = std::move(pending.back());
    pending.pop_back();
    const auto record = library.FindRecord(name);
    const auto it = own.find(name);
    if (it == own.end() && record == nullptr) continue;  // an op
    const FunctionDef& fdef = it != own.end() ? *it->second : record->fdef();
    *built.add_function() = fdef;
    for (const NodeDef& inner : fdef.node_def())
      VisitReferences(inner, [&](const std::string& callee) {
        if (seen.insert(callee).second) pending.push_back(callee);
      });
  }
  (*node->mutable_attr())[kBuilt].set_s(built.SerializeAsString());
}

absl::Status RewriteToCall(const GradientFunction& gradient, NodeDef* node) {
  node->set_op(gradient.stateful ? "StatefulPartitionedCall" : "PartitionedCall");
  std::vector<std::string> dropped;
  for (const auto& [name, value] : node->attr()) {
    // Whoever asks for the gradient of the call wants that of the gradient function.
    if (!absl::StartsWith(name, "_") || name == "_gradient_op_type") dropped.push_back(name);
  }
  for (const std::string& name : dropped) {
    if (name != "Tin" && name != "Tout") node->mutable_attr()->erase(name);
  }
  (*node->mutable_attr())["f"].mutable_func()->set_name(gradient.name);
  const OpDef* op_def = nullptr;
  TF_RETURN_IF_ERROR(tensorflow::OpRegistry::Global()->LookUpOpDef(node->op(), &op_def));
  tensorflow::AddDefaultsToNodeDef(*op_def, node);
  return absl::OkStatus();
}

}  // namespace symgrad
