// tf_symgrad._native.ForwardPass: csrc/graph/forward_pass.h.
#include "csrc/graph/forward_pass.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "csrc/python/module.h"

namespace symgrad {
namespace {

namespace py = pybind11;
using Names = std::vector<std::string>;
using Dims = std::optional<std::vector<int64_t>>;  // -1: not known; none: not even how many

py::tuple ToPython(const ForwardPass::Pullback& pullback) {
  py::list gradients;
  for (const auto& gradient : pullback.gradients)
    gradients.append(py::make_tuple(gradient.tensor, gradient.values, gradient.indices));
  Names functions;
  for (const auto& f : pullback.functions->function()) functions.push_back(f.SerializeAsString());
  py::list serialized;
  for (const std::string& f : functions) serialized.append(py::bytes(f));
  return py::make_tuple(pullback.name, pullback.stateful, serialized, pullback.taken, gradients);
}

}  // namespace

void AddForwardPass(py::module_& m) {
  py::class_<ForwardPass>(m, "ForwardPass", "A graph, of which pullbacks are built: csrc/graph/forward_pass.h.")
      .def(py::init([](const py::bytes& graph_def) {
             const std::string_view view = graph_def;
             const py::gil_scoped_release release;
             return ValueOrThrow(ForwardPass::Read(Parse<tensorflow::GraphDef>(view, "a graph")));
           }),
           py::arg("graph_def"))
      .def(
          "between",
          [](ForwardPass& pass, Names y, Names x, Names off, Names blocked, Names inert,
             std::map<std::string, std::vector<int>> deaf) {
            std::vector<ForwardPass::Passed> passed;
            {
              const py::gil_scoped_release release;
              passed = ValueOrThrow(pass.Between(
                  {std::move(y), std::move(x), std::move(off), std::move(blocked), std::move(inert), std::move(deaf)}));
            }
            py::list nodes;
            for (const auto& [node, op, own_gradient] : passed) nodes.append(py::make_tuple(node, op, own_gradient));
            return nodes;
          },
          py::arg("y"), py::arg("x"), py::arg("off"), py::arg("blocked"), py::arg("inert"), py::arg("deaf"),
          "The nodes that gradients of y by x pass, in topological order: not through tensors of `off`, nodes of "
          "`blocked`\n"
          "and ops of `inert`, nor to the inputs of ops that `deaf` names. Of each its name, its op, and whether its "
          "gradient is another than its op's.")
      .def(
          "set_opaque", [](ForwardPass& pass, const std::string& node) { ThrowIfError(pass.SetOpaque(node)); },
          py::arg("node"), "The caller differentiates that node himself.")
      .def("stages", &ForwardPass::Stages, "The opaque nodes, by stage; see the header.")
      .def(
          "stage_of", [](const ForwardPass& pass, const std::string& y) { return ValueOrThrow(pass.StageOf(y)); },
          py::arg("tensor"), "The stage of what makes a tensor; -1: the caller differentiates that, or nobody does.")
      .def(
          "set_gradient",
          [](ForwardPass& pass, const std::string& node, const std::string& function, const Names& tensors,
             const std::vector<int>& outputs, const py::bytes& functions) {
            ThrowIfError(pass.SetGradient(node, function, tensors, outputs,
                                          Parse<tensorflow::FunctionDefLibrary>(functions, "the functions")));
          },
          py::arg("node"), py::arg("function"), py::arg("tensors"), py::arg("outputs"), py::arg("functions"),
          "The gradient of that node is a function of those tensors, then of the cotangents of its outputs; `outputs` "
          "says\n"
          "for each input which of the function's outputs is its cotangent, -1: none.")
      .def(
          "begin",
          [](ForwardPass& pass, int stage, const Names& y) {
            const py::gil_scoped_release release;
            return ValueOrThrow(pass.Begin(stage, y));
          },
          py::arg("stage"), py::arg("y"),
          "Begins a stage's pullback of y. Returns the tensors of which `finish` is to be told.")
      .def(
          "finish",
          [](ForwardPass& pass, const std::vector<std::pair<int, Dims>>& facts) {
            std::vector<ForwardPass::Facts> known;
            for (const auto& [dtype, dims] : facts) {
              ForwardPass::Facts& fact = known.emplace_back();
              fact.value = static_cast<tensorflow::DataType>(dtype);
              if (dims.has_value())
                ThrowIfError(tensorflow::PartialTensorShape::MakePartialShape(
                    dims->data(), static_cast<int>(dims->size()), &fact.shape));
            }
            ForwardPass::Pullback pullback;
            {
              const py::gil_scoped_release release;
              pullback = ValueOrThrow(pass.Finish(known));
            }
            return ToPython(pullback);
          },
          py::arg("facts"),
          "Builds the pullback. For each tensor that `begin` has returned: its shape, and of a variable the dtype and "
          "the\n"
          "shape of its value, dtype 0 where it is not known.\n\n"
          "Returns the name of the function, whether it is stateful, it and what it calls, serialized, the tensors "
          "that "
          "it\n"
          "takes before the cotangents of y, and a triple for each tensor that a gradient flows to: its name, the "
          "output "
          "that\n"
          "is its gradient, and the one that is the indices of its rows, -1 where it is dense.");
}

}  // namespace symgrad
