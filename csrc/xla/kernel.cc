// The op under XLA: where a function is compiled as a whole (jit_compile=True), no graph pass has run on it, so XLA
// meets the op itself. The kernel adds a call of the gradient function, compiled, to the computation at hand.
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
#include "csrc/engine/functions.h"
#include "csrc/runtime/call.h"
#include "tensorflow/compiler/tf2xla/const_analysis.h"
#include "tensorflow/compiler/tf2xla/xla_compiler.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "tensorflow/core/common_runtime/function_body.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/kernel_def_builder.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/hlo/builder/xla_builder.h"

namespace symgrad {
namespace {

using tensorflow::AttrSlice;
using tensorflow::FunctionLibraryDefinition;
using tensorflow::NameAttrList;
using tensorflow::OpKernelConstruction;
using tensorflow::Tensor;
using tensorflow::TensorShapeProto;
using tensorflow::XlaCompiler;
using tensorflow::XlaExpression;
using tensorflow::XlaOpKernelContext;
using tensorflow::XlaOpRegistry;
using tensorflow::XlaResource;

using Arguments = std::vector<XlaCompiler::Argument>;

// The shape of an input, as far as it is static.
absl::StatusOr<TensorShapeProto> StaticShape(XlaOpKernelContext* ctx, int i) {
  const XlaExpression& input = ctx->InputExpression(i);
  TensorShapeProto proto;
  switch (input.kind()) {
    case XlaExpression::Kind::kConstant:
      input.constant_value()->shape().AsProto(&proto);
      break;
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
    default:
      proto.set_unknown_rank(true);
  }
  return proto;
}

// f with the shapes that XLA knows: all are static as a rule, so that the gradient function computes none.
absl::StatusOr<NameAttrList> WithShapes(XlaOpKernelContext* ctx, const Call& call) {
  NameAttrList f = call.f;
  auto& shapes = (*f.mutable_attr())[kInputShapes];
  auto& dtypes = (*f.mutable_attr())[kInputDtypes];
  shapes.clear_value();
  dtypes.clear_value();
  for (int i = 0; i < std::min<int>(call.tout.size(), ctx->num_inputs()); ++i) {
    TF_ASSIGN_OR_RETURN(*shapes.mutable_list()->add_shape(), StaticShape(ctx, i));
    dtypes.mutable_list()->add_type(call.tin[i] == tensorflow::DT_RESOURCE ? call.tout[i] : call.tin[i]);
  }
  return f;
}

// What `compiler` needs to know of the inputs. Those that an op of the function takes at compile time only, shapes and
// axes for example, are passed as constants where their values follow from the computation so far.
absl::StatusOr<Arguments> DescribeInputs(XlaOpKernelContext* ctx, XlaCompiler* compiler, const NameAttrList& g) {
  const tensorflow::FunctionBody* body = nullptr;
  TF_RETURN_IF_ERROR(compiler->FindFunctionBody(g, &body));
  std::vector<bool> at_compile_time(ctx->num_inputs());
  TF_RETURN_IF_ERROR(
      tensorflow::BackwardsConstAnalysis(*body->graph, &at_compile_time, nullptr, compiler->flib_runtime()));

  Arguments arguments(ctx->num_inputs());
  for (int i = 0; i < ctx->num_inputs(); ++i) {
    const XlaExpression& input = ctx->InputExpression(i);
    XlaCompiler::Argument& argument = arguments[i];
    argument.type = ctx->input_type(i);
    std::optional<Tensor> constant;
    switch (input.kind()) {
      case XlaExpression::Kind::kConstant:
        constant = input.constant_value();
        break;
      case XlaExpression::Kind::kXlaOp:
        if (at_compile_time[i]) {
          TF_ASSIGN_OR_RETURN(constant, input.ResolveConstant(compiler->client()));
        }
        [[fallthrough]];
      case XlaExpression::Kind::kTensorList: {
        argument.kind = input.kind() == XlaExpression::Kind::kXlaOp ? XlaCompiler::Argument::kParameter
                                                                    : XlaCompiler::Argument::kTensorList;
        TF_ASSIGN_OR_RETURN(argument.shape, input.GetXlaShape());
        break;
      }
      case XlaExpression::Kind::kResource:
        XlaCompiler::PopulateArgumentFromResource(*input.resource(), &argument);
        break;
      case XlaExpression::Kind::kInvalid:
        return absl::InternalError(absl::StrCat("Input ", i, " has no value."));
    }
    if (!constant.has_value()) continue;
    argument.kind = XlaCompiler::Argument::kConstant;
    argument.shape = constant->shape();
    argument.constant_value = *std::move(constant);
  }
  return arguments;
}

// Adds a call of the compiled function to the computation, and takes over its results.
absl::Status EmitCall(XlaOpKernelContext* ctx, const Arguments& arguments,
                      const XlaCompiler::CompilationResult& compiled) {
  xla::XlaBuilder* builder = ctx->builder();
  std::vector<xla::XlaOp> operands;
  for (const int i : compiled.input_mapping) {
    const XlaExpression& input = ctx->InputExpression(i);
    operands.emplace_back();
    if (input.kind() == XlaExpression::Kind::kResource) {
      TF_RETURN_IF_ERROR(input.resource()->Pack(&operands.back(), builder));
    } else {
      operands.back() = input.handle();
    }
  }
  const xla::XlaOp results = xla::Call(builder, *compiled.computation, operands);

  if (static_cast<int>(compiled.outputs.size()) != ctx->num_outputs()) {
    return absl::InternalError(absl::StrCat("The gradient function returned ", compiled.outputs.size(),
                                            " tensors, not ", ctx->num_outputs(), "."));
  }
  int next = 0;  // constants are not among the results
  for (int i = 0; i < ctx->num_outputs(); ++i) {
    const XlaCompiler::OutputDescription& output = compiled.outputs[i];
    if (output.is_constant) {
      ctx->SetConstantOutput(i, output.constant_value);
    } else if (output.type == tensorflow::DT_RESOURCE) {
      ctx->SetResourceOutput(i, ctx->InputExpression(output.input_index).resource());
    } else if (output.is_tensor_list) {
      ctx->SetTensorListOutput(i, xla::GetTupleElement(results, next++));
    } else {
      ctx->SetOutput(i, xla::GetTupleElement(results, next++));
    }
  }
  for (const XlaCompiler::ResourceUpdate& update : compiled.resource_updates) {
    const xla::XlaOp value = xla::GetTupleElement(results, next++);
    if (!update.modified) continue;
    XlaResource* resource = ctx->InputExpression(update.input_index).resource();
    TF_RETURN_IF_ERROR(
        resource->SetFromPack(arguments[update.input_index].tensor_array_gradients, value, builder));
  }
  return builder->first_error();
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
    TF_ASSIGN_OR_RETURN(call.f, WithShapes(ctx, call_));
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
    TF_ASSIGN_OR_RETURN(const Arguments arguments, DescribeInputs(ctx, &compiler, g));
    XlaCompiler::CompileOptions compile_options;
    compile_options.is_entry_computation = false;
    XlaCompiler::CompilationResult compiled;
    TF_RETURN_IF_ERROR(compiler.CompileFunction(compile_options, g, arguments, &compiled));
    TF_RETURN_IF_ERROR(ctx->xla_context()->RecordCollectiveInfoFromNestedCompilationResult(compiled));
    return EmitCall(ctx, arguments, compiled);
  }

  Call call_;
};

REGISTER_XLA_OP(Name(kOpName).AllowResourceTypes().AllowVariantTypes(), XlaSymbolicGradientOp);

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
    if (has_kernel(kOpName, device)) continue;
    tensorflow::kernel_factory::OpKernelRegistrar(
        tensorflow::KernelDefBuilder(kOpName).Device(device.c_str()).Build(), "XlaSymbolicGradientOp",
        [](OpKernelConstruction* ctx) -> tensorflow::OpKernel* { return new XlaSymbolicGradientOp(ctx); });
  }
  return true;
}();

}  // namespace
}  // namespace symgrad
