// The process does not fork in the midst of the engine's work.
#pragma once

namespace symgrad {

// A thread that works with TensorFlow's and the engine's structures holds their locks now and then. A child that is
// forked then has the locks, and no thread that would ever let go of them. So a fork waits until no thread has one of
// these, and who wants one then waits for the fork. (TensorFlow does not do so in what it runs itself.)
//
// Within one, another costs nothing: a thread that has one never waits.
class NoFork {
 public:
  NoFork();
  ~NoFork();
  NoFork(const NoFork&) = delete;
  NoFork& operator=(const NoFork&) = delete;
};

}  // namespace symgrad
