#include "csrc/engine/flatten/flatten.h"

#include <algorithm>
#include <deque>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/facts/known_inputs.h"
#include "csrc/engine/library/gradient_op.h"
#include "csrc/engine/library/references.h"
#include "tensorflow/core/framework/node_def_util.h"

namespace symgrad {
namespace {

bool IsTrue(const google::protobuf::Map<std::string, tf::AttrValue>& attrs, const char* name) {
  const auto it = attrs.find(name);
  return it != attrs.end() && it->second.b();
}

bool IsList(const tf::OpDef::ArgDef& arg) { return !arg.number_attr().empty() || !arg.type_list_attr().empty(); }

// A function in its place: the outermost, or what a call stands for.
struct Scope {
  const tf::FunctionDef* function = nullptr;
  std::string prefix;
  int parent = -1;
  const tf::NodeDef* call = nullptr;                    // in the parent
  absl::flat_hash_map<absl::string_view, int> args;     // by name
  std::vector<std::string> resolved;                    // what arguments are called outside, once that was asked
  absl::flat_hash_map<absl::string_view, int> scopes;   // by name of the call
  absl::flat_hash_map<absl::string_view, bool> others;  // nodes by name: whether they are stateful
  std::vector<std::string> before;                      // what the call waits for
  bool is_awaited = false;                              // something waits for the call
  const tf::FunctionDef& f() const { return *function; }
  int depth = 0;
};

// What is written out at most.
constexpr int kMaxDepth = 50;
constexpr int64_t kMaxNodes = 1'000'000;

// What a call costs, residuals handed on and a function written out, is more than so many nodes do.
constexpr int kFewNodes = 8;

enum class Inlines { kAll, kFew };

// Whether nodes are on several devices. Then a call's cotangents are to add up where it is, before they are copied.
bool SpansDevices(const tf::FunctionDef& f) {
  absl::string_view device;
  return std::any_of(f.node_def().begin(), f.node_def().end(), [&](const tf::NodeDef& node) {
    if (device.empty()) device = node.device();
    return !node.device().empty() && node.device() != device;
  });
}

// Whether a function is as good as its call: of a few nodes that refer to no functions, and to no device. An
// implementation of another is chosen by whoever runs it.
bool IsSmall(const Functions& functions, const tf::FunctionDef& f) {
  if (functions.keeps_calls() || f.node_def_size() > kFewNodes || f.attr().contains("api_implements")) return false;
  return std::all_of(f.node_def().begin(), f.node_def().end(), [&](const tf::NodeDef& node) {
    int names = 0;
    VisitReferences(node, [&](const std::string&) { ++names; });
    return names == 1 && node.device().empty() && functions.Find(node.op()) == nullptr;
  });
}

class Flattener {
 public:
  Flattener(Functions* functions, const tf::NameAttrList& f, Inlines inlines)
      : functions_(functions), inlines_(inlines), compiled_(IsTrue(f.attr(), kCompiled)) {
    const tf::FunctionDef* fdef = functions->Find(f.name());
    if (fdef == nullptr) return;
    spans_devices_ = SpansDevices(*fdef);
    if (inlines == Inlines::kFew) Count(*fdef);
    Enter(*fdef, -1, nullptr);
    for (size_t s = 0; s < scopes_.size() && !recursive_; ++s) Read(static_cast<int>(s));
  }

  // Whether there are calls to be written out. Recursion has no end: whoever differentiates the call reports it.
  bool Any() const { return scopes_.size() > 1 && !recursive_; }

  tf::FunctionDef Write() {
    tf::FunctionDef fdef = scopes_[0].f();
    fdef.clear_node_def();
    for (size_t s = 0; s < scopes_.size(); ++s) FindBefore(static_cast<int>(s), &fdef);
    for (size_t s = 0; s < scopes_.size(); ++s) WriteNodes(static_cast<int>(s), &fdef);
    for (auto& [name, reference] : *fdef.mutable_ret()) reference = Resolve(0, reference);
    for (auto& [name, node] : *fdef.mutable_control_ret()) node = Control(0, node);
    // What is waited for turns up while names are resolved, in scopes that lie deeper.
    for (size_t s = 1; s < scopes_.size(); ++s)
      if (scopes_[s].is_awaited) WriteAfter(static_cast<int>(s), &fdef);
    return fdef;
  }

