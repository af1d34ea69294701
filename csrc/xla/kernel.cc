// The op under XLA: where a function is compiled as a whole (jit_compile=True), no graph pass has run on it, so XLA
// meets the op itself. The kernel adds what the gradient function computes to the computation at hand.
//
// A library of its own: it needs libtensorflow_cc, and the main library must load where there is none.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "csrc/engine/body/errors.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/facts/known_inputs.h"
#include "csrc/engine/library/functions.h"
#include "csrc/engine/library/gradient_op.h"
#include "csrc/runtime/call.h"
#include "tensorflow/compiler/tf2xla/const_analysis.h"
#include "tensorflow/compiler/tf2xla/graph_compiler.h"
#include "tensorflow/compiler/tf2xla/rearrange_function_argument.h"
#include "tensorflow/compiler/tf2xla/tf2xla_util.h"
#include "tensorflow/compiler/tf2xla/xla_compilation_device.h"
#include "tensorflow/compiler/tf2xla/xla_compiler.h"
#include "tensorflow/compiler/tf2xla/xla_context.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "tensorflow/core/common_runtime/function_body.h"
#include "tensorflow/core/common_runtime/graph_constructor.h"
#include "tensorflow/core/common_runtime/graph_optimizer.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/kernel_def_builder.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/graph/graph.h"
#include "tensorflow/core/protobuf/config.pb.h"
#include "xla/hlo/builder/xla_builder.h"

