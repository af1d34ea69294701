// A stack that holds functions nested as deeply as the engine allows, wherever it is called from.
#pragma once

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace symgrad {

// Runs `f` to its end on a thread with a stack of 64 MB, of which what is touched is all that counts: servers give
// their threads as little as 512 kB. Runs it on the caller's stack where no such thread can be had. What `f` throws,
// which would end the process there, becomes an error (exceptions.h).
absl::Status OnLargeStack(absl::FunctionRef<absl::Status()> f);

}  // namespace symgrad
