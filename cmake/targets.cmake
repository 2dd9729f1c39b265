# mpc_library(NAME SOURCES a.cpp ... [USES other_target ...])
# A static library of one folder. USES names the only folders it may include from; tests/layering checks it.
function(mpc_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;USES" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                                            $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>)
  file(RELATIVE_PATH folder ${PROJECT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
  set(flags mpc_flags)
  if(folder MATCHES "^executor")
    set(flags mpc_executor_flags)
  elseif(MPC_SANITIZE STREQUAL "thread" AND NOT folder MATCHES "^(compiler/base|tests)")
    set(flags mpc_plain_flags)  # one thread runs the rest
  endif()
  target_link_libraries(${name} PUBLIC ${arg_USES} PRIVATE $<BUILD_INTERFACE:${flags}>)
endfunction()

# mpc_test(NAME SOURCES a_test.cpp ... USES target ... [LABELS label ...])
# One doctest program, registered with CTest under NAME.
function(mpc_test name)
  cmake_parse_arguments(arg "" "" "SOURCES;USES;LABELS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
  target_compile_definitions(${name} PRIVATE MPC_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                                             MPC_BINARY_DIR="${PROJECT_BINARY_DIR}"
                                             MPC_ONNX_TEST_DATA="${MPC_ONNX_TEST_DATA}")
  target_link_libraries(${name} PRIVATE ${arg_USES} test_main mpc_flags)
  # A third less to wait for the compiler; what is tested keeps its own flags. Under sanitizers -O0 would save two fifths
  # of that, and the tests of CUDA's streams take ten times as long.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  add_test(NAME ${name} COMMAND ${name})
  if(arg_LABELS)
    set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}")
  endif()
  if("threads" IN_LIST arg_LABELS)
    add_dependencies(thread_tests ${name})
  endif()
endfunction()

# mpc_relocatable(NAME): the program finds shared libraries in ../lib beside it (scripts/bundle puts them there), and so
# do those libraries: that is why it is an old tag, which holds for what libraries load in their turn.
function(mpc_relocatable name)
  # Not BUILD_RPATH: CMake pads that with an empty entry, which means the current folder.
  set_target_properties(${name} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib" BUILD_WITH_INSTALL_RPATH TRUE)
  target_link_options(${name} PRIVATE -Wl,--disable-new-dtags)
  # Of libcrypto nothing but SHA-256 is needed (compiler/base/sha256.cpp). The archive stands before the library that needs it.
  find_library(MPC_CRYPTO_ARCHIVE libcrypto.a)
  if(MPC_CRYPTO_ARCHIVE)
    target_link_options(${name} PRIVATE -Wl,-u,SHA256_Init,-u,SHA256_Update,-u,SHA256_Final -Wl,--as-needed)
    target_link_libraries(${name} PRIVATE ${MPC_CRYPTO_ARCHIVE})
  endif()
endfunction()
