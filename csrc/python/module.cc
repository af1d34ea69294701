// tf_symgrad._native: the engine, over serialized protos. All conveniences are in Python, in tf_symgrad/.
#include "csrc/python/module.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <exception>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/cache.h"
#include "csrc/engine/gradient.h"
#include "csrc/engine/vjp/registry.h"
#include "csrc/runtime/stock.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/function.pb.h"
#include "tensorflow/core/framework/op.h"

namespace symgrad {
namespace {

namespace py = pybind11;

tensorflow::FunctionLibraryDefinition ParseLibrary(std::string_view library) {
  tensorflow::FunctionLibraryDefinition functions(tensorflow::OpRegistry::Global(), tensorflow::FunctionDefLibrary());
  ThrowIfError(functions.AddLibrary(Parse<tensorflow::FunctionDefLibrary>(library, "the library")));
  return functions;
}

py::tuple SerializedVjp(const VjpFunctions& vjp) {
  std::string bytes;
  if (!vjp.functions->SerializeToString(&bytes)) {
    throw StatusError{absl::ResourceExhaustedError(
        "The gradient is larger than 2 GiB, the largest protocol buffer. Differentiate smaller functions.")};
  }
  return py::make_tuple(vjp.forward, vjp.pullback, vjp.args, vjp.gradients, py::bytes(bytes));
}

std::vector<std::pair<int, bool>> Inputs(std::string_view library, std::string_view f, const std::vector<bool>& wrt) {
  const tensorflow::FunctionLibraryDefinition functions = ParseLibrary(library);
  const absl::StatusOr<std::vector<InputGradient>> inputs =
      InputGradients(functions, Parse<tensorflow::NameAttrList>(f, "the function's name and attrs"), wrt);
  ThrowIfError(inputs.status());
  std::vector<std::pair<int, bool>> result;
  for (const InputGradient& input : *inputs) result.emplace_back(input.dtype, input.connected);
  return result;
}

struct Built {
  std::string name, functions;
  std::vector<int> indices;
};

Built SerializedGradient(std::string_view library, std::string_view f, const std::optional<std::vector<bool>>& wrt,
                         bool values, bool sparse, const std::string& checkpoint) {
  GradientRequest request;
  request.checkpoint = checkpoint;
  request.values = values;
  request.sparse = sparse;
  request.f = Parse<tensorflow::NameAttrList>(f, "the function's name and attrs");
  if (wrt.has_value()) request.wrt = *wrt;

  const tensorflow::FunctionLibraryDefinition functions = ParseLibrary(library);
  absl::StatusOr<GradientFunction> gradient = BuildGradient(functions, request);
  ThrowIfError(gradient.status());
  std::string bytes;
  if (!gradient->functions->SerializeToString(&bytes)) {
    throw StatusError{absl::ResourceExhaustedError(absl::StrCat(
        "The gradient of function '", request.f.name(),
        "' is larger than 2 GiB, the largest protocol buffer. Differentiate smaller functions, one at a time."))};
  }
  return {std::move(gradient->name), std::move(bytes), std::move(gradient->indices)};
}

PYBIND11_MODULE(_native, m) {
  m.doc() = "The engine of tf_symgrad over serialized protos. tf_symgrad's own functions are what to call.";

  // A plain RuntimeError with args (code, message): register_exception would carry what() alone.
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> error;
  error.call_once_and_store_result([&m]() { return py::exception<StatusError>(m, "StatusError", PyExc_RuntimeError); });
  py::register_local_exception_translator([](std::exception_ptr thrown) {  // NOLINT: the type that pybind11 takes
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const StatusError& e) {
      // A message may quote names of a malformed function: bytes that are not UTF-8 must not hide the error.
      const std::string_view message(e.status.message());
      const py::object text = py::reinterpret_steal<py::object>(
          PyUnicode_DecodeUTF8(message.data(), static_cast<Py_ssize_t>(message.size()), "backslashreplace"));
      PyErr_SetObject(error.get_stored().ptr(), py::make_tuple(static_cast<int>(e.status.code()), text).ptr());
    }
  });

