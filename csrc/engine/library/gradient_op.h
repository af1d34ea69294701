// The gradient op, as a node of a function that is read.
#pragma once

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/node_def.pb.h"
#include "tensorflow/core/framework/types.h"

namespace symgrad {

namespace tf = ::tensorflow;

inline constexpr char kGradientOp[] = "TfSymgrad>SymbolicGradient";
// TensorFlow's own gradient op. A function that holds it means the gradient, and gets it from this engine.
inline constexpr char kStockGradientOp[] = "SymbolicGradient";
inline bool AsksForGradient(absl::string_view op) { return op == kGradientOp || op == kStockGradientOp; }

// What the names of generated functions begin with.
inline constexpr char kGenerated[] = "__symgrad_";
inline bool HasGeneratedName(absl::string_view function) { return absl::StartsWith(function, kGenerated); }

// f as a gradient op differentiates it (attrs Tin, Tout and wrt): Tout tells the dtypes of variables (kInputDtypes),
// which f does not where it does not read them.
tf::NameAttrList WithVariableDtypes(tf::NameAttrList f, const tf::DataTypeVector& tin, const tf::DataTypeVector& tout,
                                    const std::vector<bool>& wrt);

// What a node of the gradient op asks for.
struct Asked {
  tf::NameAttrList f;
  std::vector<bool> wrt;
  bool values = false;
};
Asked AskedBy(const tf::NodeDef& node, const tf::DataTypeVector& tin, const tf::DataTypeVector& tout);

}  // namespace symgrad
