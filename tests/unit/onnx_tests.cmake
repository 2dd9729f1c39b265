# What every test of compiler/onnx needs: protobuf to build models, and kernels to fold and run them.
add_library(onnx_test_support STATIC
  ${PROJECT_SOURCE_DIR}/api/reference_evaluator.cpp
  ${PROJECT_SOURCE_DIR}/tests/support/interpreter.cpp
  ${CMAKE_CURRENT_LIST_DIR}/onnx_support.cpp)
target_link_libraries(onnx_test_support PUBLIC mpc_onnx mpc_reference ONNX::onnx PRIVATE mpc_flags)

mpc_test(onnx_tests
  SOURCES
    ${CMAKE_CURRENT_LIST_DIR}/onnx_annotation_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/onnx_external_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/onnx_import_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/onnx_limits_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/onnx_load_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/onnx_rules_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/onnx_save_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/onnx_tensor_test.cpp
  USES onnx_test_support)

mpc_test(onnx_backend_test
  SOURCES
    ${CMAKE_CURRENT_LIST_DIR}/onnx_backend_test.cpp
  USES onnx_test_support)

mpc_test(onnx_rnn_training_test
  SOURCES
    ${CMAKE_CURRENT_LIST_DIR}/onnx_batch_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/onnx_rnn_training_test.cpp
  USES onnx_test_support plan_test_support)
