// Runs a fuzz target in many threads at once, for the sanitizer of threads:
//
//   threads FILE_OR_FOLDER... [--threads N] [--rounds R]
//
// Each thread goes through all inputs R times, from a place of its own on, so that some ask for the same gradient at
// the same time, and some for others.
//
// TensorFlow's libraries are not instrumented, so the sanitizer does not see that absl::Mutex, which is theirs, orders
// anything. This executable stands before them when the names of its methods are looked up, and tells.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Method = void (*)(absl::Mutex*);
Method TensorFlows(const char* name) { return reinterpret_cast<Method>(dlsym(RTLD_NEXT, name)); }

}  // namespace

#define MUTEX_METHOD(name, before, after)                                                    \
  void absl::Mutex::name() {                                                                 \
    static const Method method = TensorFlows("_ZN4absl12lts_202508145Mutex" MANGLED_##name); \
    before;                                                                                  \
    method(this);                                                                            \
    after;                                                                                   \
  }
#define MANGLED_lock "4lockEv"
#define MANGLED_unlock "6unlockEv"
#define MANGLED_lock_shared "11lock_sharedEv"
#define MANGLED_unlock_shared "13unlock_sharedEv"
MUTEX_METHOD(lock, , __tsan_acquire(this))
MUTEX_METHOD(unlock, __tsan_release(this), )
MUTEX_METHOD(lock_shared, , __tsan_acquire(this))
MUTEX_METHOD(unlock_shared, __tsan_release(this), )

namespace {

using Bytes = std::vector<uint8_t>;

std::vector<Bytes> Inputs(const std::filesystem::path& path) {
  std::vector<Bytes> inputs;
  const auto add = [&](const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
  };
  if (!std::filesystem::is_directory(path)) add(path);
  else
    for (const auto& file : std::filesystem::directory_iterator(path)) add(file);
  return inputs;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Bytes> inputs;
  size_t threads = 8, rounds = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    size_t* option = argument == "--threads" ? &threads : argument == "--rounds" ? &rounds : nullptr;
    if (option != nullptr && i + 1 < argc) *option = std::strtoul(argv[++i], nullptr, 10);
    else
      for (Bytes& input : Inputs(argument)) inputs.push_back(std::move(input));
  }
  if (inputs.empty() || threads == 0) return std::fprintf(stderr, "no inputs\n"), 2;
  std::atomic<size_t> done = 0;
  std::vector<std::thread> running;
  for (size_t t = 0; t < threads; ++t)
    running.emplace_back([&, t] {
      // Pairs of threads start at the same input.
      for (size_t i = 0; i < rounds * inputs.size(); ++i, ++done) {
        const Bytes& input = inputs[(i + t / 2 * inputs.size() / threads) % inputs.size()];
        LLVMFuzzerTestOneInput(input.data(), input.size());
      }
    });
  for (std::thread& thread : running) thread.join();
  std::printf("%zu threads, %zu inputs, %zu executions\n", threads, inputs.size(), done.load());
  return 0;
}
