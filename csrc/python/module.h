// What the parts of tf_symgrad._native share.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/no_fork.h"

namespace symgrad {

// What a failed call throws: becomes tf_symgrad._native.StatusError(code, message), which Python turns into the
// tf.errors class of that code.
struct StatusError : std::exception {
  explicit StatusError(absl::Status s) : status(std::move(s)) {}
  absl::Status status;
};

inline void ThrowIfError(const absl::Status& status) {
  if (!status.ok()) throw StatusError{status};
}

template <typename Proto>
Proto Parse(std::string_view bytes, const char* what) {
  Proto proto;
  if (bytes.size() > static_cast<size_t>(std::numeric_limits<int>::max()) ||
      !proto.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    throw StatusError{absl::InvalidArgumentError(
        absl::StrCat("The ", bytes.size(), " bytes given as ", what, " are no serialized ", proto.GetTypeName(), "."))};
  }
  return proto;
}

template <typename T>
T ValueOrThrow(absl::StatusOr<T> value) {
  ThrowIfError(value.status());
  return *std::move(value);
}

// What f returns, or throws, while other threads run Python.
//
// A thread that asks for the GIL of an interpreter that has ended is ended in turn: its stack is unwound by
// pthread_exit. That must not go through a destructor, such as py::gil_scoped_release's: it would end the process.
template <typename F>
auto WithoutGil(const F& f) {
  std::optional<decltype(f())> result;
  std::exception_ptr error;
  PyThreadState* const state = PyEval_SaveThread();
  try {
    const NoFork no_fork;
    result.emplace(f());
  } catch (...) {
    error = std::current_exception();
  }
  PyEval_RestoreThread(state);
  if (error != nullptr) std::rethrow_exception(error);
  return *std::move(result);
}

// The class ForwardPass (forward_pass.cc).
void AddForwardPass(pybind11::module_& m);

}  // namespace symgrad
