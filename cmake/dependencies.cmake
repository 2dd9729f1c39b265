# Everything comes from the distribution's packages, except ONNX, which scripts/build_onnx puts into a cache.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(Protobuf REQUIRED)
find_package(ZLIB REQUIRED)

# oneDNN without its own CMake config: that one asks for an OpenCL development package, which the CPU library does not
# need. Without oneDNN mpc is built all the same, on its own kernels.
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp)
find_library(DNNL_LIBRARY dnnl)
if(DNNL_INCLUDE_DIR AND DNNL_LIBRARY)
  set(MPC_HAS_ONEDNN TRUE)
  add_library(mpc_dnnl INTERFACE)
  target_include_directories(mpc_dnnl SYSTEM INTERFACE ${DNNL_INCLUDE_DIR})
  target_link_libraries(mpc_dnnl INTERFACE ${DNNL_LIBRARY})
else()
  set(MPC_HAS_ONEDNN FALSE)
  message(STATUS "oneDNN was not found: the CPU backend is built on its own kernels")
endif()

# With the C library's allocator making a plan takes half as long again (GPT-2 XL, 8 GPUs: 0.68 s, with this one 0.45). Only programs
# choose it: who embeds the libraries keeps their own. Sanitizers bring theirs.
find_package(mimalloc QUIET)
add_library(mpc_allocator INTERFACE)
if(mimalloc_FOUND AND NOT MPC_SANITIZE)
  target_link_libraries(mpc_allocator INTERFACE mimalloc)
elseif(NOT mimalloc_FOUND)
  message(STATUS "mimalloc was not found: programs use the C library's allocator, and plans take longer to make")
endif()

if(NOT MPC_ONNX_PREFIX)
  execute_process(COMMAND ${PROJECT_SOURCE_DIR}/scripts/build_onnx --print
                  OUTPUT_VARIABLE onnx_prefix OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  set(MPC_ONNX_PREFIX ${onnx_prefix} CACHE PATH "" FORCE)
endif()
find_package(ONNX CONFIG QUIET PATHS ${MPC_ONNX_PREFIX} NO_DEFAULT_PATH)
if(NOT ONNX_FOUND)
  message(FATAL_ERROR "ONNX was not found in ${MPC_ONNX_PREFIX}. Run scripts/build_onnx first, or set MPC_ONNX_PREFIX.")
endif()
set(MPC_ONNX_TEST_DATA ${MPC_ONNX_PREFIX}/share/onnx/backend_test_data CACHE PATH "The ONNX backend test data")

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()
