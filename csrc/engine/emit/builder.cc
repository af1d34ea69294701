#include "csrc/engine/emit/builder.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "csrc/engine/emit/literal.h"
#include "tensorflow/core/framework/node_def_util.h"

namespace symgrad {
namespace {

thread_local Builder* current = nullptr;

std::string Bytes(Port p) { return std::string(reinterpret_cast<const char*>(&p), sizeof(p)); }

absl::Status BadEmission(const char* type, absl::string_view what) {
  return absl::InternalError(absl::StrCat("a rule emitted op ", type, ": ", what));
}

// Fills in an AttrValue of the declared type from what a rule wrote.
absl::Status SetAttr(const Attr& attr, const tf::OpDef::AttrDef& declared, tf::AttrValue* out) {
  const std::string& type = declared.type();
  const auto* ints = std::get_if<std::vector<int64_t>>(&attr.value);
  const auto* integer = std::get_if<int64_t>(&attr.value);
  if (type == "bool" && std::get_if<bool>(&attr.value)) {
    out->set_b(std::get<bool>(attr.value));
  } else if (type == "int" && integer) {
    out->set_i(*integer);
  } else if (type == "float" && (integer || std::get_if<double>(&attr.value))) {
    out->set_f(static_cast<float>(integer ? static_cast<double>(*integer) : std::get<double>(attr.value)));
  } else if (type == "string" && std::get_if<std::string>(&attr.value)) {
    out->set_s(std::get<std::string>(attr.value));
  } else if (type == "type" && std::get_if<DType>(&attr.value)) {
    out->set_type(ToTf(std::get<DType>(attr.value)));
  } else if (type == "list(int)" && ints) {
    out->mutable_list();
    for (const int64_t i : *ints) out->mutable_list()->add_i(i);
  } else if (type == "list(type)" && ints) {
    out->mutable_list();
    for (const int64_t i : *ints) out->mutable_list()->add_type(static_cast<tf::DataType>(i));
  } else if (type == "list(shape)" && integer) {  // so many unknown shapes
    out->mutable_list();
    for (int64_t i = 0; i < *integer; ++i) out->mutable_list()->add_shape()->set_unknown_rank(true);
  } else if (type == "shape" && ints) {
    out->mutable_shape();
    for (const int64_t i : *ints) out->mutable_shape()->add_dim()->set_size(i);
  } else {
    return absl::InternalError(
        absl::StrCat("attr ", attr.name, " of type ", type, " was given a value of another type"));
  }
  return absl::OkStatus();
}

}  // namespace

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

V Builder::Emit(const char* type, const std::vector<Arg>& args, const Node* like) {
  if (!status_.ok()) return none;
  return EmitChecked(type, args, like);
}

V Builder::EmitChecked(const char* type, const std::vector<Arg>& args, const Node* like) {
  const tf::OpRegistrationData* op = Lookup(type);
  if (op == nullptr) return Fail(BadEmission(type, "not registered with TensorFlow")), none;
  const tf::OpDef& op_def = op->op_def;

  // Split what the rule wrote into inputs, one entry for each input_arg of the op, and attrs.
  std::vector<std::vector<V>> inputs;
  absl::InlinedVector<const Attr*, 4> attrs;
  for (const Arg& arg : args) {
    if (const V* v = std::get_if<V>(&arg)) {
      if (!*v) return Fail(BadEmission(type, absl::StrCat("input ", inputs.size(), " is `none`"))), none;
      inputs.push_back({Dense(*v)});
    } else if (const List* list = std::get_if<List>(&arg)) {
      inputs.push_back(list->values);
      for (V& v : inputs.back()) {
        if (!v) return Fail(BadEmission(type, "a list with `none` in it")), none;
        v = Dense(v);
      }
    } else {
      attrs.push_back(&std::get<Attr>(arg));
    }
  }
  if (static_cast<int>(inputs.size()) != op_def.input_arg_size())
    return Fail(BadEmission(type, absl::StrCat("it takes ", op_def.input_arg_size(), " inputs, got ", inputs.size()))),
           none;

  // Attrs that inputs decide. A literal has no dtype of its own: it takes its siblings', else what is declared below.
  tf::NodeDef* def = body_->NewDef();
  def->set_op(op_def.name());
  auto& values = *def->mutable_attr();
  const auto explicit_attr = [&](absl::string_view name) -> const Attr* {
    for (const Attr* a : attrs)
      if (name == a->name) return a;
    return nullptr;
  };
  for (int i = 0; i < op_def.input_arg_size(); ++i) {
    const tf::OpDef::ArgDef& arg = op_def.input_arg(i);
    if (!arg.number_attr().empty()) values[arg.number_attr()].set_i(static_cast<int64_t>(inputs[i].size()));
    if (!arg.type_attr().empty()) {
      for (const V& v : inputs[i]) {
        if (!v.is_tensor()) continue;
        tf::AttrValue& type_of_all = values[arg.type_attr()];
        const tf::DataType t = ToTf(v.dtype()), told = type_of_all.type();
        if (told != tf::DT_INVALID && tf::BaseType(told) != tf::BaseType(t))
          return Fail(BadEmission(type, absl::StrCat("its inputs are ", tf::DataTypeString(told), " and ",
                                                     tf::DataTypeString(t), ", and must be of one dtype"))),
                 none;
        type_of_all.set_type(t);
      }
    } else if (!arg.type_list_attr().empty()) {
      auto* list = values[arg.type_list_attr()].mutable_list();
      for (const V& v : inputs[i])
        list->add_type(v.is_tensor() ? ToTf(v.dtype()) : v.integral() ? tf::DT_INT32 : tf::DT_FLOAT);
    }
  }

  // The others: from the rule, from the forward node, by default. Those that are not defaults tell this node from
  // others.
  std::string key(type);
  for (const tf::OpDef::AttrDef& attr : op_def.attr()) {
    const auto found = values.find(attr.name());
    if (found != values.end()) {
      if (found->second.value_case() == tf::AttrValue::kType) absl::StrAppend(&key, ":", found->second.type());
      continue;
    }
    tf::AttrValue& value = values[attr.name()];
    if (const Attr* given = explicit_attr(attr.name())) {
      const absl::Status status = SetAttr(*given, attr, &value);
      if (!status.ok()) return Fail(BadEmission(type, status.message())), none;
    } else if (like != nullptr && like->def->attr().count(attr.name())) {
      value = like->def->attr().at(attr.name());
    } else if (attr.has_default_value()) {
      value = attr.default_value();
      continue;
    } else if (attr.type() == "type") {  // only literals could have told
      value.set_type(tf::DT_INT32);
      for (int i = 0; i < op_def.input_arg_size(); ++i)
        for (const V& v : inputs[i])
          if (op_def.input_arg(i).type_attr() == attr.name() && !v.integral()) value.set_type(tf::DT_FLOAT);
    } else {
      return Fail(BadEmission(type, absl::StrCat("attr ", attr.name(), " was not given"))), none;
    }
    absl::StrAppend(&key, "|", attr.name(), "=", value.SerializeAsString());
  }
  for (const Attr* a : attrs)
    if (!values.count(a->name)) return Fail(BadEmission(type, absl::StrCat("it has no attr ", a->name))), none;

  if (like != nullptr && like->type() == type)  // what XLA's sharding pass reads
    if (const auto it = like->def->attr().find("_XlaSharding"); it != like->def->attr().end())
      values["_XlaSharding"] = it->second;

  std::vector<Port> ports;
  for (int i = 0; i < op_def.input_arg_size(); ++i) {
    const tf::OpDef::ArgDef& arg = op_def.input_arg(i);
    key += '#';
    for (size_t k = 0; k < inputs[i].size(); ++k) {
      V& v = inputs[i][k];
      if (!v.is_tensor()) {
        const tf::DataType dtype = !arg.type_attr().empty()        ? values[arg.type_attr()].type()
                                   : !arg.type_list_attr().empty() ? values[arg.type_list_attr()].list().type(k)
                                                                   : arg.type();
        v = Constant(v, dtype);
        if (!v) return none;
      }
      ports.push_back(ToPort(v));
      key += Bytes(ports.back());
    }
  }
  return AddNode(op, def, ports, std::move(key));
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
  absl::StrAppend(&key, "@", def->device());
  const bool shared = !op->op_def.is_stateful();
  if (shared) {
    const auto it = emitted_.find(key);
    if (it != emitted_.end()) return V::Tensor(it->second, 0);
  }
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
  tf::NodeDef* def = body_->NewDef();
  def->set_op("Const");
  (*def->mutable_attr())["dtype"].set_type(value.dtype());
  std::string key = absl::StrCat("Const:", value.SerializeAsString());
  *(*def->mutable_attr())["value"].mutable_tensor() = std::move(value);
  return AddNode(Lookup("Const"), def, {}, std::move(key));
}

V Builder::EmitNode(tf::NodeDef node, const std::vector<V>& inputs, const tf::DataTypeVector& dtypes) {
  if (!status_.ok()) return none;
  const tf::OpRegistrationData* op = Lookup(node.op().c_str());
  tf::NodeDef* def = body_->NewDef();
  *def = std::move(node);
  tf::AddDefaultsToNodeDef(op->op_def, def);
  std::vector<Port> ports;
  for (const V& v : inputs) ports.push_back(ToPort(Dense(v)));
  if (origin_ >= 0 && !body_->node(origin_).is_arg()) CopyPlacement(*body_->node(origin_).def, def);
  const int id = body_->AddNode(op, def, ports, dtypes, origin_);
  if (const absl::Status status = InferFacts(body_, id); !status.ok())
    return Fail(BadEmission(def->op().c_str(), status.message())), none;
  return V::Tensor(id, 0);
}

V Builder::Call(const std::string& function, bool stateful, const std::vector<V>& inputs,
                const tf::DataTypeVector& dtypes, const tf::NodeDef* like) {
  tf::NodeDef node;
  node.set_op(stateful ? "StatefulPartitionedCall" : "PartitionedCall");
  auto& attrs = *node.mutable_attr();
  attrs["Tin"].mutable_list();
  attrs["Tout"].mutable_list();
  for (const V& v : inputs) attrs["Tin"].mutable_list()->add_type(tf::BaseType(ToTf(v.dtype())));
  for (const tf::DataType t : dtypes) attrs["Tout"].mutable_list()->add_type(t);
  attrs["f"].mutable_func()->set_name(function);
  if (like != nullptr)
    for (const auto& [name, value] : like->attr())
      if (name[0] == '_' && name != "_output_shapes") attrs[name] = value;
  return EmitNode(std::move(node), inputs, dtypes);
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
  return Emit("UnsortedSegmentSum", {r.values, r.indices, count});
}

V Builder::Sum(const std::vector<V>& values) {
  std::vector<V> dense, indices, parts;
  V dense_shape;
  for (const V& v : values) {
    if (v.kind() == V::Kind::kRows) {
      const RowsValue& r = rows_[v.node()];
      indices.push_back(indices.empty() ? r.indices : cast_like(r.indices, indices[0]));
      parts.push_back(r.values);
      dense_shape = r.dense_shape;
    } else if (v) {
      dense.push_back(v);
    }
  }
  V sparse;
  if (!parts.empty())
    sparse = Rows({parts.size() == 1 ? indices[0] : concat(indices, 0), parts.size() == 1 ? parts[0] : concat(parts, 0),
                   dense_shape});
  if (dense.empty()) return sparse;
  if (sparse) dense.push_back(Dense(sparse));
  if (dense.size() == 1) return dense[0];
  return dense.size() == 2 && dense[0].dtype() != DType::kVariant ? dense[0] + dense[1] : Emit("AddN", {list(dense)});
}

}  // namespace symgrad
