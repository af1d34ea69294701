// Writes functions that glue generated halves together: adapters of branches, loops and their bodies.
#pragma once

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "csrc/engine/body/body.h"
#include "csrc/engine/emit/builder.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/library/functions.h"
#include "csrc/engine/write/export.h"

namespace symgrad {

// While an author lives, op() and the vocabulary write into its function. Authors nest.
class FunctionAuthor {
 public:
  explicit FunctionAuthor(Functions* functions) : functions_(functions), builder_(&body_), scope_(&builder_) {}

  V Arg(tf::DataType dtype, const tf::PartialTensorShape& shape = tf::PartialTensorShape()) {
    V arg = V::Tensor(body_.AddArg(absl::StrCat("x_", body_.args.size()), dtype), 0);
    args_.push_back(ToPort(arg));
    SetShape(arg, shape);
    return arg;
  }
  Values Args(const tf::DataTypeVector& dtypes) {
    Values args;
    for (const tf::DataType t : dtypes) args.push_back(Arg(t));
    return args;
  }
  Values Args(absl::Span<const TensorSpec> tensors) { return Args(Dtypes(tensors)); }
  // The results of a function, with what is known of their shapes.
  Values Call(const Callable& f, const Values& inputs) {
    const V call = builder_.Call(f, inputs);
    if (!call) return {};
    Values results = OutputsOf(call, f.results.size());
    for (size_t i = 0; i < results.size(); ++i) SetShape(results[i], f.results[i].shape);
    return results;
  }
  // What is known of the shape of a value; nothing of none, which is what there is where an op failed.
  tf::PartialTensorShape StaticShapeOf(const V& v) const {
    return v ? StaticShape(body_.output(ToPort(v)).shape) : tf::PartialTensorShape();
  }
  Builder* operator->() { return &builder_; }

  // Adds the function, under a name made of `stem` and a hash of its content.
  absl::StatusOr<Callable> Finish(absl::string_view stem, const Values& results) {
    TF_RETURN_IF_ERROR(builder_.TakeStatus());
    Signature signature;
    signature.args = args_;
    signature.keeps = Keeps::kAll;
    for (const V& v : results) signature.results.push_back(ToPort(v));
    TF_RETURN_IF_ERROR(functions_->Spend(body_.num_outputs() + static_cast<int64_t>(results.size())));
    return WriteFunction(functions_, body_, stem, signature, tf::FunctionDef());
  }

 private:
  void SetShape(const V& v, const tf::PartialTensorShape& shape) {
    Shape known;
    if (body_.shapes()->MakeShapeFromPartialTensorShape(shape, &known).ok()) body_.output(ToPort(v)).shape = known;
  }

  Functions* const functions_;
  Body body_;
  Builder builder_;
  Builder::Scope scope_;
  std::vector<Port> args_;
};

inline void SetTypes(const Values& values, tf::AttrValue* attr) {
  attr->mutable_list()->Clear();
  for (const V& v : values) attr->mutable_list()->add_type(ToTf(v.dtype()));
}
inline void SetTypes(const tf::DataTypeVector& dtypes, tf::AttrValue* attr) {
  attr->mutable_list()->Clear();
  for (const tf::DataType t : dtypes) attr->mutable_list()->add_type(t);
}

}  // namespace symgrad
