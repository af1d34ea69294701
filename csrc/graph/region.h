// The part of a graph that a pullback is of.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "csrc/graph/forward_pass.h"

namespace symgrad {

struct ForwardPass::Region {
  std::vector<Port> y;
  std::vector<bool> in, passed;  // by node: it is part of the region; gradients pass it here
  std::vector<Port> args;
  absl::flat_hash_set<std::pair<int, int>> seen;  // arguments
  std::vector<std::pair<int, int>> severed;       // inputs of nodes that no gradient flows to: arguments of their own
};

// A constant with more elements is taken from the graph, and no longer copied; so is one of more than one real or
// complex number, which somebody may differentiate by later.
inline constexpr int64_t kMaxConstant = 1024;

inline bool IsSmallConst(const tf::NodeDef& node) {
  if (node.op() != "Const") return false;
  const auto value = node.attr().find("value");
  if (value == node.attr().end()) return false;
  const int64_t most = IsDifferentiable(value->second.tensor().dtype()) ? 1 : kMaxConstant;
  int64_t elements = 1;
  for (const auto& dim : value->second.tensor().tensor_shape().dim())
    elements = std::min(elements * std::clamp<int64_t>(dim.size(), 0, kMaxConstant + 1), kMaxConstant + 1);
  return elements <= most;
}

}  // namespace symgrad
