// The objective latency on sample models: a device more, fast or slow, never makes the step longer.

#include <doctest/doctest.h>

#include <limits>
#include <map>
#include <optional>
#include <string>
#include <variant>

#include "api/reference_evaluator.h"
#include "compiler/onnx/model.h"
#include "compiler/plan/simulate.h"
#include "models/zoo.h"
#include "passes/pipeline.h"
#include "tests/unit/helpers.h"

namespace {

using namespace mpc;

class SampleModel {
 public:
  explicit SampleModel(const std::string& name, const std::map<std::string, int64_t>& sizes = {}) {
    zoo::Options options;
    options.weights = false;
    options.sizes = sizes;
    zoo::write(name, options, folder_ / "model.onnx");
    model_.emplace(onnx_io::Model::load(folder_ / "model.onnx"));
  }

  Plan plan_on(const Cluster& cluster, bool train) const {
    PlanOptions options;
    options.train = train;
    options.loss = LossKind::mse;
    options.optimizer.optimizer = parse_optimizer("adam,lr=0.001");
    options.objective = Objective::latency;
    auto result = make_plan(*model_, cluster, options, ReferenceEvaluator());
    REQUIRE(std::holds_alternative<Plan>(result));
    return std::get<Plan>(std::move(result));
  }

 private:
  test::TemporaryFolder folder_;
  std::optional<onnx_io::Model> model_;
};

Cluster gpus(int count) {
  return uniform_cluster(*find_device_kind("h200"), count);
}

}  // namespace

TEST_CASE("latency: no device more makes a step longer") {
  for (const std::string name : {"many-small", "cnn-classifier-32", "llama"}) {
    CAPTURE(name);
    const SampleModel model(
        name, name == "llama" ? std::map<std::string, int64_t>{{"layers", 2}} : std::map<std::string, int64_t>{});
    for (const bool train : {false, true}) {
      CAPTURE(train);
      double fewer_s = std::numeric_limits<double>::infinity();
      for (const int devices : {1, 2, 4}) {
        CAPTURE(devices);
        const Plan plan = model.plan_on(gpus(devices), train);
        CHECK(static_cast<int>(plan.devices.size()) == devices);
        CHECK(plan.step_seconds == simulate(plan).step_seconds);
        CHECK(plan.step_seconds <= fewer_s);
        fewer_s = plan.step_seconds;
      }
    }
  }
}

TEST_CASE("latency: a slow device before a fast one does no harm, and a model that needs both gets both") {
  const SampleModel model("residual-cut");
  const double fast_s = model.plan_on(gpus(1), true).step_seconds;
  Cluster mixed = gpus(2);
  DeviceRates& slow = mixed.devices.front().rates;
  for (double* rate : {&slow.flops_f32, &slow.flops_tf32, &slow.flops_f16, &slow.bytes_per_second}) *rate /= 4;
  const Plan plan = model.plan_on(mixed, true);
  CHECK(plan.step_seconds <= fast_s);

  const int64_t whole = model.plan_on(gpus(1), true).devices.front().arena_bytes;
  Cluster small = gpus(2);
  for (Device& device : small.devices) device.memory_bytes = whole * 4 / 5;
  const Plan split = model.plan_on(small, true);
  for (const PlanDevice& device : split.devices) CHECK(device.arena_bytes <= device.capacity_bytes);
}
