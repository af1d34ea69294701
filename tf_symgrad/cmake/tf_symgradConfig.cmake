# Defines the imported targets tf_symgrad::tf_symgrad, the op library and the headers to register rules with, and
# tf_symgrad::cc, which adds the C API for graphs and TensorFlow's own libraries and headers.
#
#   execute_process(COMMAND python3 -c "import tf_symgrad; print(tf_symgrad.get_cmake_dir())"
#                   OUTPUT_VARIABLE tf_symgrad_DIR OUTPUT_STRIP_TRAILING_WHITESPACE)
#   find_package(tf_symgrad CONFIG REQUIRED)
#   target_link_libraries(my_ops PRIVATE tf_symgrad::tf_symgrad)
get_filename_component(_tf_symgrad_package "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)

if(NOT TARGET tf_symgrad::tf_symgrad)
  add_library(tf_symgrad::tf_symgrad SHARED IMPORTED)
  set_target_properties(tf_symgrad::tf_symgrad PROPERTIES
    IMPORTED_LOCATION "${_tf_symgrad_package}/libtf_symgrad.so"
    IMPORTED_SONAME "libtf_symgrad.so"
    INTERFACE_INCLUDE_DIRECTORIES "${_tf_symgrad_package}/include"
    INTERFACE_COMPILE_FEATURES cxx_std_17)
endif()

# Where TensorFlow is, pkg-config was told as well.
file(STRINGS "${_tf_symgrad_package}/pkgconfig/tf_symgrad.pc" _tf_symgrad_tensorflow REGEX "^tensorflow=")
string(REPLACE "tensorflow=" "" _tf_symgrad_tensorflow "${_tf_symgrad_tensorflow}")
string(REPLACE "\${package}" "${_tf_symgrad_package}" _tf_symgrad_tensorflow "${_tf_symgrad_tensorflow}")

if(NOT TARGET tf_symgrad::cc AND EXISTS "${_tf_symgrad_tensorflow}/libtensorflow_cc.so.2")
  add_library(tf_symgrad::cc SHARED IMPORTED)
  set_target_properties(tf_symgrad::cc PROPERTIES
    IMPORTED_LOCATION "${_tf_symgrad_package}/libtf_symgrad_cc.so"
    IMPORTED_SONAME "libtf_symgrad_cc.so"
    INTERFACE_INCLUDE_DIRECTORIES "${_tf_symgrad_package}/include;${_tf_symgrad_tensorflow}/include"
    INTERFACE_LINK_LIBRARIES
      "tf_symgrad::tf_symgrad;${_tf_symgrad_tensorflow}/libtensorflow_cc.so.2;${_tf_symgrad_tensorflow}/libtensorflow_framework.so.2")
endif()

if(NOT EXISTS "${_tf_symgrad_package}/libtf_symgrad.so")
  set(tf_symgrad_FOUND FALSE)
  set(tf_symgrad_NOT_FOUND_MESSAGE "${_tf_symgrad_package}/libtf_symgrad.so has not been built")
endif()
unset(_tf_symgrad_tensorflow)
unset(_tf_symgrad_package)
