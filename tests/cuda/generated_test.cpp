// Code that is generated for Elementwise nodes: compiled for the host it gives the bits of the kernel that walks the
// program; NVRTC, which needs no GPU, compiles it for one without spills; and the cache it is kept in. Where NVRTC is
// not installed its part is left out, and the program ends with 77.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <dlfcn.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

#include "api/reference_evaluator.h"
#include "compiler/ops/op_def.h"
#include "executor/cuda/code_cache.h"
#include "executor/cuda/fused_source.h"
#include "executor/cuda/kernel.h"
#include "executor/cuda/libraries.h"
#include "executor/cuda/nvrtc.h"
#include "tests/cuda/model_file.h"
#include "tests/ops/sample.h"
#include "tests/support/command.h"
#include "tests/support/interpreter.h"
#include "tests/support/run_plan.h"
#include "tests/unit/helpers.h"

namespace {

using namespace mpc;

constexpr int kArch = 90;
/// 64 registers let a multiprocessor of 64 Ki registers hold 1024 threads.
constexpr int kMostRegisters = 64;

executor::NodeSpec::Operand operand(const std::optional<TensorType>& type) {
  if (!type) return {};
  return {type->dtype, type->shape, true, false};
}

struct Case {
  const samples::Sample* sample;
  Attributes attributes;
  test::Tensors inputs;
  test::Types outputs;

  executor::NodeSpec node() const {
    executor::NodeSpec node;
    node.op = OpKind::Elementwise;
    node.attributes = &attributes;
    for (const auto& type : test::types_of(inputs)) node.inputs.push_back(operand(type));
    for (const auto& type : outputs) node.outputs.push_back(operand(type));
    return node;
  }
};

/// The samples of Elementwise: every function, dtype and kind of broadcasting.
const std::vector<Case>& cases() {
  static const samples::SampleList kSamples = samples::elementwise_samples();
  static const std::vector<Case> kCases = [] {
    std::vector<Case> found;
    for (const samples::Sample& sample : kSamples) {
      if (sample.op != OpKind::Elementwise) continue;
      Case c{&sample, sample.attributes, samples::operands_of(sample), {}};
      c.outputs = infer_types(sample.op, sample.name, c.attributes, test::types_of(c.inputs),
                              static_cast<int>(sample.outputs.size()));
      if (c.outputs[0]->shape.elements() > 0) found.push_back(std::move(c));  // without elements nothing is generated
    }
    return found;
  }();
  return kCases;
}

using Pointers = std::vector<void*>;

/// Calls a function that takes that many pointers.
template <size_t... I>
void call(void* function, const Pointers& pointers, std::index_sequence<I...>) {
  reinterpret_cast<void (*)(decltype(static_cast<void>(I), static_cast<void*>(nullptr))...)>(function)(pointers[I]...);
}
void call(void* function, const Pointers& pointers) {
  switch (pointers.size()) {
#define MPC_CASE(n) \
  case n:           \
    return call(function, pointers, std::make_index_sequence<n>());
    MPC_CASE(2)
    MPC_CASE(3)
    MPC_CASE(4)
    MPC_CASE(5)
    MPC_CASE(6) MPC_CASE(7) MPC_CASE(8) MPC_CASE(9)
#undef MPC_CASE
        default : FAIL("a program has 1 to 8 inputs");
  }
}

test::Tensors run(const Case& c, const std::function<void(const Pointers& in, const Pointers& out)>& kernel) {
  const auto on_call = [&](const KernelCall& given) {
    Pointers in;
    Pointers out;
    for (const TensorView& view : given.inputs) in.push_back(view.data);
    for (const TensorView& view : given.outputs) out.push_back(view.data);
    kernel(in, out);
  };
  return test::run_kernel(on_call, OpKind::Elementwise, c.attributes, c.inputs, c.outputs);
}

/// The library made of the sources of all cases, whose functions are f0, f1, ...
class HostLibrary {
 public:
  HostLibrary() {
    std::string text;
    for (size_t i = 0; i < cases().size(); ++i) text += cuda::fused_source(cases()[i].node(), "f" + std::to_string(i));
    std::ofstream(folder_ / "all.cpp") << text;
    const std::string library = folder_ / "all.so";
    const test::CommandResult compiled = test::run_program(
        MPC_CXX, {"-std=c++20", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unused-variable", "-Werror",
                  "-fPIC", "-shared", std::string("-I") + MPC_SOURCE_DIR, folder_ / "all.cpp", "-o", library});
    REQUIRE_MESSAGE(compiled.exit_code == 0, compiled.err);
    handle_ = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    REQUIRE(handle_ != nullptr);
  }
  ~HostLibrary() {
    if (handle_ != nullptr) dlclose(handle_);
  }
  HostLibrary(const HostLibrary&) = delete;
  HostLibrary& operator=(const HostLibrary&) = delete;
  void* function(size_t i) const { return dlsym(handle_, ("f" + std::to_string(i)).c_str()); }

