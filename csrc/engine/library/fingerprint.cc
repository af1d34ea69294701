#include "csrc/engine/library/fingerprint.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/library/references.h"
#include "tensorflow/core/platform/hash.h"
#include "xla/tsl/lib/strings/proto_serialization.h"

namespace symgrad {
namespace {

// What is in a function, equal for equal functions: deterministic serialization takes three times as long. All parts
// say how long they are. Whoever asks gets it part by part, and the last one by Finish.
class Text {
 public:
  using Take = absl::FunctionRef<void(absl::string_view part)>;
  explicit Text(Take take) : take_(take) {}
  void Finish() {
    take_({bytes_, size_});
    size_ = 0;
  }

  void Add(const tf::NameAttrList& f) {
    Add(f.name());
    AddMap(f.attr());
  }
  void Add(const tf::FunctionDef& fdef) {
    AddMessage(fdef.signature());
    Add(static_cast<uint64_t>(fdef.node_def_size()));
    for (const tf::NodeDef& node : fdef.node_def()) Add(node);
    AddMap(fdef.ret());
    AddMap(fdef.control_ret());
    AddMap(fdef.attr());
    AddMap(fdef.arg_attr());
    AddMap(fdef.resource_arg_unique_id());
  }

 private:
  void Append(const void* bytes, size_t count) {
    if (size_ + count > sizeof(bytes_)) Finish();
    if (count > sizeof(bytes_)) return take_({static_cast<const char*>(bytes), count});
    std::memcpy(bytes_ + size_, bytes, count);
    size_ += count;
  }
  void Add(uint64_t number) { Append(&number, sizeof(number)); }
  void Add(absl::string_view text) {
    Add(text.size());
    Append(text.data(), text.size());
  }
  void Add(const std::string& text) { Add(absl::string_view(text)); }
  void AddMessage(const google::protobuf::MessageLite& message) {
    tsl::SerializeToStringDeterministic(message, &part_);
    Add(part_);
  }
  void Add(const tf::FunctionDef::ArgAttrs& attrs) { AddMap(attrs.attr()); }
  void Add(const tf::AttrValue::ListValue& list) {
    const auto add = [&](const auto& values) {
      Add(static_cast<uint64_t>(values.size()));
      for (const auto value : values) Add(static_cast<uint64_t>(value));
    };
    add(list.type());
    add(list.i());
    add(list.b());
    Add(static_cast<uint64_t>(list.s_size()));
    for (const std::string& s : list.s()) Add(s);
    const bool more = list.f_size() + list.shape_size() + list.tensor_size() + list.func_size() > 0;
    Add(static_cast<uint64_t>(more));
    if (more) AddMessage(list);
  }
  void Add(const tf::AttrValue& value) {
    Add(static_cast<uint64_t>(value.value_case()));
    switch (value.value_case()) {
      case tf::AttrValue::kType: return Add(static_cast<uint64_t>(value.type()));
      case tf::AttrValue::kB: return Add(static_cast<uint64_t>(value.b()));
      case tf::AttrValue::kI: return Add(static_cast<uint64_t>(value.i()));
      case tf::AttrValue::kS: return Add(value.s());
      case tf::AttrValue::kFunc: return Add(value.func());
      case tf::AttrValue::kList: return Add(value.list());
      default: return AddMessage(value);
    }
  }
  void Add(const tf::NodeDef& node) {
    Add(node.name());
    Add(node.op());
    Add(node.device());
    Add(static_cast<uint64_t>(node.input_size()));
    for (const std::string& input : node.input()) Add(input);
    AddMap(node.attr());
    if (node.has_experimental_debug_info()) AddMessage(node.experimental_debug_info());
    if (node.has_experimental_type()) AddMessage(node.experimental_type());
  }
  template <typename Map>
  void AddMap(const Map& map) {
    absl::InlinedVector<const typename Map::value_type*, 12> sorted;
    for (const auto& entry : map) sorted.push_back(&entry);
    std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) { return a->first < b->first; });
    Add(static_cast<uint64_t>(sorted.size()));
    for (const auto* entry : sorted) {
      Add(entry->first);
      Add(entry->second);
    }
  }

  const Take take_;
  std::string part_;
  size_t size_ = 0;
  char bytes_[4096];
};

template <typename Message>
void Visit(const Message& message, Text::Take take) {
  Text text(take);
  text.Add(message);
  text.Finish();
}

template <typename Message>
std::string TextOf(const Message& message) {
  std::string text;
  Visit(message, [&](absl::string_view part) { absl::StrAppend(&text, part); });
  return text;
}

// Two hashes of 64 bits, since the wheel lacks the header of TensorFlow's 128-bit one.
class Hash {
 public:
  void Add(absl::string_view part) {
    high_ = tf::Hash64(part.data(), part.size(), high_);
    low_ = tf::Hash64(part.data(), part.size(), low_);
  }
  std::string Digits() const {
    return absl::StrCat(absl::Hex(high_, absl::kZeroPad16), absl::Hex(low_, absl::kZeroPad16));
  }

 private:
  uint64_t high_ = 0x73796d6772616401, low_ = 0xDECAFCAFFE;
};

}  // namespace

std::string ContentHash(absl::string_view text) {
  Hash hash;
  hash.Add(text);
  return hash.Digits();
}

std::string ContentText(const tf::NameAttrList& f) { return TextOf(f); }

std::string ContentHash(const tf::FunctionDef& fdef) {
  Hash hash;
  Visit(fdef, [&](absl::string_view part) { hash.Add(part); });
  return hash.Digits();
}

bool SameContent(const tf::FunctionDef& a, const tf::FunctionDef& b) { return TextOf(a) == TextOf(b); }

std::string Fingerprint(const Functions& functions, const tf::NameAttrList& f, absl::string_view request) {
  std::string text = absl::StrCat(ContentText(f), request);
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
