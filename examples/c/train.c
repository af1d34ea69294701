/* Trains a SavedModel from C. The model (save_digits.py) has a signature `loss` of images and labels, and `predict` of
   images; its variables are what is trained. The gradient is one node of the op TfSymgrad>SymbolicGradient, whose `f`
   is the function behind the signature.

   gcc -O2 -I$TF/include -I$SYMGRAD/include train.c -o train -L$SYMGRAD -ltf_symgrad_cc -ltf_symgrad \
       -L$TF -l:libtensorflow_cc.so.2 -l:libtensorflow_framework.so.2 -Wl,-rpath,$SYMGRAD -Wl,-rpath,$TF
   ./train <SavedModel> <digits file> */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "csrc/c_api/tf_symgrad.h"

enum { kPixels = 64, kBatch = 32, kEpochs = 12, kMaxVariables = 100 };
static const float kRate = 0.1f;
static TF_Status* status;

static void check(void) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s\n", TF_Message(status));
  exit(1);
}

/* The digits: a count, then for each digit its label and 64 pixels of 0 to 16, all in bytes; the last fifth tests. */
typedef struct {
  int count;
  uint8_t (*digits)[1 + kPixels];
} Digits;

static Digits read_digits(const char* path) {
  FILE* file = fopen(path, "rb");
  uint16_t count = 0;
  if (file == NULL || fread(&count, sizeof count, 1, file) != 1) {
    fprintf(stderr, "%s can't be read\n", path);
    exit(1);
  }
  Digits all = {count, malloc((size_t)count * (1 + kPixels))};
  if (fread(all.digits, 1 + kPixels, count, file) != count) exit(1);
  fclose(file);
  return all;
}

static TF_Tensor* images(const Digits* all, int first, int count) {
  const int64_t shape[] = {count, kPixels};
  TF_Tensor* t = TF_AllocateTensor(TF_FLOAT, shape, 2, (size_t)count * kPixels * sizeof(float));
  for (int i = 0; i < count; ++i)
    for (int p = 0; p < kPixels; ++p)
      ((float*)TF_TensorData(t))[i * kPixels + p] = (float)all->digits[first + i][1 + p] / 16;
  return t;
}

static TF_Tensor* labels(const Digits* all, int first, int count) {
  const int64_t shape[] = {count};
  TF_Tensor* t = TF_AllocateTensor(TF_INT32, shape, 1, (size_t)count * sizeof(int32_t));
  for (int i = 0; i < count; ++i) ((int32_t*)TF_TensorData(t))[i] = all->digits[first + i][0];
  return t;
}

static TF_Output scalar(TF_Graph* graph, const char* name, float value) {
  TF_Tensor* t = TF_AllocateTensor(TF_FLOAT, NULL, 0, sizeof value);
  memcpy(TF_TensorData(t), &value, sizeof value);
  TF_OperationDescription* op = TF_NewOperation(graph, "Const", name);
  TF_SetAttrType(op, "dtype", TF_FLOAT);
  TF_SetAttrTensor(op, "value", t, status);
  check();
  TF_DeleteTensor(t);
  const TF_Output constant = {TF_FinishOperation(op, status), 0};
  check();
  return constant;
}

