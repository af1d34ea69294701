// Of a region of a graph, what computes its gradients.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/differentiate/node_gradients.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/large_stack.h"
#include "csrc/engine/read/function_facts.h"
#include "csrc/engine/vjp/cotangent.h"
#include "csrc/engine/vjp/registry.h"
#include "csrc/engine/vjp/sweep.h"
#include "csrc/engine/write/export.h"
#include "csrc/graph/forward_pass.h"
#include "csrc/graph/region.h"

namespace symgrad {
namespace {

// Gives zeros where Python does, and of the nodes of a graph what they become.
class GraphDifferentiator final : public Differentiator {
 public:
  GraphDifferentiator(const tf::FunctionLibraryDefinition& library, const Body* graph)
      : Differentiator(library), graph_(graph) {}
  bool repeats() const override { return true; }
  absl::StatusOr<Grads> StructureGradient(Builder* builder, const VjpQuery& query) override {
    if (builder->body() != graph_) return StructureGradientAsPython(this, builder, query, nullptr);
    absl::StatusOr<Grads> grads = StructureGradientAsPython(this, builder, query, &in_place_[query.node]);
    if (!grads.ok()) failed_.emplace(query.node, grads.status());
    return grads;
  }
  const std::map<int, InPlace>& in_place() const { return in_place_; }
  const std::map<int, absl::Status>& failed() const { return failed_; }

