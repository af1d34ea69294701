// What tells functions apart.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "csrc/engine/function/functions.h"

namespace symgrad {

// A hash of all that decides what the derivatives of f are: f, all functions that it reaches, and what is asked
// (`request`). The same in every process.
std::string Fingerprint(const Functions& functions, const tf::NameAttrList& f, absl::string_view request);

}  // namespace symgrad
