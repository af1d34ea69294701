#include "csrc/engine/library/fingerprint.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/library/references.h"
#include "tensorflow/core/platform/hash.h"
#include "xla/tsl/lib/strings/proto_serialization.h"

namespace symgrad {

std::string ContentHash(absl::string_view text) {
  // Two hashes of 64 bits, since the wheel lacks the header of TensorFlow's 128-bit one.
  const uint64_t high = tf::Hash64(text.data(), text.size(), 0x73796d6772616401),
                 low = tf::Hash64(text.data(), text.size());
  return absl::StrCat(absl::Hex(high, absl::kZeroPad16), absl::Hex(low, absl::kZeroPad16));
}

std::string ContentHash(const google::protobuf::MessageLite& proto) {
  std::string bytes;
  tsl::SerializeToStringDeterministic(proto, &bytes);
  return ContentHash(bytes);
}

std::string Fingerprint(const Functions& functions, const tf::NameAttrList& f, absl::string_view request) {
  std::string text = absl::StrCat(ContentHash(f), request);
  // Functions in the order in which they are met, so that the order of the library plays no part.
  std::vector<std::string> pending = {f.name()};
  absl::flat_hash_set<std::string> seen(pending.begin(), pending.end());
  while (!pending.empty()) {
    const std::string name = std::move(pending.back());
    pending.pop_back();
    const tf::FunctionDef* fdef = functions.Find(name);
    if (fdef == nullptr) continue;  // an op
    absl::StrAppend(&text, ";", ContentHash(*fdef));
    std::vector<std::string> met;
    const auto meet = [&](const std::string& called) {
      if (seen.insert(called).second) met.push_back(called);
    };
    for (const tf::NodeDef& node : fdef->node_def()) VisitReferences(node, meet);
    if (const std::string gradient = functions.GradientDef(name); !gradient.empty()) {
      absl::StrAppend(&text, "'", gradient);
      meet(gradient);
    }
    std::sort(met.begin(), met.end());  // protos have their attrs in any order
    pending.insert(pending.end(), met.begin(), met.end());
  }
  return ContentHash(text);
}

}  // namespace symgrad
