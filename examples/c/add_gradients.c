/* Gradients of a graph that C builds, by TensorFlow's own TF_AddGradients. Of tf_symgrad it needs one line: loading the
   library that teaches TF_AddGradients its rules. Without it: "No gradient defined for op: Erfc".

   gcc -I$TF/include add_gradients.c -o add_gradients -L$TF -l:libtensorflow_cc.so.2 -l:libtensorflow_framework.so.2 \
       -Wl,-rpath,$TF -lm
   ./add_gradients $SYMGRAD/libtf_symgrad_cc.so */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

static void check(TF_Status* status) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s\n", TF_Message(status));
  exit(1);
}

static TF_Tensor* tensor(float value) {
  TF_Tensor* t = TF_AllocateTensor(TF_FLOAT, NULL, 0, sizeof value);
  memcpy(TF_TensorData(t), &value, sizeof value);
  return t;
}

static TF_Output placeholder(TF_Graph* graph, const char* name, TF_Status* status) {
  TF_OperationDescription* op = TF_NewOperation(graph, "Placeholder", name);
  TF_SetAttrType(op, "dtype", TF_FLOAT);
  TF_SetAttrShape(op, "shape", NULL, 0);
  TF_Operation* node = TF_FinishOperation(op, status);
  check(status);
  return (TF_Output){node, 0};
}

static TF_Output node(TF_Graph* graph, const char* type, const TF_Output* inputs, int count, TF_Status* status) {
  TF_OperationDescription* op = TF_NewOperation(graph, type, type);
  for (int i = 0; i < count; ++i) TF_AddInput(op, inputs[i]);
  TF_Operation* made = TF_FinishOperation(op, status);
  check(status);
  return (TF_Output){made, 0};
}

int main(int argc, char** argv) {
  TF_Status* status = TF_NewStatus();
  if (argc > 1) {
    TF_LoadLibrary(argv[1], status);
    check(status);
  }

  /* y = erfc(a * softplus(b)) */
  TF_Graph* graph = TF_NewGraph();
  TF_Output x[] = {placeholder(graph, "a", status), placeholder(graph, "b", status)};
  TF_Output softplus = node(graph, "Softplus", &x[1], 1, status);
  TF_Output product = node(graph, "Mul", (TF_Output[]){x[0], softplus}, 2, status);
  TF_Output y = node(graph, "Erfc", &product, 1, status);
  TF_Output dx[2];
  TF_AddGradients(graph, &y, 1, x, 2, NULL, status, dx);
  check(status);

  TF_SessionOptions* options = TF_NewSessionOptions();
  TF_Session* session = TF_NewSession(graph, options, status);
  check(status);
  const float a = 0.5f, b = 0.3f;
  TF_Tensor *feeds[] = {tensor(a), tensor(b)}, *values[2];
  TF_SessionRun(session, NULL, x, feeds, 2, dx, values, 2, NULL, 0, NULL, status);
  check(status);

  const double s = log1p(exp(b)), slope = -2 / sqrt(acos(-1)) * exp(-a * a * s * s);
  const double expected[] = {slope * s, slope * a / (1 + exp(-b))};
  int wrong = 0;
  for (int i = 0; i < 2; ++i) {
    const float got = *(float*)TF_TensorData(values[i]);
    printf("dy/d%c = %.6f, by hand %.6f\n", "ab"[i], got, expected[i]);
    if (!(fabs(got - expected[i]) < 1e-5)) wrong = 1;
    TF_DeleteTensor(values[i]);
    TF_DeleteTensor(feeds[i]);
  }
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return wrong;
}
