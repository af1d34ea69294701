// The forward node as its rule sees it (class Op of op.h).
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "csrc/engine/emit/builder.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/rules/words.h"
#include "tensorflow/core/framework/tensor.h"

namespace symgrad {
namespace {

const Node& Forward(const Op& o) { return Builder::Current()->body()->node(o.node()); }

const tf::AttrValue& Find(const Op& o, const char* name) {
  const Node& n = Forward(o);
  const auto it = n.def->attr().find(name);
  if (it != n.def->attr().end()) return it->second;
  for (const tf::OpDef::AttrDef& attr : n.op->op_def.attr())
    if (attr.name() == name && attr.has_default_value()) return attr.default_value();
  Builder::Current()->Fail(absl::InvalidArgumentError(absl::StrCat("attr ", name, " is missing")));
  return tf::AttrValue::default_instance();
}

template <typename T>
std::pair<double, double> Bounds(const tf::Tensor& t) {
  const auto values = t.flat<T>();
  double least = static_cast<double>(values(0)), greatest = least;
  for (int64_t i = 1; i < values.size(); ++i) {
    least = std::min(least, static_cast<double>(values(i)));
    greatest = std::max(greatest, static_cast<double>(values(i)));
  }
  return {least, greatest};
}

}  // namespace

std::string_view Op::op_type() const { return Forward(*this).is_arg() ? std::string_view() : Forward(*this).type(); }
int Op::num_in() const { return static_cast<int>(Forward(*this).inputs.size()); }
int Op::num_out() const { return Forward(*this).num_outputs; }

V Op::in(int i) const {
  if (i >= 0 && i < num_in()) return ToValue(Unveiled(*Builder::Current()->body(), Forward(*this).inputs[i]));
  Builder::Current()->Fail(absl::InternalError(absl::StrCat("the rule reads input ", i, " of ", num_in())));
  return none;
}
V Op::out(int i) const {
  if (i >= 0 && i < num_out()) return V::Tensor(node_, i);
  Builder::Current()->Fail(absl::InternalError(absl::StrCat("the rule reads output ", i, " of ", num_out())));
  return none;
}
Values Op::ins(int begin, int end) const {
  if (end < 0) end += num_in();
  Values values;
  for (int i = begin; i < end; ++i) values.push_back(in(i));
  return values;
}

namespace {

using Args = tf::protobuf::RepeatedPtrField<tf::OpDef::ArgDef>;

// How many tensors an input or output of the signature stands for.
int Size(const Op& o, const tf::OpDef::ArgDef& arg) {
  if (!arg.number_attr().empty()) return static_cast<int>(Find(o, arg.number_attr().c_str()).i());
  return arg.type_list_attr().empty() ? 1 : Find(o, arg.type_list_attr().c_str()).list().type_size();
}

// The first tensor of that name, and how many there are; -1 and an error for a name that the signature lacks.
std::pair<int, int> Named(const Op& o, const Args& args, absl::string_view name) {
  int begin = 0;
  for (const tf::OpDef::ArgDef& arg : args) {
    const int size = Size(o, arg);
    if (arg.name() == name) return {begin, size};
    begin += size;
  }
  const std::string all = absl::StrJoin(
      args, ", ", [](std::string* out, const tf::OpDef::ArgDef& arg) { absl::StrAppend(out, arg.name()); });
  Builder::Current()->Fail(
      absl::InternalError(absl::StrCat("the rule reads '", name, "', and the op's signature has: ", all)));
  return {-1, 0};
}

}  // namespace

int Op::input(const char* name) const { return Named(*this, Forward(*this).op->op_def.input_arg(), name).first; }
int Op::input_size(const char* name) const { return Named(*this, Forward(*this).op->op_def.input_arg(), name).second; }
int Op::output(const char* name) const { return Named(*this, Forward(*this).op->op_def.output_arg(), name).first; }

V Op::raw_dy(int i) const {
  const VjpQuery& query = Builder::Current()->query();
  return i >= 0 && i < static_cast<int>(query.cotangents.size()) ? query.cotangents[i] : none;
}
bool Op::has_dy(int i) const { return static_cast<bool>(raw_dy(i)); }
V Op::dy(int i) const {
  if (i < 0 || i >= num_out()) return out(i);  // which reports it
  const V dy = raw_dy(i);
  return dy ? Builder::Current()->Dense(dy) : zeros_like(out(i));
}
bool Op::wants(int i) const {
  const VjpQuery& query = Builder::Current()->query();
  return i < static_cast<int>(query.wants.size()) && query.wants[i];
}

bool Op::diverges() const { return Builder::Current()->query().diverges; }
std::optional<std::pair<double, double>> Op::bounds() const {
  if (op_type() != "Const") return std::nullopt;
  tf::Tensor t;
  if (!ReadTensor(Find(*this, "value").tensor(), &t) || t.NumElements() == 0) return std::nullopt;
  switch (t.dtype()) {
    case tf::DT_FLOAT: return Bounds<float>(t);
    case tf::DT_DOUBLE: return Bounds<double>(t);
    case tf::DT_HALF: return Bounds<Eigen::half>(t);
    case tf::DT_BFLOAT16: return Bounds<tf::bfloat16>(t);
    default: return std::nullopt;
  }
}

bool Op::has_attr(const char* name) const {
  const Node& n = Forward(*this);
  if (n.def->attr().count(name)) return true;
  for (const tf::OpDef::AttrDef& attr : n.op->op_def.attr())
    if (attr.name() == name) return attr.has_default_value();
  return false;
}
bool Op::flag(const char* name) const { return Find(*this, name).b(); }
int64_t Op::integer(const char* name) const { return Find(*this, name).i(); }
double Op::number(const char* name) const { return Find(*this, name).f(); }
std::string Op::text(const char* name) const { return Find(*this, name).s(); }
DType Op::type(const char* name) const { return static_cast<DType>(Find(*this, name).type()); }
std::vector<int64_t> Op::integers(const char* name) const {
  const auto& list = Find(*this, name).list().i();
  return {list.begin(), list.end()};
}

Grads Op::unsupported(const std::string& why) const {
  Builder::Current()->Fail(absl::UnimplementedError(why));
  return Grads(num_in());
}

}  // namespace symgrad