 private:
  test::TemporaryFolder folder_;
  void* handle_ = nullptr;
};

/// Compiles for the GPU and checks what ptxas says; remembers what was seen.
void check_resources(const std::string& source) {
  CAPTURE(source);
  const cuda::CompiledCode compiled =
      cuda::compile_for_gpu(source, kArch, cuda::CodeCache(""), cuda::CompilerReport::resources);
  CHECK_MESSAGE(!compiled.code.empty(), compiled.log);
  static const std::regex kSpills(R"((\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads)");
  static const std::regex kRegisters(R"(Used (\d+) registers)");
  std::smatch found;
  REQUIRE_MESSAGE(std::regex_search(compiled.log, found, kSpills), compiled.log);
  CHECK(found[2] == "0");
  CHECK(found[3] == "0");
  REQUIRE(std::regex_search(compiled.log, found, kRegisters));
  CHECK(std::stoi(found[1]) <= kMostRegisters);
}

}  // namespace

TEST_CASE("generated: compiled for the host it gives the bits of the kernel that walks the program") {
  const HostLibrary library;
  REQUIRE(cases().size() > 40);
  for (size_t i = 0; i < cases().size(); ++i) {
    const Case& c = cases()[i];
    CAPTURE(c.sample->name);
    const cuda::KernelOrReason own = cuda::find_own_kernel(c.node(), {});
    REQUIRE(own.kernel != nullptr);
    const test::Tensors expected = run(c, [&](const Pointers& in, const Pointers& out) {
      cuda::Launch launch;
      launch.inputs = in;
      launch.outputs = out;
      own.kernel->run(launch);
    });
    const test::Tensors actual = run(c, [&](const Pointers& in, const Pointers& out) {
      Pointers all = in;
      all.push_back(out[0]);
      call(library.function(i), all);
    });
    CHECK((actual == expected));
  }
}

TEST_CASE("generated: nodes that are equal have equal sources, and others have others") {
  std::set<std::string> sources;
  for (const Case& c : cases()) {
    CHECK(cuda::fused_source(c.node(), "f") == cuda::fused_source(c.node(), "f"));
    sources.insert(cuda::fused_source(c.node(), "f"));
  }
  CHECK(sources.size() == cases().size());
}

TEST_CASE("nvrtc: every sample compiles for an H200 without spills") {
  for (const Case& c : cases()) {
    CAPTURE(c.sample->name);
    check_resources(cuda::fused_source(c.node(), "mpc_fused"));
  }
}

TEST_CASE("nvrtc: every fused operator of the zoo compiles for an H200 without spills") {
  std::set<std::string> sources;
  for (const zoo::Entry& entry : zoo::entries()) {
    if (entry.name == "cnn-classifier-broken") continue;
    CAPTURE(entry.name);
    zoo::Options sizes;
    sizes.weights = false;
    for (const zoo::SizeFlag& flag : entry.sizes) {
      if (flag.name == "layers") sizes.sizes["layers"] = 2;  // the others repeat them
    }
    const test::ModelFile file(entry.name, sizes);
    const onnx_io::Model model = file.load();
    const ReferenceEvaluator evaluator;
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      PlanOptions options;
      options.batch = 8;
      options.train = true;
      options.precision = precision;
      options.loss = entry.name == "two-linear" || entry.name == "tiny-linear" || entry.name == "unet" ||
                             entry.name.starts_with("hybrid")
                         ? LossKind::mse
                         : LossKind::cross_entropy;
      Cluster cluster = uniform_cluster(*find_device_kind("h200"), 1);
      std::variant<Plan, Infeasible> made = make_plan(model, cluster, options, evaluator);
      REQUIRE(std::holds_alternative<Plan>(made));
      const Plan& plan = std::get<Plan>(made);
      for (const PlanNode& node : plan.nodes) {
        if (node.op != OpKind::Elementwise) continue;
        executor::NodeSpec spec;
        spec.op = node.op;
        spec.attributes = &node.attributes[0];
        const auto type = [&](PlanIndex value) {
          return executor::NodeSpec::Operand{plan.values[value].dtype, plan.values[value].shapes[0], true, false};
        };
        for (const PlanIndex value : node.inputs) spec.inputs.push_back(type(value));
        for (const PlanIndex value : node.outputs) spec.outputs.push_back(type(value));
        const std::string source = cuda::fused_source(spec, "mpc_fused");
        if (sources.insert(source).second) check_resources(source);
      }
    }
  }
  MESSAGE(sources.size() << " different programs");
  CHECK(sources.size() > 50);
}

