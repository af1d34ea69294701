/* From a signature of a SavedModel to the function behind it, to what that has captured (variables, lookup tables), and
   to the gradients of its output.

   gcc -I$TF/include -I$SYMGRAD/include find_signature.c -o find_signature -L$SYMGRAD -ltf_symgrad_cc -ltf_symgrad \
       -L$TF -l:libtensorflow_cc.so.2 -l:libtensorflow_framework.so.2 -Wl,-rpath,$SYMGRAD -Wl,-rpath,$TF
   ./find_signature <SavedModel> <signature> */
#include <stdio.h>
#include <stdlib.h>

#include "csrc/c_api/tf_symgrad.h"

static void check(TF_Status* status) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s\n", TF_Message(status));
  exit(1);
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s <SavedModel> <signature>\n", argv[0]);
    return 2;
  }
  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_Buffer* meta_graph = TF_NewBuffer();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tag = "serve";
  TF_Session* session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], &tag, 1, graph, meta_graph, status);
  check(status);
  TFSG_Signature* signature = TFSG_FindSignature(graph, meta_graph, argv[2], status);
  check(status);
  const char* function = TFSG_SignatureFunction(signature);
  printf("function %s\n", function == NULL ? "(none)" : function);

  const char* wrt[100];
  int count = 0;
  for (int i = 0; i < TFSG_SignatureNumArguments(signature) && count < 100; ++i) {
    const TF_DataType dtype = TFSG_SignatureArgumentGradientType(signature, i);
    printf("%s %s: %s\n", TFSG_SignatureArgumentIsInput(signature, i) ? "input" : "capture",
           TFSG_SignatureArgumentName(signature, i), dtype == 0 ? "no gradient" : "differentiable");
    if (dtype != 0) wrt[count++] = TFSG_SignatureArgumentName(signature, i);
  }

  TF_Output y, dy[100];
  TFSG_SavedModelGradients(graph, meta_graph, argv[2], TFSG_SignatureOutputKey(signature, 0), wrt, count, &y, dy,
                           status);
  check(status);
  for (int i = 0; i < count; ++i)
    printf("gradient by %s: %s\n", wrt[i], dy[i].oper == NULL ? "none" : TF_OperationName(dy[i].oper));

  TFSG_DeleteSignature(signature);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteBuffer(meta_graph);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
