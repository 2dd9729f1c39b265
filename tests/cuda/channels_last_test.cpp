// Images with their channels last, which plans for GPUs have: the values are those of plans without, and those of one
// device. The plugin's own kernels add in the same order in both layouts, so the bits are equal, too.

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "api/reference_evaluator.h"
#include "compiler/base/channels_last.h"
#include "compiler/cost/cluster.h"
#include "tests/cuda/fake_device.h"
#include "tests/cuda/model_file.h"
#include "tests/cuda/plans.h"
#include "tests/support/run_plan.h"

namespace {

using namespace mpc;

PlanOptions plan_options(int64_t batch, bool is_training, Precision precision) {
  PlanOptions options;
  options.batch = batch;
  options.train = is_training;
  options.precision = precision;
  options.loss = LossKind::mse;
  options.optimizer.optimizer = parse_optimizer("momentum,lr=0.05");
  return options;
}

Plan plan_for_gpus(const onnx_io::Model& model, int devices, const PlanOptions& options) {
  const ReferenceEvaluator evaluator;
  auto made = make_plan(model, uniform_cluster(*find_device_kind("h200"), devices), options, evaluator);
  REQUIRE(std::holds_alternative<Plan>(made));
  return std::get<Plan>(std::move(made));
}

bool is_convolution(const PlanNode& node) {
  return node.op == OpKind::Conv || node.op == OpKind::ConvInputGrad || node.op == OpKind::ConvWeightGrad;
}

int64_t count_of(const Plan& plan, OpKind op) {
  return std::ranges::count(plan.nodes, op, &PlanNode::op);
}

zoo::Options sized(std::map<std::string, int64_t> sizes) {
  zoo::Options options;
  options.sizes = std::move(sizes);
  return options;
}

}  // namespace

TEST_CASE("channels_last: plans with it give the bits of plans without, on one device and on several") {
  const std::vector<std::pair<std::string, zoo::Options>> models = {
      {"resnet18", sized({{"image", 32}, {"width", 4}, {"classes", 5}})},
      {"resnet50", sized({{"image", 32}, {"width", 4}, {"classes", 5}})},
      {"inception", sized({{"image", 16}, {"width", 8}, {"blocks", 2}})},
      {"unet", sized({{"image", 16}, {"width", 4}, {"levels", 2}})},
  };
  const ReferenceEvaluator evaluator;
  for (const auto& [name, sizes] : models) {
    for (const Precision precision : {Precision::bf16, Precision::f16, Precision::tf32}) {
      for (const bool is_training : {true, false}) {
        // What differs in f16 is a scaled loss.
        if (precision == Precision::f16 && (!is_training || name != "resnet18")) continue;
        CAPTURE(name);
        CAPTURE(precision_name(precision));
        CAPTURE(is_training);
        const test::ModelFile file(name, sizes);
        const onnx_io::Model model = file.load();
        // The last micro-batch has one image.
        PlanOptions options = plan_options(3, is_training, precision);
        options.microbatches = 2;
        const auto run = [&](const Plan& plan) {
          test::RunOptions run_options;
          run_options.steps = is_training ? 2 : 1;
          run_options.session.cuda_plugin = test::fake_plugin({});
          const std::vector<int> gpus(plan.devices.size(), 0);
          return test::run_plan(test::on_gpus(plan, gpus), model.weights(), run_options);
        };
        PlanOptions first = options;
        if (precision == Precision::tf32) first.precision = Precision::f32;  // CPU devices have no other
        const test::Outcome expected = run(test::plan_on_cpus(model, 1, first, evaluator));
        CHECK(test::is_finite(expected));
        for (const int devices : {1, 2, 3}) {
          CAPTURE(devices);
          const Plan plan = plan_for_gpus(model, devices, options);
          int convolutions = 0;
          for (const PlanNode& node : plan.nodes) {
            if (!is_convolution(node)) continue;
            ++convolutions;
            for (const Attributes& attributes : node.attributes) CHECK(is_channels_last(attributes));
          }
          CHECK(convolutions > 5);
          CHECK(test::difference(expected, run(plan)) == "");
        }
      }
    }
  }
}

TEST_CASE("channels_last: of strict f32, and on CPU devices, nothing is moved") {
  const test::ModelFile file("resnet18", sized({{"image", 32}, {"width", 4}}));
  const onnx_io::Model model = file.load();
  const ReferenceEvaluator evaluator;
  const Plan f32 = plan_for_gpus(model, 1, plan_options(2, true, Precision::f32));
  const Plan cpu = test::plan_on_cpus(model, 1, plan_options(2, true, Precision::bf16), evaluator);
  for (const Plan* plan : {&f32, &cpu}) {
    CHECK(count_of(*plan, OpKind::Transpose) == 0);
    for (const PlanNode& node : plan->nodes) CHECK(!node.attributes[0].has(kChannelsLast));
  }
}

TEST_CASE("channels_last: of the images of a ResNet-50 only the first and the last gradient are transposed") {
  zoo::Options options;
  options.batch = 2;
  options.weights = false;
  const test::ModelFile file("resnet50", options);
  const onnx_io::Model model = file.load();
  constexpr int64_t kLargeFilters = 17;  // 16 of 3 x 3, and the first of 7 x 7; the other 36 are of 1 x 1
  for (const Precision precision : {Precision::bf16, Precision::f16, Precision::tf32}) {
    CAPTURE(precision_name(precision));
    const Plan inference = plan_for_gpus(model, 1, plan_options(2, false, precision));
    CHECK(count_of(inference, OpKind::Transpose) == 1);  // filters are transposed when a session loads them
    // Filters, their gradients, the images, and the gradient of the mean over positions.
    const Plan training = plan_for_gpus(model, 1, plan_options(2, true, precision));
    CHECK(count_of(training, OpKind::Transpose) == 2 + 2 * kLargeFilters);
    CHECK(std::ranges::count_if(training.nodes, [&](const PlanNode& node) {
            return node.op == OpKind::Transpose && training.values[node.outputs[0]].shapes[0][0] == options.batch;
          }) == 2);
  }
}