TEST_CASE("nvrtc: what does not compile says why, and what does is found in the cache the next time") {
  const test::TemporaryFolder folder;
  const cuda::CodeCache cache(folder / "kernels");
  const cuda::CompiledCode wrong = cuda::compile_for_gpu("__global__ void f() { undeclared(); }", kArch, cache);
  CHECK(wrong.code.empty());
  CHECK(wrong.log.find("undeclared") != std::string::npos);
  const std::string source = cuda::fused_source(cases().front().node(), "f");
  CHECK(cuda::compile_for_gpu(source, 1, cache).code.empty());  // no GPU of that kind
  const cuda::CompiledCode first = cuda::compile_for_gpu(source, kArch, cache);
  REQUIRE(!first.code.empty());
  const std::filesystem::path file = std::filesystem::directory_iterator(folder / "kernels")->path();
  const auto written = std::filesystem::last_write_time(file);  // what is compiled again is written again
  CHECK(cuda::compile_for_gpu(source, kArch, cache).code == first.code);
  CHECK(std::filesystem::last_write_time(file) == written);
}

TEST_CASE("cache: what was kept is found under its whole key, and nothing else is") {
  const test::TemporaryFolder folder;
  const cuda::CodeCache cache(folder / "a/b");
  CHECK(!cache.find("key").has_value());
  const std::string content("with\nlines and \0 zeros", 21);
  cache.keep("key\nof lines", content);
  CHECK(cache.find("key\nof lines") == content);
  CHECK(!cache.find("key").has_value());
  cache.keep("key\nof lines", "");
  CHECK(cache.find("key\nof lines") == "");
  CHECK(!cuda::CodeCache("").find("key\nof lines").has_value());
}

TEST_CASE("cache: a damaged or shortened file counts as absent, and is written again") {
  const test::TemporaryFolder folder;
  const cuda::CodeCache cache(folder / "kernels");
  cache.keep("key", "content");
  const std::filesystem::path file = std::filesystem::directory_iterator(folder / "kernels")->path();
  const std::string whole = [&] {
    std::ifstream in(file, std::ios::binary);
    return std::string{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }();
  const auto write = [&](const std::string& text) { std::ofstream(file, std::ios::binary | std::ios::trunc) << text; };
  for (size_t length = 0; length < whole.size(); ++length) {
    write(whole.substr(0, length));
    CHECK(!cache.find("key").has_value());
  }
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] ^= 1;
    write(damaged);
    CHECK(!cache.find("key").has_value());
  }
  cache.keep("key", "content");
  CHECK(cache.find("key") == "content");
}

TEST_CASE("cache: a folder that cannot be written to keeps nothing and is no error") {
  const test::TemporaryFolder folder;
  std::ofstream(folder / "file") << "here is no folder";
  const cuda::CodeCache cache(folder / "file");
  cache.keep("key", "content");
  CHECK(!cache.find("key").has_value());
}

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  doctest::Context context(argc, argv);
  const cuda::Library& nvrtc = cuda::library(cuda::LibraryName::nvrtc);
  if (nvrtc.handle == nullptr) context.addFilter("test-case-exclude", "nvrtc:*");
  const int failed = context.run();
  if (failed != 0 || nvrtc.handle != nullptr) return failed;
  std::fprintf(stderr, "skipped what needs NVRTC: %s\n", nvrtc.path.c_str());
  return kSkipped;
}
