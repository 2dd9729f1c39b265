// Rows S-M and S-N: one part on a CPU beside another device. Both devices are CPU devices here.

#include <doctest/doctest.h>

#include "tests/acceptance/rows.h"

namespace mpc::test {
namespace {

const std::vector<std::pair<std::string, int>> kParts = {{"preprocess/", 0}, {"model/", 1}, {"loss/", 1}};
constexpr int64_t kRowsBytes = 1'280;  // 32 rows of 10 f32

PlanOptions adam(const std::vector<std::pair<std::string, int>>& pins) {
  return training(pins, LossKind::mse, "adam,lr=0.001");
}

TEST_CASE("S-M: preprocessing on another device sends 1,280 bytes and needs no gradient back") {
  const ZooModel model("hybrid");
  const Plan plan = check_same_as_one_device(model, 2, adam(kParts), 3);
  CHECK(device_of(plan, "preprocess/Div") == 0);
  CHECK(sent_in_a_step(plan) == std::vector<Sent>{{0, 1, kRowsBytes, false}});
  CHECK(fed_bytes(plan, "labels", 1) == kRowsBytes);
  CHECK(fed_bytes(plan, "labels", 0) == 0);
  CHECK(plan.devices[0].memory.parameter_bytes == 0);
  CHECK(plan.devices[0].memory.optimizer_bytes == 0);
  CHECK(plan.devices[1].memory.parameter_bytes == 110 * 4);
  CHECK(plan.devices[1].memory.optimizer_bytes == 110 * 8);
}

TEST_CASE("S-N: a trained part on each device sends 1,280 bytes forward and as many back, and each keeps its Adam") {
  const ZooModel model("hybrid-trainable");
  const Plan plan = check_same_as_one_device(model, 2, adam(kParts), 3);
  CHECK(sent_in_a_step(plan) == std::vector<Sent>{{0, 1, kRowsBytes, false}, {1, 0, kRowsBytes, true}});
  for (const PlanDevice& device : plan.devices) {
    CHECK(device.memory.parameter_bytes == 110 * 4);
    CHECK(device.memory.optimizer_bytes == 110 * 8);
  }
  for (const PlanNode& node : plan.nodes) {
    if (node.phase == PlanPhase::update)
      CHECK((node.name.find("preprocess") != std::string::npos) == (node.device == DeviceId(0)));
  }
}

TEST_CASE("S-N: work on the next micro-batch overlaps the other device's work on this one") {
  const ZooModel model("hybrid-trainable");
  PlanOptions options = adam(kParts);
  options.microbatches = 4;
  options.schedule = ScheduleKind::one_f_one_b;
  // Fused, the first part's work is shorter than a transfer takes to start: nothing would be left to overlap.
  options.may_fuse = false;
  const Plan plan = check_same_as_one_device(model, 2, options, 2);
  const Timeline timeline = simulate(plan);
  const auto of_microbatch = [&](int device, int microbatch) {
    std::vector<TimelineEntry> entries;
    for (const TimelineEntry& entry : timeline.entries) {
      const Instruction& instruction = plan.instructions[entry.instruction];
      if (plan.queues[instruction.queue].device == DeviceId(device) && instruction.microbatch == microbatch)
        entries.push_back(entry);
    }
    return entries;
  };
  for (int k = 0; k + 1 < options.microbatches; ++k) {
    INFO("micro-batch ", k);
    std::vector<TimelineEntry> both = of_microbatch(1, k);
    for (const TimelineEntry& entry : of_microbatch(0, k + 1)) both.push_back(entry);
    CHECK(overlap_s(plan, both, 0, 1) > 0);
  }
}

}  // namespace
}  // namespace mpc::test
