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
  py::list extended;
  for (const auto& [node, as] : pullback.extended) {
    const py::bytes def = as.def.SerializeAsString();
    py::list outputs;
    for (const TensorSpec& output : as.outputs) {
      py::object dims = py::none();
      if (!output.shape.unknown_rank()) {
        const auto sizes = output.shape.dim_sizes();
        dims = py::cast(std::vector<int64_t>(sizes.begin(), sizes.end()));
      }
      outputs.append(py::make_tuple(static_cast<int>(output.dtype), dims));
    }
    extended.append(py::make_tuple(node, def, as.start.name, as.start_args, outputs));
  }
  py::list gradients;
  for (const auto& gradient : pullback.gradients)
    gradients.append(py::make_tuple(gradient.tensor, gradient.values, gradient.indices));
  Names functions;
  for (const auto& f : pullback.functions->function()) functions.push_back(f.SerializeAsString());
  py::list serialized;
  for (const std::string& f : functions) serialized.append(py::bytes(f));
  return py::make_tuple(pullback.name, pullback.stateful, serialized, pullback.taken, gradients, extended,
                        pullback.copied);
}

}  // namespace

void AddForwardPass(py::module_& m) {
  py::class_<ForwardPass>(m, "ForwardPass", "A graph, of which pullbacks are built: csrc/graph/forward_pass.h.")
      .def(py::init([](const py::bytes& graph_def, bool compiled) {
             const std::string_view view = graph_def;
             return WithoutGil([&] {
               return ValueOrThrow(ForwardPass::Read(Parse<tensorflow::GraphDef>(view, "a graph"), compiled));
             });
           }),
           py::arg("graph_def"), py::arg("compiled") = false)
      .def(
          "between",
          [](ForwardPass& pass, Names y, Names x, Names off, Names blocked, Names inert,
             std::map<std::string, std::vector<int>> deaf) {
            const std::vector<ForwardPass::Passed> passed = WithoutGil([&] {
              return ValueOrThrow(pass.Between(
                  {std::move(y), std::move(x), std::move(off), std::move(blocked), std::move(inert), std::move(deaf)}));
            });
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
          "add_functions",
          [](ForwardPass& pass, const py::bytes& functions) {
            ThrowIfError(pass.AddFunctions(Parse<tensorflow::FunctionDefLibrary>(functions, "the functions")));
          },
          py::arg("functions"), "The functions that nodes which are not opaque stand for, and what these call.")
      .def(
          "set_opaque", [](ForwardPass& pass, const std::string& node) { ThrowIfError(pass.SetOpaque(node)); },
          py::arg("node"), "The caller differentiates that node himself.")
      .def(
          "keep", [](ForwardPass& pass, const std::string& tensor) { ThrowIfError(pass.Keep(tensor)); },
          py::arg("tensor"), "Pullbacks take that tensor from the graph, also if it is a constant.")
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
            return WithoutGil([&] { return ValueOrThrow(pass.Begin(stage, y)); });
          },
          py::arg("stage"), py::arg("y"),
          "Begins a stage's pullback of y. Returns the tensors of which `finish` is to be told.")
      .def(
          "failed",
          [](const ForwardPass& pass) {
            std::vector<std::pair<std::string, std::string>> failed;
            for (const auto& [node, status] : pass.failed()) failed.emplace_back(node, status.message());
            return failed;
          },
          "Where `finish` failed: pairs of a node whose functions can't be differentiated, and the reason.")
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
            return ToPython(WithoutGil([&] { return ValueOrThrow(pass.Finish(known)); }));
          },
          py::arg("facts"),
          "Builds the pullback. For each tensor that `begin` has returned: its shape, and of a variable the dtype and "
          "the\n"
          "shape of its value, dtype 0 where it is not known.\n\n"
          "Returns the name of the function; whether it is stateful; it and what it and the extended nodes call, "
          "serialized;\n"
          "the tensors that it takes before the cotangents of y; a triple for each tensor that a gradient flows to: "
          "its "
          "name,\n"
          "the output that is its gradient, and the one that is the indices of its rows, -1 where it is dense; the "
          "nodes\n"
          "that are to be extended before: of each its name, a NodeDef with its new attrs, the function that computes "
          "its "
          "new\n"
          "inputs or \"\", which of its inputs that takes, and the dtypes and shapes of its new outputs; and the "
          "constants that it "
          "has copies of.");
}

}  // namespace symgrad
