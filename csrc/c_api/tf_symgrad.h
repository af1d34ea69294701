/* Gradients of TensorFlow graphs and functions, for C and for every language that calls C.

   As in TensorFlow's C API:
    * Errors are told by `status`, and what else a function returns is then of no use. No function ends the process, and
      no C++ exception leaves one.
    * Strings end with a zero byte. Those that are returned belong to what they were asked of.
    * A TF_Buffer to be filled comes from TF_NewBuffer(); the caller deletes it by TF_DeleteBuffer().
    * All functions may be called from any thread at any time; those that take a TF_Graph wait for each other, as those
      of TensorFlow do.

   The first part is in libtf_symgrad.so, which links to libtensorflow_framework alone; the second one, which works on a
   TF_Graph, in libtf_symgrad_cc.so, which links to libtensorflow_cc, too. */
#ifndef TF_SYMGRAD_C_API_TF_SYMGRAD_H_
#define TF_SYMGRAD_C_API_TF_SYMGRAD_H_

#include <stddef.h>

#include "tensorflow/c/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- In libtf_symgrad.so ---- */

/* The version of the library; that of this header is TFSG_VERSION. */
#define TFSG_VERSION "0.1.0"
const char* TFSG_Version(void);

/* Fills `names` with the ops that can be differentiated, each followed by a line feed, in alphabetical order. */
void TFSG_DifferentiableOps(TF_Buffer* names, TF_Status* status);

typedef struct TFSG_GradientOptions {
  size_t struct_size; /* TFSG_GRADIENT_OPTIONS_STRUCT_SIZE, so that there can be more options */
  /* Which inputs of the function to differentiate with respect to: `num_wrt` flags, one for each input. NULL: all. */
  const unsigned char* wrt;
  size_t num_wrt;
  /* The attrs of a polymorphic function: a serialized tensorflow.NameAttrList, whose name plays no part. May be NULL.
   */
  const TF_Buffer* attrs;
  /* Which tensors of the forward pass stay in memory for the way back: see attr `checkpoint` of the op. NULL: all. */
  const char* checkpoint;
} TFSG_GradientOptions;
#define TFSG_GRADIENT_OPTIONS_STRUCT_SIZE sizeof(TFSG_GradientOptions)

/* Builds the function that computes the gradients of `function`, which is in `library`, a serialized
   tensorflow.FunctionDefLibrary with all that it calls:

     (dx of each input that is asked for) = gradient(x of each input, dy of each output)

   Fills `gradients` with a serialized FunctionDefLibrary of that function and of those that it calls and `library`
   lacks, all in stock TensorFlow ops, and `name` with its name (a zero byte follows the `length` bytes). If `stateful`
   is not NULL, it tells whether the function must be called by StatefulPartitionedCall, or may be by PartitionedCall.
   `options` may be NULL. Equal requests give equal bytes. */
void TFSG_GradientFunction(const TF_Buffer* library, const char* function, const TFSG_GradientOptions* options,
                           TF_Buffer* gradients, TF_Buffer* name, unsigned char* stateful, TF_Status* status);

/* ---- In libtf_symgrad_cc.so. When it is loaded, TF_AddGradients itself uses the rules of tf_symgrad. ---- */

/* TF_AddGradients for any graph but one with TensorFlow 1's control flow, in one pass over the graph: adds nodes that
   compute the gradients of y_1 + y_2 + … by x_1, x_2, …

    * `prefix`: names of new nodes start with it; NULL: "gradients". One that is taken is made unique.
    * `dx`: `ny` cotangents of y; NULL: ones.
    * `dy`: receives `nx` gradients. Where no y depends on x_i, dy[i].oper is NULL.
    * `shared_y`: receives `ny` tensors, or is NULL. A call, a branch or a loop in the graph can't return more than it
      does, so one that the gradients need more of is added a second time, and so is what lies between it and y. Fetch
      `shared_y`, which have the values of y, in place of y, and the forward pass runs once: random numbers and
   variables are then the same for both. Where nothing was added twice, they are y. */
void TFSG_AddGradients(TF_Graph* graph, const char* prefix, const TF_Output* y, int ny, const TF_Output* x, int nx,
                       const TF_Output* dx, TF_Status* status, TF_Output* dy, TF_Output* shared_y);

/* Fills `library` with the functions of a graph, a serialized FunctionDefLibrary; adds those of `library` to a graph.
 */
void TFSG_GraphFunctions(TF_Graph* graph, TF_Buffer* library, TF_Status* status);
void TFSG_AddFunctions(TF_Graph* graph, const TF_Buffer* library, TF_Status* status);

/* A signature of a SavedModel that was loaded: its tensors, the function that it calls, and what that has captured. */
typedef struct TFSG_Signature TFSG_Signature;

/* `meta_graph_def` is what TF_LoadSessionFromSavedModel filled in. The graph must outlive the signature, which the
   caller deletes. NULL on error, which lists the signatures that there are. */
TFSG_Signature* TFSG_FindSignature(TF_Graph* graph, const TF_Buffer* meta_graph_def, const char* name,
                                   TF_Status* status);
void TFSG_DeleteSignature(TFSG_Signature* signature);

/* Inputs and outputs in the order of their keys. Here and below, 0 <= i < the number of them. */
int TFSG_SignatureNumInputs(const TFSG_Signature* signature);
const char* TFSG_SignatureInputKey(const TFSG_Signature* signature, int i);
TF_Output TFSG_SignatureInput(const TFSG_Signature* signature, int i);
int TFSG_SignatureNumOutputs(const TFSG_Signature* signature);
const char* TFSG_SignatureOutputKey(const TFSG_Signature* signature, int i);
TF_Output TFSG_SignatureOutput(const TFSG_Signature* signature, int i);

/* The function that computes the outputs, and the node that calls it; NULL where a graph of TensorFlow 1 computes them.
 */
const char* TFSG_SignatureFunction(const TFSG_Signature* signature);
TF_Operation* TFSG_SignatureCall(const TFSG_Signature* signature);

/* The arguments of the call, as its function takes them. Those that are none of the signature's inputs are captures:
   variables, lookup tables, constants. */
int TFSG_SignatureNumArguments(const TFSG_Signature* signature);
TF_Output TFSG_SignatureArgument(const TFSG_Signature* signature, int i);
/* The key of an input, the name of a variable or table, else the name of the node. */
const char* TFSG_SignatureArgumentName(const TFSG_Signature* signature, int i);
/* 1: an input of the signature, 0: a capture. */
int TFSG_SignatureArgumentIsInput(const TFSG_Signature* signature, int i);
/* The dtype of the gradient: that of a variable's value; 0 where there is no gradient, as of a table or of integers. */
TF_DataType TFSG_SignatureArgumentGradientType(const TFSG_Signature* signature, int i);

/* Adds the gradients of a scalar output of a signature to the graph of a SavedModel that was loaded, by inputs and
   variables named in `wrt` (as TFSG_SignatureArgumentName names them). Receives the output in `y`, and the gradients in
   `dy`, one for each name; fetch both in one run, they share the forward pass. */
void TFSG_SavedModelGradients(TF_Graph* graph, const TF_Buffer* meta_graph_def, const char* signature,
                              const char* output, const char* const* wrt, int num_wrt, TF_Output* y, TF_Output* dy,
                              TF_Status* status);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* TF_SYMGRAD_C_API_TF_SYMGRAD_H_ */
