#include "csrc/engine/read/import.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/body/errors.h"
#include "csrc/engine/body/node_check.h"
#include "csrc/engine/body/topological_order.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/facts/known_inputs.h"
#include "csrc/engine/flatten/flatten.h"
#include "csrc/engine/library/gradient_op.h"
#include "csrc/engine/read/arguments.h"
#include "csrc/engine/read/function_facts.h"
#include "csrc/engine/read/items.h"
#include "csrc/engine/tensorflow1/flows.h"
#include "csrc/engine/tensorflow1/functionalize.h"
#include "tensorflow/core/framework/attr_value_util.h"
#include "tensorflow/core/framework/node_def_util.h"
#include "tensorflow/core/framework/op_def_util.h"

namespace symgrad {
namespace {

// Arguments, nodes, edges, results, in this order; each step notes what is wrong and goes on. What is left when nothing
// was wrong is put in order and becomes the body.
class FunctionReader {
 public:
  FunctionReader(Functions* functions, const tf::NameAttrList& f)
      : functions_(functions), f_(f), body_(std::make_unique<Body>()) {}

  absl::StatusOr<std::unique_ptr<Body>> Read() {
    fdef_ = functions_->Find(f_.name());
    if (fdef_ == nullptr)
      return absl::NotFoundError(
          absl::StrCat("function '", f_.name(), "' is not in the library: add it to the graph (",
                       "ConcreteFunction.add_to_graph, TF_GraphCopyFunction) before it is differentiated"));
    body_->function = f_.name();
    ReadAttrs();
    if (HasFrames(*fdef_)) {
      TF_ASSIGN_OR_RETURN(tf::FunctionDef functional, Functionalize(functions_, *fdef_, attrs_));
      Replace(std::move(functional));
    } else if (std::optional<tf::FunctionDef> flat = InlineFew(functions_, f_, *fdef_)) {
      Replace(*std::move(flat));
    }
    ReadArgs();
    ReadRanges(attrs_, body_.get());
    ReadNodes();
    ReadEdges();
    std::vector<std::vector<Port>> results = ReadResults();
    if (errors_.empty() && exhausted_.ok()) {
      const std::vector<int> order = Sort();
      if (errors_.empty()) Build(order);
    }
    TF_RETURN_IF_ERROR(exhausted_);
    if (!errors_.empty()) return Malformed();
    for (const auto& ports : results)
      for (const Port& p : ports) body_->results.push_back(items_.BodyPort(p));
    for (const auto& [output, node] : fdef_->control_ret())
      if (const int item = items_.Find(node); item >= 0 && items_[item].def != nullptr)
        body_->control_results.push_back(items_[item].id);
    for (const Item& item : items_)
      for (const Port& p : item.custom_inputs) body_->custom_inputs[item.id].push_back(items_.BodyPort(p));
    body_->num_forward = body_->num_nodes();
    if (functions_->has_arrays()) {
      ReadArgFlows(attrs_, body_.get());
      FindFlows(functions_, body_.get());
    }
    return std::move(body_);
  }

 private:
  absl::Status Malformed() const {
    const bool misses_rules = code_ == absl::StatusCode::kUnimplemented;
    return errors_.ToStatus(code_, absl::StrCat("function '", f_.name(), "' ",
                                                misses_rules ? "has gradients that can't be built" : "is malformed"));
  }

  void Replace(tf::FunctionDef fdef) {
    const auto kept = std::make_shared<const tf::FunctionDef>(std::move(fdef));
    fdef_ = kept.get();
    body_->Keep(kept);
  }

  // The attrs that instantiate a polymorphic function.
  void ReadAttrs() {
    attrs_ = f_.attr();
    for (const tf::OpDef::AttrDef& attr : fdef_->signature().attr()) {
      if (!attrs_.count(attr.name()) && attr.has_default_value()) attrs_[attr.name()] = attr.default_value();
      if (!attrs_.count(attr.name()))
        errors_.Add(absl::StrCat("its attr '", attr.name(), "' needs a value: name it in f's attrs"));
    }
  }

  // A name, or a number in an attr, may stand for a million tensors.
  bool Affords(int64_t tensors) {
    if (tensors > 1) exhausted_.Update(functions_->Spend(tensors - 1));
    return exhausted_.ok();
  }

