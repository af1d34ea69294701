// Merges of a predicate, counted.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

namespace symgrad {

// How many merges of a predicate lie behind a node, one behind the other; by predicate, in order. Shared by all nodes
// of which it is true: it grows with the function.
using Rounds = std::vector<std::pair<int, int>>;
using RoundsPtr = std::shared_ptr<const Rounds>;

inline int RoundOf(const RoundsPtr& rounds, int predicate) {
  if (rounds == nullptr) return 0;
  const auto it = std::lower_bound(rounds->begin(), rounds->end(), std::pair(predicate, 0));
  return it == rounds->end() || it->first != predicate ? 0 : it->second;
}

// The later of both, predicate by predicate.
inline RoundsPtr Latest(const RoundsPtr& a, const RoundsPtr& b) {
  if (a == b || b == nullptr) return a;
  if (a == nullptr) return b;
  auto both = std::make_shared<Rounds>();
  for (auto i = a->begin(), j = b->begin(); i != a->end() || j != b->end();) {
    if (j == b->end() || (i != a->end() && i->first < j->first)) both->push_back(*i++);
    else if (i == a->end() || j->first < i->first) both->push_back(*j++);
    else both->push_back(std::max(*i++, *j++));
  }
  return *both == *a ? a : *both == *b ? b : both;
}

}  // namespace symgrad
