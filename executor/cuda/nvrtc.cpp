#include "executor/cuda/nvrtc.h"

#include <nvrtc.h>

#include <array>
#include <type_traits>
#include <vector>

#include "executor/cuda/error.h"
#include "executor/cuda/libraries.h"
#include "executor/cuda/nvrtc_headers.h"

namespace mpc::cuda {
namespace {

/// The functions of NVRTC that are used.
struct Functions {
  decltype(&nvrtcVersion) version;
  decltype(&nvrtcCreateProgram) create;
  decltype(&nvrtcDestroyProgram) destroy;
  decltype(&nvrtcCompileProgram) compile;
  decltype(&nvrtcGetProgramLogSize) log_size;
  decltype(&nvrtcGetProgramLog) log;
  decltype(&nvrtcGetCUBINSize) code_size;
  decltype(&nvrtcGetCUBIN) code;
};

Functions find_functions(const Library& library) {
  Functions f{};
  const auto set = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(library_function(library, name));
  };
  set(f.version, "nvrtcVersion");
  set(f.create, "nvrtcCreateProgram");
  set(f.destroy, "nvrtcDestroyProgram");
  set(f.compile, "nvrtcCompileProgram");
  set(f.log_size, "nvrtcGetProgramLogSize");
  set(f.log, "nvrtcGetProgramLog");
  set(f.code_size, "nvrtcGetCUBINSize");
  set(f.code, "nvrtcGetCUBIN");
  return f;
}

struct Header {
  const char* name;
  const char* text;
};
/// The functors, and under the standard's names what they use of it.
constexpr std::array<Header, 8> kHeaders = {{
    {"compiler/base/half.h", kHalfHeader},
    {"executor/functors/binary.h", kBinaryHeader},
    {"executor/functors/parameters.h", kParametersHeader},
    {"executor/functors/unary.h", kUnaryHeader},
    {"cmath", kStandardHeader},
    {"cstdint", kStandardHeader},
    {"cstring", kStandardHeader},
    {"type_traits", kStandardHeader},
}};

class Program {
 public:
  Program(const Functions& f, const std::string& source) : f_(f) {
    std::array<const char*, kHeaders.size()> names{};
    std::array<const char*, kHeaders.size()> texts{};
    for (size_t i = 0; i < kHeaders.size(); ++i) {
      names[i] = kHeaders[i].name;
      texts[i] = kHeaders[i].text;
    }
    is_made_ = f_.create(&program_, source.c_str(), "mpc.cu", static_cast<int>(kHeaders.size()), texts.data(),
                         names.data()) == NVRTC_SUCCESS;
  }
  ~Program() {
    if (is_made_) f_.destroy(&program_);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  CompiledCode compile(const std::vector<const char*>& options) {
    CompiledCode result;
    if (!is_made_) return {"", "nvrtcCreateProgram failed"};
    const nvrtcResult status = f_.compile(program_, static_cast<int>(options.size()), options.data());
    size_t size = 0;
    if (f_.log_size(program_, &size) == NVRTC_SUCCESS && size > 1) {
      result.log.resize(size);
      f_.log(program_, result.log.data());
      result.log.pop_back();  // the end of a C text
    }
    if (status == NVRTC_SUCCESS && f_.code_size(program_, &size) == NVRTC_SUCCESS && size > 0) {
      result.code.resize(size);
      if (f_.code(program_, result.code.data()) != NVRTC_SUCCESS) result.code.clear();
    }
    if (result.code.empty() && result.log.empty()) result.log = "NVRTC ended with " + std::to_string(status);
    return result;
  }

 private:
  const Functions& f_;
  nvrtcProgram program_ = nullptr;
  bool is_made_ = false;
};

}  // namespace

CompiledCode compile_for_gpu(const std::string& source, int arch, const CodeCache& cache, CompilerReport report) {
  const Library& nvrtc = library(LibraryName::nvrtc);
  if (nvrtc.handle == nullptr) return {"", "NVRTC is missing: " + nvrtc.path};
  const Functions f = find_functions(nvrtc);
  const std::string gpu = "--gpu-architecture=sm_" + std::to_string(arch);
  std::vector<const char*> options = {gpu.c_str(), "--fmad=false", "-std=c++20"};

  int major = 0;
  int minor = 0;
  f.version(&major, &minor);
  std::string key = "nvrtc " + std::to_string(major) + "." + std::to_string(minor);
  for (const char* option : options) key += std::string(" ") + option;
  for (const Header& header : kHeaders) key += std::string("\n// ") + header.name + "\n" + header.text;
  key += "\n// source\n" + source;
  if (report == CompilerReport::errors) {
    if (auto known = cache.find(key)) return {std::move(*known), ""};
  } else {
    options.push_back("--ptxas-options=-v");  // says it in the log, and changes no code
  }
  CompiledCode compiled = Program(f, source).compile(options);
  if (!compiled.code.empty()) cache.keep(key, compiled.code);
  return compiled;
}

}  // namespace mpc::cuda
