// What an iteration does to the length of a list.
#pragma once

#include <cstdint>
#include <optional>

#include "csrc/engine/body/body.h"
#include "csrc/engine/library/functions.h"

namespace symgrad {

// A list variable of a loop whose body pushes, pops and sets elements of it, and nothing else.
struct ListStep {
  int64_t by;            // what is added to its length
  tf::DataType element;  // DT_INVALID if nothing is done to it
};
std::optional<ListStep> StepOfList(Functions* functions, const Body& body, int variable);

}  // namespace symgrad
