#include "compiler/base/env.h"

#include "compiler/base/error.h"
#include "compiler/base/text.h"

namespace mpc {
namespace {

constexpr int kMostLogLevel = 3;

constexpr EnvironmentVariable kVariables[] = {
    {"MPC_CUDA_CACHE", "a folder, none",
     "keep kernels compiled for GPUs there (default: mpc/cuda in the user's cache)"},
    {"MPC_CUDA_LIBS", "a folder", "look there first for cuBLASLt, cuDNN, NVRTC and NCCL"},
    {"MPC_CUDA_PLUGIN", "a file", "the CUDA plugin to load (default: libmpc_cuda.so beside the program)"},
    {"MPC_DUMP_DIR", "a folder", "write the graph after each pass, the plan and its drawing there"},
    {"MPC_LOG", "0..3", "say on stderr what is done: 1 choices, 2 passes and phases, 3 everything"},
    {"MPC_TIME_PASSES", "0 or 1", "print the time of each pass"},
    {"MPC_TRACE", "a file", "write the timeline of a run there"},
    {"MPC_VERIFY", "0 or 1", "check the graph after each pass (default: 1 in debug builds)"},
};

#ifdef NDEBUG
constexpr bool kVerifiesByDefault = false;
#else
constexpr bool kVerifiesByDefault = true;
#endif

int read_integer(const char* name, const char* text, int most) {
  const auto value = parse_integer(text);
  if (!value || *value < 0 || *value > most) {
    throw Error(ErrorId::M003, name,
                "is \"" + std::string(text) + "\", must be a number from 0 to " + std::to_string(most));
  }
  return static_cast<int>(*value);
}

}  // namespace

std::span<const EnvironmentVariable> environment_variables() {
  return kVariables;
}

Environment read_environment(const std::function<const char*(const char*)>& look_up) {
  Environment environment;
  // An empty variable is an absent one.
  const auto text = [&](const char* name) -> const char* {
    const char* value = look_up(name);
    return value != nullptr && *value != '\0' ? value : nullptr;
  };
  const auto number = [&](const char* name, int most, int otherwise) {
    const char* value = text(name);
    return value != nullptr ? read_integer(name, value, most) : otherwise;
  };
  environment.log_level = number("MPC_LOG", kMostLogLevel, 0);
  environment.times_passes = number("MPC_TIME_PASSES", 1, 0) != 0;
  environment.verifies_passes = number("MPC_VERIFY", 1, kVerifiesByDefault ? 1 : 0) != 0;
  if (const char* value = text("MPC_CUDA_CACHE")) environment.cuda_cache = value;
  if (const char* value = text("MPC_CUDA_LIBS")) environment.cuda_libs = value;
  if (const char* value = text("MPC_CUDA_PLUGIN")) environment.cuda_plugin = value;
  if (const char* value = text("MPC_DUMP_DIR")) environment.dump_dir = value;
  if (const char* value = text("MPC_TRACE")) environment.trace_path = value;
  return environment;
}

}  // namespace mpc
