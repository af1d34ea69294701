// What the parts of the C API that work on a TF_Graph share.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "tensorflow/c/c_api.h"
#include "tensorflow/cc/framework/ops.h"
#include "tensorflow/core/graph/graph.h"

namespace symgrad {

// The C API has nodes under another name.
inline TF_Operation* ToOperation(tensorflow::Node* node) { return reinterpret_cast<TF_Operation*>(node); }
inline TF_Output ToC(const tensorflow::Output& tensor) { return {ToOperation(tensor.node()), tensor.index()}; }

// Adds the gradients of y by x; see TFSG_AddGradients. `dx` and `shared_y` may be null.
absl::Status AddGradients(TF_Graph* graph, const char* prefix, const TF_Output* y, int ny, const TF_Output* x, int nx,
                          const TF_Output* dx, TF_Output* dy, TF_Output* shared_y);

}  // namespace symgrad