 private:
  const Body* const graph_;
  std::map<int, InPlace> in_place_;
  std::map<int, absl::Status> failed_;
};

}  // namespace

absl::Status ForwardPass::Build(const Region& region, const std::vector<Facts>& facts, Functions* functions, Body* body,
                                Ports* ports, Tensors* tensors) const {
  absl::flat_hash_map<std::pair<int, int>, Port> severed;
  for (size_t i = 0; i < facts.size(); ++i) {
    const bool own = i >= region.args.size();
    const std::pair<int, int> edge = own ? region.severed[i - region.args.size()] : std::pair<int, int>();
    const Port p = own ? items_[edge.first].inputs[edge.second] : region.args[i];
    const tf::DataType dtype = tf::BaseType(items_[p.node].types[p.index]);
    const Port arg{body->AddArg(absl::StrCat("x_", i), dtype), 0};
    (own ? severed[edge] : (*ports)[{p.node, p.index}]) = arg;
    (*tensors)[body->output_index(arg)] = p;
    Shape shape;
    TF_RETURN_IF_ERROR(body->shapes()->MakeShapeFromPartialTensorShape(facts[i].shape, &shape));
    if (dtype != tf::DT_RESOURCE) body->output(arg).shape = shape;
    else if (facts[i].value != tf::DT_INVALID) body->handles[body->output_index(arg)] = {{shape, facts[i].value}};
  }
  absl::flat_hash_map<std::string, Port> constants;
  for (int id = 0; id < static_cast<int>(items_.size()); ++id) {
    if (!region.in[id]) continue;
    const Item& item = items_[id];
    if (!region.passed[id] && IsSmallConst(*item.def)) {  // one node for those that are the same
      const auto [same, added] = constants.try_emplace(
          absl::StrCat(item.def->device(), "\n", item.def->attr().at("value").SerializeAsString()), Port{-1, 0});
      if (added) same->second.node = body->num_nodes();
      else {
        (*ports)[{id, 0}] = same->second;
        continue;
      }
    }
    std::vector<Port> inputs;
    for (int i = 0; i < static_cast<int>(item.inputs.size()); ++i) {
      const auto own = severed.find({id, i});
      inputs.push_back(own != severed.end() ? own->second : ports->at({item.inputs[i].node, item.inputs[i].index}));
    }
    const int node = body->AddNode(item.op, item.def, inputs, item.types, -1);
    TF_RETURN_IF_ERROR(InferFacts(body, node));
    if (IsStructure(*item.def, *item.op)) InferFromFunctions(functions, body, node);
    for (int i = 0; i < static_cast<int>(item.types.size()); ++i) {
      // A loop of Python's returns a variable as it came.
      if (IsLoop(*item.def) && item.types[i] == tf::DT_RESOURCE)
        if (const auto handle = body->handles.find(body->output_index(inputs[i])); handle != body->handles.end())
          body->handles[body->output_index({node, i})] = std::vector(handle->second);
      (*ports)[{id, i}] = {node, i};
      (*tensors)[body->output_index({node, i})] = {id, i};
    }
  }
  for (int id = 0; id < static_cast<int>(items_.size()); ++id)
    if (region.passed[id] && items_[id].def->attr().contains(kCustomGradient)) {
      std::vector<Port>& taken = body->custom_inputs[ports->at({id, 0}).node];
      for (const Port& p : items_[id].custom_inputs) taken.push_back(ports->at({p.node, p.index}));
    }
  for (const Port& p : region.y) {
    body->results.push_back(ports->at({p.node, p.index}));
    if (items_[p.node].types[p.index] == tf::DT_RESOURCE &&
        !body->handles.contains(body->output_index(body->results.back())))
      return absl::UnimplementedError(absl::StrCat("'", Name(p), "' is the handle of a variable of unknown dtype"));
  }
  body->num_forward = body->num_nodes();
  return absl::OkStatus();
}

// What the graph calls some nodes of the body.
template <class T>
std::map<int, std::string> ForwardPass::NamesOf(const std::map<int, T>& nodes, const Ports& ports) const {
  std::map<int, std::string> names;
  for (const auto& [tensor, port] : ports)
    if (nodes.count(port.node) > 0) names[port.node] = items_[tensor.first].def->name();
  return names;
}

absl::StatusOr<ForwardPass::Pullback> ForwardPass::Finish(const std::vector<Facts>& facts) {
  absl::StatusOr<Pullback> pullback;
  TF_RETURN_IF_ERROR(OnLargeStack([&] {
    pullback = Differentiate(facts);
    return pullback.status();
  }));
  return pullback;
}

absl::StatusOr<ForwardPass::Pullback> ForwardPass::Differentiate(const std::vector<Facts>& facts) {
  failed_.clear();
  TF_RETURN_IF_ERROR(CheckRegistry());
  if (region_ == nullptr || facts.size() != region_->args.size() + region_->severed.size())
    return absl::InvalidArgumentError("Finish comes after Begin, with what is known of each tensor that it returned");
  const std::shared_ptr<Region> region = std::exchange(region_, nullptr);
  Body body;
  body.compiled = compiled_;
  GraphDifferentiator differentiator(library_, &body);
  Ports ports;
  Tensors tensors;
  TF_RETURN_IF_ERROR(Build(*region, facts, &differentiator, &body, &ports, &tensors));

  // The wanted tensors: arguments first, then inner ones, each as the graph has them.
  std::vector<Port> wanted, inner, inner_ports;
  std::vector<bool> wrt;
  for (const Port& p : region->args) {
    wrt.push_back(IsWanted(p, *region));
    if (wrt.back()) wanted.push_back(p);
  }
  wrt.resize(facts.size(), false);
  for (size_t id = 0; id < items_.size(); ++id)
    for (int i = 0; region->in[id] && i < static_cast<int>(items_[id].types.size()); ++i)
      if (const Port p{static_cast<int>(id), i}; IsWanted(p, *region)) {
        inner.push_back(ports.at({p.node, p.index}));
        wanted.push_back(p);
      }
  Builder builder(&body);
  Builder::Scope scope(&builder);
  const int num_args = static_cast<int>(body.args.size());
  const std::vector<bool> seeds(body.results.size(), true);
  const absl::StatusOr<std::vector<V>> swept =
      ReverseSweep(&builder, &differentiator, wrt, seeds, FlowSeeds::kLists, inner);
  for (const auto& [node, name] : NamesOf(differentiator.failed(), ports))
    failed_.emplace_back(name, differentiator.failed().at(node));
  TF_RETURN_IF_ERROR(swept.status());
  const std::vector<V>& cotangents = *swept;
  std::vector<Port> results;
  std::vector<Pullback::Gradient> gradients;
  absl::flat_hash_set<std::pair<int, int>> connected;
  for (size_t k = 0; k < wanted.size(); ++k) {
    const V& dx = cotangents[k];
    if (!dx) continue;
    connected.insert({wanted[k].node, wanted[k].index});
    Pullback::Gradient& gradient = gradients.emplace_back();
    gradient.tensor = Name(wanted[k]);
    gradient.values = static_cast<int>(results.size());
    const bool sparse = dx.kind() == V::Kind::kRows;
    results.push_back(ToPort(sparse ? builder.rows(dx).values : builder.Dense(dx)));
    if (!sparse) continue;
    gradient.indices = static_cast<int>(results.size());
    results.push_back(ToPort(builder.rows(dx).indices));
  }
  TF_RETURN_IF_ERROR(builder.TakeStatus());
  TF_RETURN_IF_ERROR(CheckUnconnected(*region, connected));
  if (gradients.empty()) return Pullback();
  for (const auto& [tensor, port] : ports)  // nodes that have new outputs have others in place of the old ones, too
    if (differentiator.in_place().count(port.node) > 0)
      for (int i = 0; i < body.node(port.node).num_outputs; ++i)
        tensors[body.output_index({port.node, i})] = {tensor.first, i};
  TF_ASSIGN_OR_RETURN(Pullback pullback, Write(body, tensors, num_args, results, &differentiator));
  Extend(differentiator.in_place(), ports, differentiator, &pullback);
  pullback.gradients = std::move(gradients);
  for (int id = 0; id < static_cast<int>(items_.size()); ++id) {
    const bool constant = region->in[id] && items_[id].def->op() == "Const";
    if (constant && IsDifferentiable(items_[id].types[0])) pullback.copied.push_back(Name({id, 0}));
  }
  return pullback;
}

// What of the forward pass the pullback takes is all that it meets of it but constants, which it copies.
absl::StatusOr<ForwardPass::Pullback> ForwardPass::Write(const Body& body, const Tensors& tensors, int num_args,
                                                         const std::vector<Port>& results,
                                                         Differentiator* differentiator) const {
  Pullback pullback;
  Signature signature{{}, results};
  std::vector<bool> needed(body.num_nodes(), false);
  absl::flat_hash_set<int> seen;
  bool all_known = true;
  const auto meet = [&](Port p) {
    const Node& n = body.node(p.node);
    if (p.node >= body.num_forward) needed[p.node] = true;
    else if ((n.is_arg() || !IsSmallConst(*n.def)) && seen.insert(body.output_index(p)).second) {
      const auto tensor = tensors.find(body.output_index(p));
      all_known = all_known && tensor != tensors.end();
      if (tensor != tensors.end()) pullback.taken.push_back(Name(tensor->second));
      signature.args.push_back(p);
    }
  };
  for (const Port& p : results) meet(p);
  for (int id = body.num_nodes() - 1; id >= body.num_forward; --id)
    if (needed[id])
      for (const Port& p : body.node(id).inputs) meet(p);
  if (!all_known) return absl::UnimplementedError("a gradient takes what no node of the graph returns");
  for (size_t i = num_args; i < body.args.size(); ++i) signature.args.push_back({body.args[i], 0});

  TF_ASSIGN_OR_RETURN(const Callable function,
                      WriteFunction(differentiator, body, "pullback", signature, tf::FunctionDef()));
  pullback.name = function.name;
  pullback.stateful = function.stateful;
  return pullback;
}

void ForwardPass::Extend(const std::map<int, InPlace>& in_place, const Ports& ports,
                         const Differentiator& differentiator, Pullback* pullback) const {
  const std::map<int, std::string> names = NamesOf(in_place, ports);
  std::vector<std::string> called = {pullback->name};
  for (const auto& [node, as] : in_place) {
    if (as.outputs.empty()) continue;
    called.push_back(as.start.name);
    for (const auto& [name, value] : as.def.attr()) {
      if (value.has_func()) called.push_back(value.func().name());
      for (const tf::NameAttrList& f : value.list().func()) called.push_back(f.name());
    }
    pullback->extended.push_back({names.at(node), as});
  }
  pullback->functions = differentiator.Generated(called);
}

absl::Status ForwardPass::CheckUnconnected(const Region& region,
                                           const absl::flat_hash_set<std::pair<int, int>>& connected) const {
  absl::flat_hash_set<std::pair<int, int>> used;  // outputs that a cotangent may come to
  for (const Port& p : region.y) used.insert({p.node, p.index});
  std::vector<bool> partial(items_.size(), false);  // nodes whose cotangents Python fills up, and what is before them
  for (int id = static_cast<int>(items_.size()) - 1; id >= 0; --id) {
    if (!region.passed[id]) continue;
    const Item& item = items_[id];
    for (int i = 0; i < static_cast<int>(item.types.size()); ++i)
      if (IsDifferentiable(item.types[i]) && !used.contains({id, i}) && item.inputs.size() > 1 &&
          !IsStructure(*item.def, *item.op))
        partial[id] = true;
    for (size_t i = 0; i < item.inputs.size(); ++i) {
      const Port p = item.inputs[i];
      if (!Carries(item, i)) continue;
      used.insert({p.node, p.index});
      if (!partial[id] || !IsDifferentiable(items_[p.node].types[p.index])) continue;
      partial[p.node] = true;
      if (IsWanted(p, region) && !connected.contains({p.node, p.index}))
        return absl::UnimplementedError(absl::StrCat("whether '", Name(p), "' has a gradient hangs on outputs of '",
                                                     item.def->name(), "' (op ", item.def->op(), ") that nobody uses"));
    }
  }
  return absl::OkStatus();
}

}  // namespace symgrad
