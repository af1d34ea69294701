// What all functions of the C API have in common.
#pragma once

#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/exceptions.h"
#include "csrc/engine/no_fork.h"
#include "tensorflow/c/tf_buffer.h"
#include "tensorflow/c/tf_status.h"
#include "tensorflow/core/platform/protobuf.h"

namespace symgrad {

// Runs `f` and tells its status. Nothing that it throws, such as bad_alloc, reaches C.
template <typename F>
void Call(TF_Status* status, F f) {
  const NoFork no_fork;
  const absl::Status result = WithoutExceptions(f);
  TF_SetStatus(status, static_cast<TF_Code>(result.code()), std::string(result.message()).c_str());
}

// Fills a buffer; a zero byte follows.
inline absl::Status Fill(const std::string& bytes, TF_Buffer* buffer) {
  if (buffer == nullptr) return absl::InvalidArgumentError("a buffer to be filled is NULL");
  if (buffer->data_deallocator != nullptr) buffer->data_deallocator(const_cast<void*>(buffer->data), buffer->length);
  char* data = static_cast<char*>(std::malloc(bytes.size() + 1));
  if (data == nullptr) return absl::ResourceExhaustedError("out of memory");
  std::memcpy(data, bytes.c_str(), bytes.size() + 1);
  buffer->data = data;
  buffer->length = bytes.size();
  buffer->data_deallocator = [](void* p, size_t) { std::free(p); };
  return absl::OkStatus();
}

template <typename Proto>
absl::StatusOr<Proto> Parse(const TF_Buffer* buffer, const char* what) {
  Proto proto;
  if (buffer == nullptr || !proto.ParseFromString(std::string(static_cast<const char*>(buffer->data), buffer->length)))
    return absl::InvalidArgumentError(absl::StrCat(what, " is not a serialized ", proto.GetTypeName()));
  return proto;
}

}  // namespace symgrad
