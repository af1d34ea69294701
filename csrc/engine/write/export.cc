#include "csrc/engine/write/export.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/function/functions.h"
#include "tensorflow/core/framework/node_def_util.h"

namespace symgrad {
namespace {

class FunctionWriter {
 public:
  FunctionWriter(const Body& body, const Signature& signature)
      : body_(body), args_(signature.args), results_(signature.results), effects_(signature.effects) {}

  tf::FunctionDef Write(const std::string& name, const tf::FunctionDef& source) {
    MarkNeeded();
    NameNodes();
    NameArgs();
    tf::FunctionDef fdef;
    tf::OpDef* signature = fdef.mutable_signature();
    signature->set_name(name);
    WriteArgs(source, &fdef);
    for (size_t i = 0; i < results_.size(); ++i) {
      tf::OpDef::ArgDef* arg = signature->add_output_arg();
      arg->set_name(absl::StrCat("out_", i));
      arg->set_type(tf::BaseType(body_.output(results_[i]).dtype));
      (*fdef.mutable_ret())[arg->name()] = Reference(results_[i]);
    }
    for (const char* attr : {"_noinline", "_XlaMustCompile"})
      if (const auto it = source.attr().find(attr); it != source.attr().end())
        (*fdef.mutable_attr())[attr] = it->second;
    for (int id = 0; id < body_.num_nodes(); ++id) {
      const Node& n = body_.node(id);
      if (!needed_[id] || n.is_arg()) continue;
      if (n.op->op_def.is_stateful()) {
        signature->set_is_stateful(true);
        // What the caller does next must wait for it: a write of the variable that is read here, say.
        signature->add_control_output(names_[id]);
        (*fdef.mutable_control_ret())[names_[id]] = names_[id];
      }
      tf::NodeDef* def = fdef.add_node_def();
      *def = *n.def;
      def->set_name(names_[id]);
      def->clear_input();
      if (const auto it = body_.custom_inputs.find(id); it != body_.custom_inputs.end()) {
        auto* references = (*def->mutable_attr())[kCustomInputs].mutable_list();
        references->clear_s();
        for (const Port& p : it->second) references->add_s(Reference(p));
      }
      for (const Port& p : n.inputs) def->add_input(Reference(p));
      if (!IsConst(n))
        for (const int c : n.controls) def->add_input(absl::StrCat("^", names_[c]));
    }
    return fdef;
  }

 private:
  // A constant is the same whatever it is ordered after.
  static bool IsConst(const Node& n) { return n.type() == "Const"; }

  void MarkNeeded() {
    for (size_t i = 0; i < args_.size(); ++i) arg_of_[body_.output_index(args_[i])] = static_cast<int>(i);
    needed_.assign(body_.num_nodes(), false);
    std::vector<int> pending;
    const auto need_node = [&](int id) {
      if (!needed_[id]) pending.push_back(id);
      needed_[id] = true;
    };
    const auto need = [&](Port p) {
      if (!arg_of_.contains(body_.output_index(p))) need_node(p.node);
    };
    for (const Port& p : results_) need(p);
    for (const int id : effects_) need_node(id);
    while (!pending.empty()) {
      const int id = pending.back();
      pending.pop_back();
      const Node& n = body_.node(id);
      if (n.is_arg()) continue;
      for (const Port& p : n.inputs) need(p);
      if (const auto it = body_.custom_inputs.find(id); it != body_.custom_inputs.end())
        for (const Port& p : it->second) need(p);  // for the next derivative; they may come after the node
      if (!IsConst(n))
        for (const int c : n.controls) need_node(c);
    }
  }

