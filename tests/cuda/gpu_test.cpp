// The CUDA backend on a real GPU: every op against the reference, and whole plans on logical devices of GPU 0.
// Without a GPU the program says why and ends with 77, which CTest shows as skipped; with MPC_REQUIRE_GPU=1 it fails.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

#include "compiler/base/elementwise_program.h"
#include "compiler/base/error.h"
#include "compiler/ops/verify_types.h"
#include "executor/device/accelerators.h"
#include "executor/session.h"
#include "tests/cuda/plans.h"
#include "tests/exec/models.h"
#include "tests/ops/sample.h"
#include "tests/support/interpreter.h"
#include "tests/support/random_graph.h"
#include "tests/support/run_plan.h"

namespace {

using namespace mpc;
using executor::Accelerators;
using executor::NodeSpec;
using executor::Transport;
using samples::Sample;
using test::difference;
using test::on_gpus;
using test::random_training_plan;
using test::Tensors;
using test::Types;

constexpr size_t kGuardBytes = 256;
constexpr std::byte kGuard{0xA5};

/// The second micro-batch of the third step: not the case in which GradAccumulate stores.
const StepContext kStep{.step = 2, .microbatch = 1, .seed = 42};

/// A plan with nothing but one logical device and its queue.
Plan bare_plan(const std::string& precision) {
  Plan plan;
  plan.precision = precision;
  PlanDevice device;
  device.name = "cuda:0";
  device.backend = "cuda";
  plan.devices.push_back(device);
  plan.queues.push_back({DeviceId(0), QueueKind::compute, DeviceId{}});
  return plan;
}

/// A tensor in device memory between two guards.
class DeviceTensor {
 public:
  DeviceTensor(const Accelerators& accelerators, const std::vector<std::byte>& content)
      : accelerators_(accelerators), bytes_(content.size()) {
    std::vector<std::byte> all(bytes_ + 2 * kGuardBytes, kGuard);
    std::copy(content.begin(), content.end(), all.begin() + kGuardBytes);
    memory_ = accelerators.allocate(DeviceId(0), static_cast<int64_t>(all.size()), "a tensor of a test");
    accelerators.upload(DeviceId(0), memory_, all);
  }
  ~DeviceTensor() { accelerators_.release(DeviceId(0), memory_); }
  DeviceTensor(const DeviceTensor&) = delete;
  DeviceTensor& operator=(const DeviceTensor&) = delete;

  std::byte* data() const { return memory_ + kGuardBytes; }
  /// @throws std::logic_error when a guard was overwritten.
  std::vector<std::byte> content() const {
    std::vector<std::byte> all(bytes_ + 2 * kGuardBytes);
    accelerators_.download(DeviceId(0), all, memory_);
    for (size_t i = 0; i < kGuardBytes; ++i) {
      if (all[i] != kGuard || all[all.size() - 1 - i] != kGuard) {
        throw std::logic_error("a kernel wrote outside of its results");
      }
    }
    return {all.begin() + kGuardBytes, all.end() - kGuardBytes};
  }