 private:
  void Enter(const tf::FunctionDef& function, int parent, const tf::NodeDef* call) {
    Scope& scope = scopes_.emplace_back();
    scope.function = &function;
    scope.parent = parent;
    scope.call = call;
    if (parent >= 0) {
      scope.depth = scopes_[parent].depth + 1;
      std::string name = absl::StrCat(scopes_[parent].prefix, call->name());
      const auto taken = [&] {
        const auto it = names_.lower_bound(absl::StrCat(name, "/"));
        return it != names_.end() && absl::StartsWith(*it, absl::StrCat(name, "/"));
      };
      while (taken()) absl::StrAppend(&name, "_");
      scope.prefix = absl::StrCat(name, "/");
    }
    const tf::FunctionDef& f = scope.f();
    for (int i = 0; i < f.signature().input_arg_size(); ++i) scope.args[f.signature().input_arg(i).name()] = i;
    scope.resolved.resize(f.signature().input_arg_size());
    num_nodes_ += f.node_def_size();
    if (parent < 0)
      for (const tf::NodeDef& node : f.node_def()) names_.insert(node.name());
  }

  bool Stays(const tf::FunctionDef& callee) {
    return inlines_ == Inlines::kFew && calls_[&callee] > 1 && !IsSmall(*functions_, callee);
  }

  // How often each function is called by what may be written out.
  void Count(const tf::FunctionDef& f) {
    std::vector<const tf::FunctionDef*> pending = {&f};
    while (!pending.empty()) {
      const tf::FunctionDef* caller = pending.back();
      pending.pop_back();
      for (const tf::NodeDef& node : caller->node_def()) {
        const tf::OpRegistrationData* op = nullptr;
        if (!functions_->LookUp(node.op(), &op).ok()) continue;
        const tf::FunctionDef* callee = Called(node, *op);
        if (callee != nullptr && calls_[callee]++ == 0) pending.push_back(callee);
      }
    }
  }

  void Read(int s) {
    for (const tf::NodeDef& node : scopes_[s].f().node_def()) {
      const tf::OpRegistrationData* op = nullptr;
      const bool known = functions_->LookUp(node.op(), &op).ok();
      const tf::FunctionDef* callee =
          known && num_nodes_ < kMaxNodes && scopes_[s].depth < kMaxDepth ? Called(node, *op) : nullptr;
      if (callee == nullptr || Stays(*callee) || !CanBeInlined(*callee, node)) {
        scopes_[s].others[node.name()] = known && op->op_def.is_stateful();
        continue;
      }
      for (int above = s; above >= 0; above = scopes_[above].parent)
        recursive_ = recursive_ || scopes_[above].f().signature().name() == callee->signature().name();
      scopes_[s].scopes[node.name()] = static_cast<int>(scopes_.size());
      Enter(*callee, s, &node);
    }
  }

  // What a node calls; null if it is no call, or one that is to stay. The gradient op is a call of a gradient function,
  // which depends on what XLA knows of its inputs where XLA compiles it.
  const tf::FunctionDef* Called(const tf::NodeDef& node, const tf::OpRegistrationData& op) {
    if (HasOwnGradient(node)) return nullptr;
    tf::DataTypeVector tin, tout;
    if (const auto same = node.attr().find(kSameAs); same != node.attr().end()) {
      const tf::FunctionDef* callee = functions_->Find(same->second.func().name());
      return callee != nullptr && tf::InOutTypesForNode(node, op.op_def, &tin, &tout).ok() &&
                     Fit(tin, callee->signature().input_arg()) && Fit(tout, callee->signature().output_arg())
                 ? callee
                 : nullptr;
    }
    if (AsksForGradient(node.op()) && !compiled_ && node.attr().contains("f")) {
      if (!tf::InOutTypesForNode(node, op.op_def, &tin, &tout).ok()) return nullptr;
      const Asked asked = AskedBy(node, tin, tout);
      const absl::StatusOr<std::string> gradient = functions_->Gradient(asked.f, asked.wrt, asked.values);
      const tf::FunctionDef* callee = gradient.ok() ? functions_->Find(*gradient) : nullptr;
      return callee != nullptr && Fit(tin, callee->signature().input_arg()) &&
                     Fit(tout, callee->signature().output_arg())
                 ? callee
                 : nullptr;
    }
    if (!IsCall(node, op) || IsTrue(node.attr(), "_XlaMustCompile")) return nullptr;
    const std::string name = Callee(node).name();
    const tf::FunctionDef* callee = functions_->GradientDef(name).empty() ? functions_->Find(name) : nullptr;
    const bool few =
        callee != nullptr && (HasGeneratedName(name) || (!spans_devices_ && IsSmall(*functions_, *callee)));
    return inlines_ == Inlines::kAll || few ? callee : nullptr;
  }

  static bool Fit(const tf::DataTypeVector& types, const tf::protobuf::RepeatedPtrField<tf::OpDef::ArgDef>& args) {
    return std::equal(types.begin(), types.end(), args.begin(), args.end(),
                      [](tf::DataType type, const tf::OpDef::ArgDef& arg) { return type == arg.type(); });
  }

