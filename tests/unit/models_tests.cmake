mpc_test(models_test
  SOURCES
    ${CMAKE_CURRENT_LIST_DIR}/models_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/models_weights_test.cpp
  USES mpc_base mpc_zoo ONNX::onnx)
