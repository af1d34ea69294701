/**
 * Gradients of a graph that Java builds, by TF_AddGradients, which TensorFlow Java's Graph.addGradients calls. That
 * library is not needed here: native methods are the C functions of the same names (add_gradients_jni.c).
 *
 * <pre>
 * javac -h . AddGradients.java
 * gcc -shared -fPIC -I$JAVA_HOME/include -I$JAVA_HOME/include/linux -I. -I$TF/include add_gradients_jni.c \
 *     -o libadd_gradients_jni.so -L$TF -l:libtensorflow_cc.so.2 -l:libtensorflow_framework.so.2 -Wl,-rpath,$TF
 * java -Djava.library.path=. AddGradients $SYMGRAD/libtf_symgrad_cc.so
 * </pre>
 */
final class AddGradients {
  static {
    System.loadLibrary("add_gradients_jni");
  }

  /** TF_LoadLibrary. */
  static native void loadLibrary(String path);

  /** TF_NewGraph. */
  static native long newGraph();

  /** A node of an op whose output is one float tensor; TF_NewOperation to TF_FinishOperation. */
  static native long node(long graph, String op, String name, long... inputs);

  /** TF_AddGradients. */
  static native long[] addGradients(long graph, long y, long... x);

  /** TF_SessionRun on scalars. */
  static native float[] run(long graph, long[] x, float[] values, long[] fetches);

  public static void main(String[] arguments) {
    if (arguments.length > 0) loadLibrary(arguments[0]);

    // y = erfc(a * softplus(b))
    long graph = newGraph();
    long a = node(graph, "Placeholder", "a");
    long b = node(graph, "Placeholder", "b");
    long y = node(graph, "Erfc", "y", node(graph, "Mul", "product", a, node(graph, "Softplus", "softplus", b)));
    float[] got = run(graph, new long[] {a, b}, new float[] {0.5f, 0.3f}, addGradients(graph, y, a, b));

    double s = Math.log1p(Math.exp(0.3));
    double slope = -2 / Math.sqrt(Math.PI) * Math.exp(-0.25 * s * s);
    double[] expected = {slope * s, slope * 0.5 / (1 + Math.exp(-0.3))};
    for (int i = 0; i < 2; i++) {
      System.out.printf("dy/d%c = %.6f, by hand %.6f%n", "ab".charAt(i), got[i], expected[i]);
      if (!(Math.abs(got[i] - expected[i]) < 1e-5)) System.exit(1);
    }
  }
}
