#include "csrc/engine/emit/builder.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "csrc/engine/emit/emission.h"
#include "csrc/engine/emit/literal.h"
#include "csrc/engine/facts/facts.h"
#include "tensorflow/core/framework/attr_value_util.h"
#include "tensorflow/core/framework/node_def_util.h"

namespace symgrad {
namespace {

thread_local Builder* current = nullptr;

// Elementwise ops of two operands of any shapes that go together.
bool Broadcasts(absl::string_view type) {
  for (const char* op : {"AddV2", "Mul", "RealDiv", "Sub"})
    if (type == op) return true;
  return false;
}

// Whether a node computes integers or truth values and nothing else, as shapes and masks are.
bool IsDiscrete(const Body& body, int id) {
  const Node& n = body.node(id);
  if (n.is_arg() || n.inputs.empty() || n.num_outputs == 0 || n.op->op_def.is_stateful()) return false;
  for (int i = 0; i < n.num_outputs; ++i)
    if (!IsIntegral(body.output({id, i}).dtype)) return false;
  return true;
}

// Whether two nodes of one op have the same attrs, but for those of the runtime.
bool HaveSameAttrs(const tf::OpDef& op, const tf::NodeDef& a, const tf::NodeDef& b) {
  return std::all_of(op.attr().begin(), op.attr().end(), [&](const tf::OpDef::AttrDef& attr) {
    const auto value = [&](const tf::NodeDef& def) -> const tf::AttrValue& {
      const auto it = def.attr().find(attr.name());
      return it == def.attr().end() ? attr.default_value() : it->second;
    };
    return tf::AreAttrValuesEqual(value(a), value(b));
  });
}

bool IsKnown(const Body& body, Port p) {
  const IntsPtr ints = body.output(p).ints;
  return ints != nullptr && ints->known();
}

// What nodes that may be equal have in common: the op, and the inputs that are no known integers.
std::string KeyOf(const Body& body, absl::string_view type, absl::Span<const Port> inputs) {
  std::string key(type);
  for (const Port& p : inputs) {
    if (IsKnown(body, p)) key += " #";
    else absl::StrAppend(&key, " ", p.node, ":", p.index);
  }
  return key;
}

// Whether two tensors are one, or are the same integers.
bool AreSame(const Body& body, Port p, Port q) {
  if (p == q) return true;
  if (!IsKnown(body, p) || !IsKnown(body, q) || body.output(p).dtype != body.output(q).dtype) return false;
  const Ints &a = *body.output(p).ints, &b = *body.output(q).ints;
  const auto equal = [](const Ints::Element& x, const Ints::Element& y) { return x.value == y.value; };
  return a.dims == b.dims &&
         std::equal(a.elements.begin(), a.elements.end(), b.elements.begin(), b.elements.end(), equal);
}

absl::Status BadEmission(const char* type, absl::string_view what) {
  return absl::InternalError(absl::StrCat("a rule emitted op ", type, ": ", what));
}

}  // namespace

Builder::Builder(Body* body) : body_(body) {
  for (int id = 0; id < body->num_forward; ++id)
    if (IsDiscrete(*body, id)) discrete_[KeyOf(*body, body->node(id).type(), body->node(id).inputs)].push_back(id);
}

Builder::Scope::Scope(Builder* builder) : previous_(std::exchange(current, builder)) {}
Builder::Scope::~Scope() { current = previous_; }
Builder* Builder::Current() { return current; }

void Builder::Fail(const absl::Status& status) { status_.Update(status); }
absl::Status Builder::TakeStatus() { return std::exchange(status_, absl::OkStatus()); }

const tf::OpRegistrationData* Builder::Lookup(const char* type) {
  const auto [it, added] = ops_.try_emplace(type, nullptr);
  if (added && !tf::OpRegistry::Global()->LookUp(type, &it->second).ok()) it->second = nullptr;
  return it->second;
}

V Builder::Emit(const char* type, absl::Span<const Arg> args, const Node* like) {
  if (!status_.ok()) return none;
  const tf::OpRegistrationData* op = Lookup(type);
  if (op == nullptr) return Fail(BadEmission(type, "not registered with TensorFlow")), none;
  tf::NodeDef* def = body_->NewDef();
  Emission emission(this, op->op_def, like, def);
  const absl::Status status = emission.Read(args);
  if (!status.ok()) return Fail(BadEmission(type, status.message())), none;
  std::optional<std::vector<Port>> inputs = emission.Inputs();
  if (!inputs) return none;
  if (!Broadcasts(type)) return AddNode(op, def, *inputs, KeyHere(emission.TakeKey()));
  // What has the mean of a batch as cotangent is as small as that for as long as it can be.
  const std::optional<Broadcast> broadcast = TakeBroadcast(&*inputs);
  V result = AddNode(op, def, *inputs, KeyHere(absl::StrCat(emission.TakeKey(), broadcast ? ":small" : "")));
  if (!result || !broadcast) return result;
  if (broadcast->to) return Emit("BroadcastTo", {result, broadcast->to});
  body_->output(ToPort(result)).shape = broadcast->shape;
  return result;
}

std::optional<Builder::Broadcast> Builder::TakeBroadcast(std::vector<Port>* inputs) const {
  for (const size_t i : {0, 1}) {
    const Port p = (*inputs)[i], other = (*inputs)[1 - i];
    const Node& n = body_->node(p.node);
    const bool scalar = body_->rank(other) == 0;
    if (!IsBroadcast(p.node) || (!scalar && (p == other || !body_->SameShape(p, other)))) continue;
    (*inputs)[i] = n.inputs[0];
    return Broadcast{scalar ? ToValue(n.inputs[1]) : none, body_->output(p).shape};
  }
  return std::nullopt;
}

// Whether a node was emitted to broadcast.
bool Builder::IsBroadcast(int id) const {
  return id >= body_->num_forward && !body_->node(id).is_arg() && body_->node(id).type() == "BroadcastTo";
}

int Builder::FindDiscrete(const tf::OpDef& op, const tf::NodeDef& def, const std::vector<Port>& inputs) const {
  const auto known = discrete_.find(KeyOf(*body_, def.op(), inputs));
  if (known == discrete_.end()) return -1;
  for (const int id : known->second) {
    const Node& n = body_->node(id);
    if (n.def->device() != def.device()) continue;
    const auto same = [&](Port p, Port q) { return AreSame(*body_, p, q); };
    const bool equal = std::equal(inputs.begin(), inputs.end(), n.inputs.begin(), n.inputs.end(), same);
    if (equal && HaveSameAttrs(op, *n.def, def)) return id;
  }
  return -1;
}

std::string Builder::KeyHere(std::string key) const {
  absl::StrAppend(&key, "@", DeviceOf(origin_));
  return key;
}

V Builder::AddNode(const tf::OpRegistrationData* op, tf::NodeDef* def, const std::vector<Port>& inputs,
                   std::string key) {
  const std::string& type = def->op();
  tf::DataTypeVector dtypes;
  const absl::Status typed = tf::OutputTypesForNode(*def, op->op_def, &dtypes);
  if (!typed.ok()) return Fail(BadEmission(type.c_str(), typed.message())), none;

  if (dtypes.size() == 1 && IsIntegral(dtypes[0]) && type != "Const") {
    const std::vector<IntsPtr> folded = FoldInts(body_, type, *def, inputs);
    tf::TensorProto value;
    if (folded.size() == 1 && folded[0] != nullptr && folded[0]->known() && FillInts(*folded[0], dtypes[0], &value))
      return Constant(std::move(value));
  }

  if (origin_ >= 0) {
    const Node& origin = body_->node(origin_);
    if (!origin.is_arg()) CopyPlacement(*origin.def, def);
  }
  const bool shared = !op->op_def.is_stateful();
  if (shared) {
    const auto it = emitted_.find(key);
    if (it != emitted_.end()) return V::Tensor(it->second, 0);
  }
  const bool discrete = shared && std::all_of(dtypes.begin(), dtypes.end(), IsIntegral);
  if (const int known = discrete ? FindDiscrete(op->op_def, *def, inputs) : -1; known >= 0) return V::Tensor(known, 0);
  const int id = body_->AddNode(op, def, inputs, dtypes, origin_);
  const absl::Status inferred = InferFacts(body_, id);
  if (!inferred.ok()) return Fail(BadEmission(type.c_str(), inferred.message())), none;
  if (shared) emitted_.emplace(std::move(key), id);
  return V::Tensor(id, 0);
}

V Builder::Constant(const V& literal, tf::DataType dtype) {
  if (!status_.ok()) return none;
  if (literal.is_tensor()) return literal;
  tf::TensorProto value;
  if (!FillLiteral(literal, dtype, &value))
    return Fail(BadEmission("Const", absl::StrCat("a literal can't be ", tf::DataType_Name(dtype)))), none;
  return Constant(std::move(value));
}

V Builder::Constant(tf::TensorProto value) {
  std::string key = KeyHere(absl::StrCat("Const:", value.SerializeAsString()));
  if (const auto it = emitted_.find(key); it != emitted_.end()) return V::Tensor(it->second, 0);
  tf::NodeDef* def = body_->NewDef();
  def->set_op("Const");
  (*def->mutable_attr())["dtype"].set_type(value.dtype());
  *(*def->mutable_attr())["value"].mutable_tensor() = std::move(value);
  return AddNode(Lookup("Const"), def, {}, std::move(key));
}

V Builder::EmitNode(tf::NodeDef* def, const std::vector<V>& inputs, const tf::DataTypeVector& dtypes) {
  if (!status_.ok()) return none;
  const tf::OpRegistrationData* op = Lookup(def->op().c_str());
  tf::AddDefaultsToNodeDef(op->op_def, def);
  std::vector<Port> ports;
  for (const V& v : inputs) ports.push_back(ToPort(Dense(v)));
  if (origin_ >= 0 && !body_->node(origin_).is_arg()) CopyPlacement(*body_->node(origin_).def, def);
  const int id = body_->AddNode(op, def, ports, dtypes, origin_);
  if (const absl::Status status = InferFacts(body_, id); !status.ok())
    return Fail(BadEmission(def->op().c_str(), status.message())), none;
  return V::Tensor(id, 0);
}

V Builder::Call(const Callable& f, const std::vector<V>& inputs, const tf::NodeDef* like) {
  tf::NodeDef* node = body_->NewDef();
  node->set_op(f.stateful ? "StatefulPartitionedCall" : "PartitionedCall");
  auto& attrs = *node->mutable_attr();
  const tf::DataTypeVector dtypes = Dtypes(f.results);
  attrs["Tin"].mutable_list();
  attrs["Tout"].mutable_list();
  for (const V& v : inputs) attrs["Tin"].mutable_list()->add_type(ToTf(v.dtype()));
  for (const tf::DataType t : dtypes) attrs["Tout"].mutable_list()->add_type(t);
  attrs["f"].mutable_func()->set_name(f.name);
  if (like != nullptr) CopyRuntimeAttrs(*like, node);
  return EmitNode(node, inputs, dtypes);
}

V Builder::Rows(RowsValue rows) {
  rows.values = Dense(rows.values);
  for (V* v : {&rows.indices, &rows.dense_shape}) *v = Constant(*v, tf::DT_INT32);
  if (!status_.ok() || !rows.values) return none;
  // What is known of the dense shape is so of each row.
  const Port values = ToPort(rows.values);
  const IntsPtr dense = body_->output(ToPort(rows.dense_shape)).ints;
  if (body_->rank(values) < 0 && dense != nullptr && !dense->elements.empty()) {
    std::vector<Dim> dims = {body_->shapes()->UnknownDim()};
    for (size_t i = 1; i < dense->elements.size(); ++i) {
      const Ints::Element& e = dense->elements[i];
      dims.push_back(e.known() ? body_->shapes()->MakeDim(e.value) : body_->shapes()->UnknownDim());
    }
    body_->output(values).shape = body_->shapes()->MakeShape(dims);
  }
  rows_.push_back(std::move(rows));
  return V::Rows(static_cast<int>(rows_.size()) - 1);
}

V Builder::Dense(const V& v) {
  if (v.kind() != V::Kind::kRows) return v;
  const RowsValue r = rows_[v.node()];
  const V count = gather(r.dense_shape, 0);
  return op("UnsortedSegmentSum", r.values, r.indices, count);
}

int Builder::OriginOf(const V& v) const {
  const int id = v.kind() == V::Kind::kRows ? rows_[v.node()].values.node() : v.node();
  return body_->node(id).origin < 0 ? id : body_->node(id).origin;
}

absl::string_view Builder::DeviceOf(int origin) const {
  if (origin < 0 || body_->node(origin).is_arg()) return "";
  return body_->node(origin).def->device();
}

V Builder::Sum(const std::vector<V>& values) {
  const int here = origin_;
  std::vector<std::pair<int, std::vector<V>>> groups;  // an origin on the device, and what is there
  for (const V& v : values) {
    if (!v) continue;
    const int origin = DeviceOf(OriginOf(v)).empty() ? here : OriginOf(v);
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const auto& g) { return DeviceOf(g.first) == DeviceOf(origin); });
    if (group == groups.end()) group = groups.insert(group, {DeviceOf(origin) == DeviceOf(here) ? here : origin, {}});
    group->second.push_back(v);
  }
  if (groups.empty()) return none;
  std::vector<V> sums;
  for (const auto& [origin, parts] : groups) {
    set_origin(origin);
    sums.push_back(SumHere(parts));
  }
  set_origin(groups.size() == 1 ? groups[0].first : here);
  const V sum = SumHere(sums);
  set_origin(here);
  return sum;
}

