#include "csrc/engine/function/fingerprint.h"

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

}  // namespace symgrad