  // The dtypes that arguments of the signature stand for.
  tf::DataTypeVector Dtypes(const tf::OpDef::ArgDef& arg) {
    tf::DataTypeVector dtypes;
    const int64_t count = ArgCount(arg, attrs_);
    if (count < 0 || count > kMaxArity) {
      errors_.Add(absl::StrCat("argument '", arg.name(), "' has a length of ", count));
    } else if (!Affords(count)) {
      return dtypes;
    } else if (!arg.type_list_attr().empty()) {
      for (const int t : attrs_[arg.type_list_attr()].list().type()) dtypes.push_back(static_cast<tf::DataType>(t));
    } else {
      dtypes.assign(count, arg.type_attr().empty() ? arg.type() : attrs_[arg.type_attr()].type());
    }
    for (const tf::DataType t : dtypes)
      if (!tf::DataType_IsValid(t) || t == tf::DT_INVALID)
        errors_.Add(absl::StrCat("argument '", arg.name(), "' has no valid dtype"));
    return dtypes;
  }

  void AddItem(const std::string& name, Item item) {
    if (!items_.Add(name, std::move(item))) errors_.Add(absl::StrCat("two nodes or arguments are called '", name, "'"));
  }

  void ReadArgs() {
    for (int i = 0; i < fdef_->signature().input_arg_size(); ++i) {
      const tf::OpDef::ArgDef& arg = fdef_->signature().input_arg(i);
      Item item;
      item.out = Dtypes(arg);
      for (size_t k = 0; errors_.empty() && k < item.out.size(); ++k) {
        const int id = body_->AddArg(item.out.size() == 1 ? arg.name() : absl::StrCat(arg.name(), "_", k), item.out[k]);
        if (k == 0) item.id = id;
        ReadArgument(*fdef_, attrs_, i, k, body_.get(), &errors_);
      }
      AddItem(arg.name(), std::move(item));
    }
  }

  // The node as the function's attrs instantiate it and with the defaults of its op: itself in the common case.
  const tf::NodeDef* Instantiate(const tf::NodeDef& node, const tf::OpDef& op) {
    if (IsComplete(node, op)) return &node;
    tf::NodeDef* copy = body_->NewDef();
    *copy = CompleteNode(node, op, attrs_);
    return copy;
  }

  void ReadNodes() {
    items_.Reserve(fdef_->node_def_size());
    for (const tf::NodeDef& node : fdef_->node_def()) {
      Item item;
      item.def = &node;
      item.op = Lookup(node.op());
      if (item.op == nullptr) {
        NodeError(node, absl::StrCat("its op '", node.op(), "' is neither registered nor a function of the library: ",
                                     "load the library that registers it, or add the function"));
      } else {
        item.def = Instantiate(node, item.op->op_def);
        if (!ReadTypes(&item)) item.op = nullptr;
        if (!Affords(static_cast<int64_t>(item.out.size()))) return;
      }
      AddItem(node.name(), std::move(item));
    }
  }

  const tf::OpRegistrationData* Lookup(const std::string& op) {
    const auto [it, added] = ops_.try_emplace(op, nullptr);
    if (!added) return it->second;
    if (!functions_->LookUp(op, &it->second).ok()) it->second = nullptr;
    return it->second;
  }

  bool ReadTypes(Item* item) {
    const std::vector<std::string> wrong = CheckNode(*item->def, item->op->op_def, &item->in, &item->out);
    for (const std::string& what : wrong) NodeError(*item->def, what);
    return wrong.empty();
  }

  // A gradient op is a call of the gradient function of its f; to XLA one for what is known of these inputs, which then
  // computes no shapes: they would not be constants any more where a loop has stacked them.
  void ResolveGradient(Item* item, const std::vector<Port>& inputs) {
    Asked asked = AskedBy(*item->def, item->in, item->out);
    if (body_->compiled) {
      const size_t n = std::min(asked.wrt.empty() ? item->out.size() : asked.wrt.size(), inputs.size());
      asked.f = WithVariableDtypes(WithInputs(asked.f, *body_, {inputs.data(), n}), item->in, item->out, asked.wrt);
    }
    const absl::StatusOr<std::string> gradient = functions_->Gradient(asked.f, asked.wrt, asked.values);
    if (!gradient.ok()) return GradientError(*item->def, gradient.status());
    const tf::OpDef& signature = functions_->Find(*gradient)->signature();
    tf::NodeDef* call = body_->NewDef();
    *call = *item->def;
    call->set_op(signature.is_stateful() ? "StatefulPartitionedCall" : "PartitionedCall");
    (*call->mutable_attr())["f"].mutable_func()->set_name(*gradient);
    for (const char* attr : {"wrt", "values", "checkpoint", "optimize"}) call->mutable_attr()->erase(attr);
    item->op = Lookup(call->op());
    tf::AddDefaultsToNodeDef(item->op->op_def, call);
    item->def = call;
    const auto check = [&](absl::string_view what, const tf::DataTypeVector& types, const auto& args) {
      bool same = static_cast<int>(types.size()) == args.size();
      for (size_t i = 0; same && i < types.size(); ++i) same = types[i] == args.Get(i).type();
      if (!same)
        NodeError(*call,
                  absl::StrCat("its ", what, " don't fit its f '", item->def->attr().at("f").func().name(), "'"));
    };
    check("inputs (Tin)", item->in, signature.input_arg());
    check("outputs (Tout)", item->out, signature.output_arg());
  }

