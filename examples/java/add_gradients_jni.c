/* The native methods of AddGradients.java: a node's first output stands for the node. */
#include <stdio.h>
#include <string.h>

#include "AddGradients.h"
#include "tensorflow/c/c_api.h"

enum { kMax = 16 };

/* Throws what a status tells; whether it did. */
static int failed(JNIEnv* env, TF_Status* status) {
  if (TF_GetCode(status) == TF_OK) return 0;
  (*env)->ThrowNew(env, (*env)->FindClass(env, "java/lang/RuntimeException"), TF_Message(status));
  return 1;
}

static int outputs(JNIEnv* env, jlongArray nodes, TF_Output* out) {
  jlong handles[kMax];
  const int count = (int)(*env)->GetArrayLength(env, nodes);
  if (count > kMax) return 0;
  (*env)->GetLongArrayRegion(env, nodes, 0, count, handles);
  for (int i = 0; i < count; ++i) out[i] = (TF_Output){(TF_Operation*)handles[i], 0};
  return count;
}

JNIEXPORT void JNICALL Java_AddGradients_loadLibrary(JNIEnv* env, jclass self, jstring path) {
  (void)self;
  TF_Status* status = TF_NewStatus();
  const char* text = (*env)->GetStringUTFChars(env, path, NULL);
  TF_LoadLibrary(text, status);
  (*env)->ReleaseStringUTFChars(env, path, text);
  failed(env, status);
  TF_DeleteStatus(status);
}

JNIEXPORT jlong JNICALL Java_AddGradients_newGraph(JNIEnv* env, jclass self) {
  (void)env, (void)self;
  return (jlong)TF_NewGraph();
}

JNIEXPORT jlong JNICALL Java_AddGradients_node(JNIEnv* env, jclass self, jlong graph, jstring op, jstring name,
                                               jlongArray inputs) {
  (void)self;
  TF_Status* status = TF_NewStatus();
  TF_Output in[kMax];
  const int count = outputs(env, inputs, in);
  const char* op_name = (*env)->GetStringUTFChars(env, op, NULL);
  const char* node_name = (*env)->GetStringUTFChars(env, name, NULL);
  TF_OperationDescription* node = TF_NewOperation((TF_Graph*)graph, op_name, node_name);
  if (strcmp(op_name, "Placeholder") == 0) TF_SetAttrType(node, "dtype", TF_FLOAT);
  for (int i = 0; i < count; ++i) TF_AddInput(node, in[i]);
  TF_Operation* made = TF_FinishOperation(node, status);
  (*env)->ReleaseStringUTFChars(env, op, op_name);
  (*env)->ReleaseStringUTFChars(env, name, node_name);
  failed(env, status);
  TF_DeleteStatus(status);
  return (jlong)made;
}

JNIEXPORT jlongArray JNICALL Java_AddGradients_addGradients(JNIEnv* env, jclass self, jlong graph, jlong y,
                                                            jlongArray x) {
  (void)self;
  TF_Status* status = TF_NewStatus();
  TF_Output in[kMax], dx[kMax], out = {(TF_Operation*)y, 0};
  const int count = outputs(env, x, in);
  TF_AddGradients((TF_Graph*)graph, &out, 1, in, count, NULL, status, dx);
  jlongArray result = NULL;
  if (!failed(env, status)) {
    jlong handles[kMax];
    for (int i = 0; i < count; ++i) { /* a gradient may be any output of its node: name it */
      char name[16];
      snprintf(name, sizeof name, "dx_%d", i);
      TF_OperationDescription* named = TF_NewOperation((TF_Graph*)graph, "Identity", name);
      TF_AddInput(named, dx[i]);
      handles[i] = (jlong)TF_FinishOperation(named, status);
    }
    result = (*env)->NewLongArray(env, count);
    if (!failed(env, status)) (*env)->SetLongArrayRegion(env, result, 0, count, handles);
  }
  TF_DeleteStatus(status);
  return result;
}

JNIEXPORT jfloatArray JNICALL Java_AddGradients_run(JNIEnv* env, jclass self, jlong graph, jlongArray x,
                                                    jfloatArray values, jlongArray fetches) {
  (void)self;
  TF_Status* status = TF_NewStatus();
  TF_SessionOptions* options = TF_NewSessionOptions();
  TF_Session* session = TF_NewSession((TF_Graph*)graph, options, status);
  TF_DeleteSessionOptions(options);
  jfloatArray result = NULL;
  if (!failed(env, status)) {
    TF_Output in[kMax], out[kMax];
    TF_Tensor *feeds[kMax], *got[kMax];
    const int num_in = outputs(env, x, in), num_out = outputs(env, fetches, out);
    for (int i = 0; i < num_in; ++i) {
      feeds[i] = TF_AllocateTensor(TF_FLOAT, NULL, 0, sizeof(float));
      (*env)->GetFloatArrayRegion(env, values, i, 1, TF_TensorData(feeds[i]));
    }
    TF_SessionRun(session, NULL, in, feeds, num_in, out, got, num_out, NULL, 0, NULL, status);
    if (!failed(env, status)) {
      result = (*env)->NewFloatArray(env, num_out);
      for (int i = 0; i < num_out; ++i) {
        (*env)->SetFloatArrayRegion(env, result, i, 1, TF_TensorData(got[i]));
        TF_DeleteTensor(got[i]);
      }
    }
    for (int i = 0; i < num_in; ++i) TF_DeleteTensor(feeds[i]);
    TF_DeleteSession(session, status);
  }
  TF_DeleteStatus(status);
  return result;
}
