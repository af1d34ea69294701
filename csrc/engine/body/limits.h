// Bounds that whoever runs the process may move.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "tensorflow/core/platform/logging.h"

namespace symgrad {

// What the environment variable says, a positive number, or else `otherwise`. Not for each node: it searches the
// environment.
inline int64_t Limit(const char* variable, int64_t otherwise) {
  const char* value = std::getenv(variable);
  if (value == nullptr) return otherwise;
  int64_t limit = 0;
  if (absl::SimpleAtoi(value, &limit) && limit > 0) return limit;
  LOG(WARNING) << variable << "='" << value << "' is no positive integer: " << otherwise << " is taken";
  return otherwise;
}

}  // namespace symgrad