  void ReadEdges() {
    for (Item& item : items_) {
      if (item.def == nullptr || item.op == nullptr) continue;
      bool ok = true;
      for (const std::string& input : item.def->input()) {
        std::string error;
        if (!input.empty() && input[0] == '^') {
          const int control = items_.Find(absl::string_view(input).substr(1));
          if (control >= 0) item.controls.push_back(control);
          else NodeError(*item.def, absl::StrCat("control input '", input, "' names no node of the function"));
          continue;
        }
        Source source;
        if (!items_.Resolve(input, &source, &error)) {
          if (!error.empty()) NodeError(*item.def, absl::StrCat("input ", error));
          ok = false;
          continue;
        }
        if (!Affords(source.count)) return;
        for (int i = 0; i < source.count; ++i) item.inputs.push_back({source.item, source.first + i});
      }
      if (ok) CheckInputs(item);
      const auto custom = item.def->attr().find(kCustomInputs);
      if (custom == item.def->attr().end()) continue;
      for (const std::string& reference : custom->second.list().s()) {
        Source source;
        std::string error;
        if (!items_.Resolve(reference, &source, &error))
          NodeError(*item.def, absl::StrCat("custom gradient: input ", error));
        else
          for (int i = 0; i < source.count; ++i) item.custom_inputs.push_back({source.item, source.first + i});
      }
    }
  }

  void CheckInputs(const Item& item) {
    if (item.inputs.size() != item.in.size()) {
      NodeError(*item.def, absl::StrCat("it takes ", item.in.size(), " inputs, but has ", item.inputs.size()));
      return;
    }
    for (size_t i = 0; i < item.in.size(); ++i) {
      const tf::DataType got = items_[item.inputs[i].node].out[item.inputs[i].index];
      if (tf::BaseType(got) != tf::BaseType(item.in[i]))
        NodeError(*item.def, absl::StrCat("input ", i, " must be ", tf::DataTypeString(item.in[i]), ", but is ",
                                          tf::DataTypeString(got)));
      else if (tf::IsRefType(item.in[i]) && (items_[item.inputs[i].node].def == nullptr || !tf::IsRefType(got)))
        NodeError(*item.def,
                  absl::StrCat("input ", i, " must be a reference, but is a value, as arguments of gradients ",
                               "are: use a resource variable"));
    }
  }

  std::vector<std::vector<Port>> ReadResults() {
    std::vector<std::vector<Port>> results;
    for (const tf::OpDef::ArgDef& arg : fdef_->signature().output_arg()) {
      std::vector<Port>& ports = results.emplace_back();
      const tf::DataTypeVector dtypes = Dtypes(arg);
      const auto ret = fdef_->ret().find(arg.name());
      Source source;
      std::string error;
      if (ret == fdef_->ret().end()) {
        errors_.Add(absl::StrCat("output '", arg.name(), "' is not in its ret map"));
      } else if (!items_.Resolve(ret->second, &source, &error)) {
        if (!error.empty()) errors_.Add(absl::StrCat("output '", arg.name(), "': ", error));
      } else if (static_cast<size_t>(source.count) != dtypes.size()) {
        errors_.Add(absl::StrCat("output '", arg.name(), "' is ", dtypes.size(), " tensors, but got ", source.count));
      } else {
        for (int i = 0; i < source.count; ++i) {
          ports.push_back({source.item, source.first + i});
          const tf::DataType got = items_[source.item].out[source.first + i];
          if (tf::IsRefType(dtypes[i]))  // of which no op of a function takes the value
            errors_.Add(absl::StrCat("output '", arg.name(), "' is a reference: return the variable's value"));
          else if (tf::BaseType(got) != dtypes[i])
            errors_.Add(absl::StrCat("output '", arg.name(), "' must be ", tf::DataTypeString(dtypes[i]), ", but is ",
                                     tf::DataTypeString(got)));
        }
      }
    }
    return results;
  }

