// What is left to the XLA kernel (csrc/xla), which is a library of its own.
#pragma once

#include <atomic>

namespace symgrad {

// Whether that library is there, and makes the kernels of functions that XLA is to compile.
std::atomic<bool>& XlaLaunches();

}  // namespace symgrad
