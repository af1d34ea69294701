// A kernel that runs a function out of a library of its own, as PartitionedCall runs one of its runtime's.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace symgrad {

// Runs an instantiated function on the inputs of a kernel; its results are the kernel's outputs.
void RunFunction(tensorflow::FunctionLibraryRuntime* runtime, tensorflow::FunctionLibraryRuntime::Handle handle,
                 tensorflow::OpKernelContext* ctx, tensorflow::AsyncOpKernel::DoneCallback done);

class FunctionKernel : public tensorflow::AsyncOpKernel {
 public:
  explicit FunctionKernel(tensorflow::OpKernelConstruction* ctx);
  ~FunctionKernel() override;
  void ComputeAsync(tensorflow::OpKernelContext* ctx, DoneCallback done) final;

 private:
  class Instance;

  // Adds the function, and what it calls, to a copy of the runtime's library; its name. Its inputs and outputs are
  // those of the kernel.
  virtual absl::StatusOr<std::string> AddFunction(tensorflow::FunctionLibraryDefinition* library) const = 0;

  // Whether TensorFlow's optimiser goes over it, which takes longer than all else that is done before the first run.
  virtual bool IsOptimized() const { return true; }

  // One instance per runtime: a stateful kernel is shared by all graphs of a session that hold its node. There are
  // never more than there are living runtimes.
  absl::StatusOr<tensorflow::FunctionLibraryRuntime::Handle> FindOrInstantiate(
      tensorflow::FunctionLibraryRuntime* runtime, tensorflow::OpKernelContext* ctx);

  absl::Mutex mutex_;
  std::unordered_map<tensorflow::FunctionLibraryRuntime*, std::unique_ptr<Instance>> instances_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace symgrad
