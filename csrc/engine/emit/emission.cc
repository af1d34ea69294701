#include "csrc/engine/emit/emission.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"

namespace symgrad {
namespace {

absl::Status Wrong(absl::string_view what) { return absl::InternalError(what); }

std::string Bytes(Port p) { return std::string(reinterpret_cast<const char*>(&p), sizeof(p)); }

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

// All inputs that share a type attr have one dtype.
absl::Status SetType(tf::DataType t, tf::AttrValue* shared) {
  const tf::DataType known = shared->type();
  if (known != tf::DT_INVALID && tf::BaseType(known) != tf::BaseType(t))
    return Wrong(absl::StrCat("its inputs are ", tf::DataTypeString(known), " and ", tf::DataTypeString(t),
                              ", and must be of one dtype"));
  shared->set_type(t);
  return absl::OkStatus();
}

}  // namespace

Emission::Emission(Builder* builder, const tf::OpDef& op, const Node* like, tf::NodeDef* def)
    : builder_(builder), op_(op), like_(like), values_(*def->mutable_attr()), key_(op.name()) {
  def->set_op(op.name());
}

absl::Status Emission::Read(absl::Span<const Arg> args) {
  TF_RETURN_IF_ERROR(ReadArgs(args));
  TF_RETURN_IF_ERROR(InferAttrs());
  return ReadAttrs();
}

// Splits what the rule wrote into inputs, one entry for each input_arg of the op, and attrs.
absl::Status Emission::ReadArgs(absl::Span<const Arg> args) {
  for (const Arg& arg : args) {
    if (const V* v = std::get_if<V>(&arg)) {
      if (!*v) return Wrong(absl::StrCat("input ", inputs_.size(), " is `none`"));
      inputs_.push_back({builder_->Dense(*v)});
    } else if (const List* list = std::get_if<List>(&arg)) {
      inputs_.push_back(list->values);
      for (V& v : inputs_.back()) {
        if (!v) return Wrong("a list with `none` in it");
        v = builder_->Dense(v);
      }
    } else {
      attrs_.push_back(&std::get<Attr>(arg));
    }
  }
  if (static_cast<int>(inputs_.size()) == op_.input_arg_size()) return absl::OkStatus();
  return Wrong(absl::StrCat("it takes ", op_.input_arg_size(), " inputs, got ", inputs_.size()));
}

// Attrs that inputs decide. A literal has no dtype of its own: it takes its siblings', else what is declared.
absl::Status Emission::InferAttrs() {
  for (int i = 0; i < op_.input_arg_size(); ++i) {
    const tf::OpDef::ArgDef& arg = op_.input_arg(i);
    if (!arg.number_attr().empty()) values_[arg.number_attr()].set_i(static_cast<int64_t>(inputs_[i].size()));
    if (!arg.type_attr().empty()) {
      for (const V& v : inputs_[i])
        if (v.is_tensor()) TF_RETURN_IF_ERROR(SetType(ToTf(v.dtype()), &values_[arg.type_attr()]));
    } else if (!arg.type_list_attr().empty()) {
      auto* list = values_[arg.type_list_attr()].mutable_list();
      for (const V& v : inputs_[i])
        list->add_type(v.is_tensor() ? ToTf(v.dtype()) : v.integral() ? tf::DT_INT32 : tf::DT_FLOAT);
    }
  }
  return absl::OkStatus();
}

absl::Status Emission::ReadAttrs() {
  for (const tf::OpDef::AttrDef& attr : op_.attr()) {
    if (const auto inferred = values_.find(attr.name()); inferred != values_.end()) {
      const tf::AttrValue& value = inferred->second;
      if (value.value_case() == tf::AttrValue::kType) absl::StrAppend(&key_, ":", value.type());
    } else {
      TF_RETURN_IF_ERROR(ReadAttr(attr, &values_[attr.name()]));
    }
  }
  for (const Attr* a : attrs_)
    if (!values_.count(a->name)) return Wrong(absl::StrCat("it has no attr ", a->name));
  if (like_ != nullptr && like_->type() == op_.name())  // what XLA's sharding pass reads
    if (const auto it = like_->def->attr().find("_XlaSharding"); it != like_->def->attr().end())
      values_["_XlaSharding"] = it->second;
  return absl::OkStatus();
}

// From the rule, from the forward node, by default. What is no default tells this node from others.
absl::Status Emission::ReadAttr(const tf::OpDef::AttrDef& attr, tf::AttrValue* value) {
  const auto given = std::find_if(attrs_.begin(), attrs_.end(), [&](const Attr* a) { return attr.name() == a->name; });
  if (given != attrs_.end()) {
    TF_RETURN_IF_ERROR(SetAttr(**given, attr, value));
  } else if (like_ != nullptr && like_->def->attr().count(attr.name())) {
    *value = like_->def->attr().at(attr.name());
  } else if (attr.has_default_value()) {
    *value = attr.default_value();
    return absl::OkStatus();
  } else if (attr.type() == "type") {
    value->set_type(DtypeOfLiterals(attr.name()));
  } else {
    return Wrong(absl::StrCat("attr ", attr.name(), " was not given"));
  }
  absl::StrAppend(&key_, "|", attr.name(), "=", value->SerializeAsString());
  return absl::OkStatus();
}

// Where all inputs that share an attr are literals.
tf::DataType Emission::DtypeOfLiterals(const std::string& attr) const {
  for (int i = 0; i < op_.input_arg_size(); ++i)
    for (const V& v : inputs_[i])
      if (op_.input_arg(i).type_attr() == attr && !v.integral()) return tf::DT_FLOAT;
  return tf::DT_INT32;
}

std::optional<std::vector<Port>> Emission::Inputs() {
  std::vector<Port> ports;
  for (int i = 0; i < op_.input_arg_size(); ++i) {
    const tf::OpDef::ArgDef& arg = op_.input_arg(i);
    key_ += '#';
    for (size_t k = 0; k < inputs_[i].size(); ++k) {
      const tf::DataType dtype = !arg.type_attr().empty() ? values_[arg.type_attr()].type()
                                 : !arg.type_list_attr().empty()
                                     ? values_[arg.type_list_attr()].list().type(static_cast<int>(k))
                                     : arg.type();
      const V v = builder_->Constant(inputs_[i][k], dtype);
      if (!v) return std::nullopt;
      ports.push_back(ToPort(v));
      key_ += Bytes(ports.back());
    }
  }
  return ports;
}

}  // namespace symgrad
