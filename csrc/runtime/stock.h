// TensorFlow's own op, SymbolicGradient: taken over, and taught.
#pragma once

#include "absl/strings/string_view.h"

namespace symgrad {

// Whether nodes of the stock op are run by this engine, as the op's own are. Off, unless the environment says
// TF_SYMGRAD_REPLACE_STOCK=1 when the library is loaded. What has been prepared to run stays as it is.
void ReplaceStock(bool on);
bool ReplacesStock();

// Teaches the stock op the ops that it has no gradient for, now and as rules are registered. REQUIRES:
// libtensorflow_cc, which brings its own gradients, has been loaded: it ends the process where it finds that there is
// one already.
void TeachStock();

// Whether a node of this op is one of a gradient op that this engine runs.
bool IsGradientOp(absl::string_view op);

// Lets the stock op's kernel do as ReplacesStock() says (kernel.cc).
void RegisterStockKernel();

}  // namespace symgrad
