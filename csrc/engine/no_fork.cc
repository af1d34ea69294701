#include "csrc/engine/no_fork.h"

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>

namespace symgrad {
namespace {

// A thread that waits for the one that forks, or works for this long, must not keep the process from its fork.
constexpr std::chrono::seconds kPatience(10);

thread_local int depth = 0;

struct Gate {
  std::mutex mutex;  // held across the fork, and no absl::Mutex, which knows of threads that a child lacks
  std::condition_variable changed;
  int inside = 0, forking = 0;

  int others() const { return inside - (depth > 0 ? 1 : 0); }
};

Gate& TheGate() {
  static auto* const gate = new Gate;
  return *gate;
}

void BeforeFork() {
  Gate& gate = TheGate();
  std::unique_lock lock(gate.mutex);
  ++gate.forking;
  gate.changed.wait_for(lock, kPatience, [&] { return gate.others() == 0; });
  lock.release();
}

void InParent() {
  Gate& gate = TheGate();
  --gate.forking;
  gate.mutex.unlock();
  gate.changed.notify_all();
}

void InChild() {
  Gate& gate = TheGate();
  new (&gate.changed) std::condition_variable;  // nobody waits any more
  gate.inside = depth > 0 ? 1 : 0;
  gate.forking = 0;
  gate.mutex.unlock();
}

// When the library is loaded: a handler that is added during a fork would run for its second half alone.
[[maybe_unused]] const int registered = pthread_atfork(BeforeFork, InParent, InChild);

}  // namespace

NoFork::NoFork() {
  if (depth++ > 0) return;
  Gate& gate = TheGate();
  std::unique_lock lock(gate.mutex);
  gate.changed.wait(lock, [&] { return gate.forking == 0; });
  ++gate.inside;
}

NoFork::~NoFork() {
  if (--depth > 0) return;
  Gate& gate = TheGate();
  bool last = false;
  {
    const std::lock_guard lock(gate.mutex);
    last = --gate.inside == 0;
  }
  if (last) gate.changed.notify_all();
}

}  // namespace symgrad