V Builder::SumHere(const std::vector<V>& values) {
  std::vector<V> dense, indices, parts;
  V dense_shape;
  for (const V& v : values) {
    if (v.kind() == V::Kind::kRows) {
      const RowsValue& r = rows_[v.node()];
      indices.push_back(r.indices);
      parts.push_back(r.values);
      dense_shape = r.dense_shape;
    } else if (v) {
      dense.push_back(v);
    }
  }
  const bool alike =
      std::all_of(indices.begin(), indices.end(), [&](const V& v) { return v.dtype() == indices[0].dtype(); });
  for (V& v : indices)
    if (!alike) v = cast(v, DType::kInt64);
  V sparse;
  if (!parts.empty())
    sparse = Rows({parts.size() == 1 ? indices[0] : concat(indices, 0), parts.size() == 1 ? parts[0] : concat(parts, 0),
                   dense_shape});
  if (dense.empty()) return sparse;
  if (sparse) dense.push_back(Dense(sparse));
  if (dense.size() == 1) return dense[0];
  if (dense[0].dtype() == DType::kVariant) return op("AddN", list(dense));
  // Those that are broadcast come last: an addition does that, AddN does not.
  std::vector<V> large, small;
  for (const V& v : dense) (IsBroadcast(v.node()) ? small : large).push_back(v);
  if (large.size() > 2) large = {op("AddN", list(large))};
  large.insert(large.end(), small.begin(), small.end());
  V sum = large[0];
  for (size_t i = 1; i < large.size(); ++i) sum = sum + large[i];
  return sum;
}

}  // namespace symgrad
