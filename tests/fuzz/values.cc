// What attrs, shapes and tensors hold, likely and unlikely; and anything else that is in a message.
#include <algorithm>
#include <iterator>

#include "absl/strings/match.h"
#include "tests/fuzz/mutator.h"

namespace symgrad::fuzz {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr tf::DataType kTypes[] = {tf::DT_FLOAT,    tf::DT_FLOAT,     tf::DT_FLOAT,    tf::DT_DOUBLE,
                                   tf::DT_INT32,    tf::DT_INT32,     tf::DT_INT64,    tf::DT_BOOL,
                                   tf::DT_BFLOAT16, tf::DT_COMPLEX64, tf::DT_HALF,     tf::DT_COMPLEX128,
                                   tf::DT_UINT8,    tf::DT_STRING,    tf::DT_RESOURCE, tf::DT_VARIANT};
constexpr int64_t kInts[] = {0,
                             1,
                             1,
                             2,
                             2,
                             3,
                             4,
                             5,
                             7,
                             -1,
                             -1,
                             -2,
                             8,
                             16,
                             100,
                             1 << 20,
                             -(int64_t{1} << 31),
                             (int64_t{1} << 31) - 1,
                             int64_t{1} << 40,
                             int64_t{1} << 62};
const char* const kWords[] = {"",        "x",    "SAME",  "VALID", "NHWC",   "NCHW",       "ij,jk->ik", "...ij,jk",
                              "T",       "auto", "^tanh", "_Arg",  "a:b:-1", "a:output:0", "^",         "sqrt(",
                              "REFLECT", ":",    "mean",  "min",   "LINEAR", "_Retval",    "While"};

}  // namespace

void Mutator::FillAttr(const tf::OpDef::AttrDef& attr, const std::vector<Tensor>& tensors, tf::AttrValue* value) {
  std::string type = attr.type();
  const bool is_list = absl::StartsWith(type, "list(");
  if (is_list) type = type.substr(5, type.size() - 6);
  const auto dtype = [&] {
    if (attr.allowed_values().list().type_size() > 0 && Chance(0.3))
      return static_cast<tf::DataType>(Any(attr.allowed_values().list().type()));
    return tensors.empty() || Chance(0.1) ? AnyType() : Any(tensors).dtype;
  };
  const auto word = [&]() -> std::string {
    if (attr.allowed_values().list().s_size() > 0 && Chance(0.95)) return Any(attr.allowed_values().list().s());
    return attr.has_default_value() && Chance(0.3) ? attr.default_value().s() : Any(kWords);
  };
  const auto function = [&] { return Any(library_->function()).signature().name(); };
  const auto number = [&] { return Chance(0.6) ? std::max<int64_t>(attr.minimum(), 1 + Below(3)) : AnyInt(); };
  value->Clear();
  if (!is_list) {
    if (type == "type") value->set_type(dtype());
    else if (type == "int") value->set_i(number());
    else if (type == "bool") value->set_b(Chance(0.5));
    else if (type == "float") value->set_f(Chance(0.8) ? 0.5F : static_cast<float>(AnyInt()));
    else if (type == "string") value->set_s(word());
    else if (type == "shape") FillShape(value->mutable_shape(), false);
    else if (type == "tensor") FillTensor(dtype(), value->mutable_tensor());
    else if (type == "func") value->mutable_func()->set_name(function());
    return;
  }
  auto* list = value->mutable_list();
  const size_t size = type == "int" && Chance(0.5) ? 4 : Below(4) + (attr.minimum() > 0 ? 1 : 0);
  for (size_t i = 0; i < size; ++i) {
    if (type == "type") list->add_type(dtype());
    else if (type == "int") list->add_i(Chance(0.8) ? 1 : number());
    else if (type == "bool") list->add_b(Chance(0.5));
    else if (type == "float") list->add_f(0.5F);
    else if (type == "string") list->add_s(word());
    else if (type == "shape") FillShape(list->add_shape(), false);
    else if (type == "func") list->add_func()->set_name(function());
  }
}

void Mutator::FillShape(tf::TensorShapeProto* shape, bool known) {
  shape->Clear();
  if (!known && Chance(0.15)) return shape->set_unknown_rank(true);
  const size_t rank = Below(5);
  for (size_t i = 0; i < rank; ++i)
    shape->add_dim()->set_size(Chance(0.9) ? 1 + static_cast<int64_t>(Below(4)) : known ? AnyInt() : -1);
  if (!known && rank > 0 && Chance(0.05)) shape->mutable_dim(0)->set_size(AnyInt());
}

