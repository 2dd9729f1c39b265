#include "executor/cuda/libraries.h"

#include <dlfcn.h>
#include <glob.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "compiler/base/env.h"
#include "executor/cuda/abi.h"
#include "executor/cuda/error.h"

namespace mpc::cuda {
namespace {

struct Row {
  const char* name;
  const char* file;
  const char* costs;
};

constexpr std::array<Row, kLibraryCount> kRows = {{
    {"cuBLASLt", "libcublasLt.so.13", "matrix products run on plain kernels, far slower"},
    {"cuDNN", "libcudnn.so.9", "convolutions run on plain kernels, far slower"},
    {"NVRTC", "libnvrtc.so.13", "fused operators are interpreted, slower; cuDNN has fewer kernels to choose from"},
    {"NCCL", "libnccl.so.2", "the transport nccl, which is taken only when it is asked for"},
}};

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void add_matches(const std::string& pattern, std::vector<std::string>& folders) {
  glob_t found{};
  if (glob(pattern.c_str(), GLOB_ONLYDIR, nullptr, &found) == 0) {
    for (size_t i = 0; i < found.gl_pathc; ++i) folders.emplace_back(found.gl_pathv[i]);
  }
  globfree(&found);
}

/// Folders that hold Python packages: of the active environment, of the python3 that a shell would start, and the
/// system's.
std::vector<std::string> package_folders() {
  std::vector<std::string> folders;
  if (const std::string active = variable("VIRTUAL_ENV"); !active.empty()) {
    add_matches(active + "/lib/python3*/site-packages", folders);
  }
  const std::string path = variable("PATH");
  for (size_t begin = 0; begin <= path.size() && !path.empty();) {
    const size_t end = std::min(path.find(':', begin), path.size());
    const std::string folder = path.substr(begin, end - begin);
    if (!folder.empty() && access((folder + "/python3").c_str(), X_OK) == 0) {
      add_matches(folder + "/../lib/python3*/site-packages", folders);
      add_matches(folder + "/../lib/python3*/dist-packages", folders);
      break;
    }
    begin = end + 1;
  }
  add_matches("/usr/local/lib/python3*/dist-packages", folders);
  add_matches("/usr/local/lib/python3*/site-packages", folders);
  return folders;
}

std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) return ".";
  const std::string path(info.dli_fname);
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

/// Every folder to look in, in order. An empty one: where the loader looks.
std::vector<std::string> library_folders() {
  std::vector<std::string> folders;
  const Environment environment = read_environment([](const char* name) -> const char* { return std::getenv(name); });
  if (!environment.cuda_libs.empty()) folders.push_back(environment.cuda_libs);
  folders.emplace_back();
  folders.push_back(own_folder());
  if (const std::string home = variable("CUDA_HOME"); !home.empty()) {
    folders.push_back(home + "/lib64");
    folders.push_back(home + "/lib");
  }
  folders.emplace_back("/usr/local/cuda/lib64");
  for (const std::string& packages : package_folders()) {
    for (const char* folder : {"cu13/lib", "cublas/lib", "cudnn/lib", "cuda_nvrtc/lib", "nccl/lib"}) {
      const std::string candidate = packages + "/nvidia/" + folder;
      if (access(candidate.c_str(), R_OK) == 0) folders.push_back(candidate);
    }
  }
  return folders;
}

Library open_library(const Row& row) {
  Library result{row.name, row.costs, dlopen(row.file, RTLD_NOW | RTLD_NOLOAD), {}};
  if (result.handle != nullptr) {
    result.path = std::string(row.file) + " (loaded before)";
    return result;
  }
  std::string looked;
  for (const std::string& folder : library_folders()) {
    const std::string file = folder.empty() ? row.file : folder + "/" + row.file;
    if (!folder.empty() && access(file.c_str(), R_OK) != 0) {
      looked += (looked.empty() ? "" : ", ") + folder;
      continue;
    }
    result.handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (result.handle != nullptr) {
      result.path = file;
      return result;
    }
    const char* why = dlerror();
    if (!folder.empty()) looked += (looked.empty() ? "" : ", ") + file + " (" + (why == nullptr ? "?" : why) + ")";
  }
  result.path = std::string(row.file) + " is neither where the loader looks nor in " + looked;
  return result;
}

}  // namespace

const Library& library(LibraryName name) {
  static std::array<Library, kLibraryCount> libraries;
  static std::array<std::once_flag, kLibraryCount> once;
  const size_t index = static_cast<size_t>(name);
  std::call_once(once[index], [&] { libraries[index] = open_library(kRows[index]); });
  return libraries[index];
}

void* library_function(const Library& library, const char* name) {
  void* function = dlsym(library.handle, name);
  if (function == nullptr) {
    throw DeviceError(MPC_CUDA_FAILED, false, std::string(library.name) + " (" + library.path + ") has no " + name);
  }
  return function;
}

}  // namespace mpc::cuda
