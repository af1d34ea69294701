#include "csrc/runtime/function_kernel.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tensorflow/core/common_runtime/device.h"
#include "tensorflow/core/common_runtime/device_mgr.h"
#include "tensorflow/core/framework/resource_handle.h"
#include "tensorflow/core/grappler/optimizers/meta_optimizer.h"
#include "tensorflow/core/protobuf/config.pb.h"

namespace symgrad {

using tensorflow::AttrSlice;
using tensorflow::FunctionLibraryDefinition;
using tensorflow::FunctionLibraryRuntime;
using tensorflow::OpKernelContext;
using tensorflow::ResourceHandle;
using tensorflow::Tensor;
using tensorflow::core::WeakPtr;

// The function as one runtime holds it. The runtime may die first: a session keeps the kernels of stateful ops
// for as long as it lives, but a runtime only as long as the callable that it was made for. Hence the weak pointer.
class FunctionKernel::Instance {
 public:
  explicit Instance(FunctionLibraryRuntime* runtime) : runtime_(runtime) {}
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  ~Instance() {
    // A dying runtime has released its handles.
    auto runtime = runtime_.GetNewRef();
    if (runtime == nullptr || handle_ == tensorflow::kInvalidHandle) return;
    const absl::Status status = runtime->ReleaseHandle(handle_);
    if (!status.ok()) LOG(WARNING) << "Ignored, when releasing a function: " << status;
  }

  bool expired() const { return runtime_.GetNewRef() == nullptr; }
  FunctionLibraryRuntime::Handle handle() const { return handle_; }

  absl::Status Init(FunctionLibraryRuntime* runtime, const FunctionKernel& kernel, OpKernelContext* ctx) {
    library_ = std::make_unique<FunctionLibraryDefinition>(*runtime->GetFunctionLibraryDefinition());  // shares all
    TF_ASSIGN_OR_RETURN(const std::string name, kernel.AddFunction(library_.get()));
    return runtime->Instantiate(name, AttrSlice(), Options(runtime, name, kernel.IsOptimized(), ctx), &handle_);
  }

 private:
  FunctionLibraryRuntime::InstantiateOptions Options(FunctionLibraryRuntime* runtime, const std::string& name,
                                                     bool is_optimized, OpKernelContext* ctx) const {
    FunctionLibraryRuntime::InstantiateOptions options;
    options.lib_def = library_.get();
    options.target = runtime->device()->name();
    options.is_multi_device_function = true;  // places each op where it has a kernel
    options.graph_collector = ctx->graph_collector();
    if (runtime->config_proto() != nullptr) options.config_proto = *runtime->config_proto();

    // TensorFlow keeps int32 in host memory for its own call ops, which it knows by name. Here they are on the device.
    options.int_args_and_retvals_on_device = runtime->device()->device_type() != tensorflow::DEVICE_CPU;
    for (int i = 0; i < ctx->num_inputs(); ++i)
      options.input_devices.push_back(InputDevice(ctx->input(i), options.target));
    options.output_devices.assign(ctx->num_outputs(), options.target);

    // Calls are written out before the graph is split by device. After that, TensorFlow would take a call for done when
    // its results are there, whatever it still has to write.
    options.config_proto.mutable_graph_options()->mutable_optimizer_options()->set_do_function_inlining(true);
    if (!is_optimized) return options;
    tensorflow::grappler::GrapplerItem::OptimizationOptions grappler;
    grappler.allow_pruning_stateful_and_dataset_ops = true;  // what must run is a control output of the function
    grappler.is_eager_mode = true;                           // and what a call has done is what its control outputs say
    grappler.optimize_function_library = false;              // calls in it are optimised when they are instantiated
    options.optimize_graph_fn = [config = options.config_proto, name, grappler](
                                    std::vector<std::string> returns, std::vector<std::string> keep,
                                    FunctionLibraryDefinition* library, const tensorflow::DeviceSet& devices,
                                    tensorflow::Device* cpu, std::unique_ptr<tensorflow::Graph>* graph) {
      return tensorflow::grappler::OptimizeGraph(std::move(returns), std::move(keep), library, devices, cpu, config,
                                                 name, grappler, graph);
    };
    return options;
  }

