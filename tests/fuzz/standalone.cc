// Runs a fuzz target without libFuzzer, for compilers that lack it:
//
//   standalone FILE_OR_FOLDER... [--mutants N] [--seed S] [--repeat R] [--megabytes M]
//
// Each file as it is, R times, then N mutants of files, chosen at random. Prints how many there were, and how the
// memory of the process has grown over the second half of the repetitions. An input that ends the process is in
// `crash-input`; so is one for which the process takes M more megabytes than it ever did before.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed);

namespace {

constexpr size_t kMaxSize = 1 << 16;
constexpr int kSeconds = 30;  // of the processor's, for one input
using Bytes = std::vector<uint8_t>;

Bytes Contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

double ResidentMegabytes() {
  long all = 0, resident = 0;  // NOLINT: as the kernel prints them
  std::ifstream("/proc/self/statm") >> all >> resident;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / (1 << 20);
}

double PeakMegabytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

const Bytes* current = nullptr;
unsigned int megabytes = 0;  // more for one input is a mistake; 0: any

void Keep(int signal) {
  const int file = open("crash-input", O_WRONLY | O_CREAT | O_TRUNC, 0666);
  if (file < 0 || write(file, current->data(), current->size()) < 0) _exit(3);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void Try(const Bytes& input) {
  current = &input;
  const itimerval limit = {{0, 0}, {kSeconds, 0}};
  setitimer(ITIMER_PROF, &limit, nullptr);
  const double before = PeakMegabytes();
  LLVMFuzzerTestOneInput(input.data(), input.size());
  const double taken = PeakMegabytes() - before;
  if (megabytes == 0 || taken < megabytes) return;
  std::fprintf(stderr, "WRONG: %.0f MB more for one input\n", taken);
  std::abort();
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Bytes> inputs;
  unsigned int mutants = 0, seed = 0, repeat = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    unsigned int* option = argument == "--mutants" ? &mutants : argument == "--seed" ? &seed : nullptr;
    if (argument == "--repeat") option = &repeat;
    if (argument == "--megabytes") option = &megabytes;
    if (option != nullptr && i + 1 < argc) *option = static_cast<unsigned int>(std::atol(argv[++i]));
    else if (!std::filesystem::is_directory(argument)) inputs.push_back(Contents(argument));
    else
      for (const auto& file : std::filesystem::directory_iterator(argument)) inputs.push_back(Contents(file));
  }
  if (inputs.empty()) return std::fprintf(stderr, "no inputs\n"), 2;
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGPROF}) std::signal(signal, Keep);

  double half = 0;
  for (unsigned int r = 0; r < repeat; ++r) {
    if (r == (repeat + 1) / 2) half = ResidentMegabytes();
    for (const Bytes& input : inputs) Try(input);
  }
  const double grown = half == 0 ? 0 : ResidentMegabytes() - half;
  std::minstd_rand random(seed + 1);
  for (unsigned int i = 0; i < mutants; ++i) {
    Bytes mutant = inputs[random() % inputs.size()];
    size_t size = mutant.size();
    mutant.resize(kMaxSize);
    for (auto times = 1 + random() % 4; times > 0; --times)
      size = LLVMFuzzerCustomMutator(mutant.data(), size, kMaxSize, static_cast<unsigned int>(random()));
    mutant.resize(size);
    Try(mutant);
  }
  std::printf("%zu inputs %u times and %u mutants; %.1f MB, grown by %.1f in the second half of the repetitions\n",
              inputs.size(), repeat, mutants, ResidentMegabytes(), grown);
  return 0;
}
