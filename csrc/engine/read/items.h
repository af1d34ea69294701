// The arguments and nodes of a FunctionDef by name, and what the references of nodes to each other stand for.
#pragma once

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"
#include "csrc/engine/body/body.h"

namespace symgrad {

// An argument, of one tensor or a list of them, or a node.
struct Item {
  const tf::NodeDef* def = nullptr;  // null: an argument
  const tf::OpRegistrationData* op = nullptr;
  tf::DataTypeVector in, out;
  absl::InlinedVector<Port, 4> inputs;  // by item
  std::vector<int> controls;            // items
  std::vector<Port> custom_inputs;
  int id = -1;  // in the body
};

// A run of flat outputs: of argument or node `item`, outputs [first, first + count).
struct Source {
  int item = -1;
  int first = 0;
  int count = 0;
};

// Which constants are the same under different names: what Python has traced holds each axis and each size many times.
class Constants {
 public:
  // The node that is this constant already; else `node`, which it is to be.
  int Share(const Item& item, int node);

 private:
  absl::flat_hash_map<std::string, int> nodes_;
};

// Numbered in the order in which the function has them, arguments first.
class Items {
 public:
  void Reserve(int more);
  // Takes an item in any case; whether its name, which must outlive this, is new.
  bool Add(absl::string_view name, Item item);
  // The number of an item; -1 if there is none of that name.
  int Find(absl::string_view name) const;
  // Finds what "node:output:index", "node:output", "argument" or "argument:index" names. If it fails, `error` says why,
  // unless it is empty: then the item that is named is at fault, which has been reported.
  bool Resolve(absl::string_view reference, Source* source, std::string* error) const;
  // In the body, where each tensor of an argument is a node; all outputs of a node are of one.
  Port BodyPort(Port p) const;

  Item& operator[](int i) { return items_[i]; }
  const Item& operator[](int i) const { return items_[i]; }
  size_t size() const { return items_.size(); }
  std::vector<Item>::iterator begin() { return items_.begin(); }
  std::vector<Item>::iterator end() { return items_.end(); }

 private:
  std::vector<Item> items_;
  absl::flat_hash_map<absl::string_view, int> by_name_;
};

// A variable's dtype is told by whoever reads it, where the caller has not told it.
void InferHandleDtypes(const Items& items, Body* body);

}  // namespace symgrad
