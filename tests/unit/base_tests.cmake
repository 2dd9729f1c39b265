mpc_test(base_tests
  SOURCES
    ${CMAKE_CURRENT_LIST_DIR}/error_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/file_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/idx_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/ir_rewriter_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/ir_text_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/ir_verify_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/json_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/literal_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/name_table_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/npy_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/random_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/safetensors_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/sha256_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/shape_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/text_test.cpp
  USES mpc_ir ZLIB::ZLIB)
