// The kernel: runs the op where no graph pass has replaced it, as PartitionedCall would run the gradient function.
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "csrc/engine/library/gradient_op.h"
#include "csrc/runtime/call.h"
#include "csrc/runtime/function_kernel.h"
#include "csrc/runtime/stock.h"
#include "tensorflow/core/common_runtime/input_colocation_exemption_registry.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace symgrad {
namespace {

class SymbolicGradientOp : public FunctionKernel {
 public:
  explicit SymbolicGradientOp(tensorflow::OpKernelConstruction* ctx) : FunctionKernel(ctx) {
    absl::StatusOr<Call> call = Call::Parse(tensorflow::AttrSlice(ctx->def()));
    OP_REQUIRES_OK(ctx, call.status());
    call_ = *std::move(call);
    const tensorflow::AttrValue* built = tensorflow::AttrSlice(ctx->def()).Find(kBuilt);
    OP_REQUIRES(ctx, built == nullptr || (built_.ParseFromString(built->s()) && built_.function_size() > 0),
                absl::InvalidArgumentError(absl::StrCat("Attr ", kBuilt, " is no library of functions.")));
    if (built == nullptr) return;
    // Whoever takes a result trusts its dtype.
    const tensorflow::OpDef& signature = built_.function(0).signature();
    const auto are = [](const auto& args, const tensorflow::DataTypeVector& types) {
      return std::equal(args.begin(), args.end(), types.begin(), types.end(),
                        [](const auto& arg, tensorflow::DataType type) { return arg.type() == type; });
    };
    OP_REQUIRES(ctx, are(signature.input_arg(), call_.tin) && are(signature.output_arg(), call_.tout),
                absl::InvalidArgumentError(absl::StrCat("Function '", signature.name(), "' of attr ", kBuilt,
                                                        " does not take Tin and return Tout.")));
  }

 private:
  absl::StatusOr<std::string> AddFunction(tensorflow::FunctionLibraryDefinition* library) const override {
    for (const tensorflow::FunctionDef& fdef : built_.function())
      if (!library->Contains(fdef.signature().name())) TF_RETURN_IF_ERROR(library->AddFunctionDef(fdef));
    if (built_.function_size() > 0) return built_.function(0).signature().name();
    TF_ASSIGN_OR_RETURN(const GradientFunction gradient, PrepareCall(*library, call_));
    TF_RETURN_IF_ERROR(AddFunctions(gradient, library));
    return gradient.name;
  }

  bool IsOptimized() const override { return !call_.native; }

  Call call_;
  tensorflow::FunctionDefLibrary built_;  // empty, where no pass has run
};

// The stock op's kernel: ours while the op is taken over, else what TensorFlow's own does.
class StockGradientOp : public tensorflow::AsyncOpKernel {
 public:
  explicit StockGradientOp(tensorflow::OpKernelConstruction* ctx) : AsyncOpKernel(ctx), ours_(ctx) {}

  void ComputeAsync(tensorflow::OpKernelContext* ctx, DoneCallback done) override {
    tensorflow::FunctionLibraryRuntime* runtime = ctx->function_library();
    if (ReplacesStock() || runtime == nullptr) return ours_.ComputeAsync(ctx, std::move(done));
    tensorflow::FunctionLibraryRuntime::Handle handle;
    OP_REQUIRES_OK_ASYNC(ctx, runtime->Instantiate(kStockGradientOp, tensorflow::AttrSlice(def()), &handle), done);
    RunFunction(runtime, handle, ctx, std::move(done));
  }

 private:
  SymbolicGradientOp ours_;
};

REGISTER_KERNEL_BUILDER(Name(kGradientOp).Device(tensorflow::DEVICE_CPU), SymbolicGradientOp);
REGISTER_KERNEL_BUILDER(Name(kGradientOp).Device(tensorflow::DEVICE_DEFAULT), SymbolicGradientOp);

}  // namespace

void RegisterStockKernel() {
  [[maybe_unused]] static const bool registered = [] {
    // By name: of two kernels for any device none has priority.
    for (const char* device : {tensorflow::DEVICE_CPU, tensorflow::DEVICE_GPU}) {
      tensorflow::kernel_factory::OpKernelRegistrar(
          tensorflow::KernelDefBuilder(kStockGradientOp).Device(device).Priority(1).Build(), "StockGradientOp",
          [](tensorflow::OpKernelConstruction* ctx) -> tensorflow::OpKernel* { return new StockGradientOp(ctx); });
    }
    return true;
  }();
}

}  // namespace symgrad

namespace tensorflow {  // the macro needs it
// As for TensorFlow's own call ops: the devices of resources among the inputs do not bind that of the call.
REGISTER_INPUT_COLOCATION_EXEMPTION(symgrad::kGradientOp);
}  // namespace tensorflow
