// What tells functions apart.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "csrc/engine/library/functions.h"

namespace symgrad {

// 128 bits of what a text, or a function, is: 32 hexadecimal digits. The same in every process.
std::string ContentHash(absl::string_view text);
std::string ContentHash(const tf::FunctionDef& fdef);
// Whether two functions are the same to the letter. TensorFlow's FunctionDefsEqual makes tensors of constants to
// compare them, and so takes as much memory as a constant of resources claims to need: 400 bytes an element.
bool SameContent(const tf::FunctionDef& a, const tf::FunctionDef& b);

// Bytes that are equal for equal names and attrs: protos have their attrs in any order.
std::string ContentText(const tf::NameAttrList& f);

// A hash of all that decides what the derivatives of f are: f, all functions that it reaches, and what is asked
// (`request`). The same in every process.
std::string Fingerprint(const Functions& functions, const tf::NameAttrList& f, absl::string_view request);

}  // namespace symgrad
