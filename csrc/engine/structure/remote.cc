// RemoteCall: both halves of its function run where it runs.
#include "csrc/engine/body/calls.h"
#include "csrc/engine/emit/literal.h"
#include "csrc/engine/facts/known_inputs.h"
#include "csrc/engine/structure/structure.h"
#include "csrc/engine/write/author.h"

namespace symgrad {
namespace {

// A function of the target and of inputs of these dtypes that calls `f` there.
absl::StatusOr<Callable> WriteCall(Splitter* splitter, const tf::NodeDef& like, const Callable& f,
                                   const tf::DataTypeVector& inputs) {
  FunctionAuthor author(splitter);
  Values all = {author.Arg(tf::DT_STRING)};
  for (const V& arg : author.Args(inputs)) all.push_back(arg);
  tf::NodeDef& node = *author->body()->NewDef();
  node.set_op("RemoteCall");
  CopyRuntimeAttrs(like, &node);
  auto& attrs = *node.mutable_attr();
  const tf::DataTypeVector outputs = Dtypes(f.results);
  attrs["f"].mutable_func()->set_name(f.name);
  SetTypes(inputs, &attrs["Tin"]);
  SetTypes(outputs, &attrs["Tout"]);
  const V call = author->EmitNode(&node, all, outputs);
  TF_ASSIGN_OR_RETURN(Callable remote, author.Finish("remote", OutputsOf(call, outputs.size())));
  remote.results = f.results;  // with their shapes
  return remote;
}

}  // namespace

absl::StatusOr<SplitVjp> SplitRemote(Splitter* splitter, const Body& body, const VjpQuery& query) {
  const Node& node = body.node(query.node);
  const std::vector<Port> inputs(node.inputs.begin() + 1, node.inputs.end());  // without the target
  std::vector<bool> seeds;
  for (const V& dy : query.cotangents) seeds.push_back(static_cast<bool>(dy));
  TF_ASSIGN_OR_RETURN(const SplitVjp* callee, splitter->Split(WithInputs(Callee(*node.def), body, inputs),
                                                              {query.wants.begin() + 1, query.wants.end()}, seeds));
  SplitVjp split;
  split.num_results = callee->num_results;
  split.residuals = callee->residuals;
  tf::DataTypeVector forward_in, pullback_in;
  for (const Port& p : inputs) forward_in.push_back(tf::BaseType(body.output(p).dtype));
  TF_ASSIGN_OR_RETURN(split.forward, WriteCall(splitter, *node.def, callee->forward, forward_in));
  TF_ASSIGN_OR_RETURN(split.whole, WriteCall(splitter, *node.def, callee->whole, forward_in));
  split.gradients.resize(1);  // none of the target
  split.gradients.insert(split.gradients.end(), callee->gradients.begin(), callee->gradients.end());
  if (!callee->has_pullback()) return split;

  split.args = {0};
  for (const int a : callee->args) {
    split.args.push_back(a + 1);
    pullback_in.push_back(forward_in[a]);
  }
  for (size_t r = 0; r < split.residuals.size(); ++r) pullback_in.push_back(callee->residual(r).dtype);
  for (const V& dy : query.cotangents)
    if (dy) pullback_in.push_back(ToTf(dy.dtype()));
  TF_ASSIGN_OR_RETURN(split.pullback, WriteCall(splitter, *node.def, callee->pullback, pullback_in));
  return split;
}

}  // namespace symgrad
