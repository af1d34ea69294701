#include "csrc/engine/remat/min_cut.h"

#include <algorithm>

namespace symgrad {

void Network::AddEdge(int from, int to, int64_t capacity) {
  edges_.push_back({to, first_[from], capacity});
  first_[from] = static_cast<int>(edges_.size()) - 1;
  edges_.push_back({from, first_[to], 0});
  first_[to] = static_cast<int>(edges_.size()) - 1;
}

std::vector<bool> Network::SourceSide(int64_t max_steps) {
  steps_ = max_steps;
  flow_ = 0;
  while (Level()) {
    current_ = first_;
    while (Augment()) {
    }
    if (steps_ < 0 || flow_ >= kInfinite) return {};
  }
  if (steps_ < 0) return {};
  std::vector<bool> side(first_.size());
  for (size_t v = 0; v < side.size(); ++v) side[v] = level_[v] >= 0;
  return side;
}

// Distances from the source; whether the sink is reached.
bool Network::Level() {
  level_.assign(first_.size(), -1);
  level_[kSource] = 0;
  std::vector<int> queue = {kSource};
  for (size_t k = 0; k < queue.size(); ++k)
    for (int e = first_[queue[k]]; e >= 0; e = edges_[e].next, --steps_)
      if (edges_[e].capacity > 0 && level_[edges_[e].to] < 0) {
        level_[edges_[e].to] = level_[queue[k]] + 1;
        queue.push_back(edges_[e].to);
      }
  return level_[kSink] >= 0;
}

bool Network::Augment() {
  std::vector<int> path;  // edges
  int at = kSource;
  while (at != kSink) {
    int& e = current_[at];
    while (e >= 0 && !(edges_[e].capacity > 0 && level_[edges_[e].to] == level_[at] + 1)) {
      e = edges_[e].next;
      --steps_;
    }
    if (steps_ < 0) return false;
    if (e >= 0) {
      path.push_back(e);
      at = edges_[e].to;
      continue;
    }
    if (path.empty()) return false;
    level_[at] = -1;  // a dead end
    at = edges_[path.back() ^ 1].to;
    path.pop_back();
  }
  int64_t flow = kInfinite;
  for (const int e : path) flow = std::min(flow, edges_[e].capacity);
  for (const int e : path) {
    edges_[e].capacity -= flow;
    edges_[e ^ 1].capacity += flow;
  }
  steps_ -= static_cast<int64_t>(path.size());
  flow_ = std::min(flow_ + flow, kInfinite);
  return true;
}

}  // namespace symgrad