void Mutator::FillTensor(tf::DataType dtype, tf::TensorProto* tensor) {
  tensor->Clear();
  tensor->set_dtype(dtype);
  int64_t size = 1;
  if (Chance(0.6)) {
    size = 1 + static_cast<int64_t>(Below(4));
    tensor->mutable_tensor_shape()->add_dim()->set_size(size);
  } else if (Chance(0.3)) {
    FillShape(tensor->mutable_tensor_shape(), true);
  }
  const int64_t values = Chance(0.3) ? 1 : size;
  for (int64_t i = 0; i < values; ++i) {
    switch (dtype) {
      case tf::DT_FLOAT: tensor->add_float_val(0.5F + static_cast<float>(i)); break;
      case tf::DT_DOUBLE: tensor->add_double_val(0.5); break;
      case tf::DT_INT32: tensor->add_int_val(static_cast<int32_t>(Chance(0.7) ? Below(4) : AnyInt())); break;
      case tf::DT_INT64: tensor->add_int64_val(Chance(0.7) ? Below(4) : AnyInt()); break;
      case tf::DT_BOOL: tensor->add_bool_val(Chance(0.5)); break;
      case tf::DT_STRING: tensor->add_string_val(Any(kWords)); break;
      case tf::DT_HALF:
      case tf::DT_BFLOAT16: tensor->add_half_val(0x3f80); break;
      case tf::DT_COMPLEX64:
        tensor->add_scomplex_val(1);
        tensor->add_scomplex_val(2);
        break;
      case tf::DT_COMPLEX128:
        tensor->add_dcomplex_val(1);
        tensor->add_dcomplex_val(2);
        break;
      default: tensor->add_int_val(static_cast<int32_t>(i));
    }
  }
}

// Values of another dtype or number than the tensor's, absurd sizes, content that is cut off.
void Mutator::DamageTensor(tf::TensorProto* tensor) {
  switch (Below(8)) {
    case 0: tensor->set_dtype(AnyType()); break;
    case 1: tensor->mutable_tensor_shape()->add_dim()->set_size(AnyInt()); break;
    case 2: tensor->mutable_tensor_shape()->set_unknown_rank(true); break;
    case 3: tensor->set_tensor_content(std::string(Below(40), static_cast<char>(Below(256)))); break;
    case 4:
      for (size_t i = Below(9); i > 0; --i) tensor->add_half_val(static_cast<int32_t>(AnyInt()));
      break;
    case 5: tensor->clear_float_val(), tensor->clear_int_val(), tensor->clear_int64_val(); break;
    case 6: tensor->add_scomplex_val(1), tensor->add_int_val(static_cast<int32_t>(AnyInt())); break;
    default: FillTensor(AnyType(), tensor->add_variant_val()->add_tensors());
  }
}

tf::DataType Mutator::AnyType() { return Any(kTypes); }
int64_t Mutator::AnyInt() { return Any(kInts); }

// Something, somewhere in a message, well-formed or not.
void Mutator::ChangeAnything(Message* message) {
  const Reflection* reflection = message->GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(*message, &fields);
  if (fields.empty() || Chance(0.1)) {
    fields.clear();
    for (int i = 0; i < message->GetDescriptor()->field_count(); ++i)
      fields.push_back(message->GetDescriptor()->field(i));
  }
  if (fields.empty()) return;
  const FieldDescriptor* field = Any(fields);
  if (field->is_repeated()) {
    const int size = reflection->FieldSize(*message, field);
    const int i = static_cast<int>(Below(size));
    if (size > 0 && Chance(0.2)) {
      reflection->SwapElements(message, field, i, size - 1);
      reflection->RemoveLast(message, field);
    } else if (size > 0 && Chance(0.2)) {
      reflection->SwapElements(message, field, i, static_cast<int>(Below(size)));
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      ChangeAnything(size > 0 ? reflection->MutableRepeatedMessage(message, field, i)
                              : reflection->AddMessage(message, field));
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      size > 0 ? reflection->SetRepeatedString(message, field, i, Any(kWords))
               : reflection->AddString(message, field, Any(kWords));
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
      reflection->AddInt64(message, field, AnyInt());
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
      reflection->AddEnumValue(message, field, static_cast<int>(Below(130)));
    }
    return;
  }
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_MESSAGE:
      if (Chance(0.1)) reflection->ClearField(message, field);
      else ChangeAnything(reflection->MutableMessage(message, field));
      break;
    case FieldDescriptor::CPPTYPE_STRING: reflection->SetString(message, field, Any(kWords)); break;
    case FieldDescriptor::CPPTYPE_BOOL: reflection->SetBool(message, field, Chance(0.5)); break;
    case FieldDescriptor::CPPTYPE_INT64: reflection->SetInt64(message, field, AnyInt()); break;
    case FieldDescriptor::CPPTYPE_INT32: reflection->SetInt32(message, field, static_cast<int32_t>(AnyInt())); break;
    case FieldDescriptor::CPPTYPE_ENUM: reflection->SetEnumValue(message, field, static_cast<int>(Below(130))); break;
    case FieldDescriptor::CPPTYPE_FLOAT: reflection->SetFloat(message, field, 1e30F); break;
    default: reflection->ClearField(message, field);
  }
}

}  // namespace symgrad::fuzz
