// Gradients that were built before.
#pragma once

#include <list>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "csrc/engine/gradient_function.h"

namespace symgrad {

// The gradients that were used last, up to a bound on their size.
class GradientCache {
 public:
  static GradientCache& Global();
  std::optional<GradientFunction> Find(const std::string& key);
  void Insert(const std::string& key, GradientFunction gradient);

 private:
  static constexpr int kMaxNodes = 1 << 20;
  struct Entry {
    std::string key;
    GradientFunction gradient;
    int nodes;
  };
  absl::Mutex mutex_;
  std::list<Entry> entries_;  // latest first
  absl::flat_hash_map<std::string, std::list<Entry>::iterator> by_key_;
  int nodes_ = 0;
};

}  // namespace symgrad
