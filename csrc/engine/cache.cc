#include "csrc/engine/cache.h"

namespace symgrad {

GradientCache& GradientCache::Global() {
  static auto* const cache = new GradientCache;
  return *cache;
}

std::optional<GradientFunction> GradientCache::Find(const std::string& key) {
  absl::MutexLock lock(&mutex_);
  const auto it = by_key_.find(key);
  if (it == by_key_.end()) return std::nullopt;
  entries_.splice(entries_.begin(), entries_, it->second);
  return it->second->gradient;
}

void GradientCache::Insert(const std::string& key, GradientFunction gradient) {
  int nodes = 0;
  for (const auto& f : gradient.functions->function()) nodes += f.node_def_size();
  absl::MutexLock lock(&mutex_);
  if (by_key_.contains(key)) return;  // another thread was faster
  entries_.push_front({key, std::move(gradient), nodes});
  by_key_[key] = entries_.begin();
  nodes_ += nodes;
  while (nodes_ > kMaxNodes && entries_.size() > 1) {
    nodes_ -= entries_.back().nodes;
    by_key_.erase(entries_.back().key);
    entries_.pop_back();
  }
}

}  // namespace symgrad
