// Errors in place of exceptions, for callers that know none: TensorFlow, C.
#pragma once

#include <exception>
#include <new>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace symgrad {

// What `f` returns. What it throws becomes an error: ResourceExhausted where memory was short, else Internal.
inline absl::Status WithoutExceptions(absl::FunctionRef<absl::Status()> f) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory: differentiate a smaller function, or in a larger process");
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat("an exception: ", e.what()));
  } catch (...) {
    return absl::InternalError("an exception of unknown type");
  }
}

}  // namespace symgrad