  // A resource lives where its handle says, everything else on the device of the kernel.
  static std::string InputDevice(const Tensor& input, const std::string& target) {
    if (input.dtype() != tensorflow::DT_RESOURCE || input.NumElements() == 0) return target;
    const std::string& device = input.flat<ResourceHandle>()(0).device();
    return device.empty() ? target : device;
  }

  const WeakPtr<FunctionLibraryRuntime> runtime_;
  std::unique_ptr<FunctionLibraryDefinition> library_;  // outlives what is instantiated from it
  FunctionLibraryRuntime::Handle handle_ = tensorflow::kInvalidHandle;
};

namespace {

// What lives until the function has run.
struct Step {
  Step(int64_t id, tensorflow::ResourceMgr* resources)
      : container(id, [resources](const std::string& name) { resources->Cleanup(name).IgnoreError(); }) {}
  tensorflow::ScopedStepContainer container;
  std::vector<Tensor> outputs;
};

absl::Status SetOutputs(std::vector<Tensor>* outputs, OpKernelContext* ctx) {
  if (static_cast<int>(outputs->size()) != ctx->num_outputs()) {
    return absl::InternalError(
        absl::StrCat("The function returned ", outputs->size(), " tensors, not ", ctx->num_outputs(), "."));
  }
  for (int i = 0; i < ctx->num_outputs(); ++i) ctx->set_output(i, std::move((*outputs)[i]));
  return absl::OkStatus();
}

}  // namespace

void RunFunction(FunctionLibraryRuntime* runtime, FunctionLibraryRuntime::Handle handle, OpKernelContext* ctx,
                 tensorflow::AsyncOpKernel::DoneCallback done) {
  // The rendezvous is left to the runtime, which makes one: two calls in a step send tensors under the same keys.
  FunctionLibraryRuntime::Options options;
  Step* step = new Step(options.step_id, runtime->device()->resource_manager());
  options.step_container = &step->container;
  options.cancellation_manager = ctx->cancellation_manager();
  options.collective_executor = ctx->collective_executor();
  options.stats_collector = ctx->stats_collector();
  options.stack_trace = ctx->stack_trace();
  options.runner = ctx->runner();
  options.run_all_kernels_inline = ctx->run_all_kernels_inline();
  options.source_device = runtime->device()->name();

  std::vector<Tensor> inputs;
  for (int i = 0; i < ctx->num_inputs(); ++i) inputs.push_back(ctx->input(i));
  runtime->Run(options, handle, inputs, &step->outputs,
               [ctx, step, done = std::move(done)](const absl::Status& status) {
                 ctx->SetStatus(status.ok() ? SetOutputs(&step->outputs, ctx) : status);
                 delete step;  // before done(), after which the kernel and the device may be gone
                 done();
               });
}

FunctionKernel::FunctionKernel(tensorflow::OpKernelConstruction* ctx) : AsyncOpKernel(ctx) {}
FunctionKernel::~FunctionKernel() = default;

void FunctionKernel::ComputeAsync(OpKernelContext* ctx, DoneCallback done) {
  FunctionLibraryRuntime* runtime = ctx->function_library();
  OP_REQUIRES_ASYNC(
      ctx, runtime != nullptr && runtime->device() != nullptr,
      absl::FailedPreconditionError(absl::StrCat(
          type_string(), " is run by a runtime that has no function library or no device, and so cannot find its ",
          "function. Run it in a session or a tf.function.")),
      done);
  absl::StatusOr<FunctionLibraryRuntime::Handle> handle = FindOrInstantiate(runtime, ctx);
  OP_REQUIRES_OK_ASYNC(ctx, handle.status(), done);
  RunFunction(runtime, *handle, ctx, std::move(done));
}

absl::StatusOr<FunctionLibraryRuntime::Handle> FunctionKernel::FindOrInstantiate(FunctionLibraryRuntime* runtime,
                                                                                 OpKernelContext* ctx) {
  absl::MutexLock lock(&mutex_);
  auto found = instances_.find(runtime);
  if (found == instances_.end() || found->second->expired()) {  // expired: another runtime lived at this address
    for (auto it = instances_.begin(); it != instances_.end();)
      it = it->second->expired() ? instances_.erase(it) : std::next(it);
    auto instance = std::make_unique<Instance>(runtime);
    TF_RETURN_IF_ERROR(instance->Init(runtime, *this, ctx));
    found = instances_.emplace(runtime, std::move(instance)).first;
  }
  return found->second->handle();
}

}  // namespace symgrad