  static bool CanBeInlined(const tf::FunctionDef& f, const tf::NodeDef& call) {
    const tf::OpDef& signature = f.signature();
    const auto inputs = std::count_if(call.input().begin(), call.input().end(),
                                      [](const std::string& input) { return !absl::StartsWith(input, "^"); });
    return signature.attr_size() == 0 && inputs == signature.input_arg_size() && !IsTrue(f.attr(), "_noinline") &&
           !IsTrue(f.attr(), "_XlaMustCompile") &&
           std::none_of(signature.input_arg().begin(), signature.input_arg().end(), IsList) &&
           std::none_of(signature.output_arg().begin(), signature.output_arg().end(), IsList) &&
           std::none_of(f.node_def().begin(), f.node_def().end(), [](const tf::NodeDef& node) {
             return node.op() == "Switch" || node.op() == "Merge" || node.op() == "Enter";
           });
  }

  // What a tensor of a scope is called outside: through results of calls, and arguments. Each scope is entered and left
  // once, unless there is a cycle, of which import complains; and each argument once for all that take it, as calls may
  // hand on what they were given.
  std::string Resolve(int s, std::string reference) {
    std::vector<std::string*> passed;
    std::string resolved = Resolve(s, std::move(reference), &passed);
    for (std::string* argument : passed) *argument = resolved;
    return resolved;
  }

  std::string Resolve(int s, std::string reference, std::vector<std::string*>* passed) {
    for (size_t steps = 0; steps <= 2 * scopes_.size(); ++steps) {
      Scope& scope = scopes_[s];
      const std::vector<absl::string_view> parts = absl::StrSplit(reference, ':');
      if (const auto arg = scope.args.find(parts[0]); arg != scope.args.end()) {
        if (scope.parent < 0) return reference;
        std::string& known = scope.resolved[arg->second];
        if (!known.empty()) return known;
        passed->push_back(&known);
        std::string input = scope.call->input(arg->second);
        s = scope.parent;
        reference = std::move(input);
      } else if (const auto call = scope.scopes.find(parts[0]); call != scope.scopes.end()) {
        const Scope& callee = scopes_[call->second];
        const auto& outputs = callee.f().signature().output_arg();
        int k = 0;
        if (callee.call->op() != callee.f().signature().name()) {  // PartitionedCall: "node:output:k"
          if (parts.size() > 2 && !absl::SimpleAtoi(parts[2], &k)) k = -1;
        } else {
          while (k < outputs.size() && (parts.size() < 2 || outputs[k].name() != parts[1])) ++k;
        }
        const auto ret =
            k >= 0 && k < outputs.size() ? callee.f().ret().find(outputs[k].name()) : callee.f().ret().end();
        if (ret == callee.f().ret().end()) return absl::StrCat(scope.prefix, reference);  // import complains
        s = call->second;
        reference = ret->second;
      } else {
        return absl::StrCat(scope.prefix, reference);
      }
    }
    return absl::StrCat(scopes_[s].prefix, reference);
  }

  // What a node of a scope is called outside, for those that wait for it.
  std::string Control(int s, const std::string& node) {
    const auto call = scopes_[s].scopes.find(node);
    if (call == scopes_[s].scopes.end()) return absl::StrCat(scopes_[s].prefix, node);
    scopes_[call->second].is_awaited = true;
    return absl::StrCat(scopes_[call->second].prefix, "after");
  }

  // What all of a scope waits for, as one node.
  void FindBefore(int s, tf::FunctionDef* fdef) {
    Scope& scope = scopes_[s];
    if (scope.parent < 0) return;
    scope.before = scopes_[scope.parent].before;
    for (const std::string& input : scope.call->input())
      if (absl::StartsWith(input, "^") && !scopes_[scope.parent].args.contains(input.substr(1)))
        scope.before.push_back(Control(scope.parent, input.substr(1)));
    if (scope.before.size() < 2) return;
    tf::NodeDef* node = fdef->add_node_def();
    node->set_name(absl::StrCat(scope.prefix, "before"));
    node->set_op("NoOp");
    for (const std::string& name : scope.before) node->add_input(absl::StrCat("^", name));
    scope.before = {node->name()};
  }

