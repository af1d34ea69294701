#include "csrc/engine/cache.h"

#include <algorithm>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/platform/hash.h"
#include "xla/tsl/lib/strings/proto_serialization.h"

namespace symgrad {
namespace {

void CollectFunctions(const tf::AttrValue& value, std::vector<std::string>* names) {
  if (value.has_func()) names->push_back(value.func().name());
  for (const tf::NameAttrList& f : value.list().func()) names->push_back(f.name());
}

}  // namespace

std::string Fingerprint(const Functions& functions, const tf::NameAttrList& f, absl::string_view request) {
  std::string bytes, part;
  const auto add = [&](const auto& proto) {
    part.clear();
    tsl::SerializeToStringDeterministic(proto, &part);
    absl::StrAppend(&bytes, part.size(), ":", part);
  };
  add(f);
  absl::StrAppend(&bytes, request.size(), ":", request);

  // Functions in the order in which they are met, so that the order of the library plays no part.
  std::vector<std::string> pending = {f.name()};
  absl::flat_hash_set<std::string> seen(pending.begin(), pending.end());
  absl::flat_hash_set<std::string> plain_ops;
  while (!pending.empty()) {
    const auto record = functions.Find(pending.back());
    pending.pop_back();
    if (record == nullptr) continue;
    add(record->fdef());
    std::vector<std::string> met;
    for (const tf::NodeDef& node : record->fdef().node_def()) {
      if (plain_ops.insert(node.op()).second) met.push_back(node.op());
      for (const auto& [name, value] : node.attr()) CollectFunctions(value, &met);
    }
    std::sort(met.begin(), met.end());
    for (std::string& name : met)
      if (seen.insert(name).second) pending.push_back(std::move(name));
  }
  // Two hashes of 64 bits, since the wheel lacks the header of TensorFlow's 128-bit one.
  const uint64_t high = tf::Hash64(bytes.data(), bytes.size(), 0x73796d6772616401), low = tf::Hash64(bytes);
  return absl::StrCat(absl::Hex(high, absl::kZeroPad16), absl::Hex(low, absl::kZeroPad16));
}

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
