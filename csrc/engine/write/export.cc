#include "csrc/engine/write/export.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/write/late.h"
#include "tensorflow/core/framework/node_def_util.h"

namespace symgrad {
namespace {

// What is known of the shape of an argument or a result.
tf::PartialTensorShape ShapeOf(const Body& body, Port p, const Signature& signature) {
  tf::PartialTensorShape shape = StaticShape(body.output(p).shape);
  const bool any_rows = signature.any_rows && absl::c_linear_search(signature.args, p);
  if (any_rows && !shape.unknown_rank() && shape.dims() > 0) shape.set_dim(0, -1);
  return shape;
}

// Names first, then nodes in the order of the body, each hub before the first node that waits for it.
class FunctionWriter {
 public:
  FunctionWriter(const Functions& functions, const Body& body, const Signature& signature)
      : functions_(functions),
        body_(body),
        signature_(signature),
        args_(signature.args),
        results_(signature.results),
        part_(FindPart(functions, body, signature)),
        waits_(FindWaits(body, part_)) {}

  std::shared_ptr<tf::FunctionDef> Write(const tf::FunctionDef& source) {
    for (size_t i = 0; i < args_.size(); ++i) arg_of_[body_.output_index(args_[i])] = static_cast<int>(i);
    NameNodes();
    NameArgs();
    WriteArgs(source);
    for (const char* attr : {"_noinline", "_XlaMustCompile"})
      if (const auto it = source.attr().find(attr); it != source.attr().end())
        (*fdef_.mutable_attr())[attr] = it->second;
    std::vector<size_t> hubs(part_.hubs.size());
    std::iota(hubs.begin(), hubs.end(), 0);
    std::sort(hubs.begin(), hubs.end(), [&](size_t a, size_t b) {
      return std::pair(part_.hubs[a].before, a) < std::pair(part_.hubs[b].before, b);
    });
    auto hub = hubs.begin();
    for (int id = 0; id <= body_.num_nodes(); ++id) {
      for (; hub != hubs.end() && part_.hubs[*hub].before <= id; ++hub) WriteHub(*hub);
      if (id < body_.num_nodes() && part_.kept[id] && !body_.node(id).is_arg()) WriteNode(id);
    }
    WriteResults();
    return function_;
  }

 private:
  // A node that is awaited does all that it does.
  Body::Call CallOf(int id) const {
    const auto whole = body_.whole.find(id);
    if (part_.awaited[id] && whole != body_.whole.end()) return whole->second;
    return {body_.node(id).op, body_.node(id).def};
  }

  void WriteNode(int id) {
    const Node& n = body_.node(id);
    const Body::Call call = CallOf(id);
    const bool stateful = call.op->op_def.is_stateful();
    if (stateful) fdef_.mutable_signature()->set_is_stateful(true);
    if (stateful || functions_.EffectsOf(n) & kChecks) {
      // What the caller does next must wait for it: a write of the variable that is read here, say.
      fdef_.mutable_signature()->add_control_output(names_[id]);
      (*fdef_.mutable_control_ret())[names_[id]] = names_[id];
    }
    tf::NodeDef* def = fdef_.add_node_def();
    def->set_name(names_[id]);
    def->set_op(call.def->op());
    def->set_device(call.def->device());
    *def->mutable_attr() = call.def->attr();
    if (call.def->has_experimental_debug_info())
      *def->mutable_experimental_debug_info() = call.def->experimental_debug_info();
    if (call.def->has_experimental_type()) *def->mutable_experimental_type() = call.def->experimental_type();
    if (const auto it = body_.custom_inputs.find(id); it != body_.custom_inputs.end()) {
      auto* references = (*def->mutable_attr())[kCustomInputs].mutable_list();
      references->clear_s();
      for (const Port& p : it->second) references->add_s(Reference(p));
    }
    for (const Port& p : n.inputs) def->add_input(Reference(p));
    const auto after = [&](int node) {
      if (node >= body_.num_nodes() || !body_.node(node).is_arg()) def->add_input(absl::StrCat("^", names_[node]));
    };
    for (const int c : n.controls)
      if (n.type() != "Const" && part_.kept[c]) after(c);
    if (const auto it = part_.order.find(id); it != part_.order.end())
      for (const int c : it->second) after(c);
    if (waits_[id] >= 0) after(waits_[id]);
  }

  void WriteHub(size_t hub) {
    tf::NodeDef* def = fdef_.add_node_def();
    def->set_name(names_[body_.num_nodes() + hub]);
    def->set_op("NoOp");
    for (const int c : part_.hubs[hub].controls) def->add_input(absl::StrCat("^", names_[c]));
  }

  void WriteResults() {
    for (size_t i = 0; i < results_.size(); ++i) {
      tf::OpDef::ArgDef* arg = fdef_.mutable_signature()->add_output_arg();
      arg->set_name(absl::StrCat("out_", i));
      arg->set_type(tf::BaseType(body_.output(results_[i]).dtype));
      std::string& ret = (*fdef_.mutable_ret())[arg->name()];
      ret = Reference(results_[i]);
      if (part_.gate < 0) continue;
      tf::NodeDef* def = fdef_.add_node_def();
      def->set_name(absl::StrCat(names_[part_.gate], "/out_", i));
      def->set_op("Identity");
      (*def->mutable_attr())["T"].set_type(arg->type());
      def->add_input(ret);
      def->add_input(absl::StrCat("^", names_[part_.gate]));
      ret = absl::StrCat(def->name(), ":output:0");
    }
  }

