// Minimum cuts of networks.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace symgrad {

// A directed network with a source and a sink (Dinic's algorithm, without recursion).
class Network {
 public:
  static constexpr int64_t kInfinite = std::numeric_limits<int64_t>::max() / 4;
  static constexpr int kSource = 0, kSink = 1;

  explicit Network(int num_vertices) : first_(num_vertices, -1) {}
  void AddEdge(int from, int to, int64_t capacity);

  // By vertex, whether it is on the source's side of a minimum cut, the one that is nearest to the source. Empty if
  // finding it takes more than `max_steps` looks at an edge, or if no cut is finite.
  std::vector<bool> SourceSide(int64_t max_steps);

 private:
  struct Edge {
    int to, next;
    int64_t capacity;
  };
  bool Level();
  // Whether there was a path that could be filled.
  bool Augment();

  std::vector<Edge> edges_;  // edge 2k + 1 is the reverse of edge 2k
  std::vector<int> first_, current_, level_;
  int64_t steps_ = 0, flow_ = 0;
};

}  // namespace symgrad
