#include "csrc/engine/differentiate/given.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "csrc/engine/read/import.h"
#include "csrc/engine/vjp/sweep.h"
#include "csrc/engine/write/author.h"

namespace symgrad {
namespace {

// A function that can be called.
struct Callable {
  tf::NameAttrList f;
  bool stateful = false;
  tf::DataTypeVector args, results;
};

std::string Text(const tf::DataTypeVector& dtypes) {
  const auto write = [](std::string* out, tf::DataType t) { absl::StrAppend(out, tf::DataTypeString(t)); };
  return absl::StrCat("(", absl::StrJoin(dtypes, ", ", write), ")");
}

Callable ReadCallable(const Functions& functions, const tf::NameAttrList& f, const Body& body) {
  Callable callee;
  callee.f.set_name(f.name());
  const auto record = functions.Find(f.name());
  callee.stateful = record->fdef().signature().is_stateful();
  for (const tf::OpDef::AttrDef& attr : record->fdef().signature().attr())  // of a polymorphic function
    if (const auto it = f.attr().find(attr.name()); it != f.attr().end())
      (*callee.f.mutable_attr())[attr.name()] = it->second;
  for (const int arg : body.args) callee.args.push_back(tf::BaseType(body.output({arg, 0}).dtype));
  for (const Port& p : body.results) callee.results.push_back(tf::BaseType(body.output(p).dtype));
  return callee;
}

// The gradient function of f, checked against f.
absl::StatusOr<Callable> ReadGradient(Differentiator* differentiator, const Callable& f) {
  tf::NameAttrList name = f.f;
  name.set_name(differentiator->GradientDef(f.f.name()));
  const std::string what = absl::StrCat("the library says that '", name.name(), "' is the gradient of function '",
                                        f.f.name(), "' (GradientDef, grad_func), but ");
  if (differentiator->Find(name.name()) == nullptr)
    return absl::InvalidArgumentError(absl::StrCat(what, "has no such function: add it"));
  const absl::StatusOr<std::unique_ptr<Body>> body = ImportFunction(differentiator, name);
  if (!body.ok()) return absl::InvalidArgumentError(absl::StrCat(what, "it can't be read: ", body.status().message()));
  Callable gradient = ReadCallable(*differentiator, name, **body);
  tf::DataTypeVector args = f.args, results = f.args;
  args.insert(args.end(), f.results.begin(), f.results.end());
  for (size_t i = 0; i < std::min(results.size(), gradient.results.size()); ++i)
    if (results[i] == tf::DT_RESOURCE) results[i] = gradient.results[i];  // the dtype of a variable
  if (gradient.args != args || gradient.results != results)
    return absl::InvalidArgumentError(
        absl::StrCat(what, "that maps ", Text(gradient.args), " to ", Text(gradient.results), ", and must map ",
                     Text(args), ", the inputs and the gradients of the outputs, to ", Text(results)));
  return gradient;
}

Values Call(FunctionAuthor* author, const Callable& callee, const Values& inputs) {
  tf::NodeDef node;
  node.set_op(callee.stateful ? "StatefulPartitionedCall" : "PartitionedCall");
  auto& attrs = *node.mutable_attr();
  *attrs["f"].mutable_func() = callee.f;
  SetTypes(callee.args, &attrs["Tin"]);
  SetTypes(callee.results, &attrs["Tout"]);
  const V call = (*author)->EmitNode(std::move(node), inputs, callee.results);
  Values results;
  for (size_t i = 0; i < callee.results.size(); ++i) results.push_back(call.out(static_cast<int>(i)));
  return results;
}

// Arguments for the inputs of f.
Values Args(FunctionAuthor* author, const Body& body) {
  Values args;
  for (const int arg : body.args) {
    const Output& x = body.output({arg, 0});
    args.push_back(author->Arg(tf::BaseType(x.dtype), StaticShape(x.shape)));
  }
  return args;
}

}  // namespace

absl::StatusOr<std::string> GivenGradient(Differentiator* differentiator, const tf::NameAttrList& f, const Body& body,
                                          const std::vector<bool>& wrt) {
  TF_ASSIGN_OR_RETURN(const Callable gradient, ReadGradient(differentiator, ReadCallable(*differentiator, f, body)));
  FunctionAuthor author(differentiator);
  Values inputs = Args(&author, body), wanted;
  for (const Port& p : body.results) inputs.push_back(author.Arg(tf::BaseType(body.output(p).dtype)));
  const Values dx = Call(&author, gradient, inputs);
  for (size_t i = 0; i < dx.size(); ++i)
    if (wrt[i]) wanted.push_back(dx[i]);
  TF_ASSIGN_OR_RETURN(const FunctionAuthor::Function function, author.Finish(f.name(), wanted));
  return function.name;
}

absl::StatusOr<SplitVjp> SplitGiven(Differentiator* differentiator, const tf::NameAttrList& f, const Body& body,
                                    const std::vector<bool>& wrt, const std::vector<bool>& seeds) {
  const Callable callee = ReadCallable(*differentiator, f, body);
  TF_ASSIGN_OR_RETURN(const Callable gradient, ReadGradient(differentiator, callee));
  SplitVjp split;
  split.results = callee.results;
  split.finished.assign(callee.args.size(), -1);
  split.gradients.assign(callee.args.size(), -1);
  for (size_t i = 0; i < callee.args.size(); ++i) {
    split.args.push_back(static_cast<int>(i));
    if (!wrt[i] || !IsDifferentiable(callee.args[i])) continue;
    split.gradients[i] = static_cast<int>(split.gradient_dtypes.size());
    split.gradient_dtypes.push_back(gradient.results[i]);
  }
  // The gradient function takes a cotangent for each output: zeros like the output, where none comes.
  for (size_t j = 0; j < seeds.size(); ++j) {
    if (seeds[j]) continue;
    split.residuals.push_back(callee.results[j]);
    split.residual_shapes.push_back(StaticShape(body.output(body.results[j]).shape));
    split.residual_results.push_back(static_cast<int>(j));
  }
  {
    FunctionAuthor author(differentiator);
    Values results = Call(&author, callee, Args(&author, body));
    for (const int j : split.residual_results) results.push_back(results[j]);
    TF_ASSIGN_OR_RETURN(const auto function, author.Finish(absl::StrCat("forward_", f.name()), results));
    split.forward = function.name;
    split.stateful_forward = function.stateful;
  }
  FunctionAuthor author(differentiator);
  Values inputs = Args(&author, body), dys(seeds.size()), dxs;
  for (const int j : split.residual_results)
    dys[j] = zeros_like(author.Arg(callee.results[j], StaticShape(body.output(body.results[j]).shape)));
  for (size_t j = 0; j < seeds.size(); ++j)
    if (seeds[j]) dys[j] = author.Arg(callee.results[j]);
  inputs.insert(inputs.end(), dys.begin(), dys.end());
  const Values dx = Call(&author, gradient, inputs);
  for (size_t i = 0; i < dx.size(); ++i)
    if (split.gradients[i] >= 0) dxs.push_back(dx[i]);
  TF_ASSIGN_OR_RETURN(const auto function, author.Finish(absl::StrCat("pullback_", f.name()), dxs));
  split.pullback = function.name;
  split.stateful_pullback = function.stateful;
  return split;
}

}  // namespace symgrad