  // Forward nodes and arguments keep their names, which are unique; emitted nodes live in a scope of their own.
  void NameNodes() {
    names_.resize(body_.num_nodes());
    absl::flat_hash_set<std::string> scopes;
    for (int id = 0; id < body_.num_forward; ++id) {
      names_[id] = body_.name(id);
      if (absl::StartsWith(names_[id], "gradients")) scopes.insert(names_[id].substr(0, names_[id].find('/')));
    }
    const std::string scope = Unused(scopes, "gradients");

    absl::flat_hash_map<std::pair<int, absl::string_view>, int> count;  // of nodes of one op for one forward node
    for (int id = body_.num_forward; id < body_.num_nodes(); ++id) {
      const Node& n = body_.node(id);
      if (n.is_arg()) continue;
      if (!needed_[id]) continue;
      const int k = count[{n.origin, n.type()}]++;
      names_[id] =
          n.origin < 0 ? absl::StrCat(scope, "/", n.type()) : absl::StrCat(scope, "/", names_[n.origin], "/", n.type());
      if (k > 0) absl::StrAppend(&names_[id], "_", k);
    }
  }

  static std::string Unused(const absl::flat_hash_set<std::string>& used, const std::string& base) {
    std::string name = base;
    for (int k = 1; used.contains(name); ++k) name = absl::StrCat(base, "_", k);
    return name;
  }

  // Arguments of the function keep their names; a tensor that is made one is a residual.
  void NameArgs() {
    absl::flat_hash_set<std::string> taken(names_.begin(), names_.end());
    for (size_t i = 0; i < args_.size(); ++i) {
      const int node = args_[i].node;
      const bool own = node < body_.num_forward && body_.node(node).is_arg();
      arg_names_.push_back(
          own ? names_[node]
              : Unused(taken, body_.node(node).is_arg() ? body_.name(node) : absl::StrCat("residual_", i)));
      taken.insert(arg_names_.back());
    }
  }

  void WriteArgs(const tf::FunctionDef& source, tf::FunctionDef* fdef) {
    // What the source says of its arguments holds here if each of them is one tensor.
    absl::flat_hash_map<int, int> source_index;
    int count = 0;
    for (const int arg : body_.args)
      if (arg < body_.num_forward) source_index[arg] = count++;
    if (source.signature().input_arg_size() != count) source_index.clear();
    for (size_t i = 0; i < args_.size(); ++i) {
      tf::OpDef::ArgDef* arg = fdef->mutable_signature()->add_input_arg();
      arg->set_name(arg_names_[i]);
      arg->set_type(tf::BaseType(body_.output(args_[i]).dtype));
      const auto index = source_index.find(args_[i].node);
      const uint32_t key = static_cast<uint32_t>(i);
      if (index == source_index.end()) {
        WriteShape(args_[i], &(*fdef->mutable_arg_attr())[key]);
        continue;
      }
      if (const auto it = source.arg_attr().find(index->second); it != source.arg_attr().end())
        (*fdef->mutable_arg_attr())[key] = it->second;
      if (const auto it = source.resource_arg_unique_id().find(index->second);
          it != source.resource_arg_unique_id().end())
        (*fdef->mutable_resource_arg_unique_id())[key] = it->second;
    }
  }

  void WriteShape(Port p, tf::FunctionDef::ArgAttrs* attrs) {
    tf::TensorShapeProto* shape = (*attrs->mutable_attr())["_output_shapes"].mutable_list()->add_shape();
    shape->set_unknown_rank(body_.rank(p) < 0);
    for (int i = 0; i < body_.rank(p); ++i) shape->add_dim()->set_size(body_.dim(p, i));
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

  const Body& body_;
  const std::vector<Port>&args_, &results_;
  const std::vector<int>& effects_;
  absl::flat_hash_map<int, int> arg_of_;  // output index -> which argument it is
  std::vector<bool> needed_;
  std::vector<std::string> names_, arg_names_;
};

}  // namespace

tf::FunctionDef ExportFunction(const Body& body, const std::string& name, const Signature& signature,
                               const tf::FunctionDef& source) {
  return FunctionWriter(body, signature).Write(name, source);
}

}  // namespace symgrad
