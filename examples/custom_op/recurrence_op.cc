// An op of our own: the linear recurrence y_t = a_t y_{t-1} + x_t along the rows of two matrices, or backwards, which
// TensorFlow has no op for. This file is all TensorFlow; the rule is in recurrence_rule.cc.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("Example>LinearRecurrence")
    .Input("a: T")
    .Input("x: T")
    .Output("y: T")
    .Attr("T: {float, double}")
    .Attr("reverse: bool = false")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle a, x, y;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &a));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &x));
      TF_RETURN_IF_ERROR(c->Merge(a, x, &y));
      c->set_output(0, y);
      return absl::OkStatus();
    })
    .Doc("y[b, t] = a[b, t] * y[b, t - 1] + x[b, t], with y = 0 before the first t; if reverse, with t + 1 for t - 1.");

template <typename T>
class LinearRecurrence : public tensorflow::OpKernel {
 public:
  explicit LinearRecurrence(tensorflow::OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("reverse", &reverse_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& a = context->input(0);
    const tensorflow::Tensor& x = context->input(1);
    OP_REQUIRES(context, a.dims() == 2 && a.shape() == x.shape(),
                absl::InvalidArgumentError("a and x must be matrices of one shape"));
    tensorflow::Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    const auto factors = a.matrix<T>(), terms = x.matrix<T>();
    auto values = y->matrix<T>();
    const int64_t length = x.dim_size(1), begin = reverse_ ? length - 1 : 0, step = reverse_ ? -1 : 1;
    for (int64_t b = 0; b < x.dim_size(0); ++b) {
      T state = T(0);
      for (int64_t i = 0, t = begin; i < length; ++i, t += step)
        values(b, t) = state = factors(b, t) * state + terms(b, t);
    }
  }

 private:
  bool reverse_ = false;
};

#define REGISTER(T)                                                                                               \
  REGISTER_KERNEL_BUILDER(Name("Example>LinearRecurrence").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
                          LinearRecurrence<T>)
REGISTER(float);
REGISTER(double);

}  // namespace