  void WriteNodes(int s, tf::FunctionDef* fdef) {
    for (const tf::NodeDef& original : scopes_[s].f().node_def()) {
      const Scope& scope = scopes_[s];
      if (scope.scopes.contains(original.name())) continue;
      tf::NodeDef* node = fdef->add_node_def();
      *node = original;
      node->set_name(absl::StrCat(scope.prefix, original.name()));
      if (scope.parent >= 0 && node->device().empty()) node->set_device(scope.call->device());
      node->clear_input();
      bool first = true;  // takes nothing of other nodes of the scope
      for (const std::string& input : original.input()) {
        if (!absl::StartsWith(input, "^")) {
          node->add_input(Resolve(s, input));
          first = first && scope.args.contains(input);
        }
      }
      for (const std::string& input : original.input())
        if (absl::StartsWith(input, "^") && !(s > 0 && scope.args.contains(input.substr(1))))
          node->add_input(absl::StrCat("^", Control(s, input.substr(1))));
      // What is in calls, branches and loops waits for no value of the whole (write/part.cc).
      if (first || IsStructureOp(original.op()) || functions_->Find(original.op()) != nullptr)
        for (const std::string& name : scope.before) node->add_input(absl::StrCat("^", name));
      RenameReferences(s, node);
    }
  }

  void RenameReferences(int s, tf::NodeDef* node) {
    if (const auto it = node->mutable_attr()->find(kCustomInputs); it != node->mutable_attr()->end())
      for (std::string& reference : *it->second.mutable_list()->mutable_s()) reference = Resolve(s, reference);
    if (const auto it = node->mutable_attr()->find("_class"); it != node->mutable_attr()->end())
      for (std::string& name : *it->second.mutable_list()->mutable_s()) {
        absl::string_view other = name;
        if (absl::ConsumePrefix(&other, "loc:@") && scopes_[s].others.contains(other))
          name = absl::StrCat("loc:@", scopes_[s].prefix, other);
      }
  }

  // A node that is done when the call would be.
  void WriteAfter(int s, tf::FunctionDef* fdef) {
    std::set<std::string> last(scopes_[s].before.begin(), scopes_[s].before.end());
    for (const auto& [name, stateful] : scopes_[s].others)
      if (stateful) last.insert(absl::StrCat(scopes_[s].prefix, name));
    for (const auto& [name, call] : scopes_[s].scopes) last.insert(Control(s, std::string(name)));
    for (const auto& [name, node] : scopes_[s].f().control_ret()) last.insert(Control(s, node));
    for (const auto& [name, reference] : scopes_[s].f().ret()) {
      const std::string node = reference.substr(0, reference.find(':'));
      if (!scopes_[s].args.contains(node)) last.insert(Control(s, node));
    }
    tf::NodeDef* node = fdef->add_node_def();
    node->set_name(absl::StrCat(scopes_[s].prefix, "after"));
    node->set_op("NoOp");
    for (const std::string& name : last) node->add_input(absl::StrCat("^", name));
  }

  Functions* const functions_;
  const Inlines inlines_;
  const bool compiled_;
  bool spans_devices_ = false;
  absl::flat_hash_map<const tf::FunctionDef*, int> calls_;
  std::deque<Scope> scopes_;  // those that call before those that are called
  std::set<std::string> names_;
  int64_t num_nodes_ = 0;
  bool recursive_ = false;
};

}  // namespace

absl::StatusOr<tf::NameAttrList> Flatten(Functions* functions, const tf::NameAttrList& f) {
  if (functions->Find(f.name()) == nullptr || !functions->GradientDef(f.name()).empty()) return f;
  Flattener flattener(functions, f, Inlines::kAll);
  if (!flattener.Any()) return f;
  tf::NameAttrList flat = f;
  TF_ASSIGN_OR_RETURN(*flat.mutable_name(),
                      functions->AddNamedByContent(f.name(), std::make_shared<tf::FunctionDef>(flattener.Write())));
  return flat;
}

std::optional<tf::FunctionDef> InlineFew(Functions* functions, const tf::NameAttrList& f, const tf::FunctionDef& fdef) {
  const bool spans_devices = SpansDevices(fdef);
  const auto stands_for_another = [&](const tf::NodeDef& node) {
    if (AsksForGradient(node.op()) || node.attr().contains(kSameAs)) return true;
    const absl::string_view op = node.op();
    if (op != "PartitionedCall" && op != "StatefulPartitionedCall") return false;
    const auto attr = node.attr().find("f");
    if (attr == node.attr().end()) return false;
    const std::string& name = attr->second.func().name();
    const tf::FunctionDef* callee = functions->Find(name);
    return HasGeneratedName(name) || (!spans_devices && callee != nullptr && IsSmall(*functions, *callee));
  };
  if (fdef.signature().attr_size() > 0 || IsTrue(f.attr(), kCompiled) ||
      std::none_of(fdef.node_def().begin(), fdef.node_def().end(), stands_for_another))
    return std::nullopt;
  Flattener flattener(functions, f, Inlines::kFew);
  if (!flattener.Any()) return std::nullopt;
  return flattener.Write();
}

}  // namespace symgrad
