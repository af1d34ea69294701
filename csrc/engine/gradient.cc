#include "csrc/engine/gradient.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "csrc/engine/cache.h"
#include "csrc/engine/function/fingerprint.h"
#include "csrc/engine/vjp/differentiator.h"
#include "csrc/engine/vjp/registry.h"

namespace symgrad {

absl::StatusOr<GradientFunction> BuildGradient(const tf::FunctionLibraryDefinition& library,
                                               const GradientRequest& request) {
  TF_RETURN_IF_ERROR(CheckRegistry());
  Differentiator differentiator(library);
  std::string asked = absl::StrCat(NumRules(), "|");
  for (const bool wanted : request.wrt) asked += wanted ? '1' : '0';
  const std::string key = Fingerprint(differentiator, request.f, asked);
  if (std::optional<GradientFunction> cached = GradientCache::Global().Find(key)) return *std::move(cached);

  GradientFunction gradient;
  TF_ASSIGN_OR_RETURN(gradient.name, differentiator.Gradient(request.f, request.wrt));
  gradient.stateful = differentiator.Find(gradient.name)->fdef().signature().is_stateful();
  gradient.functions = std::make_shared<tf::FunctionDefLibrary>(differentiator.Generated(gradient.name));
  GradientCache::Global().Insert(key, gradient);
  return gradient;
}

}  // namespace symgrad
