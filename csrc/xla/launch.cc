// Functions that XLA compiles as a whole: which of their arguments it must know when it compiles.
//
// A shape, an axis or a bound must be a constant then. XLA finds out which arguments of a function reach one, and hands
// those over as constants; but it does not look through the op, and what it misses becomes a dynamic shape. So before
// such a function is compiled, each node of the op in it, and in all that it calls, gets a mark: an identity of those
// inputs that the gradient function needs to know, which says so by an attr of XLA's own. In nested functions, branches
// and loops, XLA does the rest.
//
// The marks are in no function of the user's: the launch has a library of its own.
#include <deque>
#include <memory>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/library/gradient_op.h"
#include "csrc/runtime/call.h"
#include "csrc/runtime/function_kernel.h"
#include "csrc/runtime/left_to_xla.h"
#include "tensorflow/compiler/jit/xla_cluster_util.h"
#include "tensorflow/compiler/jit/xla_kernel_creator.h"
#include "tensorflow/compiler/tf2xla/const_analysis.h"
#include "tensorflow/core/common_runtime/function.h"
#include "tensorflow/core/common_runtime/function_body.h"
#include "tensorflow/core/common_runtime/function_utils.h"
#include "tensorflow/core/common_runtime/process_function_library_runtime.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/node_properties.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/public/version.h"

namespace symgrad {
namespace {

using tensorflow::AttrSlice;
using tensorflow::DataTypeVector;
using tensorflow::FunctionBody;
using tensorflow::FunctionDef;
using tensorflow::FunctionLibraryDefinition;
using tensorflow::FunctionLibraryRuntime;
using tensorflow::NameAttrList;
using tensorflow::NodeDef;
using tensorflow::NodeProperties;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;

// Finds the nodes of the op that a function reaches, and marks what they need to know.
class Marker {
 public:
  explicit Marker(const FunctionLibraryDefinition& library)
      : library_(library),
        runtimes_(nullptr, tensorflow::Env::Default(), nullptr, TF_GRAPH_DEF_VERSION, &library_,
                  tensorflow::OptimizerOptions()),
        runtime_(runtimes_.GetFLR(tensorflow::ProcessFunctionLibraryRuntime::kDefaultFLRDevice)) {}

  // The functions that change, with marks in them; none if nothing needs a mark.
  std::vector<FunctionDef> Run(const std::string& root) {
    std::vector<FunctionDef> changed;
    bool marked = false;
    Visit(root);
    while (!unvisited_.empty()) {
      const auto record = library_.FindRecord(unvisited_.front());
      unvisited_.pop_front();
      if (record == nullptr) continue;
      bool has_op = false;
      for (const NodeDef& node : record->fdef().node_def()) {
        if (node.op() == kGradientOp) has_op = has_op || !node.attr().contains(kLeftToXla);
        else VisitReferences(node);
      }
      if (!has_op) continue;
      FunctionDef& fdef = changed.emplace_back(record->fdef());
      for (int i = 0, n = fdef.node_def_size(); i < n; ++i)
        if (fdef.node_def(i).op() == kGradientOp) marked = Mark(&fdef, i) || marked;
    }
    if (!marked) changed.clear();
    return changed;
  }

 private:
  void Visit(const std::string& name) {
    if (seen_.insert(name).second) unvisited_.push_back(name);
  }

  void VisitReferences(const NodeDef& node) {
    Visit(node.op());
    for (const auto& [name, value] : node.attr()) {
      if (value.has_func()) Visit(value.func().name());
      for (const auto& func : value.list().func()) Visit(func.name());
    }
  }

  // Whether there was anything to mark.
  bool Mark(FunctionDef* fdef, int i) {
    (*fdef->mutable_node_def(i)->mutable_attr())[kLeftToXla].set_b(true);
    const NodeDef& node = fdef->node_def(i);
    const absl::StatusOr<Call> call = Call::Parse(AttrSlice(node));
    if (!call.ok()) return false;
    const std::vector<bool> needed = Needed(*call);
    NodeDef mark;
    mark.set_name(absl::StrCat(node.name(), "/compile_time_constants"));
    mark.set_op("IdentityN");
    auto* types = (*mark.mutable_attr())["T"].mutable_list();
    for (size_t k = 0; k < needed.size() && k < call->tin.size(); ++k) {
      if (!needed[k] || call->tin[k] == tensorflow::DT_RESOURCE || call->tin[k] == tensorflow::DT_VARIANT) continue;
      mark.add_input(node.input(static_cast<int>(k)));
      types->add_type(call->tin[k]);
    }
    if (mark.input().empty()) return false;
    (*mark.mutable_attr())[tensorflow::kXlaCompileTimeConstantInputsAttr].mutable_list()->add_s("input");
    fdef->mutable_node_def(i)->add_input(absl::StrCat("^", mark.name()));  // it stays as long as the node does
    *fdef->add_node_def() = std::move(mark);
    return true;
  }

  // Which inputs of the gradient function XLA must know; none where there is no such function, as the op will say.
  std::vector<bool> Needed(const Call& call) {
    const absl::StatusOr<GradientFunction> gradient = PrepareCall(library_, call);
    FunctionLibraryRuntime::Handle handle;
    if (!gradient.ok() || !AddFunctions(*gradient, &library_).ok() ||
        !runtime_->Instantiate(gradient->name, AttrSlice(), &handle).ok())
      return {};
    const FunctionBody* body = runtime_->GetFunctionBody(handle);
    std::vector<bool> needed(body->arg_types.size());
    const absl::Status status = tensorflow::BackwardsConstAnalysis(*body->graph, &needed, nullptr, runtime_);
    return status.ok() ? needed : std::vector<bool>();
  }

