# Defines the imported target tf_symgrad::tf_symgrad: the op library and the headers to register rules with.
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

if(NOT EXISTS "${_tf_symgrad_package}/libtf_symgrad.so")
  set(tf_symgrad_FOUND FALSE)
  set(tf_symgrad_NOT_FOUND_MESSAGE "${_tf_symgrad_package}/libtf_symgrad.so has not been built")
endif()
unset(_tf_symgrad_package)