namespace symgrad {
namespace {

using tensorflow::AttrSlice;
using tensorflow::FunctionLibraryDefinition;
using tensorflow::Graph;
using tensorflow::NameAttrList;
using tensorflow::Node;
using tensorflow::OpKernelConstruction;
using tensorflow::TensorShapeProto;
using tensorflow::XlaCompiler;
using tensorflow::XlaContext;
using tensorflow::XlaExpression;
using tensorflow::XlaOpKernelContext;
using tensorflow::XlaOpRegistry;

// The shape of an input, as far as it is static.
absl::StatusOr<TensorShapeProto> StaticShape(XlaOpKernelContext* ctx, int i) {
  const XlaExpression& input = ctx->InputExpression(i);
  TensorShapeProto proto;
  switch (input.kind()) {
    case XlaExpression::Kind::kConstant: {
      TF_ASSIGN_OR_RETURN(const tensorflow::TensorShape shape, input.GetShape());
      shape.AsProto(&proto);
      break;
    }
    case XlaExpression::Kind::kXlaOp: {
      TF_ASSIGN_OR_RETURN(const xla::Shape shape, ctx->InputXlaShape(i));
      for (int d = 0; d < static_cast<int>(shape.dimensions().size()); ++d)
        proto.add_dim()->set_size(shape.is_dynamic_dimension(d) ? -1 : shape.dimensions(d));
      break;
    }
    case XlaExpression::Kind::kResource:
      if (input.resource()->initialized()) {
        input.resource()->shape().AsProto(&proto);
        break;
      }
      [[fallthrough]];
    default: proto.set_unknown_rank(true);
  }
  return proto;
}

// The dtype of an input, of a variable that of its value; DT_INVALID if that is not known.
tensorflow::DataType ValueDtype(const XlaExpression& input) {
  if (input.kind() != XlaExpression::Kind::kResource) return input.dtype();
  return input.resource()->initialized() ? input.resource()->type() : tensorflow::DT_INVALID;
}

// A small integer that XLA knows: a size or a bound, as a rule.
std::optional<tensorflow::Tensor> KnownInteger(const XlaExpression& input) {
  constexpr int64_t kMaxElements = 64;
  const bool integer = input.dtype() == tensorflow::DT_INT32 || input.dtype() == tensorflow::DT_INT64;
  if (input.kind() != XlaExpression::Kind::kConstant || !integer) return std::nullopt;
  std::optional<tensorflow::Tensor> value = input.constant_value();
  if (value && value->NumElements() > kMaxElements) value.reset();
  return value;
}

// f with what XLA knows of its inputs: all shapes are static as a rule, so that the gradient function computes none.
absl::StatusOr<NameAttrList> WithFacts(XlaOpKernelContext* ctx, const Call& call) {
  NameAttrList f = call.f;
  auto& attrs = *f.mutable_attr();
  attrs[kInputShapes].clear_value();
  attrs[kInputDtypes].clear_value();
  attrs[kInputValues].clear_value();
  attrs[kCompiled].set_b(true);
  for (int i = 0; i < std::min<int>(call.num_inputs(), ctx->num_inputs()); ++i) {
    TF_ASSIGN_OR_RETURN(*attrs[kInputShapes].mutable_list()->add_shape(), StaticShape(ctx, i));
    attrs[kInputDtypes].mutable_list()->add_type(ValueDtype(ctx->InputExpression(i)));
    tensorflow::TensorProto* value = attrs[kInputValues].mutable_list()->add_tensor();
    if (const auto known = KnownInteger(ctx->InputExpression(i))) known->AsProtoField(value);
  }
  return WithVariableDtypes(std::move(f), call.tin, call.tout, call.wrt);
}

// The body of g, optimised as XlaCompiler does with the functions that it compiles: calls are inlined, and what XLA
// must know at compile time is carried into loops and branches.
absl::StatusOr<std::unique_ptr<Graph>> Prepare(const NameAttrList& g, XlaCompiler* compiler,
                                               FunctionLibraryDefinition* library) {
  const auto find = [compiler](const NameAttrList& f, const tensorflow::FunctionBody** body) {
    return compiler->FindFunctionBody(f, body);
  };
  const tensorflow::FunctionBody* body = nullptr;
  TF_RETURN_IF_ERROR(find(g, &body));
  auto graph = std::make_unique<Graph>(library);
  tensorflow::CopyGraph(*body->graph, graph.get());

  tensorflow::OptimizerOptions passes;
  passes.set_opt_level(tensorflow::OptimizerOptions::L0);
  passes.set_do_function_inlining(true);
  passes.set_do_constant_folding(true);
  tensorflow::GraphOptimizer::Options options;
  options.inline_multi_device_functions = true;
  options.inline_impl_selection_group_functions = true;
  options.ignore_noinline = true;
  options.cf_consider_fn = [](const Node* n) {  // XLA has no constant of a variant: a list is what its op makes
    return std::none_of(n->output_types().begin(), n->output_types().end(),
                        [](tensorflow::DataType t) { return t == tensorflow::DT_VARIANT; });
  };
  tensorflow::FunctionLibraryRuntime* runtime = compiler->flib_runtime();
  tensorflow::GraphOptimizer(passes).Optimize(runtime, runtime->env(), nullptr, &graph, options);
  TF_RETURN_IF_ERROR(tensorflow::PropagateConstIntoFunctionalNodes(graph.get(), library, library));
  TF_RETURN_IF_ERROR(tensorflow::RearrangeFunctionArguments(find, graph.get(), library));
  return graph;
}

// Which inputs of a function XLA must know when it compiles, and does not.
absl::StatusOr<std::vector<int>> UnknownInputs(XlaOpKernelContext* ctx, const Graph& graph, XlaCompiler* compiler) {
  std::vector<bool> needed(ctx->num_inputs());
  TF_RETURN_IF_ERROR(tensorflow::BackwardsConstAnalysis(graph, &needed, nullptr, compiler->flib_runtime()));
  std::vector<int> unknown;
  for (int i = 0; i < ctx->num_inputs(); ++i) {
    const XlaExpression& input = ctx->InputExpression(i);
    if (!needed[i] || input.kind() == XlaExpression::Kind::kConstant) continue;
    bool known = false;
    if (input.kind() == XlaExpression::Kind::kXlaOp) {
      TF_ASSIGN_OR_RETURN(const auto value, input.ResolveConstant(compiler->client()));
      known = value.has_value();
    }
    if (!known) unknown.push_back(i);
  }
  return unknown;
}

bool IsDynamic(const xla::ShapeProto& shape) {
  const auto& dimensions = shape.is_dynamic_dimension();
  return std::any_of(dimensions.begin(), dimensions.end(), [](bool dynamic) { return dynamic; }) ||
         std::any_of(shape.tuple_shapes().begin(), shape.tuple_shapes().end(), IsDynamic);
}

// What XLA would compute with arrays whose shapes are known only when it runs is often wrong, with no error. So where
// an input is not known that should be, the function is compiled for itself first, to see whether it has such arrays.
absl::Status CheckStatic(XlaOpKernelContext* ctx, const Graph& graph, XlaCompiler* compiler) {
  std::vector<XlaCompiler::Argument> args(ctx->num_inputs());
  for (int i = 0; i < ctx->num_inputs(); ++i) {
    const XlaExpression& input = ctx->InputExpression(i);
    if (input.kind() == XlaExpression::Kind::kResource) {
      XlaCompiler::PopulateArgumentFromResource(*input.resource(), &args[i]);
      continue;
    }
    args[i].type = ctx->input_type(i);
    if (input.kind() == XlaExpression::Kind::kConstant) {
      args[i].kind = XlaCompiler::Argument::kConstant;
      args[i].constant_value = input.constant_value().value_or(tensorflow::Tensor());
    } else {
      args[i].kind = XlaCompiler::Argument::kParameter;
      TF_ASSIGN_OR_RETURN(args[i].shape, ctx->InputXlaShape(i));
    }
  }
  auto copy = std::make_unique<Graph>(graph.flib_def());
  tensorflow::CopyGraph(graph, copy.get());
  XlaCompiler::CompilationResult result;
  XlaCompiler::CompileOptions options;
  options.is_entry_computation = false;
  TF_RETURN_IF_ERROR(compiler->CompileGraph(options, "symbolic_gradient", std::move(copy), args, &result));
  for (const auto& computation : result.computation->proto().computations())
    for (const auto& instruction : computation.instructions())
      if (IsDynamic(instruction.shape()))
        return absl::InvalidArgumentError(absl::StrCat("the shape of node '", instruction.metadata().op_name(),
                                                       "' (op ", instruction.metadata().op_type(),
                                                       ") would be known only when it runs."));
  return absl::OkStatus();
}

absl::Status CheckInputs(XlaOpKernelContext* ctx, const Graph& graph, XlaCompiler* compiler, const NameAttrList& f) {
  TF_ASSIGN_OR_RETURN(const std::vector<int> unknown, UnknownInputs(ctx, graph, compiler));
  if (unknown.empty()) return absl::OkStatus();
  absl::Status status = CheckStatic(ctx, graph, compiler);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(
      absl::StrCat("XLA can't compile the gradient of function '", f.name(),
                   "': a shape, an axis or a bound in it depends on input ", absl::StrJoin(unknown, ", input "),
                   " of the op, which must be a compile-time constant: pass a constant, an ",
                   "argument of the function that is compiled, or what is computed of these. ", status.message()));
}

// All at once what XLA has no kernel for, before it meets the first.
absl::Status CheckKernels(const Graph& graph, const NameAttrList& f, const XlaCompiler& compiler) {
  const tensorflow::DeviceType& device = compiler.options().device_type;
  Errors errors;
  for (const Node* node : graph.op_nodes()) {
    if (graph.flib_def().Contains(node->type_string())) continue;  // a call of a function
    if (!tensorflow::FindKernelDef(device, node->def(), nullptr, nullptr).ok())
      errors.Add(absl::StrCat("node '", node->name(), "': ", node->type_string()));
  }
  if (errors.empty()) return absl::OkStatus();
  return errors.ToStatus(absl::StatusCode::kInvalidArgument,
                         absl::StrCat("XLA can't compile the gradient of function '", f.name(),
                                      "': it has no kernel on ", device.type_string(), " for"));
}

// Adds what `graph` computes of `inputs` to the computation at hand, and returns its results.
//
// It is written out in place, not compiled for itself and called: what is constant within stays known, variables are
// read and written where they are, and XLA's inference of values that are needed at compile time, which aborts on the
// result of a call with several results, meets none.
absl::StatusOr<std::vector<XlaExpression>> Inline(XlaOpKernelContext* ctx, XlaCompiler* compiler, Graph* graph,
                                                  std::vector<XlaExpression> inputs) {
  auto* context = new XlaContext(compiler, ctx->builder(), graph);
  const tensorflow::core::ScopedUnref unref(context);
  context->set_args(std::move(inputs));
  XlaCompiler::CompilationResult collectives;  // their channels are numbered through
  collectives.collective_info = ctx->xla_context()->GetCollectiveInfo();
  TF_RETURN_IF_ERROR(context->RecordCollectiveInfoFromNestedCompilationResult(collectives));

  auto* device = static_cast<tensorflow::XlaCompilationDevice*>(compiler->flib_runtime()->device());
  tensorflow::ResourceMgr* resources = device->resource_manager();
  tensorflow::ScopedStepContainer step(
      0, [resources](const std::string& name) { resources->Cleanup(name).IgnoreError(); });
  context->Ref();  // the step's
  TF_RETURN_IF_ERROR(step.Create(resources, XlaContext::kXlaContextResourceName, context));
  compiler->PushNodeTokenMapping();
  TF_RETURN_IF_ERROR(tensorflow::GraphCompiler(device, graph, compiler->flib_runtime(), &step).Compile());

  collectives.collective_info = context->GetCollectiveInfo();
  TF_RETURN_IF_ERROR(ctx->xla_context()->RecordCollectiveInfoFromNestedCompilationResult(collectives));
  return context->retvals();
}

class XlaSymbolicGradientOp : public tensorflow::XlaOpKernel {
 public:
  explicit XlaSymbolicGradientOp(OpKernelConstruction* ctx) : XlaOpKernel(ctx) {
    absl::StatusOr<Call> call = Call::Parse(AttrSlice(ctx->def()));
    OP_REQUIRES_OK(ctx, call.status());
    call_ = *std::move(call);
  }

