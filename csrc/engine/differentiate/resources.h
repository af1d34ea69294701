// Resources that are no variables: lookup tables, iterators, queues, arrays. They have no gradient.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/node_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "csrc/engine/library/functions.h"

namespace symgrad {

// What functions do with their resources. Each function is gone through once, whatever number of inputs it has.
class ResourceUses {
 public:
  explicit ResourceUses(const Functions& functions) : functions_(functions) {}

  // Where f, or a function that it hands input `input` to, uses that as what no variable is: "node 'n' of function 'f'
  // (op LookupTableFindV2)". Empty if it does so nowhere.
  std::string AsOther(const std::string& f, int input);

 private:
  // By argument, or node that passes on what it gets: who reads it, and as which input.
  using Readers = absl::flat_hash_map<absl::string_view, std::vector<std::pair<const tf::NodeDef*, int>>>;
  struct Function {
    const tf::FunctionDef* fdef = nullptr;  // an op
    Readers readers;
  };
  static Readers ReadersIn(const tf::FunctionDef& function);
  const Function& Look(const std::string& name);

  const Functions& functions_;
  absl::node_hash_map<std::string, Function> seen_;
};

// An error that names all such inputs of f, whose body this is, if some of them are wanted.
absl::Status CheckResources(const Functions& functions, const tf::NameAttrList& f, const Body& body,
                            const std::vector<bool>& wrt);

}  // namespace symgrad
