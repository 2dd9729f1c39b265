# What a user may choose at configure time, and the flags every target gets.
option(MPC_BUILD_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(MPC_BUILD_BENCH "Build the benchmarks" OFF)
option(MPC_WARNINGS_ARE_ERRORS "Stop at a compiler's warning (the presets do)" OFF)
set(MPC_SANITIZE "" CACHE STRING "Sanitizers to build with, for example address,undefined or thread")
set(MPC_CUDA "AUTO" CACHE STRING "The CUDA plugin: ON, OFF, or AUTO: when nvcc and the headers of cuBLASLt and cuDNN are found")
set_property(CACHE MPC_CUDA PROPERTY STRINGS AUTO ON OFF)
set(MPC_ONNX_PREFIX "" CACHE PATH "Where scripts/build_onnx put ONNX (default: its cache)")

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

add_library(mpc_plain_flags INTERFACE)
# -ffp-contract=off: a fused multiply-add would make a kernel's bits depend on how it was inlined.
target_compile_options(mpc_plain_flags INTERFACE -Wall -Wextra -ffp-contract=off -fstack-protector-strong)
# Three of GCC 12's checks are wrong about its own library headers once they are inlined (GCC bugs 105651 and 104475; optional and
# function under a sanitizer). Later versions are right, and keep them.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(mpc_plain_flags INTERFACE -Wno-restrict -Wno-free-nonheap-object)
  if(MPC_SANITIZE)
    target_compile_options(mpc_plain_flags INTERFACE -Wno-maybe-uninitialized)
  endif()
endif()
if(MPC_WARNINGS_ARE_ERRORS)
  target_compile_options(mpc_plain_flags INTERFACE -Werror)
endif()
target_compile_definitions(mpc_plain_flags INTERFACE _GLIBCXX_ASSERTIONS)
target_link_options(mpc_plain_flags INTERFACE -Wl,-z,relro,-z,now)
if(MPC_SANITIZE)
  target_compile_definitions(mpc_plain_flags INTERFACE MPC_IS_SANITIZED=1)
  target_link_options(mpc_plain_flags INTERFACE -fsanitize=${MPC_SANITIZE})
elseif(NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
  target_compile_options(mpc_plain_flags INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
endif()

# With what sanitizers watch; mpc_library chooses for the folder.
add_library(mpc_flags INTERFACE)
add_library(mpc_executor_flags INTERFACE)
foreach(flags mpc_flags mpc_executor_flags)
  target_link_libraries(${flags} INTERFACE mpc_plain_flags)
  if(MPC_SANITIZE)
    target_compile_options(${flags} INTERFACE -fsanitize=${MPC_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  endif()
endforeach()
if(MPC_SANITIZE MATCHES "undefined")
  # Each of these four is a test at every access through a pointer; without them the compiler takes two thirds of its time.
  # AddressSanitizer finds such an access where it reads or writes what it must not. In the executor, which takes typed
  # numbers out of bytes, they stay.
  target_compile_options(mpc_flags INTERFACE -fno-sanitize=null,object-size,pointer-overflow,alignment)
endif()