  void Compile(XlaOpKernelContext* ctx) override { OP_REQUIRES_OK(ctx, AddGradients(ctx)); }

 private:
  absl::Status AddGradients(XlaOpKernelContext* ctx) const {
    const FunctionLibraryDefinition& base = *ctx->function_library()->GetFunctionLibraryDefinition();
    Call call = call_;
    TF_ASSIGN_OR_RETURN(call.f, WithFacts(ctx, call_));
    TF_ASSIGN_OR_RETURN(const GradientFunction gradient, PrepareCall(base, call));

    // A compiler of its own, like the one at hand but for its library. That one's belongs to the process's runtime and
    // is const; generated functions that were added to it would stay there for good.
    FunctionLibraryDefinition library(base);  // shares the definitions
    TF_RETURN_IF_ERROR(AddFunctions(gradient, &library));
    XlaCompiler::Options options = ctx->compiler()->options();
    options.flib_def = &library;
    XlaCompiler compiler(options);

    NameAttrList g;
    g.set_name(gradient.name);
    TF_ASSIGN_OR_RETURN(const std::unique_ptr<Graph> graph, Prepare(g, &compiler, &library));
    TF_RETURN_IF_ERROR(CheckKernels(*graph, call_.f, compiler));
    TF_RETURN_IF_ERROR(CheckInputs(ctx, *graph, &compiler, call_.f));
    std::vector<XlaExpression> inputs;
    for (int i = 0; i < ctx->num_inputs(); ++i) inputs.push_back(ctx->InputExpression(i));
    TF_ASSIGN_OR_RETURN(const std::vector<XlaExpression> results,
                        Inline(ctx, &compiler, graph.get(), std::move(inputs)));
    if (static_cast<int>(results.size()) != ctx->num_outputs()) {
      return absl::InternalError(
          absl::StrCat("The gradient function returned ", results.size(), " tensors, not ", ctx->num_outputs(), "."));
    }
    for (int i = 0; i < ctx->num_outputs(); ++i) ctx->SetOutputExpression(i, results[i]);
    return ctx->builder()->first_error();
  }

