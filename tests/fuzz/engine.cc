// A fuzz target of the engine's front doors: LLVMFuzzerTestOneInput, as libFuzzer and standalone.cc call it.
//
// An input is four bytes that say what is asked (Asked), then a serialized FunctionDefLibrary, whose first function is
// differentiated. Whatever comes in, an error comes out, or functions that TensorFlow takes; all else ends the process.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "csrc/c_api/tf_symgrad.h"
#include "csrc/engine/exceptions.h"
#include "csrc/engine/gradient.h"
#include "tensorflow/core/common_runtime/function_body.h"
#include "tensorflow/core/common_runtime/function_def_utils.h"
#include "tensorflow/core/framework/function.h"
#include "tests/fuzz/mutator.h"

namespace symgrad::fuzz {
namespace {

constexpr size_t kHeader = 4;

struct Asked {
  enum Door : uint8_t { kGradient, kVjp, kInputs, kC, kDoors };
  Door door;
  bool values, sparse, again;
  bool checked;  // whether TensorFlow reads what is made, which takes as long as to make it
  const char* checkpoint;
  uint8_t wrt;

  explicit Asked(const uint8_t* data)
      : door(static_cast<Door>(data[0] % kDoors)),
        values(data[1] & 1),
        sparse(data[1] & 2),
        again(data[1] & 4),
        checked(data[3] % 4 == 0),
        checkpoint(kCheckpoints[data[1] >> 4 & 3]),
        wrt(data[2]) {}

  std::vector<bool> Wanted(const tf::FunctionDef& f) const {
    std::vector<bool> wanted;
    for (int i = 0; wrt != 0 && i < f.signature().input_arg_size(); ++i) wanted.push_back(wrt >> i % 8 & 1);
    return wanted;
  }

 private:
  static constexpr const char* kCheckpoints[] = {"", "auto", "everything", "keep:MatMul,Conv2D"};
};

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "WRONG: %s\n", what.c_str());
  std::abort();
}

void CheckError(const absl::Status& status) {
  if (status.message().size() < 10) Fail("an error that says nothing: " + status.ToString());
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kResourceExhausted: return;
    case absl::StatusCode::kInternal:  // a rule's mistake, says the engine
      if (std::getenv("FUZZ_INTERNAL") != nullptr) Fail(status.ToString());
      return;
    default: Fail("an error of an odd class: " + status.ToString());
  }
}

bool IsTaken(const tf::FunctionDef& f, const tf::FunctionLibraryDefinition& library, std::string* why) {
  std::unique_ptr<tf::FunctionBody> body;
  const absl::Status status = WithoutExceptions([&] {  // of lengths that no vector can have
    return tf::FunctionDefToBodyHelper(f, tf::AttrSlice(), &library, &body);
  });
  *why = status.ToString();
  return status.ok();
}

// Whether the library's functions of these names, if it has any, are the same.
bool HasThem(const tf::FunctionLibraryDefinition& library, const tf::FunctionDefLibrary& functions) {
  return std::all_of(functions.function().begin(), functions.function().end(), [&](const tf::FunctionDef& f) {
    const tf::FunctionDef* had = library.Find(f.signature().name());
    return had == nullptr || had->DebugString() == f.DebugString();
  });
}

// TensorFlow takes all functions that were made, if it takes those that they were made from.
void CheckFunctions(const tf::FunctionDefLibrary& made, const tf::FunctionDefLibrary& given,
                    const tf::FunctionLibraryDefinition& library) {
  tf::FunctionLibraryDefinition all(library);
  if (const absl::Status status = all.AddLibrary(made); !status.ok()) {
    if (!HasThem(library, made)) Fail("not to be added: " + status.ToString());
    return;  // to TensorFlow, constants that are damaged are not equal to themselves
  }
  std::string why, other;
  for (const tf::FunctionDef& f : made.function()) {
    if (IsTaken(f, all, &why)) continue;
    for (const tf::FunctionDef& g : given.function())
      if (!IsTaken(g, all, &other)) return;
    Fail("TensorFlow refuses what was made: " + why);
  }
}

void AskForGradient(const Asked& asked, const tf::FunctionDefLibrary& given,
                    const tf::FunctionLibraryDefinition& library) {
  GradientRequest request;
  request.f.set_name(given.function(0).signature().name());
  request.wrt = asked.Wanted(given.function(0));
  request.values = asked.values;
  request.sparse = asked.sparse;
  request.checkpoint = asked.checkpoint;
  const absl::StatusOr<GradientFunction> gradient = BuildGradient(library, request);
  if (!gradient.ok()) return CheckError(gradient.status());
  if (asked.checked) CheckFunctions(*gradient->functions, given, library);
  if (!asked.again) return;
  tf::FunctionLibraryDefinition all(library);
  if (!all.AddLibrary(*gradient->functions).ok()) return;
  GradientRequest second;
  second.f.set_name(gradient->name);
  const absl::StatusOr<GradientFunction> derivative = BuildGradient(all, second);
  if (!derivative.ok()) return CheckError(derivative.status());
  if (asked.checked) CheckFunctions(*derivative->functions, given, all);
}

