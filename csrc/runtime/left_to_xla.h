// What XLA compiles, and what is left to its kernel (csrc/xla), which is a library of its own.
#pragma once

#include <atomic>
#include <set>
#include <string>

#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/graph/graph.h"

namespace symgrad {

// Whether that library is there, and makes the kernels of functions that XLA is to compile.
std::atomic<bool>& XlaLaunches();

// Functions that the graph, or a function of the library, has compiled, and all that these call.
std::set<std::string> CompiledFunctions(const tensorflow::Graph& graph,
                                        const tensorflow::FunctionLibraryDefinition& library);

}  // namespace symgrad
