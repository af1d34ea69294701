#include "csrc/engine/large_stack.h"

#include <pthread.h>

#include <cstddef>

#include "csrc/engine/exceptions.h"

namespace symgrad {
namespace {

constexpr size_t kBytes = size_t{64} << 20;

struct Task {
  absl::FunctionRef<absl::Status()> f;
  absl::Status status;

  void Run() { status = WithoutExceptions(f); }
};

void* Run(void* task) {
  static_cast<Task*>(task)->Run();
  return nullptr;
}

}  // namespace

absl::Status OnLargeStack(absl::FunctionRef<absl::Status()> f) {
  Task task{f, {}};
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_t thread;
  const bool runs =
      pthread_attr_setstacksize(&attributes, kBytes) == 0 && pthread_create(&thread, &attributes, Run, &task) == 0;
  pthread_attr_destroy(&attributes);
  if (runs) pthread_join(thread, nullptr);
  else task.Run();
  return task.status;
}

}  // namespace symgrad
