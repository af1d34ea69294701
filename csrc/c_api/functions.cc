// The part of the C API that works on serialized functions.
#include <cstddef>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "csrc/c_api/call.h"
#include "csrc/c_api/tf_symgrad.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/gradient.h"
#include "csrc/engine/vjp/registry.h"
#include "tensorflow/core/framework/function.h"
#include "xla/tsl/lib/strings/proto_serialization.h"

namespace {

using tensorflow::FunctionDefLibrary;

absl::StatusOr<symgrad::GradientRequest> Request(const char* function, const TFSG_GradientOptions* options) {
  symgrad::GradientRequest request;
  if (function == nullptr) return absl::InvalidArgumentError("function is NULL");
  if (options != nullptr) {
    constexpr size_t kFirst = offsetof(TFSG_GradientOptions, checkpoint);  // what the first version had
    if (options->struct_size < kFirst)
      return absl::InvalidArgumentError("options->struct_size must be TFSG_GRADIENT_OPTIONS_STRUCT_SIZE");
    if (options->attrs != nullptr) {
      TF_ASSIGN_OR_RETURN(request.f, symgrad::Parse<tensorflow::NameAttrList>(options->attrs, "options->attrs"));
    }
    if (options->wrt != nullptr)
      for (size_t i = 0; i < options->num_wrt; ++i) request.wrt.push_back(options->wrt[i] != 0);
    if (options->struct_size > kFirst && options->checkpoint != nullptr) request.checkpoint = options->checkpoint;
  }
  request.f.set_name(function);
  return request;
}

absl::Status GradientFunction(const TF_Buffer* library, const char* function, const TFSG_GradientOptions* options,
                              TF_Buffer* gradients, TF_Buffer* name, unsigned char* stateful) {
  TF_ASSIGN_OR_RETURN(const symgrad::GradientRequest request, Request(function, options));
  TF_ASSIGN_OR_RETURN(const auto functions, symgrad::Parse<FunctionDefLibrary>(library, "library"));
  tensorflow::FunctionLibraryDefinition known(tensorflow::OpRegistry::Global(), FunctionDefLibrary());
  TF_RETURN_IF_ERROR(known.AddLibrary(functions));
  TF_ASSIGN_OR_RETURN(const symgrad::GradientFunction gradient, symgrad::BuildGradient(known, request));
  std::string bytes;
  tsl::SerializeToStringDeterministic(*gradient.functions, &bytes);
  TF_RETURN_IF_ERROR(symgrad::Fill(bytes, gradients));
  if (stateful != nullptr) *stateful = gradient.stateful ? 1 : 0;
  return symgrad::Fill(gradient.name, name);
}

}  // namespace

const char* TFSG_Version(void) { return TFSG_VERSION; }

void TFSG_DifferentiableOps(TF_Buffer* names, TF_Status* status) {
  symgrad::Call(status, [&] {
    std::set<std::string> ops(std::begin(symgrad::kStructureOps), std::end(symgrad::kStructureOps));
    for (const auto& [op, has_gradient] : symgrad::RegisteredRules())
      if (has_gradient) ops.insert(op);
    return symgrad::Fill(absl::StrCat(absl::StrJoin(ops, "\n"), "\n"), names);
  });
}

void TFSG_GradientFunction(const TF_Buffer* library, const char* function, const TFSG_GradientOptions* options,
                           TF_Buffer* gradients, TF_Buffer* name, unsigned char* stateful, TF_Status* status) {
  symgrad::Call(status, [&] { return GradientFunction(library, function, options, gradients, name, stateful); });
}