  Call call_;
};

REGISTER_XLA_OP(Name(kGradientOp).AllowResourceTypes().AllowVariantTypes(), XlaSymbolicGradientOp);

// XLA makes kernels of what is registered with it once, when a process first compiles something. A library that is
// loaded after that has to do so itself.
[[maybe_unused]] const bool kRegisteredLate = [] {
  const auto has_kernel = [](const char* op, const std::string& device) {
    const tensorflow::KernelList kernels = tensorflow::GetRegisteredKernelsForOp(op);
    return std::any_of(kernels.kernel().begin(), kernels.kernel().end(),
                       [&device](const auto& kernel) { return kernel.device_type() == device; });
  };
  if (!has_kernel("AddV2", tensorflow::DEVICE_CPU_XLA_JIT)) return false;
  for (const std::string& device : XlaOpRegistry::BackendNames()) {
    XlaOpRegistry::DeviceKernels(device, true);  // waits for another thread that is about to register them
    if (has_kernel(kGradientOp, device)) continue;
    tensorflow::kernel_factory::OpKernelRegistrar(
        tensorflow::KernelDefBuilder(kGradientOp).Device(device.c_str()).Build(), "XlaSymbolicGradientOp",
        [](OpKernelConstruction* ctx) -> tensorflow::OpKernel* { return new XlaSymbolicGradientOp(ctx); });
  }
  return true;
}();

}  // namespace
}  // namespace symgrad