 private:
  const Accelerators& accelerators_;
  size_t bytes_;
  std::byte* memory_ = nullptr;
};

NodeSpec::Operand operand(const std::optional<TensorType>& type) {
  if (!type) return {};
  return {type->dtype, type->shape, true, false};
}

/// What a kernel of the GPU makes of a node, with every byte of its results poisoned before.
struct GpuRun {
  Tensors results;
  std::string kernel;
};

std::optional<GpuRun> run_on_gpu(const Plan& plan, OpKind op, const Attributes& attributes, const Tensors& inputs,
                                 const Types& outputs, std::byte poison) {
  Accelerators accelerators(plan, nullptr);
  NodeSpec node;
  node.op = op;
  node.attributes = &attributes;
  for (const auto& type : test::types_of(inputs)) node.inputs.push_back(operand(type));
  for (const auto& type : outputs) node.outputs.push_back(operand(type));
  executor::KernelOrReason found = accelerators.make_kernel(node);
  if (found.kernel == nullptr) return std::nullopt;
  accelerators.allocate_workspaces();
  executor::DeviceStream& stream = *accelerators.stream(0);
  mpc_cuda_step step{};
  step.step = kStep.step;
  step.seed = kStep.seed;
  accelerators.upload(DeviceId(0), reinterpret_cast<std::byte*>(stream.step), std::as_bytes(std::span(&step, 1)));
  std::vector<std::unique_ptr<DeviceTensor>> tensors;
  std::vector<TensorView> input_views;
  std::vector<TensorView> output_views;
  for (const auto& input : inputs) {
    input_views.push_back({});
    if (!input) continue;
    tensors.push_back(std::make_unique<DeviceTensor>(accelerators, input->dense()));
    input_views.back() = {input->dtype(), input->shape(), tensors.back()->data()};
  }
  std::vector<DeviceTensor*> results;
  for (const auto& output : outputs) {
    output_views.push_back({});
    results.push_back(nullptr);
    if (!output) continue;
    const std::vector<std::byte> garbage(static_cast<size_t>(byte_size(output->shape, output->dtype)), poison);
    tensors.push_back(std::make_unique<DeviceTensor>(accelerators, garbage));
    results.back() = tensors.back().get();
    output_views.back() = {output->dtype, output->shape, tensors.back()->data()};
  }
  found.kernel->run({attributes, input_views, output_views, kStep, {}});
  executor::plugin_call("stream",
                        [&](mpc_cuda_error* error) { return accelerators.plugin().sync_stream(stream.stream, error); });
  GpuRun run;
  run.kernel = std::string(found.kernel->name());
  for (size_t i = 0; i < results.size(); ++i) {
    run.results.push_back(results[i] == nullptr
                              ? std::nullopt
                              : std::optional(Literal(outputs[i]->dtype, outputs[i]->shape, results[i]->content())));
  }
  return run;
}

/// ||a - b|| / ||b|| over the finite elements; infinite when the place of a number that is not finite differs.
double relative_difference(const Literal& a, const Literal& b) {
  const std::vector<double> as = test::numbers_of(a);
  const std::vector<double> bs = test::numbers_of(b);
  double difference = 0;
  double total = 0;
  for (size_t i = 0; i < as.size(); ++i) {
    if (std::isnan(as[i]) && std::isnan(bs[i])) continue;
    if (as[i] == bs[i] && std::isinf(as[i])) continue;
    if (!std::isfinite(as[i]) || !std::isfinite(bs[i])) return INFINITY;
    difference += (as[i] - bs[i]) * (as[i] - bs[i]);
    total += bs[i] * bs[i];
  }
  if (difference == 0) return 0;
  return total == 0 ? INFINITY : std::sqrt(difference / total);
}

test::Outcome run(const Plan& plan, uint64_t seed, const std::function<void(executor::SessionOptions&)>& change = {}) {
  test::RunOptions options;
  options.seed = seed;
  options.steps = 4;
  if (change) change(options.session);
  return test::run_plan(plan, test::SeededWeights(seed), options);
}

}  // namespace

TEST_CASE("gpu: every kernel agrees with the reference, overwrites its results and gives the same bits twice") {
  const Plan plan = bare_plan("f32");
  int ran = 0;
  for (const Sample& sample : samples::all_samples()) {
    const std::string name = std::string(op_name(sample.op)) + ": " + sample.name;
    CAPTURE(name);
    try {
      Attributes attributes = sample.attributes;
      const Tensors inputs = samples::operands_of(sample);
      Types outputs =
          infer_types(sample.op, name, attributes, test::types_of(inputs), static_cast<int>(sample.outputs.size()));
      for (size_t i = 0; i < sample.outputs.size(); ++i) {
        if (!sample.outputs[i]) outputs[i].reset();
      }
      const auto first = run_on_gpu(plan, sample.op, attributes, inputs, outputs, std::byte{0xFF});
      if (!first) continue;
      ++ran;
      CAPTURE(first->kernel);
      const auto second = run_on_gpu(plan, sample.op, attributes, inputs, outputs, std::byte{0x5A});
      CHECK((second->results == first->results));
      const Tensors expected = test::run_reference(sample.op, attributes, inputs, outputs,
                                                   {.step = kStep, .poison = std::byte{0xFF}, .in_place = {}});
      for (size_t i = 0; i < expected.size(); ++i) {
        if (!expected[i]) continue;
        const double found = relative_difference(*first->results[i], *expected[i]);
        CHECK_MESSAGE(found <= sample.tolerance, "result " << i << " differs by " << found);
      }
    } catch (const std::exception& error) {
      FAIL_CHECK(error.what());
    }
  }
  CHECK(ran > 1000);
}

TEST_CASE("gpu: a fused operator, generated for it or not, gives the bits of its steps one by one") {
  const Plan plan = bare_plan("f32");
  int ran = 0;
  for (const Sample& sample : samples::elementwise_samples()) {
    if (sample.op != OpKind::Elementwise) continue;
    CAPTURE(sample.name);
    Attributes attributes = sample.attributes;
    Tensors values = samples::operands_of(sample);
    const Tensors inputs = values;
    const Types outputs = infer_types(sample.op, sample.name, attributes, test::types_of(inputs), 1);
    const auto whole = run_on_gpu(plan, sample.op, attributes, inputs, outputs, std::byte{0xFF});
    REQUIRE(whole.has_value());
    CAPTURE(whole->kernel);
    auto steps = parse_steps(sample.name, attributes.texts("steps"), static_cast<int>(inputs.size()));
    for (ElementwiseStep& step : steps) {
      Tensors operands;
      for (const int k : step.operands) {
        operands.push_back(k == ElementwiseStep::kAbsent ? std::nullopt : values[static_cast<size_t>(k)]);
      }
      const Types type = infer_types(step.op, sample.name, step.attributes, test::types_of(operands), 1);
      const auto result = run_on_gpu(plan, step.op, step.attributes, operands, type, std::byte{0xFF});
      REQUIRE(result.has_value());
      values.push_back(result->results[0]);
    }
    CHECK((values.back() == whole->results[0]));
    ++ran;
  }
  CHECK(ran > 40);
}

