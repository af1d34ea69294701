#include "csrc/engine/large_stack.h"

#include <pthread.h>

#include <cstddef>

namespace symgrad {
namespace {

constexpr size_t kBytes = size_t{64} << 20;

void* Run(void* f) {
  (*static_cast<absl::FunctionRef<void()>*>(f))();
  return nullptr;
}

}  // namespace

void OnLargeStack(absl::FunctionRef<void()> f) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_t thread;
  const bool runs =
      pthread_attr_setstacksize(&attributes, kBytes) == 0 && pthread_create(&thread, &attributes, Run, &f) == 0;
  pthread_attr_destroy(&attributes);
  if (runs) pthread_join(thread, nullptr);
  else f();
}

}  // namespace symgrad
