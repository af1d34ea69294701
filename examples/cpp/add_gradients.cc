/* Gradients of a graph that C++ builds, by TensorFlow's own AddSymbolicGradients; linking to libtf_symgrad_cc teaches
   it the rules of tf_symgrad.

   g++ $(python3 -c 'import tensorflow as tf; print(*tf.sysconfig.get_compile_flags())') -DNDEBUG -w add_gradients.cc \
       -o add_gradients -Wl,--no-as-needed -L$SYMGRAD -ltf_symgrad_cc -ltf_symgrad -L$TF -l:libtensorflow_cc.so.2 \
       -l:libtensorflow_framework.so.2 -Wl,-rpath,$SYMGRAD -Wl,-rpath,$TF */
#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

#include "tensorflow/cc/framework/gradients.h"
#include "tensorflow/cc/ops/standard_ops.h"
#include "tensorflow/core/public/session.h"

namespace tf = tensorflow;
namespace ops = tensorflow::ops;

int main() {
  // y = erfc(a * softplus(b))
  tf::Scope scope = tf::Scope::NewRootScope();
  auto a = ops::Placeholder(scope, tf::DT_FLOAT, ops::Placeholder::Shape({}));
  auto b = ops::Placeholder(scope, tf::DT_FLOAT, ops::Placeholder::Shape({}));
  auto y = ops::Erfc(scope, ops::Mul(scope, a, ops::Softplus(scope, b)));
  std::vector<tf::Output> dx;
  TF_CHECK_OK(tf::AddSymbolicGradients(scope, {y}, {a, b}, &dx));

  // The wheel of TensorFlow has no ClientSession, but what it is made of.
  tf::GraphDef graph;
  TF_CHECK_OK(scope.ToGraphDef(&graph));
  const std::unique_ptr<tf::Session> session(tf::NewSession(tf::SessionOptions()));
  TF_CHECK_OK(session->Create(graph));
  std::vector<tf::Tensor> values;
  TF_CHECK_OK(session->Run({{a.node()->name(), tf::Tensor(0.5f)}, {b.node()->name(), tf::Tensor(0.3f)}},
                           {dx[0].name(), dx[1].name()}, {}, &values));
  const double s = std::log1p(std::exp(0.3)), slope = -2 / std::sqrt(std::acos(-1)) * std::exp(-0.25 * s * s);
  const double expected[] = {slope * s, slope * 0.5 / (1 + std::exp(-0.3))};
  bool right = true;
  for (int i = 0; i < 2; ++i) {
    const float got = values[i].scalar<float>()();
    std::printf("dy/d%c = %.6f, by hand %.6f\n", "ab"[i], got, expected[i]);
    right = right && std::abs(got - expected[i]) < 1e-5;
  }
  return right ? 0 : 1;
}
