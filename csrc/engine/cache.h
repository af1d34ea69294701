// Gradients that were built before.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "csrc/engine/gradient_function.h"

namespace symgrad {

// The gradients that were used last, up to a bound on their bytes: constants may be large. The last one stays, whatever
// its size, for who asks next is the graph pass, with the same question.
class GradientCache {
 public:
  // Since the process began; entries and bytes: now.
  struct Info {
    int64_t hits = 0, misses = 0, evictions = 0, entries = 0, bytes = 0, max_bytes = 0;
  };

  // Of the process.
  static GradientCache& Global();
  std::optional<GradientFunction> Find(const std::string& key);
  void Insert(const std::string& key, GradientFunction gradient);
  Info info();

 private:
  GradientCache();  // of TF_SYMGRAD_CACHE_BYTES at most, or 128 MB
  struct Entry {
    std::string key;
    GradientFunction gradient;
    int64_t bytes;
  };
  std::mutex mutex_;
  std::list<Entry> entries_;  // latest first
  absl::flat_hash_map<std::string, std::list<Entry>::iterator> by_key_;
  Info info_;  // entries: counted when asked
};

}  // namespace symgrad
