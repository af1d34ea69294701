#include "csrc/engine/library/effects.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace symgrad {
namespace {

namespace tf = ::tensorflow;

const absl::flat_hash_map<absl::string_view, Effects>& KnownOps() {
  static const auto* const ops = new absl::flat_hash_map<absl::string_view, Effects>{
      {"Assert", kChecks},
      {"CheckNumerics", kChecks},
      {"CheckNumericsV2", kChecks},
      {"EnsureShape", kChecks},
      // What only looks at a variable or a table.
      {"LookupTableExportV2", kReads},
      {"LookupTableFindV2", kReads},
      {"LookupTableSizeV2", kReads},
      {"ReadVariableOp", kReads},
      {"ResourceGather", kReads},
      {"ResourceGatherNd", kReads},
      {"VarIsInitializedOp", kReads},
      {"VariableShape", kNoEffects},  // shapes stay
      // What the world sees.
      {"AudioSummary", kShows},
      {"AudioSummaryV2", kShows},
      {"HistogramSummary", kShows},
      {"ImageSummary", kShows},
      {"Print", kShows},
      {"PrintV2", kShows},
      {"ScalarSummary", kShows},
      {"TensorSummary", kShows},
      {"TensorSummaryV2", kShows},
  };
  return *ops;
}

// Arrays are ordered by their flows; collectives are functions of their inputs, which several processes compute.
bool IsOrderedByData(absl::string_view op) {
  return absl::StartsWith(op, "TensorArray") || absl::StartsWith(op, "Collective") || absl::StartsWith(op, "Nccl");
}

bool TakesResource(const tf::OpDef& op) {
  return std::any_of(op.input_arg().begin(), op.input_arg().end(),
                     [](const tf::OpDef::ArgDef& arg) { return arg.type() == tf::DT_RESOURCE || arg.is_ref(); });
}
bool IsRandom(const tf::OpDef& op) {
  return std::any_of(op.attr().begin(), op.attr().end(),
                     [](const tf::OpDef::AttrDef& attr) { return attr.name() == "seed" || attr.name() == "seed2"; });
}
// VarHandleOp and its like.
bool MakesHandle(const tf::OpDef& op) {
  return op.input_arg_size() == 0 && op.output_arg_size() == 1 &&
         (op.output_arg(0).type() == tf::DT_RESOURCE || op.output_arg(0).is_ref());
}

}  // namespace

Effects EffectsOfOp(const tf::OpDef& op) {
  const auto known = KnownOps().find(op.name());
  if (known != KnownOps().end()) return known->second;
  if (!op.is_stateful() || IsOrderedByData(op.name()) || MakesHandle(op)) return kNoEffects;
  return IsRandom(op) && !TakesResource(op) ? kNoEffects : kStateful;
}

std::vector<std::string> CalledFunctions(const tf::NodeDef& node, bool is_function_op) {
  std::vector<std::string> functions;
  if (is_function_op) functions.push_back(node.op());
  for (const auto& [name, value] : node.attr()) {
    if (value.has_func()) functions.push_back(value.func().name());
    for (const tf::NameAttrList& f : value.list().func()) functions.push_back(f.name());
  }
  return functions;
}

}  // namespace symgrad
