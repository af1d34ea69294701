// The part of the C API that works on SavedModels that were loaded.
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "csrc/c_api/call.h"
#include "csrc/c_api/graph.h"
#include "csrc/c_api/tf_symgrad.h"
#include "csrc/engine/vjp/cotangent.h"
#include "tensorflow/c/c_api_internal.h"
#include "tensorflow/core/graph/graph.h"
#include "tensorflow/core/protobuf/meta_graph.pb.h"

struct TFSG_Signature {
  struct Tensor {
    std::string name;
    TF_Output tensor;
    bool is_input;
    TF_DataType gradient;
  };
  std::vector<Tensor> inputs, outputs, arguments;
  std::string function;
  TF_Operation* call = nullptr;
};

namespace symgrad {
namespace {

using tensorflow::Node;

absl::StatusOr<TF_Output> FindTensor(const TF_Graph& graph, const std::string& name) {
  const size_t colon = name.find(':');
  const auto node = graph.name_map.find(name.substr(0, colon));
  int index = 0;
  if (node == graph.name_map.end() ||
      (colon != std::string::npos && !absl::SimpleAtoi(name.substr(colon + 1), &index)) || index < 0 ||
      index >= node->second->num_outputs())
    return absl::NotFoundError(absl::StrCat("the graph has no tensor '", name, "': is it that of this MetaGraphDef?"));
  return TF_Output{ToOperation(node->second), index};
}

TF_DataType GradientType(const Node& node, int output) {
  tensorflow::DataType dtype = node.output_type(output);
  if (dtype == tensorflow::DT_RESOURCE) {
    const auto value = node.def().attr().find("dtype");
    const bool is_variable = node.type_string() == "VarHandleOp" && value != node.def().attr().end();
    dtype = is_variable ? value->second.type() : tensorflow::DT_INVALID;
  }
  return static_cast<TF_DataType>(IsDifferentiable(dtype) ? dtype : tensorflow::DT_INVALID);
}

absl::Status ReadCall(Node* node, TFSG_Signature* signature) {
  signature->call = ToOperation(node);
  signature->function = node->def().attr().at("f").func().name();
  for (int i = 0; i < node->num_inputs(); ++i) {
    const tensorflow::Edge* edge = nullptr;
    TF_RETURN_IF_ERROR(node->input_edge(i, &edge));
    const TF_Output tensor{ToOperation(edge->src()), edge->src_output()};
    const auto& inputs = signature->inputs;
    const auto input = std::find_if(inputs.begin(), inputs.end(), [&](const TFSG_Signature::Tensor& t) {
      return t.tensor.oper == tensor.oper && t.tensor.index == tensor.index;
    });
    const bool is_input = input != inputs.end();
    signature->arguments.push_back({is_input ? input->name : edge->src()->name(), tensor, is_input,
                                    GradientType(*edge->src(), edge->src_output())});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<TFSG_Signature>> FindSignature(TF_Graph* graph, const TF_Buffer* meta_graph_def,
                                                              const char* name) {
  if (graph == nullptr || name == nullptr) return absl::InvalidArgumentError("graph or name is NULL");
  TF_ASSIGN_OR_RETURN(const auto meta, Parse<tensorflow::MetaGraphDef>(meta_graph_def, "meta_graph_def"));
  const std::map<std::string, tensorflow::SignatureDef> all(meta.signature_def().begin(), meta.signature_def().end());
  const auto found = all.find(name);
  if (found == all.end())
    return absl::NotFoundError(absl::StrCat(
        "there is no signature '", name, "', only ",
        absl::StrJoin(all, ", ", [](std::string* out, const auto& s) { absl::StrAppend(out, "'", s.first, "'"); })));

  auto signature = std::make_unique<TFSG_Signature>();
  const tensorflow::mutex_lock lock(graph->mu);
  const auto read = [&](const auto& tensors, bool is_input, std::vector<TFSG_Signature::Tensor>* out) -> absl::Status {
    for (const auto& [key, info] : std::map<std::string, tensorflow::TensorInfo>(tensors.begin(), tensors.end())) {
      if (info.name().empty())
        return absl::UnimplementedError(absl::StrCat("signature '", name, "': '", key, "' is no dense tensor"));
      TF_ASSIGN_OR_RETURN(const TF_Output tensor, FindTensor(*graph, info.name()));
      out->push_back({key, tensor, is_input, GradientType(tensor.oper->node, tensor.index)});
    }
    return absl::OkStatus();
  };
  TF_RETURN_IF_ERROR(read(found->second.inputs(), true, &signature->inputs));
  TF_RETURN_IF_ERROR(read(found->second.outputs(), false, &signature->outputs));
  const auto& outputs = signature->outputs;
  if (outputs.empty()) return signature;
  Node* node = &outputs[0].tensor.oper->node;
  const bool one = std::all_of(outputs.begin(), outputs.end(),
                               [&](const TFSG_Signature::Tensor& t) { return &t.tensor.oper->node == node; });
  if (one && node->IsPartitionedCall()) TF_RETURN_IF_ERROR(ReadCall(node, signature.get()));
  return signature;
}

// Which of some tensors has this name.
absl::StatusOr<TF_Output> Named(const std::vector<TFSG_Signature::Tensor>& tensors, const char* name,
                                const char* what) {
  std::vector<std::string> names;
  for (const TFSG_Signature::Tensor& tensor : tensors) {
    if (name != nullptr && tensor.name == name) return tensor.tensor;
    names.push_back(absl::StrCat("'", tensor.name, "'"));
  }
  return absl::NotFoundError(absl::StrCat("the signature has no ", what, " '", name == nullptr ? "" : name, "', only ",
                                          absl::StrJoin(names, ", ")));
}

}  // namespace
}  // namespace symgrad

TFSG_Signature* TFSG_FindSignature(TF_Graph* graph, const TF_Buffer* meta_graph_def, const char* name,
                                   TF_Status* status) {
  TFSG_Signature* signature = nullptr;
  symgrad::Call(status, [&]() -> absl::Status {
    TF_ASSIGN_OR_RETURN(auto found, symgrad::FindSignature(graph, meta_graph_def, name));
    signature = found.release();
    return absl::OkStatus();
  });
  return signature;
}
void TFSG_DeleteSignature(TFSG_Signature* signature) { delete signature; }

int TFSG_SignatureNumInputs(const TFSG_Signature* signature) { return static_cast<int>(signature->inputs.size()); }
const char* TFSG_SignatureInputKey(const TFSG_Signature* signature, int i) { return signature->inputs[i].name.c_str(); }
TF_Output TFSG_SignatureInput(const TFSG_Signature* signature, int i) { return signature->inputs[i].tensor; }
int TFSG_SignatureNumOutputs(const TFSG_Signature* signature) { return static_cast<int>(signature->outputs.size()); }
const char* TFSG_SignatureOutputKey(const TFSG_Signature* signature, int i) {
  return signature->outputs[i].name.c_str();
}
TF_Output TFSG_SignatureOutput(const TFSG_Signature* signature, int i) { return signature->outputs[i].tensor; }
const char* TFSG_SignatureFunction(const TFSG_Signature* signature) {
  return signature->call == nullptr ? nullptr : signature->function.c_str();
}
TF_Operation* TFSG_SignatureCall(const TFSG_Signature* signature) { return signature->call; }
int TFSG_SignatureNumArguments(const TFSG_Signature* signature) {
  return static_cast<int>(signature->arguments.size());
}
TF_Output TFSG_SignatureArgument(const TFSG_Signature* signature, int i) { return signature->arguments[i].tensor; }
const char* TFSG_SignatureArgumentName(const TFSG_Signature* signature, int i) {
  return signature->arguments[i].name.c_str();
}
int TFSG_SignatureArgumentIsInput(const TFSG_Signature* signature, int i) { return signature->arguments[i].is_input; }
TF_DataType TFSG_SignatureArgumentGradientType(const TFSG_Signature* signature, int i) {
  return signature->arguments[i].gradient;
}

void TFSG_SavedModelGradients(TF_Graph* graph, const TF_Buffer* meta_graph_def, const char* signature,
                              const char* output, const char* const* wrt, int num_wrt, TF_Output* y, TF_Output* dy,
                              TF_Status* status) {
  symgrad::Call(status, [&]() -> absl::Status {
    TF_ASSIGN_OR_RETURN(const auto found, symgrad::FindSignature(graph, meta_graph_def, signature));
    TF_ASSIGN_OR_RETURN(const TF_Output loss, symgrad::Named(found->outputs, output, "output"));
    std::vector<TF_Output> x;
    for (int i = 0; i < num_wrt; ++i) {
      TF_ASSIGN_OR_RETURN(x.emplace_back(), symgrad::Named(found->arguments, wrt[i], "argument"));
    }
    return symgrad::AddGradients(graph, nullptr, &loss, 1, x.data(), num_wrt, nullptr, dy, y);
  });
}
