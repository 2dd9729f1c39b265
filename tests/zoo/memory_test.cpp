// Memory plans of the sample models at their real sizes: offsets waste next to nothing above the bytes that live at
// once.

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "api/reference_evaluator.h"
#include "compiler/onnx/model.h"
#include "compiler/plan/live_bytes.h"
#include "models/zoo.h"
#include "tests/support/run_plan.h"
#include "tests/unit/helpers.h"

namespace {

using namespace mpc;

/// What the arena may be above the bytes that live at once.
constexpr double kMostOfLive = 1.02;

struct Kind {
  bool train;
  int microbatches;
  int devices;
};

Plan plan_of(const onnx_io::Model& model, const std::string& name, const Kind& kind) {
  PlanOptions options;
  options.batch = 8;
  options.microbatches = kind.microbatches;
  options.train = kind.train;
  options.loss =
      name == "two-linear" || name == "tiny-linear" || name == "hybrid" || name == "hybrid-trainable" || name == "unet"
          ? LossKind::mse
          : LossKind::cross_entropy;
  options.optimizer.optimizer = parse_optimizer("adam,lr=0.001");
  Cluster cluster = uniform_cluster(*find_device_kind("h100-80g"), kind.devices);
  for (Device& device : cluster.devices) device.memory_bytes = int64_t{1} << 50;
  const ReferenceEvaluator evaluator;
  std::variant<Plan, Infeasible> result = make_plan(model, cluster, options, evaluator);
  REQUIRE(std::holds_alternative<Plan>(result));
  return std::get<Plan>(std::move(result));
}

}  // namespace

TEST_CASE("zoo: every arena is at most 1.02 of the bytes that live at once") {
  for (const zoo::Entry& entry : zoo::entries()) {
    if (entry.name == "cnn-classifier-broken") continue;
    CAPTURE(entry.name);
    const test::TemporaryFolder folder;
    zoo::Options sizes;
    sizes.weights = false;
    zoo::write(entry.name, sizes, folder / "model.onnx");
    const onnx_io::Model model = onnx_io::Model::load(folder / "model.onnx");
    for (const Kind& kind : {Kind{false, 1, 1}, Kind{false, 4, 2}, Kind{false, 8, 4}, Kind{true, 1, 1},
                             Kind{true, 4, 2}, Kind{true, 1, 3}, Kind{true, 8, 4}}) {
      CAPTURE(kind.train);
      CAPTURE(kind.devices);
      const Plan plan = plan_of(model, entry.name, kind);
      const std::vector<int64_t> live = most_live_bytes(plan);
      for (size_t d = 0; d < live.size(); ++d) {
        const auto arena = static_cast<double>(plan.devices[d].arena_bytes);
        CHECK(plan.devices[d].arena_bytes >= live[d]);
        CHECK(arena <= kMostOfLive * static_cast<double>(live[d]));
      }
    }
  }
}