  // Forward nodes and arguments keep their names, which are unique; emitted nodes live in a scope of their own.
  void NameNodes() {
    names_.resize(body_.num_nodes() + part_.hubs.size());
    absl::flat_hash_set<absl::string_view> scopes;
    for (int id = 0; id < body_.num_forward; ++id) {
      names_[id] = body_.name(id);
      if (absl::StartsWith(names_[id], "gradients"))
        scopes.insert(absl::string_view(names_[id]).substr(0, names_[id].find('/')));
    }
    const std::string scope = Unused(scopes, "gradients");
    for (size_t k = 0; k < part_.hubs.size(); ++k)
      names_[body_.num_nodes() + k] = body_.num_nodes() + static_cast<int>(k) == part_.gate
                                          ? absl::StrCat(scope, "/checks")
                                          : absl::StrCat(scope, "/order_", k);

    absl::flat_hash_map<std::pair<int, absl::string_view>, int> count;  // of nodes of one op for one forward node
    for (int id = body_.num_forward; id < body_.num_nodes(); ++id) {
      const Node& n = body_.node(id);
      if (n.is_arg()) continue;
      if (!part_.kept[id]) continue;
      const int k = count[{n.origin, n.type()}]++;
      names_[id] =
          n.origin < 0 ? absl::StrCat(scope, "/", n.type()) : absl::StrCat(scope, "/", names_[n.origin], "/", n.type());
      if (k > 0) absl::StrAppend(&names_[id], "_", k);
    }
  }

  static std::string Unused(const absl::flat_hash_set<absl::string_view>& used, const std::string& base) {
    std::string name = base;
    for (int k = 1; used.contains(name); ++k) name = absl::StrCat(base, "_", k);
    return name;
  }

  // Arguments of the function keep their names; a tensor that is made one is a residual.
  void NameArgs() {
    absl::flat_hash_set<absl::string_view> taken(names_.begin(), names_.end());
    arg_names_.reserve(args_.size());  // where they are, they stay
    for (size_t i = 0; i < args_.size(); ++i) {
      const int node = args_[i].node;
      const bool own = node < body_.num_forward && body_.node(node).is_arg();
      arg_names_.push_back(
          own ? names_[node]
              : Unused(taken, body_.node(node).is_arg() ? body_.name(node) : absl::StrCat("residual_", i)));
      taken.insert(arg_names_.back());
    }
  }

  void WriteArgs(const tf::FunctionDef& source) {
    // What the source says of its arguments holds here if each of them is one tensor.
    absl::flat_hash_map<int, int> source_index;
    int count = 0;
    for (const int arg : body_.args)
      if (arg < body_.num_forward) source_index[arg] = count++;
    if (source.signature().input_arg_size() != count) source_index.clear();
    for (size_t i = 0; i < args_.size(); ++i) {
      tf::OpDef::ArgDef* arg = fdef_.mutable_signature()->add_input_arg();
      arg->set_name(arg_names_[i]);
      arg->set_type(tf::BaseType(body_.output(args_[i]).dtype));
      const auto index = source_index.find(args_[i].node);
      const uint32_t key = static_cast<uint32_t>(i);
      if (index == source_index.end()) {
        WriteShape(args_[i], &(*fdef_.mutable_arg_attr())[key]);
        continue;
      }
      if (const auto it = source.arg_attr().find(index->second); it != source.arg_attr().end())
        (*fdef_.mutable_arg_attr())[key] = it->second;
      if (const auto it = source.resource_arg_unique_id().find(index->second);
          it != source.resource_arg_unique_id().end())
        (*fdef_.mutable_resource_arg_unique_id())[key] = it->second;
    }
  }

  void WriteShape(Port p, tf::FunctionDef::ArgAttrs* attrs) {
    ShapeOf(body_, p, signature_).AsProto((*attrs->mutable_attr())["_output_shapes"].mutable_list()->add_shape());
  }

  // "argument", or "node:output:index".
  std::string Reference(Port p) const {
    if (const auto it = arg_of_.find(body_.output_index(p)); it != arg_of_.end()) return arg_names_[it->second];
    const Node& n = body_.node(p.node);
    int index = p.index;
    for (const tf::OpDef::ArgDef& arg : n.op->op_def.output_arg()) {
      int count = 1;
      if (!arg.number_attr().empty()) count = static_cast<int>(n.def->attr().at(arg.number_attr()).i());
      if (!arg.type_list_attr().empty()) count = n.def->attr().at(arg.type_list_attr()).list().type_size();
      if (index < count) return absl::StrCat(names_[p.node], ":", arg.name(), ":", index);
      index -= count;
    }
    return names_[p.node];  // not reached: ports were checked when they were made
  }

  const Functions& functions_;
  const Body& body_;
  const Signature& signature_;
  const std::vector<Port>&args_, &results_;
  const Part part_;
  const std::vector<int> waits_;
  const std::shared_ptr<tf::FunctionDef> function_ = InArena<tf::FunctionDef>();
  tf::FunctionDef& fdef_ = *function_;
  absl::flat_hash_map<int, int> arg_of_;  // output index -> which argument it is
  std::vector<std::string> names_, arg_names_;
};

}  // namespace

absl::StatusOr<Callable> WriteFunction(Functions* functions, const Body& body, absl::string_view stem,
                                       const Signature& signature, const tf::FunctionDef& source) {
  std::shared_ptr<tf::FunctionDef> fdef = FunctionWriter(*functions, body, signature).Write(source);
  Callable function;
  function.stateful = fdef->signature().is_stateful();
  for (const Port& p : signature.results)
    function.results.push_back({tf::BaseType(body.output(p).dtype), ShapeOf(body, p, signature)});
  TF_ASSIGN_OR_RETURN(function.name, functions->AddNamedByContent(stem, std::move(fdef)));
  return function;
}

}  // namespace symgrad