TEST_CASE("gpu: k logical devices give the bits of one") {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    CAPTURE(seed);
    const test::Outcome one = run(on_gpus(random_training_plan(seed, 1, false), {0}), seed);
    for (const int devices : {2, 4, 8}) {
      CHECK(difference(one, run(on_gpus(random_training_plan(seed, devices, true), std::vector<int>(8, 0)), seed)) ==
            "");
    }
  }
}

TEST_CASE("gpu: a replayed graph gives the bits of the steps that are enqueued") {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    const Plan plan = on_gpus(random_training_plan(seed, 3, true), {0, 0, 0});
    CHECK(difference(run(plan, seed, [](auto& options) { options.captures = false; }), run(plan, seed)) == "");
  }
}

TEST_CASE("gpu: transfers through the host give the bits of copies on the GPU") {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    const Plan plan = on_gpus(random_training_plan(seed, 3, true), {0, 0, 0});
    CHECK(difference(run(plan, seed), run(plan, seed, [](auto& options) { options.transport = Transport::staged; })) ==
          "");
  }
}

TEST_CASE("gpu: transfers by NCCL, with one rank that sends to itself, give the bits of copies on the GPU") {
  const executor::CudaInventory inventory = executor::cuda_inventory();
  for (const mpc_cuda_library& library : inventory.libraries) {
    if (std::string(library.name) == "NCCL" && library.is_there == 0) {
      MESSAGE("left out: " << library.path);
      return;
    }
  }
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    CAPTURE(seed);
    const Plan plan = on_gpus(random_training_plan(seed, 3, true), {0, 0, 0});
    CHECK(difference(run(plan, seed), run(plan, seed, [](auto& options) { options.transport = Transport::nccl; })) ==
          "");
  }
}

TEST_CASE("gpu: plans over the CPU and the GPU agree with the CPU") {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    const Plan plan = random_training_plan(seed, 3, true);
    const test::Outcome on_cpu = run(plan, seed);
    const test::Outcome mixed = run(on_gpus(plan, {-1, 0, 0}), seed);
    CHECK(difference(mixed, run(on_gpus(plan, {-1, 0, 0}), seed)) == "");
    REQUIRE(mixed.losses.size() == on_cpu.losses.size());
    for (size_t i = 0; i < mixed.losses.size(); ++i) {
      // Kernels add in other orders; four steps of an optimizer multiply the difference.
      CHECK(mixed.losses[i] == doctest::Approx(on_cpu.losses[i]).epsilon(1e-3));
    }
  }
}

TEST_CASE("gpu: an arena that the GPU cannot hold is named, and the process goes on") {
  Plan plan = on_gpus(test::forward_plan(test::kOneDevice, {1, 8, 8}), {0});
  Plan large = plan;
  large.devices[0].arena_bytes = int64_t{1} << 46;
  large.devices[0].capacity_bytes = large.devices[0].arena_bytes;
  bool is_refused = false;
  try {
    executor::Session(large, test::NumberedWeights(), {});
  } catch (const Error& error) {
    is_refused = true;
    CHECK(error.id() == ErrorId::M070);
    CHECK(std::string(error.what()).find("are free") != std::string::npos);
  }
  CHECK(is_refused);
  executor::Session session(plan, test::NumberedWeights(), {});
  const std::vector<float> x = test::numbers("x", 48);
  session.bind("x", DType::f32, Shape{8, 6}, test::bytes_of(x));
  session.step();
}

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  const executor::CudaInventory inventory = executor::cuda_inventory();
  if (inventory.devices.empty()) {
    const char* required = std::getenv("MPC_REQUIRE_GPU");
    const bool is_required = required != nullptr && std::string(required) == "1";
    std::fprintf(stderr, "%s: no GPU: %s\n", is_required ? "failed" : "skipped", inventory.reason.c_str());
    return is_required ? 1 : kSkipped;
  }
  for (const mpc_cuda_library& library : inventory.libraries) {
    std::fprintf(stderr, "%s %d: %s\n", library.name, library.version, library.path);
  }
  doctest::Context context(argc, argv);
  return context.run();
}
