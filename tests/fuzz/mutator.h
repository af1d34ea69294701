// Mutations of functions that keep most of them well-formed, so that a fuzzer comes further than to a parser's errors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/function.pb.h"
#include "tensorflow/core/framework/op_def.pb.h"
#include "tensorflow/core/framework/tensor.pb.h"

namespace symgrad::fuzz {

namespace tf = ::tensorflow;

// Changes a library of functions at random, the same for equal seeds. It knows which tensors there are in a function
// and of which dtype, what the ops are that have rules, and which attrs and inputs they take.
class Mutator {
 public:
  Mutator(tf::FunctionDefLibrary* library, uint32_t seed) : library_(library), random_(seed) {}

  // One mutation.
  void Mutate();
  // Adds the functions of another library, and a call of one of them.
  void Splice(tf::FunctionDefLibrary other);

 private:
  struct Tensor {
    std::string name;
    tf::DataType dtype;
  };

  size_t Below(size_t n) { return n == 0 ? 0 : random_() % n; }
  bool Chance(double p) { return std::uniform_real_distribution<>(0, 1)(random_) < p; }
  template <typename Container>
  const auto& Any(const Container& choices) {
    return *std::next(std::begin(choices), Below(std::size(choices)));
  }

  tf::FunctionDef* AnyFunction();
  tf::NodeDef* AnyNode(tf::FunctionDef* f);
  const tf::OpDef* FindOp(const std::string& op) const;
  std::vector<Tensor> Tensors(const tf::FunctionDef& f) const;
  std::string FreshName(const tf::FunctionDef& f, const std::string& stem);

  // Mutations. Where one does not apply, nothing happens.
  void Insert(tf::FunctionDef* f);
  void Rewire(tf::FunctionDef* f);
  void Replace(tf::FunctionDef* f);
  void Remove(tf::FunctionDef* f);
  void ChangeAttr(tf::FunctionDef* f);
  void ChangeShape(tf::FunctionDef* f);
  void ChangeSignature(tf::FunctionDef* f);
  void ChangeControl(tf::FunctionDef* f);
  void ChangeConstant(tf::FunctionDef* f);
  void Call(tf::FunctionDef* f);
  void Wrap(tf::FunctionDef* f);
  void Copy(tf::FunctionDef* f);
  void ChangeAnything(google::protobuf::Message* message);

  // Parts of them.
  void FillAttr(const tf::OpDef::AttrDef& attr, const std::vector<Tensor>& tensors, tf::AttrValue* value);
  void Connect(tf::FunctionDef* f, tf::NodeDef* node, const tf::OpDef& op);
  void Use(tf::FunctionDef* f, const tf::NodeDef& node, const tf::OpDef& op);
  std::string OfType(tf::FunctionDef* f, tf::DataType dtype);
  std::string Constant(tf::FunctionDef* f, tf::DataType dtype);
  void FillShape(tf::TensorShapeProto* shape, bool known);
  void FillTensor(tf::DataType dtype, tf::TensorProto* tensor);
  void DamageTensor(tf::TensorProto* tensor);
  tf::DataType AnyType();
  int64_t AnyInt();

  tf::FunctionDefLibrary* library_;
  std::minstd_rand random_;
};

}  // namespace symgrad::fuzz