  // Items in topological order: the order they are written in, where that is one.
  std::vector<int> Sort() {
    std::vector<absl::InlinedVector<int, 4>> before(items_.size());
    for (size_t i = 0; i < items_.size(); ++i) {
      before[i].assign(items_[i].controls.begin(), items_[i].controls.end());
      for (const Port& p : items_[i].inputs) before[i].push_back(p.node);
    }
    std::vector<int> order = TopologicalOrder(before);
    if (order.size() == items_.size()) return order;
    std::vector<bool> stuck(items_.size(), true);
    for (const int i : order) stuck[i] = false;
    std::vector<std::string> names;
    for (size_t i = 0; i < items_.size() && names.size() < 8; ++i)
      if (stuck[i]) names.push_back(absl::StrCat("'", items_[i].def->name(), "' (", items_[i].def->op(), ")"));
    errors_.Add(absl::StrCat("its nodes form a cycle, in or behind which are ", absl::StrJoin(names, ", ")));
    return order;
  }

  void Build(const std::vector<int>& order) {
    InferHandleDtypes(items_, body_.get());
    std::vector<Port> inputs;
    for (const int i : order) {
      if (!exhausted_.ok()) return;
      Item& item = items_[i];
      if (item.def == nullptr) continue;  // arguments are there already
      item.id = constants_.Share(item, body_->num_nodes());
      if (item.id < body_->num_nodes()) continue;
      inputs.assign(item.inputs.begin(), item.inputs.end());
      for (Port& p : inputs) p = items_.BodyPort(p);
      if (AsksForGradient(item.def->op())) ResolveGradient(&item, inputs);
      for (int k = 0, n = FalselyClaimed(*body_, *item.def, inputs); k < n; ++k) Veil(item, k, &inputs[k]);
      item.id = body_->AddNode(item.op, item.def, inputs, item.out, -1);
      for (const int c : item.controls)
        if (items_[c].def != nullptr) body_->node(item.id).controls.push_back(items_[c].id);
      const absl::Status status = InferFacts(body_.get(), item.id);
      if (!status.ok()) NodeError(*item.def, std::string(status.message()));
      InferFromFunctions(functions_, body_.get(), item.id);
    }
  }

  void Veil(const Item& item, int input, Port* port) {
    if (!(Unveiled(*body_, *port) == *port)) return;
    const auto add = [&](const char* op, const std::vector<Port>& inputs, tf::DataType dtype, auto attrs) {
      tf::NodeDef* def = body_->NewDef();
      std::string name = absl::StrCat(item.def->name(), "/veiled_", input, "/", op);
      while (items_.Find(name) >= 0) name += '_';
      def->set_name(std::move(name));
      def->set_op(op);
      attrs(def->mutable_attr());
      const tf::OpRegistrationData* registered = Lookup(op);
      tf::AddDefaultsToNodeDef(registered->op_def, def);
      const Port output{body_->AddNode(registered, def, inputs, {dtype}, -1), 0};
      if (const absl::Status status = InferFacts(body_.get(), output.node); !status.ok())
        NodeError(*item.def, std::string(status.message()));
      return output;
    };
    const Port shape = add("Shape", {*port}, tf::DT_INT32, [&](auto* attr) { (*attr)["T"].set_type(item.in[input]); });
    const Port hidden = add("PlaceholderWithDefault", {shape}, tf::DT_INT32, [](auto* attr) {
      (*attr)["dtype"].set_type(tf::DT_INT32);
      (*attr)["shape"].mutable_shape()->set_unknown_rank(true);
    });
    *port = add("Reshape", {*port, hidden}, item.in[input], [&](auto* attr) {
      (*attr)["T"].set_type(item.in[input]);
      (*attr)[kVeil].set_b(true);
    });
  }

  // What can't be differentiated is no mistake of the function that asks; of what is too large nothing more can be
  // said.
  void GradientError(const tf::NodeDef& node, const absl::Status& status) {
    if (status.code() == absl::StatusCode::kResourceExhausted) return exhausted_.Update(status);
    const bool first = errors_.empty();
    NodeError(node, std::string(status.message()));
    if (first) code_ = status.code();
  }

  void NodeError(const tf::NodeDef& node, const std::string& what) {
    code_ = absl::StatusCode::kInvalidArgument;
    errors_.Add(absl::StrCat("node '", node.name(), "' (op ", node.op(), "): ", what));
  }

  Functions* const functions_;
  const tf::NameAttrList& f_;
  const tf::FunctionDef* fdef_ = nullptr;
  std::unique_ptr<Body> body_;
  AttrMap attrs_;
  Items items_;
  Constants constants_;
  absl::flat_hash_map<std::string, const tf::OpRegistrationData*> ops_;
  Errors errors_;
  absl::StatusCode code_ = absl::StatusCode::kInvalidArgument;
  absl::Status exhausted_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Body>> ImportFunction(Functions* functions, const tf::NameAttrList& f) {
  return FunctionReader(functions, f).Read();
}

}  // namespace symgrad
