// What rules may ask of where their function runs.
#pragma once

namespace symgrad {

// Whether XLA compiles what a rule writes, for sure. To it a list is a buffer: its length is that of the buffer,
// however few elements it has.
bool Compiled();

}  // namespace symgrad
