// A stack that holds functions nested as deeply as the engine allows, wherever it is called from.
#pragma once

#include "absl/functional/function_ref.h"

namespace symgrad {

// Runs `f` to its end on a thread with a stack of 64 MB, of which what is touched is all that counts: servers give
// their threads as little as 512 kB. Runs it on the caller's stack where no such thread can be had. Exceptions of `f`
// end the process, as those of any thread do.
void OnLargeStack(absl::FunctionRef<void()> f);

}  // namespace symgrad