void AskForVjp(const Asked& asked, const tf::FunctionDefLibrary& given, const tf::FunctionLibraryDefinition& library) {
  tf::NameAttrList f;
  f.set_name(given.function(0).signature().name());
  const absl::StatusOr<VjpFunctions> vjp = BuildVjp(library, f, asked.Wanted(given.function(0)), asked.checkpoint);
  if (!vjp.ok()) return CheckError(vjp.status());
  if (asked.checked) CheckFunctions(*vjp->functions, given, library);
}

void AskInC(const Asked& asked, const char* data, size_t size, const std::string& name) {
  TF_Status* status = TF_NewStatus();
  TF_Buffer *library = TF_NewBufferFromString(data, size), *gradients = TF_NewBuffer(), *called = TF_NewBuffer();
  TFSG_GradientOptions options = {};
  options.struct_size = TFSG_GRADIENT_OPTIONS_STRUCT_SIZE;
  options.checkpoint = asked.checkpoint;
  TFSG_GradientFunction(library, name.c_str(), &options, gradients, called, nullptr, status);
  if (TF_GetCode(status) != TF_OK && std::strlen(TF_Message(status)) < 10) Fail("an error that says nothing");
  for (TF_Buffer* buffer : {library, gradients, called}) TF_DeleteBuffer(buffer);
  TF_DeleteStatus(status);
}

void Ask(const uint8_t* data, size_t size) {
  if (size < kHeader) return;
  const Asked asked(data);
  tf::FunctionDefLibrary given;
  const bool parsed = given.ParseFromArray(data + kHeader, static_cast<int>(size - kHeader));
  if (asked.door == Asked::kC) {
    const std::string name = given.function_size() > 0 ? given.function(0).signature().name() : "f";
    return AskInC(asked, reinterpret_cast<const char*>(data + kHeader), size - kHeader, name);
  }
  if (!parsed || given.function_size() == 0) return;
  tf::FunctionLibraryDefinition library(tf::OpRegistry::Global(), tf::FunctionDefLibrary());
  if (!library.AddLibrary(given).ok()) return;
  switch (asked.door) {
    case Asked::kVjp: return AskForVjp(asked, given, library);
    case Asked::kInputs: {
      tf::NameAttrList f;
      f.set_name(given.function(0).signature().name());
      const auto inputs = InputGradients(library, f);
      return inputs.ok() ? void() : CheckError(inputs.status());
    }
    default: return AskForGradient(asked, given, library);
  }
}

size_t Write(const tf::FunctionDefLibrary& library, uint8_t* data, size_t max_size) {
  const size_t size = library.ByteSizeLong();
  if (size + kHeader > max_size) return 0;
  library.SerializeToArray(data + kHeader, static_cast<int>(size));
  return size + kHeader;
}

tf::FunctionDefLibrary Read(const uint8_t* data, size_t size) {
  tf::FunctionDefLibrary library;
  if (size > kHeader) library.ParseFromArray(data + kHeader, static_cast<int>(size - kHeader));
  return library;
}

}  // namespace
}  // namespace symgrad::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  symgrad::fuzz::Ask(data, size);
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed) {
  using symgrad::fuzz::kHeader;
  if (size < kHeader) std::memset(data, 0, kHeader);
  tensorflow::FunctionDefLibrary library = symgrad::fuzz::Read(data, size);
  symgrad::fuzz::Mutator mutator(&library, seed);
  if (seed % 16 == 0) data[seed / 16 % (kHeader - 1)] = static_cast<uint8_t>(seed >> 8);
  data[kHeader - 1] = static_cast<uint8_t>(seed >> 16);
  for (unsigned int i = 0; i <= seed / 64 % 4; ++i) mutator.Mutate();
  const size_t written = symgrad::fuzz::Write(library, data, max_size);
  return written != 0 ? written : size;
}

extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t* data, size_t size, const uint8_t* other, size_t other_size,
                                            uint8_t* out, size_t max_out_size, unsigned int seed) {
  using symgrad::fuzz::kHeader;
  if (size < kHeader || max_out_size < kHeader) return 0;
  tensorflow::FunctionDefLibrary library = symgrad::fuzz::Read(data, size);
  symgrad::fuzz::Mutator(&library, seed).Splice(symgrad::fuzz::Read(other, other_size));
  std::memcpy(out, data, kHeader);
  return symgrad::fuzz::Write(library, out, max_out_size);
}
