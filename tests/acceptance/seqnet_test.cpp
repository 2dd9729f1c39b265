// Rows S-D and S-T: a small classifier trained on two devices.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "tests/acceptance/rows.h"

namespace mpc::test {
namespace {

const std::vector<std::pair<std::string, int>> kParts = {{"lin1/", 0}, {"lin2/", 1}, {"loss/", 1}};
PlanOptions adam(const std::vector<std::pair<std::string, int>>& pins) {
  return training(pins, LossKind::cross_entropy, "adam,lr=0.01");
}

TEST_CASE(
    "S-D: a training step of the two parts sends 80,000 bytes each way and keeps Adam's state beside its weights") {
  const ZooModel model("seqnet");
  const Plan plan = check_same_as_one_device(model, 2, adam(kParts), 3);
  CHECK(sent_in_a_step(plan) == std::vector<Sent>{{0, 1, 80'000, false}, {1, 0, 80'000, true}});
  CHECK(std::ranges::count(plan.instructions, Action::send, &Instruction::action) == 2);
  CHECK(fed_bytes(plan, "x", 0) == 313'600);
  CHECK(fed_bytes(plan, "x", 1) == 0);
  CHECK(fed_bytes(plan, "labels", 0) == 0);
  CHECK(fed_bytes(plan, "labels", 1) == 800);
  CHECK(plan.devices[0].memory.parameter_bytes == 157'000 * 4);
  CHECK(plan.devices[1].memory.parameter_bytes == 2'010 * 4);
  CHECK(plan.devices[0].memory.optimizer_bytes == 1'256'000);
  CHECK(plan.devices[1].memory.optimizer_bytes == 16'080);
  for (const PlanUpdate& update : plan.updates) {
    const std::string& name = plan.values[update.persistent].name;
    INFO(name);
    CHECK(devices_holding(plan, name).size() == 1);
  }
}

TEST_CASE("S-D: the hidden layer's softmax stays with the first part, the loss is on the second") {
  const Plan plan = plan_of(ZooModel("seqnet"), 2, adam(kParts));
  CHECK(device_of(plan, "lin1/LogSoftmax") == 0);
  CHECK(device_of(plan, "lin2/Gemm") == 1);
  for (const PlanNode& node : plan.nodes) {
    if (node.name.starts_with("loss/")) CHECK(node.device == DeviceId(1));
  }
}

TEST_CASE(
    "S-D: a part on a second device that is not there is refused; two logical devices on one CPU are two devices") {
  const ZooModel model("seqnet");
  const auto error = error_of([&] { (void)try_plan(model, cpu_devices(1), adam(kParts)); });
  REQUIRE(error);
  CHECK(error->id() == ErrorId::M003);
  CHECK(std::string(error->what()).find("there is no device 1") != std::string::npos);
  check_same_bits(run(model, plan_of(model, parse_devices("cpu,cpu", kAssumedGpuKind), adam(kParts)), 1),
                  run(model, plan_of(model, 2, adam(kParts)), 1));
}

TEST_CASE("S-T: micro-batches of 33, 33, 33 and 1 rows give the bits of one device and the mean over 100 rows") {
  const ZooModel model("seqnet");
  PlanOptions options = adam(kParts);
  options.microbatch_rows = 33;
  const Plan plan = check_same_as_one_device(model, 2, options, 2);
  CHECK(plan.microbatches == 4);
  CHECK(plan.has_tail);
  CHECK(plan.rows_of(0) == 33);
  CHECK(plan.rows_of(3) == 1);
  CHECK(sent_in_a_step(plan) == std::vector<Sent>{{0, 1, 80'000, false}, {1, 0, 80'000, true}});
  const Outcome parts = run(model, plan, 1);
  const Outcome whole = run(model, plan_of(model, 2, adam(kParts)), 1);
  // Sums of f32 in another order: a few units in the last place of the loss.
  CHECK(parts.losses[0] == doctest::Approx(whole.losses[0]).epsilon(1e-6));
  for (const PlanGradient& gradient : plan.gradients) {
    const std::string name = "gradient of " + plan.values[gradient.parameter].name;
    INFO(name);
    // A wrong weight of the single last row would be an error of 1/100 * 32/33 or more; f32 sums in another order stay
    // below 1e-5.
    CHECK(largest_error(parts.tensors.at(name), whole.tensors.at(name)) <= 1e-5);
  }
}

}  // namespace
}  // namespace mpc::test