  m.def(
      "build_gradient",
      [](const py::bytes& library, const py::bytes& f, const std::optional<std::vector<bool>>& wrt, bool values,
         bool sparse, const std::string& checkpoint) {
        const std::string_view library_view = library, f_view = f;  // bytes are immutable: safe without the GIL
        const Built gradient =
            WithoutGil([&] { return SerializedGradient(library_view, f_view, wrt, values, sparse, checkpoint); });
        const py::tuple built = py::make_tuple(py::str(gradient.name), py::bytes(gradient.functions));
        return sparse ? py::tuple(built + py::make_tuple(gradient.indices)) : built;
      },
      py::arg("library"), py::arg("f"), py::arg("wrt") = py::none(), py::arg("values") = false,
      py::arg("sparse") = false, py::arg("checkpoint") = "",
      "Builds the gradient function of f, a serialized NameAttrList, in a serialized FunctionDefLibrary.\n\n"
      "Returns its name, and a serialized FunctionDefLibrary of it and of all it calls that `library` lacks. Its "
      "inputs\n"
      "are those of f, then a cotangent for each output of f; its outputs are the cotangents of f's inputs, or of "
      "those\n"
      "inputs alone for which `wrt` is true, then, with `values`, the outputs of f. With `sparse`, a gradient that is "
      "sparse\n"
      "rows is their values; a list is returned, too, that says for each wanted input which output, after all others, "
      "has\n"
      "their indices, -1 where the gradient is dense. `checkpoint` is the op's attr. Raises StatusError(code, "
      "message).");

  m.def(
      "build_vjp",
      [](const py::bytes& library, const py::bytes& f, const std::vector<bool>& wrt, const std::string& checkpoint) {
        const std::string_view library_view = library, f_view = f;
        return SerializedVjp(WithoutGil([&] {
          const auto f_proto = Parse<tensorflow::NameAttrList>(f_view, "the function's name and attrs");
          return ValueOrThrow(BuildVjp(ParseLibrary(library_view), f_proto, wrt, checkpoint));
        }));
      },
      py::arg("library"), py::arg("f"), py::arg("wrt"), py::arg("checkpoint") = "",
      "Builds both halves of f and its gradient: forward, x -> y and residuals, and pullback, x, residuals and dy -> "
      "dx.\n\n"
      "Returns their names, the indices of those x that the pullback takes, for each x which output of the pullback "
      "is\n"
      "its gradient (-1: there is none), and a serialized FunctionDefLibrary.");

  m.def(
      "input_gradients",
      [](const py::bytes& library, const py::bytes& f, const std::vector<bool>& wrt) {
        const std::string_view library_view = library, f_view = f;
        return WithoutGil([&] { return Inputs(library_view, f_view, wrt); });
      },
      py::arg("library"), py::arg("f"), py::arg("wrt") = std::vector<bool>(),
      "For each input of f the dtype of its gradient, as a number, and whether any gradient flows there: to none but\n"
      "those that wrt names, where that is not empty.\n\n"
      "The dtype is a variable's where the input is one, DT_RESOURCE where it is a resource but no variable.");

  m.def(
      "cache_info",
      []() {
        const GradientCache::Info info = GradientCache::Global().info();
        return std::map<std::string, int64_t>{{"hits", info.hits},           {"misses", info.misses},
                                              {"evictions", info.evictions}, {"entries", info.entries},
                                              {"bytes", info.bytes},         {"max_bytes", info.max_bytes}};
      },
      "What the cache of built gradients holds, and how it was used.");

  m.def(
      "teach_stock", []() { TeachStock(); },
      "Gives the stock op gradients of the ops that it has none for. TensorFlow must have been imported.");

  m.def(
      "replace_stock", [](bool on) { ReplaceStock(on); }, py::arg("on"),
      "Whether this engine runs nodes of TensorFlow's own SymbolicGradient.");

  m.def(
      "rules",
      []() {
        const auto rules = RegisteredRules();
        return std::map<std::string, bool>(rules.begin(), rules.end());
      },
      "The ops that have a rule; False: no gradient flows through the op.");
  m.def("num_rules", &NumRules, "How many rules and traits there are: it tells whether `rules` has changed.");

  AddForwardPass(m);
}

}  // namespace
}  // namespace symgrad
