#include "executor/device/plugin.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "compiler/base/env.h"
#include "compiler/base/error.h"
#include "compiler/base/text.h"

namespace mpc::executor {
namespace {

constexpr const char* kFileName = "libmpc_cuda.so";

/// The folder of the file that holds this function: the program, or the library it is linked into. Empty when unknown.
std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) return {};
  std::array<char, PATH_MAX> resolved{};
  // For the program itself the loader may know only the name it was called by.
  const char* file = std::strchr(info.dli_fname, '/') != nullptr ? info.dli_fname : "/proc/self/exe";
  if (realpath(file, resolved.data()) == nullptr) return {};
  const std::string path(resolved.data());
  return path.substr(0, path.rfind('/'));
}

std::string last_loader_error() {
  const char* text = dlerror();
  return text == nullptr ? "the loader says nothing" : text;
}

PluginOrReason open_file(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return {nullptr, path, last_loader_error()};
  const auto entry = reinterpret_cast<mpc_cuda_entry>(dlsym(library, MPC_CUDA_ENTRY));
  if (entry == nullptr) return {nullptr, path, fmt::format("{} is not a CUDA plugin of this mpc", path)};
  const mpc_cuda_plugin* plugin = entry();
  if (plugin->version != MPC_CUDA_ABI_VERSION || plugin->bytes < sizeof(mpc_cuda_plugin)) {
    return {nullptr, path,
            fmt::format("{} has version {} of the plugin interface, expected {}", path, plugin->version,
                        MPC_CUDA_ABI_VERSION)};
  }
  return {plugin, path, {}};
}

}  // namespace

PluginOrReason load_plugin(const std::string& path) {
  if (!path.empty()) return open_file(path);
  const std::string folder = own_folder();
  for (const std::string& candidate :
       {fmt::format("{}/{}", folder, kFileName), fmt::format("{}/../lib/{}", folder, kFileName)}) {
    if (access(candidate.c_str(), R_OK) == 0) return open_file(candidate);
  }
  return {nullptr, {}, fmt::format("{} is neither in {} nor in {}/../lib", kFileName, folder, folder)};
}

const PluginOrReason& cuda_plugin() {
  static const PluginOrReason kPlugin =
      load_plugin(read_environment([](const char* name) -> const char* { return std::getenv(name); }).cuda_plugin);
  return kPlugin;
}

CudaInventory cuda_inventory() {
  CudaInventory inventory;
  const PluginOrReason& found = cuda_plugin();
  inventory.plugin_path = found.path;
  if (found.plugin == nullptr) {
    inventory.reason = "no CUDA plugin: " + found.reason;
    return inventory;
  }
  mpc_cuda_library library{};
  for (int32_t i = 0; found.plugin->library(i, &library) != 0; ++i) inventory.libraries.push_back(library);
  mpc_cuda_error error{};
  int32_t count = 0;
  if (found.plugin->device_count(&count, &error) != MPC_CUDA_OK) {
    inventory.reason = error.text;
    return inventory;
  }
  for (int32_t i = 0; i < count; ++i) {
    mpc_cuda_facts facts{};
    if (found.plugin->device_facts(i, &facts, &error) != MPC_CUDA_OK)
      throw_plugin_error(error, fmt::format("cuda:{}", i));
    inventory.devices.push_back(facts);
  }
  if (count == 0) inventory.reason = "the CUDA driver shows no device";
  return inventory;
}

void throw_plugin_error(const mpc_cuda_error& error, const std::string& where) {
  if (error.code == MPC_CUDA_OUT_OF_MEMORY) {
    throw Error(ErrorId::M070, where,
                error.free_bytes < 0 ? std::string(error.text)
                                     : fmt::format("{}; {} bytes ({}) are free", error.text, error.free_bytes,
                                                   bytes_text(error.free_bytes)),
                "use more devices, a smaller batch or more micro-batches");
  }
  throw Error(ErrorId::M080, where, error.text,
              error.is_sticky != 0 ? "the GPU's state is lost: start the program again" : "");
}

}  // namespace mpc::executor
