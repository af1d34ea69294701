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
  Differentiator differentiator(library);
  std::string asked = absl::StrCat(NumRules(), request.values ? "|values" : "", request.sparse ? "|sparse|" : "|");
  for (const bool wanted : request.wrt) asked += wanted ? '1' : '0';
  const std::string key = Fingerprint(differentiator, f, asked);
  if (std::optional<GradientFunction> cached = GradientCache::Global().Find(key)) return *std::move(cached);

  absl::StatusOr<GradientFunction> gradient;
  TF_RETURN_IF_ERROR(OnLargeStack([&] {
    gradient = Build(&differentiator, f, request);
    return gradient.status();
  }));
  GradientCache::Global().Insert(key, *gradient);
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
  absl::StatusOr<VjpFunctions> vjp;
  TF_RETURN_IF_ERROR(OnLargeStack([&] {
    Differentiator differentiator(library);
    vjp = Build(&differentiator, told, wrt);
    return vjp.status();
  }));
  return vjp;
}

absl::StatusOr<std::vector<InputGradient>> InputGradients(const tf::FunctionLibraryDefinition& library,
                                                          const tf::NameAttrList& f) {
  const NoFork no_fork;
  TF_RETURN_IF_ERROR(CheckRegistry());
  absl::StatusOr<std::vector<InputGradient>> inputs;
  TF_RETURN_IF_ERROR(OnLargeStack([&] {
    inputs = Differentiator(library).Inputs(f);
    return inputs.status();
  }));
  return inputs;
}

}  // namespace symgrad