/* Adds the gradients of the signature's function, and for each variable v an update v -= rate * dv. */
static int add_updates(TF_Graph* graph, const TFSG_Signature* loss, TF_Operation** updates) {
  const int n = TFSG_SignatureNumArguments(loss);
  TF_Output inputs[kMaxVariables];
  TF_DataType dtypes[kMaxVariables];
  for (int i = 0; i < n; ++i) {
    inputs[i] = TFSG_SignatureArgument(loss, i);
    dtypes[i] = TFSG_SignatureArgumentGradientType(loss, i);
    if (dtypes[i] == 0) dtypes[i] = TF_OperationOutputType(inputs[i]); /* the labels: their gradient is zeros */
  }
  inputs[n] = scalar(graph, "dy", 1.0f);
  TF_OperationDescription* op = TF_NewOperation(graph, "TfSymgrad>SymbolicGradient", "loss_gradients");
  TF_AddInputList(op, inputs, n + 1);
  TF_SetAttrTypeList(op, "Tout", dtypes, n);
  const char* function = TFSG_SignatureFunction(loss);
  TF_SetAttrFuncName(op, "f", function, strlen(function));
  TF_Operation* gradients = TF_FinishOperation(op, status);
  check();

  const TF_Output rate = scalar(graph, "rate", kRate);
  int count = 0;
  for (int i = 0; i < n; ++i) {
    if (TFSG_SignatureArgumentIsInput(loss, i)) continue;
    char name[32];
    snprintf(name, sizeof name, "update_%d", count);
    TF_OperationDescription* update = TF_NewOperation(graph, "ResourceApplyGradientDescent", name);
    TF_AddInput(update, inputs[i]);
    TF_AddInput(update, rate);
    TF_AddInput(update, (TF_Output){gradients, i});
    updates[count++] = TF_FinishOperation(update, status);
    check();
  }
  return count;
}

static void shuffle(Digits* all, int count) {
  for (int i = count - 1; i > 0; --i) {
    uint8_t swapped[1 + kPixels];
    const int k = rand() % (i + 1);
    memcpy(swapped, all->digits[i], sizeof swapped);
    memcpy(all->digits[i], all->digits[k], sizeof swapped);
    memcpy(all->digits[k], swapped, sizeof swapped);
  }
}

static float accuracy(TF_Session* session, const TFSG_Signature* predict, const Digits* all, int first) {
  const int count = all->count - first;
  TF_Output x = TFSG_SignatureInput(predict, 0), y = TFSG_SignatureOutput(predict, 0);
  TF_Tensor *feed = images(all, first, count), *digits;
  TF_SessionRun(session, NULL, &x, &feed, 1, &y, &digits, 1, NULL, 0, NULL, status);
  check();
  int right = 0;
  for (int i = 0; i < count; ++i) right += ((int64_t*)TF_TensorData(digits))[i] == all->digits[first + i][0];
  TF_DeleteTensor(feed);
  TF_DeleteTensor(digits);
  return (float)right / (float)count;
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s <SavedModel> <digits file>\n", argv[0]);
    return 2;
  }
  status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_Buffer* meta_graph = TF_NewBuffer();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tag = "serve";
  TF_Session* session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], &tag, 1, graph, meta_graph, status);
  check();
  TFSG_Signature* loss = TFSG_FindSignature(graph, meta_graph, "loss", status);
  check();
  TFSG_Signature* predict = TFSG_FindSignature(graph, meta_graph, "predict", status);
  check();
  TF_Operation* updates[kMaxVariables];
  const int num_updates = add_updates(graph, loss, updates);

  Digits all = read_digits(argv[2]);
  const int num_train = all.count * 4 / 5;
  const TF_Output x[] = {TFSG_SignatureInput(loss, 0), TFSG_SignatureInput(loss, 1)}; /* by key: images, labels */
  const TF_Output y = TFSG_SignatureOutput(loss, 0);
  for (int epoch = 1; epoch <= kEpochs; ++epoch) {
    shuffle(&all, num_train);
    float sum = 0;
    int steps = 0;
    for (int first = 0; first + kBatch <= num_train; first += kBatch, ++steps) {
      TF_Tensor *feeds[] = {images(&all, first, kBatch), labels(&all, first, kBatch)}, *value;
      TF_SessionRun(session, NULL, x, feeds, 2, &y, &value, 1, (const TF_Operation* const*)updates, num_updates, NULL,
                    status);
      check();
      sum += *(float*)TF_TensorData(value);
      TF_DeleteTensor(value);
      for (int i = 0; i < 2; ++i) TF_DeleteTensor(feeds[i]);
    }
    printf("epoch %2d  loss %.4f  test accuracy %.1f %%\n", epoch, sum / (float)steps,
           100 * accuracy(session, predict, &all, num_train));
  }
  const float reached = accuracy(session, predict, &all, num_train);

  free(all.digits);
  TFSG_DeleteSignature(loss);
  TFSG_DeleteSignature(predict);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteBuffer(meta_graph);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return reached > 0.9f ? 0 : 1;
}
