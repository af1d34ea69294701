#include "csrc/engine/differentiate/given.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/read/import.h"
#include "csrc/engine/vjp/cotangent.h"
#include "csrc/engine/write/author.h"

namespace symgrad {
namespace {

// A function of the library, with the attrs that instantiate it.
struct Instance {
  tf::NameAttrList f;
  bool stateful = false;
  tf::DataTypeVector args, results;
};

std::string Text(const tf::DataTypeVector& dtypes) {
  const auto write = [](std::string* out, tf::DataType t) { absl::StrAppend(out, tf::DataTypeString(t)); };
  return absl::StrCat("(", absl::StrJoin(dtypes, ", ", write), ")");
}

Instance ReadInstance(const Functions& functions, const tf::NameAttrList& f, const Body& body) {
  Instance callee;
  callee.f.set_name(f.name());
  const tf::OpDef& signature = functions.Find(f.name())->signature();
  callee.stateful = signature.is_stateful();
  for (const tf::OpDef::AttrDef& attr : signature.attr())  // of a polymorphic function
    if (const auto it = f.attr().find(attr.name()); it != f.attr().end())
      (*callee.f.mutable_attr())[attr.name()] = it->second;
  for (const int arg : body.args) callee.args.push_back(tf::BaseType(body.output({arg, 0}).dtype));
  for (const Port& p : body.results) callee.results.push_back(tf::BaseType(body.output(p).dtype));
  return callee;
}

// The gradient function of f, checked against f.
absl::StatusOr<Instance> ReadGradient(Functions* functions, const Instance& f) {
  tf::NameAttrList name = f.f;
  name.set_name(functions->GradientDef(f.f.name()));
  const std::string what = absl::StrCat("the library says that '", name.name(), "' is the gradient of function '",
                                        f.f.name(), "' (GradientDef, grad_func), but ");
  if (functions->Find(name.name()) == nullptr)
    return absl::InvalidArgumentError(absl::StrCat(what, "has no such function: add it"));
  const absl::StatusOr<std::unique_ptr<Body>> body = ImportFunction(functions, name);
  if (!body.ok()) return absl::InvalidArgumentError(absl::StrCat(what, "it can't be read: ", body.status().message()));
  Instance gradient = ReadInstance(*functions, name, **body);
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

Values Call(FunctionAuthor* author, const Instance& callee, const Values& inputs) {
  tf::NodeDef& node = *(*author)->body()->NewDef();
  node.set_op(callee.stateful ? "StatefulPartitionedCall" : "PartitionedCall");
  auto& attrs = *node.mutable_attr();
  *attrs["f"].mutable_func() = callee.f;
  SetTypes(callee.args, &attrs["Tin"]);
  SetTypes(callee.results, &attrs["Tout"]);
  return OutputsOf((*author)->EmitNode(&node, inputs, callee.results), callee.results.size());
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

absl::StatusOr<std::string> GivenGradient(Functions* functions, const tf::NameAttrList& f, const Body& body,
                                          const std::vector<bool>& wrt) {
  TF_ASSIGN_OR_RETURN(const Instance gradient, ReadGradient(functions, ReadInstance(*functions, f, body)));
  FunctionAuthor author(functions);
  Values inputs = Args(&author, body), wanted;
  for (const Port& p : body.results) inputs.push_back(author.Arg(tf::BaseType(body.output(p).dtype)));
  const Values dx = Call(&author, gradient, inputs);
  for (size_t i = 0; i < dx.size(); ++i)
    if (wrt[i]) wanted.push_back(dx[i]);
  TF_ASSIGN_OR_RETURN(const Callable function, author.Finish(f.name(), wanted));
  return function.name;
}

absl::StatusOr<SplitVjp> SplitGiven(Functions* functions, const tf::NameAttrList& f, const Body& body,
                                    const std::vector<bool>& wrt, const std::vector<bool>& seeds) {
  const Instance callee = ReadInstance(*functions, f, body);
  TF_ASSIGN_OR_RETURN(const Instance gradient, ReadGradient(functions, callee));
  SplitVjp split;
  split.num_results = callee.results.size();
  split.gradients.resize(callee.args.size());
  int count = 0;
  for (size_t i = 0; i < callee.args.size(); ++i) {
    split.args.push_back(static_cast<int>(i));
    if (!wrt[i] || !IsDifferentiable(callee.args[i])) continue;
    split.gradients[i].half = GradientPlace::kPullback;
    split.gradients[i].values = count++;
  }
  // The gradient function takes a cotangent for each output: zeros like the output, where none comes.
  for (size_t j = 0; j < seeds.size(); ++j)
    if (!seeds[j]) split.residuals.push_back(static_cast<int>(j));
  split.lists.assign(split.args.size() + split.residuals.size(), -1);
  const auto shape_of = [&](int j) { return StaticShape(body.output(body.results[j]).shape); };
  {
    FunctionAuthor author(functions);
    const Values results = Call(&author, callee, Args(&author, body));
    TF_ASSIGN_OR_RETURN(split.forward, author.Finish(absl::StrCat("forward_", f.name()), results));
  }
  for (const int j : split.residuals) split.forward.results[j].shape = shape_of(j);
  split.whole = split.forward;
  FunctionAuthor author(functions);
  Values inputs = Args(&author, body), dys(seeds.size()), dxs;
  for (const int j : split.residuals) dys[j] = zeros_like(author.Arg(callee.results[j], shape_of(j)));
  for (size_t j = 0; j < seeds.size(); ++j)
    if (seeds[j]) dys[j] = author.Arg(callee.results[j]);
  inputs.insert(inputs.end(), dys.begin(), dys.end());
  const Values dx = Call(&author, gradient, inputs);
  for (size_t i = 0; i < dx.size(); ++i)
    if (split.gradients[i].exists()) dxs.push_back(dx[i]);
  TF_ASSIGN_OR_RETURN(split.pullback, author.Finish(absl::StrCat("pullback_", f.name()), dxs));
  return split;
}

}  // namespace symgrad
