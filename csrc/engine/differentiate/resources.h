// Resources that are no variables: lookup tables, iterators, queues, arrays. They have no gradient.
#pragma once

#include <string>

#include "csrc/engine/library/functions.h"

namespace symgrad {

// Where f, or a function that it hands input `input` to, uses that as what no variable is: "node 'n' of function 'f'
// (op LookupTableFindV2)". Empty if it does so nowhere.
std::string UseAsOtherResource(const Functions& functions, const std::string& f, int input);

}  // namespace symgrad
