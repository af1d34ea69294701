"""The installed TensorFlow wheel as a repository: its headers, and the one library that an op library links to."""

_BUILD = """
package(default_visibility = ["//visibility:public"])

cc_import(name = "so", shared_library = "libtensorflow_framework.so.2")

cc_library(
    name = "framework",
    hdrs = glob(["include/**"]),
    defines = {defines},
    includes = ["include"],
    deps = [":so"],
)
"""

def _tensorflow_wheel(ctx):
    python = ctx.os.environ.get("PYTHON", "python3")
    script = "import json, tensorflow as tf; c = tf.sysconfig; print(json.dumps([c.get_lib()] + c.get_compile_flags()))"
    found = ctx.execute([python, "-c", script], environment = {"TF_CPP_MIN_LOG_LEVEL": "3"})
    if found.return_code:
        fail("%s, which PYTHON names, cannot import tensorflow: %s" % (python, found.stderr))
    answer = json.decode(found.stdout.strip().split("\n")[-1])
    ctx.symlink(answer[0] + "/include", "include")
    ctx.symlink(answer[0] + "/libtensorflow_framework.so.2", "libtensorflow_framework.so.2")
    ctx.file("BUILD", _BUILD.format(defines = [flag[2:] for flag in answer[1:] if flag.startswith("-D")]))

tensorflow_wheel = repository_rule(
    implementation = _tensorflow_wheel,
    environ = ["PYTHON"],
    local = True,
)
