// Rows S-A, S-B and S-C: two linear layers on two devices.

#include <doctest/doctest.h>

#include <algorithm>

#include "passes/schedule/schedule.h"
#include "tests/acceptance/rows.h"

namespace mpc::test {
namespace {

const std::vector<std::pair<std::string, int>> kLayers = {{"layer1/", 0}, {"layer2/", 1}};
const std::vector<std::pair<std::string, int>> kTrainedLayers = {{"layer1/", 0}, {"layer2/", 1}, {"loss/", 1}};
constexpr int64_t kHiddenBytes = 128'000;  // 64 rows of 500 f32

TEST_CASE(
    "S-A: two linear layers on two devices send one tensor of 128,000 bytes and compute what one device computes") {
  const ZooModel model("two-linear");
  const Plan plan = check_same_as_one_device(model, 2, pinned(kLayers), 1);
  CHECK(sent_in_a_step(plan) == std::vector<Sent>{{0, 1, kHiddenBytes, false}});
  CHECK(fed_bytes(plan, "x", 0) == 256'000);
  CHECK(fed_bytes(plan, "x", 1) == 0);
  REQUIRE(plan.outputs.size() == 1);
  CHECK(plan.value_bytes(plan.outputs[0].value, 0) == 25'600);
  CHECK(plan.devices[0].memory.parameter_bytes == 2'002'000);
  CHECK(plan.devices[1].memory.parameter_bytes == 200'400);
}

TEST_CASE("S-A: each layer's parameters are on its device only, and its FLOPs are 90.9 and 9.1 percent") {
  const ZooModel model("two-linear");
  const Plan plan = plan_of(model, 2, pinned(kLayers));
  for (const PlanValue& value : plan.values) {
    if (value.kind != PlanValueKind::parameter) continue;
    INFO(value.name);
    CHECK(devices_holding(plan, value.name) == std::vector<int>{value.source.starts_with("layer1") ? 0 : 1});
  }
  // 2 * 64 * (1000 * 500) and 2 * 64 * (500 * 100) multiply-adds; the bias adds less than one percent.
  CHECK(plan.devices[0].flops == doctest::Approx(64.0e6).epsilon(0.01));
  CHECK(plan.devices[1].flops == doctest::Approx(6.4e6).epsilon(0.01));
  const bool reported = std::ranges::any_of(
      plan.warnings, [](const std::string& warning) { return warning.find("90.9 % / 9.1 %") != std::string::npos; });
  CHECK(reported);
}

TEST_CASE("S-B: forward under 2.40 MiB needs two devices, and the planner finds the cut itself") {
  const ZooModel model("two-linear");
  const Plan plan = plan_of(model, cpu_devices(2, "2.40MiB"), {});
  CHECK(sent_in_a_step(plan) == std::vector<Sent>{{0, 1, kHiddenBytes, false}});
  CHECK(plan.devices[0].memory.parameter_bytes == 2'002'000);
  // Parameters, input and hidden values, with slices aligned: the least that can hold layer1.
  CHECK(plan.devices[0].arena_bytes >= 2'386'000);
  CHECK(plan.devices[0].arena_bytes <= 2'516'582);
  check_same_bits(run(model, plan_of(model, 1, {}), 1), run(model, plan, 1));
}

void check_refused(const ZooModel& model, std::string_view memory, const PlanOptions& options, int64_t least_bytes,
                   int64_t capacity_bytes) {
  const auto result = try_plan(model, cpu_devices(1, memory), options);
  REQUIRE(std::holds_alternative<Infeasible>(result));
  const Infeasible& infeasible = std::get<Infeasible>(result);
  REQUIRE(infeasible.needs.size() == 1);
  CHECK(infeasible.needs[0].bytes >= least_bytes);
  CHECK(infeasible.needs[0].capacity_bytes == capacity_bytes);
  CHECK(!infeasible.needs[0].largest.empty());
  CHECK(!infeasible.suggestions.empty());
}

TEST_CASE("S-B: one device under the caps is refused with the bytes it needs and has") {
  const ZooModel model("two-linear");
  // y may take the bytes of x once x was read: 25,600 bytes below the sum of all tensors.
  check_refused(model, "2.40MiB", {}, 2'612'000 - 25'600, 2'516'582);
  check_refused(model, "4.35MiB", training({}, LossKind::mse, "sgd,lr=0.01"), 4'588'400, 4'561'306);
}

TEST_CASE(
    "S-B: training under 4.35 MiB sends 128,000 bytes each way, builds no gradient of x and gives the uncapped bits") {
  const ZooModel model("two-linear");
  const PlanOptions options = training({}, LossKind::mse, "sgd,lr=0.01");
  const Plan plan = plan_of(model, cpu_devices(2, "4.35MiB"), options);
  INFO(to_text(sent_in_a_step(plan)));
  CHECK(sent_in_a_step(plan) == std::vector<Sent>{{0, 1, kHiddenBytes, false}, {1, 0, kHiddenBytes, true}});
  CHECK(plan.devices[0].arena_bytes >= 4'388'000);
  CHECK(plan.devices[0].arena_bytes <= 4'561'306);
  // The gradient of x would be a product with layer1's weight in the phase input_grad.
  for (const PlanNode& node : plan.nodes) {
    INFO(node.name);
    CHECK_FALSE((node.phase == PlanPhase::input_grad && node.origin.starts_with("layer1/")));
  }
  check_same_bits(run(model, plan_of(model, 1, options), 2), run(model, plan, 2));
}

TEST_CASE("S-C: without pins each layer gets a device, and micro-batches are worked on by both at the same time") {
  const ZooModel model("two-linear");
  for (const int microbatches : {2, 8}) {
    INFO(microbatches, " micro-batches");
    PlanOptions options = training({}, LossKind::mse, "sgd,lr=0.01");
    options.microbatches = microbatches;
    const Plan plan = check_same_as_one_device(model, 2, options, 2);
    CHECK(device_of(plan, "layer1/Gemm") != device_of(plan, "layer2/Gemm"));
    CHECK(overlap_s(plan, simulate(plan).entries, 0, 1) > 0);
  }
}

TEST_CASE("S-C: 1, 2, 4 and 8 micro-batches on two devices give the bits of one device that accumulates") {
  const ZooModel model("two-linear");
  for (const int microbatches : {1, 2, 4, 8}) {
    INFO(microbatches, " micro-batches");
    PlanOptions options = training(kTrainedLayers, LossKind::mse, "sgd,lr=0.01");
    options.microbatches = microbatches;
    options.schedule = ScheduleKind::one_f_one_b;
    const Plan plan = check_same_as_one_device(model, 2, options, 2);
    CHECK(sent_in_a_step(plan) == std::vector<Sent>{{0, 1, kHiddenBytes, false}, {1, 0, kHiddenBytes, true}});
    const double overlap = overlap_s(plan, simulate(plan).entries, 0, 1);
    if (microbatches > 1) CHECK(overlap > 0);
  }
}

/// A pipeline of two stages with loss on the second one; every task takes one second, transfers take none.
Segments uniform_pipeline() {
  Segments segments;
  segments.device_count = 2;
  const auto add = [&](int device, SegmentPhase phase) {
    Segment segment;
    segment.device = DeviceId(device);
    segment.phase = phase;
    segment.level = static_cast<int>(segments.segments.size());
    segment.seconds = {1.0};
    segments.segments.push_back(segment);
  };
  add(0, SegmentPhase::forward);
  add(1, SegmentPhase::forward);
  add(1, SegmentPhase::backward);
  add(0, SegmentPhase::backward);
  for (int i = 0; i + 1 < 4; ++i) segments.edges.push_back({i, i + 1, {0.0}});
  segments.edges.insert(segments.edges.begin() + 1, {0, 3, {0.0}});  // the activations that backward reads again
  return segments;
}

TEST_CASE("S-C: with equal costs, 8 micro-batches on two devices leave the bubble of the closed form, 1/9") {
  const Schedule schedule = make_schedule(uniform_pipeline(), 8, false, ScheduleKind::one_f_one_b);
  CHECK(schedule.step_seconds == 18);
  // (p - 1) / (m + p - 1) with p = 2, m = 8: one division apart.
  CHECK(schedule.bubble == doctest::Approx(1.0 / 9).epsilon(1e-12));
}

TEST_CASE("S-C: a step in threads records every node once, so that what was measured lies beside what was predicted") {
  const ZooModel model("two-linear");
  PlanOptions options = training(kTrainedLayers, LossKind::mse, "sgd,lr=0.01");
  options.microbatches = 4;
  const Plan plan = plan_of(model, 2, options);
  executor::SessionOptions recorded;
  recorded.record_timeline = true;
  executor::Session session(plan, model.model().weights(), recorded);
  const Data data(plan, 10);
  data.bind(session);
  for (int i = 0; i < 3; ++i) session.step();
  const std::vector<TimelineEntry> entries = measured_entries(session);
  const auto runs = std::ranges::count_if(
      entries, [&](const TimelineEntry& e) { return plan.instructions[e.instruction].action == Action::run; });
  CHECK(runs == std::ranges::count(plan.instructions, Action::run, &Instruction::action));
  // Time depends on the machine's load: it is told, not judged.
  MESSAGE("overlap of the devices: measured " << overlap_s(plan, entries, 0, 1) << " s, predicted "
                                              << overlap_s(plan, simulate(plan).entries, 0, 1) << " s");
}

}  // namespace
}  // namespace mpc::test
