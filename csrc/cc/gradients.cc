// Gradients for TF_AddGradients, tensorflow::AddSymbolicGradients and all that is built on them: a gradient function in
// TensorFlow's registry for each op that has a rule here.
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "csrc/cc/graph_part.h"
#include "csrc/cc/private_member.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/large_stack.h"
#include "csrc/engine/library/gradient_op.h"
#include "csrc/engine/vjp/cotangent.h"
#include "csrc/engine/vjp/registry.h"
#include "csrc/runtime/stock.h"
#include "tensorflow/cc/framework/grad_op_registry.h"
#include "tensorflow/cc/framework/scope.h"

namespace symgrad {

// Register() ends the process where there is a gradient function already, and there is no other way to change one.
struct GradientFunctions {
  using Type = std::unordered_map<std::string, tf::ops::GradFunc> tf::ops::GradOpRegistry::*;
  friend Type Member(GradientFunctions);
};
template struct PrivateMember<GradientFunctions, &tf::ops::GradOpRegistry::registry_>;

namespace {

// Zeros that stand for a cotangent that nobody has.
bool IsZerosOf(const tf::Output& dy, const tf::Output& y) {
  if (dy.node() == nullptr) return true;
  const tf::Node* source = nullptr;
  return dy.node()->type_string() == "ZerosLike" && dy.node()->input_node(0, &source).ok() && source == y.node() &&
         tf::Operation(dy.node()).input(0).index() == y.index();
}

// The node is a part of the graph by itself.
absl::Status DifferentiateNode(const tf::Scope& scope, const tf::Operation& op, const std::vector<tf::Output>& dy,
                               std::vector<tf::Output>* dx) {
  GraphPart part(scope);
  std::vector<Port> inputs, results;
  std::vector<bool> wrt;
  for (int i = 0; i < op.num_inputs(); ++i) {
    // What is given twice has a gradient for each time.
    const tf::Output x = op.input(i);
    inputs.push_back(IsIntegral(x.type()) ? part.Find(x) : part.AddArg(x));
    // Nobody says which inputs a gradient is wanted of. A constant hardly stands for an x.
    if (x.node()->IsConstant()) part.MayLack(inputs.back());
  }
  for (const int arg : part.body().args) wrt.push_back(IsDifferentiable(part.body().output({arg, 0}).dtype));
  TF_ASSIGN_OR_RETURN(const int id, part.AddNode(op.node(), inputs));
  std::vector<tf::Output> seeds;
  for (int i = 0; i < op.num_outputs(); ++i) {
    results.push_back({id, i});
    const bool zero = !IsDifferentiable(op.output_type(i)) || IsZerosOf(dy[i], op.output(i));
    seeds.push_back(zero ? tf::Output(nullptr, -1) : dy[i]);
  }
  TF_ASSIGN_OR_RETURN(const GraphPart::Gradients gradients, part.Differentiate(results, &seeds, wrt, {}, false));

  dx->assign(op.num_inputs(), tf::Output(nullptr, -1));
  for (int i = 0; i < op.num_inputs(); ++i) {
    int k = 0;
    for (size_t arg = 0; arg < wrt.size(); ++arg) {
      if (!wrt[arg]) continue;
      if (part.body().args[arg] == inputs[i].node) (*dx)[i] = gradients.args[k];
      ++k;
    }
  }
  return absl::OkStatus();
}

// One for all ops.
absl::Status NodeGradient(const tf::Scope& scope, const tf::Operation& op, const std::vector<tf::Output>& dy,
                          std::vector<tf::Output>* dx) {
  return OnLargeStack([&] { return DifferentiateNode(scope, op, dy, dx); });
}

// TensorFlow's own gradient functions make way: some end the process (ConcatV2 along axis -1), forget a dilation, an
// axis or a conjugate, or call an op that knows 84 ops (PartitionedCall). tests/test_add_gradients.py has the list.
bool Register() {
  auto* registry = tf::ops::GradOpRegistry::Global();
  auto& functions = registry->*Member(GradientFunctions());
  const auto add = [&](const std::string& op, tf::ops::GradFunc gradient) {
    tf::ops::GradFunc known = nullptr;
    if (!registry->Lookup(op, &known).ok()) registry->Register(op, gradient);
    else if (gradient != nullptr) functions.at(op) = gradient;
  };
  for (const auto& [op, has_gradient] : RegisteredRules()) add(op, has_gradient ? NodeGradient : nullptr);
  for (const absl::string_view op : kStructureOps) add(std::string(op), NodeGradient);
  add(kGradientOp, NodeGradient);
  TeachStock();
  return true;
}

const bool registered = Register();

}  // namespace
}  // namespace symgrad
