#include "csrc/runtime/stock.h"

#include <atomic>
#include <cstdlib>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/gradient.h"
#include "csrc/engine/library/gradient_op.h"
#include "csrc/engine/vjp/registry.h"
#include "csrc/runtime/call.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/op.h"

namespace symgrad {
namespace {

using tensorflow::AttrSlice;
using tensorflow::FunctionDef;
using tensorflow::FunctionLibraryDefinition;
using tensorflow::OpDef;
using tensorflow::OpRegistry;

std::atomic<bool> replaces_stock{false};

// The gradient function of an op, as the stock op asks for it.
absl::Status CreateGradient(const std::string& op, const AttrSlice& attrs, FunctionDef* g) {
  GradientRequest request;
  request.f.set_name(op);
  for (const auto& [name, value] : attrs)
    if (!absl::StartsWith(name, "_")) (*request.f.mutable_attr())[name] = value;
  const FunctionLibraryDefinition none(OpRegistry::Global(), tensorflow::FunctionDefLibrary());
  TF_ASSIGN_OR_RETURN(const GradientFunction gradient, BuildGradient(none, request));
  if (gradient.functions->function_size() != 1)
    return absl::UnimplementedError(absl::StrCat("the gradient of op ", op, " calls functions: use ", kGradientOp));
  *g = gradient.functions->function(0);
  return absl::OkStatus();
}

// Teaches the stock op the ops that it has no gradient for. It gives each input a gradient of the input's own dtype: an
// op that takes variables or lists is none for it.
void Teach(const Rule& rule) {
  const std::string op = rule.op;
  tensorflow::gradient::Creator known;
  const OpDef* def = nullptr;
  if (tensorflow::gradient::GetOpGradientCreator(op, &known).ok()) return;
  if (rule.gradient == nullptr) {
    tensorflow::gradient::RegisterOp(op, nullptr);
    return;
  }
  if (OpRegistry::Global()->LookUpOpDef(op, &def).ok())
    for (const OpDef::ArgDef& arg : def->input_arg())
      if (arg.type() == tensorflow::DT_RESOURCE || arg.type() == tensorflow::DT_VARIANT) return;
  tensorflow::gradient::RegisterOp(
      op, [op](const AttrSlice& attrs, FunctionDef* g) { return CreateGradient(op, attrs, g); });
}

[[maybe_unused]] const bool kLoaded = [] {
  const char* replace = std::getenv("TF_SYMGRAD_REPLACE_STOCK");
  if (replace != nullptr && std::string(replace) == "1") ReplaceStock(true);
  return true;
}();

}  // namespace

void TeachStock() { [[maybe_unused]] static const bool taught = (ObserveRules(Teach), true); }

void ReplaceStock(bool on) {
  if (on) RegisterStockKernel();
  replaces_stock = on;
}

bool ReplacesStock() { return replaces_stock; }

bool IsGradientOp(absl::string_view op) { return op == kGradientOp || (op == kStockGradientOp && ReplacesStock()); }

}  // namespace symgrad
