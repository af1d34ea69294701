#include "csrc/engine/remat/policy.h"

#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace symgrad {
namespace {

absl::Status Unknown(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "checkpoint must be \"\" (keep all), \"cheap\", \"auto\", \"everything\", a number of bytes (\"200MB\"), or op ",
      "types and name scopes (\"keep:MatMul,block_1\", \"recompute:Relu,block_1/attention\"), not \"", text, "\""));
}

// "1500000", "200MB", "1.5GiB": bytes; negative if it is no number.
double Bytes(absl::string_view text) {
  constexpr std::pair<const char*, double> kUnits[] = {
      {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1.0}};
  double scale = 1, number = -1;
  for (const auto& [unit, bytes] : kUnits)
    if (scale == 1 && absl::EndsWithIgnoreCase(text, unit)) {
      scale = bytes;
      text.remove_suffix(absl::string_view(unit).size());
      break;
    }
  text = absl::StripAsciiWhitespace(text);
  if (text.empty() || !absl::SimpleAtod(text, &number)) return -1;
  return number * scale;
}

}  // namespace

absl::StatusOr<Policy> ParsePolicy(absl::string_view text) {
  Policy policy;
  if (text.empty()) return policy;
  constexpr std::pair<const char*, Policy::Kind> kWords[] = {
      {"cheap", Policy::kCheap}, {"auto", Policy::kAuto}, {"everything", Policy::kEverything}};
  for (const auto& [word, kind] : kWords)
    if (text == word) {
      policy.kind = kind;
      return policy;
    }
  constexpr std::pair<const char*, Policy::Kind> kLists[] = {{"keep:", Policy::kKeep},
                                                             {"recompute:", Policy::kRecompute}};
  for (const auto& [word, kind] : kLists) {
    absl::string_view names = text;
    if (!absl::ConsumePrefix(&names, word)) continue;
    policy.kind = kind;
    for (const absl::string_view name : absl::StrSplit(names, ','))
      policy.names.emplace_back(absl::StripSuffix(absl::StripAsciiWhitespace(name), "/"));
    for (const std::string& name : policy.names)
      if (name.empty()) return Unknown(text);
    return policy;
  }
  const double bytes = Bytes(text);
  if (!(bytes >= 0) || bytes >= static_cast<double>(std::numeric_limits<int64_t>::max())) return Unknown(text);
  policy.kind = Policy::kBudget;
  policy.budget = static_cast<int64_t>(bytes);
  return policy;
}

}  // namespace symgrad
