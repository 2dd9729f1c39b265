#pragma once

#include <cstdint>
#include <string>

// The libraries that the plugin opens at run time. A missing one costs what its row says, and nothing else.

namespace mpc::cuda {

enum class LibraryName : uint8_t { cublaslt, cudnn, nvrtc, nccl };
inline constexpr int kLibraryCount = 4;

struct Library {
  const char* name = "";
  const char* costs = "";  // what cannot be done without it
  void* handle = nullptr;  // of dlopen
  std::string path;        // where it was found; else where it was looked for
};

/// Opens the library when it is asked for the first time. Looked for in $MPC_CUDA_LIBS, among the libraries that are
/// loaded, where the loader looks, beside the plugin, in $CUDA_HOME and /usr/local/cuda, and in Python packages of
/// NVIDIA. It stays open.
const Library& library(LibraryName name);

/// A function of a library. @throws DeviceError when the library does not have it.
void* library_function(const Library& library, const char* name);

/// `struct Name` with a pointer, of the function's own name and type, to each function of FUNCTIONS(X); its constructor
/// takes them from a library that is there. @throws DeviceError when it lacks one.
#define MPC_LIBRARY_API(Name, FUNCTIONS)                                              \
  struct Name {                                                                       \
    FUNCTIONS(MPC_LIBRARY_MEMBER)                                                     \
    explicit Name(const ::mpc::cuda::Library& opened) { FUNCTIONS(MPC_LIBRARY_LOAD) } \
  };
#define MPC_LIBRARY_MEMBER(name) decltype(&::name) name = nullptr;
#define MPC_LIBRARY_LOAD(name) name = reinterpret_cast<decltype(&::name)>(::mpc::cuda::library_function(opened, #name));

}  // namespace mpc::cuda
