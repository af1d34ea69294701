// A node on its way from what a rule has written, op("Type", inputs, attrs), to a NodeDef.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "csrc/engine/emit/builder.h"
#include "csrc/rules/words.h"

namespace symgrad {

// Fills in `def`: all attrs of the op, most of which follow from the inputs.
class Emission {
 public:
  Emission(Builder* builder, const tf::OpDef& op, const Node* like, tf::NodeDef* def);

  // An error says what is wrong with what the rule has written.
  absl::Status Read(absl::Span<const Arg> args);
  // After Read: the inputs, literals as constants. Nothing where the builder has failed.
  std::optional<std::vector<Port>> Inputs();
  // After Inputs: what tells the node from others.
  std::string TakeKey() { return std::move(key_); }

 private:
  absl::Status ReadArgs(absl::Span<const Arg> args);
  absl::Status InferAttrs();
  absl::Status ReadAttrs();
  absl::Status ReadAttr(const tf::OpDef::AttrDef& attr, tf::AttrValue* value);
  tf::DataType DtypeOfLiterals(const std::string& attr) const;

  Builder* const builder_;
  const tf::OpDef& op_;
  const Node* const like_;
  google::protobuf::Map<std::string, tf::AttrValue>& values_;
  std::string key_;
  std::vector<Values> inputs_;  // by input_arg of the op
  absl::InlinedVector<const Attr*, 4> attrs_;
};

}  // namespace symgrad
