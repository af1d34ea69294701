// A function as text, nodes by name: what is needed to cut parts out of it and to put other nodes in their place,
// before it is known to be one that import can read (control flow of TensorFlow 1 has cycles).
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "csrc/engine/body/node_check.h"
#include "csrc/engine/library/functions.h"
#include "tensorflow/core/framework/function.pb.h"

namespace symgrad {

// The node of an input: of "node:output:index", "^node"; an argument's own name.
std::string NodeOf(absl::string_view reference);
inline bool IsControl(absl::string_view input) { return !input.empty() && input[0] == '^'; }

// A tensor that a function cut out takes.
struct Taken {
  std::string name;       // of the argument
  std::string reference;  // what the caller gives
  tf::DataType dtype;
};

// A part of a function: from what it results in back to where `step` says that it begins.
struct Excerpt {
  // What becomes of a tensor, or of a control input, that is met on the way.
  struct Step {
    enum { kInside, kTake, kDrop } kind = kInside;
    std::string reference;  // kTake: what is taken for it
  };
  std::vector<std::string> results;
  std::vector<std::string> effects;  // nodes ("^node") that belong to it whether results need them or not
  std::function<Step(const std::string& reference, const tf::NodeDef& node)> step;

  // Found by FunctionText::Walk.
  absl::flat_hash_set<int> nodes;
  std::set<std::string> after;  // nodes outside ("^node") that something inside is ordered after
  absl::flat_hash_map<std::string, std::string> arguments;  // reference -> name of the argument
  bool stateful = false;
};

// The function, and the changes to it that the next Substitute makes.
class FunctionText {
 public:
  // `attrs` instantiates the function, so that what is cut out of it is not polymorphic.
  FunctionText(Functions* functions, const tf::FunctionDef& fdef, const AttrMap& attrs);

  const tf::FunctionDef& fdef() const { return fdef_; }
  // The node that a reference names; null for an argument, and for what import will complain of.
  const tf::NodeDef* Find(absl::string_view reference) const;
  const tf::NodeDef* Find(absl::string_view reference, const char* op) const;
  int Number(const tf::NodeDef& node) const { return by_name_.at(node.name()); }
  // Input i of a node; empty if there is none.
  static const std::string& Input(const tf::NodeDef& node, int i);
  tf::DataType Dtype(const std::string& reference) const;  // DT_INVALID if that can't be told
  // The numbers of the nodes in topological order, without those in or behind a cycle.
  std::vector<int> Sort() const;
  // A beginning of names that no node or argument has.
  const std::string& prefix() const { return prefix_; }

  // Finds what an excerpt consists of; what it takes is added to `taken`.
  void Walk(Excerpt* excerpt, std::vector<Taken>* taken) const;
  // Adds an excerpt to the library as a function of `taken`, which also returns those of `taken` from `extra` on; its
  // name.
  absl::StatusOr<std::string> Write(const char* stem, const Excerpt& excerpt, const std::vector<Taken>& taken,
                                    size_t extra);

  // At the next Substitute: a new node, and what consumers of `reference` take instead.
  void Add(tf::NodeDef node) { added_.push_back(std::move(node)); }
  void Replace(const std::string& reference, const std::string& by) { replaced_[reference] = by; }
  // That a node is now part of a new one.
  void Move(int node) { moved_.insert(fdef_.node_def(node).name()); }
  // Makes the changes, and drops what neither results nor effects need. Pointers to nodes end here.
  void Substitute();

  bool IsStateful(const tf::NodeDef& node) const;

 private:
  void Instantiate();
  void Index();
  void Prune();

  Functions* const functions_;
  const AttrMap& attrs_;
  tf::FunctionDef fdef_;
  absl::flat_hash_map<std::string, int> by_name_;
  absl::flat_hash_map<std::string, tf::DataType> args_;
  std::string prefix_ = "v2_";
  std::vector<tf::NodeDef> added_;
  absl::flat_hash_map<std::string, std::string> replaced_;
  absl::flat_hash_set<std::string> moved_;
};

}  // namespace symgrad
