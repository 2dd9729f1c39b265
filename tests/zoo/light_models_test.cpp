// The nine light models of the ONNX package: real networks at full size whose weights are ConstantOfShape nodes. Each
// is planned for 1 to 8 devices; run, it gives the package's expected output, and the same bits on one device and on
// two.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "api/reference_evaluator.h"
#include "compiler/onnx/model.h"
#include "tests/support/run_plan.h"

namespace {

using namespace mpc;

const std::vector<std::string> kModels = {"bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50",
                                          "shufflenet",   "squeezenet",  "vgg19",        "zfnet512"};

std::string path_of(const std::string& name) {
  return std::string(MPC_ONNX_TEST_DATA) + "/light/light_" + name;
}

/// What the package feeds: element i of n is i / n.
Literal ramp(const Shape& shape) {
  const int64_t count = shape.elements();
  std::vector<std::byte> bytes(static_cast<size_t>(byte_size(shape, DType::f32)));
  for (int64_t i = 0; i < count; ++i) {
    const auto element = static_cast<float>(static_cast<double>(i) / static_cast<double>(count));
    std::memcpy(bytes.data() + static_cast<size_t>(i) * sizeof(float), &element, sizeof(float));
  }
  return {DType::f32, shape, std::move(bytes)};
}

test::Outcome run(const onnx_io::Model& model, const Plan& plan) {
  REQUIRE(plan.inputs.size() == 1);
  test::RunOptions options;
  options.steps = 1;
  options.inputs.emplace(plan.inputs[0].name, ramp(plan.values[plan.inputs[0].value].shapes[0]));
  return test::run_plan(plan, model.weights(), options);
}

// The expected outputs were computed by another implementation in f32: its own tolerances (rtol 1e-3, atol 1e-5) hold.
int64_t count_wrong(const Literal& expected, const Literal& actual) {
  constexpr double kRelative = 1e-3;
  constexpr double kAbsolute = 1e-5;
  int64_t wrong = 0;
  for (int64_t i = 0; i < expected.shape().elements(); ++i) {
    const double wanted = expected.number(i);
    const bool is_near = std::abs(actual.number(i) - wanted) <= kAbsolute + kRelative * std::abs(wanted);
    wrong += is_near ? 0 : 1;  // NaN is not near anything
  }
  return wrong;
}

void check_run(const std::string& name) {
  CAPTURE(name);
  const ReferenceEvaluator evaluator;
  const onnx_io::Model model = onnx_io::Model::load(path_of(name) + ".onnx");
  const test::Outcome one = run(model, test::plan_on_cpus(model, 1, {}, evaluator));
  const Literal expected = onnx_io::read_tensor_file(path_of(name) + "_output_0.pb");
  REQUIRE(one.tensors.size() == 1);
  const Literal& actual = one.tensors.begin()->second;
  REQUIRE(actual.shape() == expected.shape());
  CHECK(count_wrong(expected, actual) == 0);

  const Plan plan = test::plan_on_cpus(model, 2, {}, evaluator);
  const auto difference = test::find_difference(one, run(model, plan));
  CHECK_MESSAGE(!difference, difference.value_or(""));
}

}  // namespace

TEST_CASE("light models: each has a sound plan for 1 to 8 devices") {
  const ReferenceEvaluator evaluator;
  for (const std::string& name : kModels) {
    CAPTURE(name);
    const onnx_io::Model model = onnx_io::Model::load(path_of(name) + ".onnx");
    for (int devices = 1; devices <= 8; ++devices) {
      CAPTURE(devices);
      const Plan plan = test::plan_on_cpus(model, devices, {}, evaluator);
      std::set<uint32_t> used;
      for (const PlanNode& node : plan.nodes) used.insert(node.device.index());
      CHECK(static_cast<int>(plan.devices.size()) == devices);
      CHECK(static_cast<int>(used.size()) >= std::min(devices, 2));
      for (const PlanDevice& device : plan.devices) CHECK(device.arena_bytes <= device.capacity_bytes);
    }
  }
}

TEST_CASE("light models: outputs are the expected ones, and bits do not depend on the number of devices") {
  for (const std::string& name : kModels) check_run(name);
}
