#include "csrc/engine/cache.h"

#include "csrc/engine/body/limits.h"
#include "csrc/engine/no_fork.h"
#include "google/protobuf/arena.h"

namespace symgrad {
namespace {

// What functions take in memory: their arenas, of which a small function fills a third, and what is not in these, names
// and the content of tensors, which is most of what they hold.
int64_t Bytes(const tensorflow::FunctionDefLibrary& functions) {
  auto bytes = static_cast<int64_t>(functions.ByteSizeLong());
  for (const tensorflow::FunctionDef& fdef : functions.function())
    if (fdef.GetArena() != nullptr) bytes += static_cast<int64_t>(fdef.GetArena()->SpaceAllocated());
  return bytes;
}

}  // namespace

GradientCache::GradientCache() { info_.max_bytes = Limit("TF_SYMGRAD_CACHE_BYTES", int64_t{128} << 20); }

GradientCache& GradientCache::Global() {
  static auto* const cache = new GradientCache;
  return *cache;
}

std::optional<GradientFunction> GradientCache::Find(const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto it = by_key_.find(key);
  ++(it == by_key_.end() ? info_.misses : info_.hits);
  if (it == by_key_.end()) return std::nullopt;
  entries_.splice(entries_.begin(), entries_, it->second);
  return it->second->gradient;
}

void GradientCache::Insert(const std::string& key, GradientFunction gradient) {
  const auto bytes = Bytes(*gradient.functions);
  const std::lock_guard lock(mutex_);
  if (by_key_.contains(key)) return;  // another thread was faster
  entries_.push_front({key, std::move(gradient), bytes});
  by_key_[key] = entries_.begin();
  info_.bytes += bytes;
  for (; info_.bytes > info_.max_bytes && entries_.size() > 1; ++info_.evictions) {
    info_.bytes -= entries_.back().bytes;
    by_key_.erase(entries_.back().key);
    entries_.pop_back();
  }
}

GradientCache::Info GradientCache::info() {
  const NoFork no_fork;
  const std::lock_guard lock(mutex_);
  Info info = info_;
  info.entries = static_cast<int64_t>(entries_.size());
  return info;
}

}  // namespace symgrad
