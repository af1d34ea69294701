// Topological order.
#pragma once

#include <numeric>
#include <vector>

#include "absl/container/inlined_vector.h"

namespace symgrad {

// Orders items 0 … n - 1 so that each comes after `before[i]`: as they are numbered, where that is such an order. What
// lies in or behind a cycle is left out.
inline std::vector<int> TopologicalOrder(const std::vector<absl::InlinedVector<int, 4>>& before) {
  const int n = static_cast<int>(before.size());
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  bool ordered = true;
  for (int i = 0; i < n; ++i)
    for (const int b : before[i]) ordered = ordered && b < i;
  if (ordered) return order;

  order.clear();
  std::vector<absl::InlinedVector<int, 2>> after(n);
  std::vector<int> pending(n);
  for (int i = 0; i < n; ++i) {
    pending[i] = static_cast<int>(before[i].size());
    if (pending[i] == 0) order.push_back(i);
    for (const int b : before[i]) after[b].push_back(i);
  }
  for (size_t next = 0; next < order.size(); ++next)
    for (const int a : after[order[next]])
      if (--pending[a] == 0) order.push_back(a);
  return order;
}

}  // namespace symgrad
