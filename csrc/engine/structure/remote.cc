// RemoteCall: both halves of its function run where it runs.
#include "csrc/engine/differentiate/differentiator.h"
#include "csrc/engine/write/author.h"

namespace symgrad {
namespace {

// A function of the target and of inputs of these dtypes that calls `f` there.
absl::StatusOr<FunctionAuthor::Function> WriteCall(Differentiator* differentiator, const tf::NodeDef& like,
                                                   const std::string& f, const tf::DataTypeVector& inputs,
                                                   const tf::DataTypeVector& outputs) {
  FunctionAuthor author(differentiator);
  Values all = {author.Arg(tf::DT_STRING)};
  for (const V& arg : author.Args(inputs)) all.push_back(arg);
  tf::NodeDef node;
  node.set_op("RemoteCall");
  CopyRuntimeAttrs(like, &node);
  auto& attrs = *node.mutable_attr();
  attrs["f"].mutable_func()->set_name(f);
  SetTypes(inputs, &attrs["Tin"]);
  SetTypes(outputs, &attrs["Tout"]);
  const V call = author->EmitNode(std::move(node), all, outputs);
  Values results;
  for (size_t i = 0; i < outputs.size(); ++i) results.push_back(call.out(static_cast<int>(i)));
  return author.Finish("remote", results);
}

}  // namespace

absl::StatusOr<SplitVjp> SplitRemote(Differentiator* differentiator, const Body& body, const Frame& frame) {
  const Node& node = body.node(frame.node);
  const std::vector<Port> inputs(node.inputs.begin() + 1, node.inputs.end());  // without the target
  std::vector<bool> seeds;
  for (const V& dy : frame.cotangents) seeds.push_back(static_cast<bool>(dy));
  TF_ASSIGN_OR_RETURN(const SplitVjp* split,
                      differentiator->Split(WithInputs(Callee(*node.def), body, inputs),
                                            {frame.wants.begin() + 1, frame.wants.end()}, seeds));
  SplitVjp result;
  result.results = split->results;
  result.residuals = split->residuals;
  result.residual_shapes = split->residual_shapes;
  result.gradient_dtypes = split->gradient_dtypes;
  tf::DataTypeVector forward_in, forward_out = split->results, pullback_in;
  for (const Port& p : inputs) forward_in.push_back(tf::BaseType(body.output(p).dtype));
  forward_out.insert(forward_out.end(), split->residuals.begin(), split->residuals.end());
  TF_ASSIGN_OR_RETURN(const auto forward,
                      WriteCall(differentiator, *node.def, split->forward, forward_in, forward_out));
  TF_ASSIGN_OR_RETURN(const auto whole, WriteCall(differentiator, *node.def, split->whole, forward_in, forward_out));
  result.forward = forward.name;
  result.stateful_forward = forward.stateful;
  result.whole = whole.name;
  result.stateful_whole = whole.stateful;
  result.gradients = {-1};
  result.gradients.insert(result.gradients.end(), split->gradients.begin(), split->gradients.end());
  result.indices = {-1};
  result.indices.insert(result.indices.end(), split->indices.begin(), split->indices.end());
  result.gradient_shapes = split->gradient_shapes;
  if (split->gradient_dtypes.empty()) return result;

  result.args = {0};
  for (const int a : split->args) {
    result.args.push_back(a + 1);
    pullback_in.push_back(forward_in[a]);
  }
  pullback_in.insert(pullback_in.end(), split->residuals.begin(), split->residuals.end());
  for (const V& dy : frame.cotangents)
    if (dy) pullback_in.push_back(ToTf(dy.dtype()));
  TF_ASSIGN_OR_RETURN(const auto pullback,
                      WriteCall(differentiator, *node.def, split->pullback, pullback_in, split->gradient_dtypes));
  result.pullback = pullback.name;
  result.stateful_pullback = pullback.stateful;
  return result;
}

}  // namespace symgrad
