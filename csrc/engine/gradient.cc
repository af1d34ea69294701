#include "csrc/engine/gradient.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "csrc/engine/cache.h"
#include "csrc/engine/differentiate/differentiator.h"
#include "csrc/engine/exceptions.h"
#include "csrc/engine/facts/known_inputs.h"
#include "csrc/engine/large_stack.h"
#include "csrc/engine/library/fingerprint.h"
#include "csrc/engine/no_fork.h"
#include "csrc/engine/remat/policy.h"
#include "csrc/engine/vjp/registry.h"

namespace symgrad {
namespace {

absl::StatusOr<tf::NameAttrList> WithCheckpoint(tf::NameAttrList f, const std::string& checkpoint) {
  TF_RETURN_IF_ERROR(ParsePolicy(checkpoint).status());
  if (!checkpoint.empty()) (*f.mutable_attr())[kCheckpoint].set_s(checkpoint);
  return f;
}

// What `build` makes. What fails is done once more, to say what is wrong in terms of the functions that there are.
template <typename Build>
auto Made(const tf::FunctionLibraryDefinition& library, const Build& build)
    -> decltype(build(std::declval<Differentiator*>())) {
  decltype(build(std::declval<Differentiator*>())) made;
  TF_RETURN_IF_ERROR(OnLargeStack([&] {
    Differentiator differentiator(library);
    made = build(&differentiator);
    if (made.ok() || absl::IsResourceExhausted(made.status())) return made.status();
    Differentiator literal(library, /*keep=*/true);
    made = build(&literal);
    return made.status();
  }));
  return made;
}

absl::StatusOr<GradientFunction> Build(Differentiator* differentiator, const tf::NameAttrList& f,
                                       const GradientRequest& request) {
  GradientFunction gradient;
  TF_ASSIGN_OR_RETURN(gradient.name, differentiator->Gradient(f, request.wrt, request.values,
                                                              request.sparse ? &gradient.indices : nullptr));
  gradient.stateful = differentiator->Find(gradient.name)->signature().is_stateful();
  gradient.functions = differentiator->Generated({gradient.name});
  return gradient;
}

absl::StatusOr<VjpFunctions> Build(Differentiator* differentiator, const tf::NameAttrList& f,
                                   const std::vector<bool>& wrt) {
  TF_ASSIGN_OR_RETURN(const SplitVjp* split, differentiator->SplitAll(f, wrt));
  VjpFunctions vjp{split->whole.name,
                   split->pullback.name,
                   split->args,
                   {},
                   differentiator->Generated({split->whole.name, split->pullback.name})};
  for (const GradientPlace& place : split->gradients) vjp.gradients.push_back(place.values);
  return vjp;
}

absl::StatusOr<GradientFunction> FindOrBuild(const tf::FunctionLibraryDefinition& library,
                                             const GradientRequest& request) {
  TF_ASSIGN_OR_RETURN(const tf::NameAttrList f, WithCheckpoint(request.f, request.checkpoint));
  std::string asked = absl::StrCat(NumRules(), request.values ? "|values" : "", request.sparse ? "|sparse|" : "|");
  for (const bool wanted : request.wrt) asked += wanted ? '1' : '0';
  const std::string key = Fingerprint(Differentiator(library), f, asked);
  if (std::optional<GradientFunction> cached = GradientCache::Global().Find(key)) return *std::move(cached);

  TF_ASSIGN_OR_RETURN(GradientFunction gradient,
                      Made(library, [&](Differentiator* differentiator) { return Build(differentiator, f, request); }));
  GradientCache::Global().Insert(key, gradient);
  return gradient;
}

}  // namespace

absl::StatusOr<GradientFunction> BuildGradient(const tf::FunctionLibraryDefinition& library,
                                               const GradientRequest& request) {
  const NoFork no_fork;
  TF_RETURN_IF_ERROR(CheckRegistry());
  absl::StatusOr<GradientFunction> gradient;
  TF_RETURN_IF_ERROR(WithoutExceptions([&] {
    gradient = FindOrBuild(library, request);
    return gradient.status();
  }));
  return gradient;
}

absl::StatusOr<VjpFunctions> BuildVjp(const tf::FunctionLibraryDefinition& library, const tf::NameAttrList& f,
                                      const std::vector<bool>& wrt, const std::string& checkpoint) {
  const NoFork no_fork;
  TF_RETURN_IF_ERROR(CheckRegistry());
  TF_ASSIGN_OR_RETURN(const tf::NameAttrList told, WithCheckpoint(f, checkpoint));
  return Made(library, [&](Differentiator* differentiator) { return Build(differentiator, told, wrt); });
}

absl::StatusOr<std::vector<InputGradient>> InputGradients(const tf::FunctionLibraryDefinition& library,
                                                          const tf::NameAttrList& f, const std::vector<bool>& wrt) {
  const NoFork no_fork;
  TF_RETURN_IF_ERROR(CheckRegistry());
  return Made(library, [&](Differentiator* differentiator) { return differentiator->Inputs(f, wrt); });
}

}  // namespace symgrad
