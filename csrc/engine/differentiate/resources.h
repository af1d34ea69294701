// Resources that are no variables: lookup tables, iterators, queues, arrays. They have no gradient.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "csrc/engine/library/functions.h"

namespace symgrad {

// Where f, or a function that it hands input `input` to, uses that as what no variable is: "node 'n' of function 'f'
// (op LookupTableFindV2)". Empty if it does so nowhere.
std::string UseAsOtherResource(const Functions& functions, const std::string& f, int input);

// An error that names all such inputs of f, whose body this is, if some of them are wanted.
absl::Status CheckResources(const Functions& functions, const tf::NameAttrList& f, const Body& body,
                            const std::vector<bool>& wrt);

}  // namespace symgrad