  FunctionLibraryDefinition library_;
  tensorflow::ProcessFunctionLibraryRuntime runtimes_;
  FunctionLibraryRuntime* const runtime_;
  std::deque<std::string> unvisited_;
  std::unordered_set<std::string> seen_;
};

// A function of one node, `call`, which calls `f`.
FunctionDef Wrap(const NodeDef& call, const NameAttrList& f, const DataTypeVector& inputs,
                 const DataTypeVector& outputs) {
  FunctionDef fdef;
  auto& signature = *fdef.mutable_signature();
  signature.set_name(absl::StrCat("__symgrad_launch_", f.name()));
  signature.set_is_stateful(true);
  NodeDef& node = *fdef.add_node_def();
  node.set_name("launch");
  node.set_op("StatefulPartitionedCall");
  auto& attrs = *node.mutable_attr();
  for (const auto& [name, value] : call.attr())
    if (name[0] == '_') attrs[name] = value;
  *attrs["f"].mutable_func() = f;
  for (size_t i = 0; i < inputs.size(); ++i) {
    auto* arg = signature.add_input_arg();
    arg->set_name(absl::StrCat("x", i));
    arg->set_type(inputs[i]);
    node.add_input(arg->name());
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    auto* arg = signature.add_output_arg();
    arg->set_name(absl::StrCat("y", i));
    arg->set_type(outputs[i]);
    (*fdef.mutable_ret())[arg->name()] = absl::StrCat("launch:output:", i);
  }
  tensorflow::AddNodeAttr("Tin", inputs, &node);
  tensorflow::AddNodeAttr("Tout", outputs, &node);
  signature.add_control_output("launch");
  (*fdef.mutable_control_ret())["launch"] = "launch";
  return fdef;
}

// Compiles and runs a function with marks.
class LaunchMarked : public FunctionKernel {
 public:
  LaunchMarked(OpKernelConstruction* ctx, std::vector<FunctionDef> marked, FunctionDef wrapper)
      : FunctionKernel(ctx), marked_(std::move(marked)), wrapper_(std::move(wrapper)) {}

 private:
  absl::StatusOr<std::string> AddFunction(FunctionLibraryDefinition* library) const override {
    for (const FunctionDef& fdef : marked_) {
      const auto record = library->FindRecord(fdef.signature().name());
      if (record == nullptr) continue;
      TF_RETURN_IF_ERROR(library->ReplaceFunction(fdef.signature().name(), fdef, record->stack_traces()));
    }
    TF_RETURN_IF_ERROR(library->AddFunctionDef(wrapper_));
    return wrapper_.signature().name();
  }

  const std::vector<FunctionDef> marked_;
  const FunctionDef wrapper_;
};

// Makes the kernels of calls that XLA is to compile.
class KernelCreator : public tensorflow::XlaKernelCreator {
 public:
  absl::Status CreateKernel(FunctionLibraryRuntime* runtime, const std::shared_ptr<const NodeProperties>& call,
                            std::unique_ptr<OpKernel>* kernel) const override {
    NameAttrList f;
    TF_RETURN_IF_ERROR(tensorflow::NameAndAttrsFromFunctionCall(call->node_def, &f));
    std::vector<FunctionDef> marked = Marker(*runtime->GetFunctionLibraryDefinition()).Run(f.name());
    if (marked.empty()) return XlaKernelCreator::CreateKernel(runtime, call, kernel);

    FunctionLibraryRuntime::Handle handle;
    TF_RETURN_IF_ERROR(runtime->Instantiate(f.name(), AttrSlice(&f.attr()), &handle));
    const FunctionBody* body = runtime->GetFunctionBody(handle);
    const auto props = std::make_shared<NodeProperties>(&body->record->fdef().signature(), call->node_def,
                                                        body->arg_types, body->ret_types);
    tensorflow::Device* device = runtime->device();
    absl::Status status;
    OpKernelConstruction construction(tensorflow::DeviceType(device->device_type()), device,
                                      device->GetAllocator(tensorflow::AllocatorAttributes()), runtime,
                                      device->resource_manager(), props, MemoryTypes(body->arg_types),
                                      MemoryTypes(body->ret_types), runtime->graph_def_version(), &status);
    *kernel = std::make_unique<LaunchMarked>(&construction, std::move(marked),
                                             Wrap(call->node_def, f, body->arg_types, body->ret_types));
    return status;
  }

 private:
  static tensorflow::MemoryTypeVector MemoryTypes(const DataTypeVector& dtypes) {
    tensorflow::MemoryTypeVector types;
    for (const tensorflow::DataType t : dtypes)
      types.push_back(t == tensorflow::DT_RESOURCE ? tensorflow::HOST_MEMORY : tensorflow::DEVICE_MEMORY);
    return types;
  }
};

// TensorFlow has one creator, which has no state. If it is not its own, somebody else's is not to be replaced.
[[maybe_unused]] const bool kRegistered = [] {
  const auto* present = tensorflow::GetDefaultCustomKernelCreator();
  if (dynamic_cast<const tensorflow::XlaKernelCreator*>(present) == nullptr) return false;
  tensorflow::RegisterDefaultCustomKernelCreator(new KernelCreator);
  XlaLaunches() = true;
  return true;
}();

}  // namespace
}  // namespace symgrad
