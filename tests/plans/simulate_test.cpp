#include <algorithm>
#include <limits>
#include <set>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "compiler/base/json.h"
#include "compiler/plan/simulate.h"
#include "tests/plans/plan_fixture.h"

namespace mpc {
namespace {

// Nodes take 1 s, copies 0.5 s (plan_fixture.h); these are exact in binary, so times are compared exactly.
double start_of(const Plan& plan, const Timeline& timeline, Action action, int32_t microbatch, const char* name) {
  for (const TimelineEntry& entry : timeline.entries) {
    const Instruction& instruction = plan.instructions[entry.instruction];
    if (instruction.action != action || instruction.microbatch != microbatch) continue;
    const std::string& found =
        action == Action::run ? plan.nodes[instruction.index].name : plan.transfers[instruction.index].name;
    if (found == name) return entry.start_s;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

TEST_CASE("simulate: two devices overlap their micro-batches") {
  const Plan plan = test::inference_plan();
  const Timeline timeline = simulate(plan);
  // device 0: [0,1) [1,2); link: [1,1.5) [2,2.5); device 1: [1.5,2.5) [2.5,3.5)
  CHECK(start_of(plan, timeline, Action::run, 0, "gemm0") == 0);
  CHECK(start_of(plan, timeline, Action::run, 1, "gemm0") == 1);
  CHECK(start_of(plan, timeline, Action::send, 0, "h to cpu:1") == 1);
  CHECK(start_of(plan, timeline, Action::recv, 1, "h to cpu:1") == 2);
  CHECK(start_of(plan, timeline, Action::run, 0, "gemm1") == 1.5);
  CHECK(start_of(plan, timeline, Action::run, 1, "gemm1") == 2.5);
  CHECK(timeline.step_seconds == 3.5);
  CHECK(timeline.device_busy_s == std::vector<double>{2, 2});
  CHECK(timeline.bubble == doctest::Approx(1 - 4 / 7.0).epsilon(1e-12));  // 4 s of work in 2 x 3.5 s
}

TEST_CASE("simulate: a slow link holds back what follows it") {
  Plan plan = test::inference_plan();
  plan.transfers[0].seconds[0] = 4;
  const Timeline timeline = simulate(plan);
  // link: [1,5) [5,9); device 1: [5,6) [9,10)
  CHECK(start_of(plan, timeline, Action::send, 1, "h to cpu:1") == 5);
  CHECK(timeline.step_seconds == 10);
}

TEST_CASE("simulate: a tail micro-batch takes its own time") {
  Plan plan = test::training_plan(2, true);
  for (PlanNode& node : plan.nodes) node.seconds = {1, 0};
  for (PlanTransfer& transfer : plan.transfers) transfer.seconds = {0, 0};
  // device 0 runs layer0, its weights' gradient and their sum for micro-batch 0, and one update: the tail is free.
  CHECK(simulate(plan).device_busy_s[0] == 4);
}

TEST_CASE("simulate: a plan that does nothing has no bubble") {
  Plan plan = test::inference_plan();
  plan.instructions.clear();
  const Timeline timeline = simulate(plan);
  CHECK(timeline.step_seconds == 0);
  CHECK(timeline.bubble == 0);
}

TEST_CASE("memory_over_time: slices live from their write to their last read") {
  const Plan plan = test::inference_plan();
  const auto memory = memory_over_time(plan, simulate(plan));
  REQUIRE(memory.size() == 2);
  // Device 0 keeps w0 (64 bytes); x and h (64 each). x0 lives in [0,1), h0 in [0,1.5), x1 in [1,2), h1 in [1,2.5).
  const std::vector<std::pair<double, int64_t>> expected = {{0, 64},    {0, 192}, {1, 256},
                                                            {1.5, 192}, {2, 128}, {2.5, 64}};
  std::vector<std::pair<double, int64_t>> found;
  for (const MemoryPoint& point : memory[0]) found.emplace_back(point.time_s, point.bytes);
  CHECK(found == expected);
}

TEST_CASE("memory_over_time: values updated in place count once, and it ends with what is kept") {
  const Plan plan = test::training_plan(3, false);
  const auto memory = memory_over_time(plan, simulate(plan));
  // w0 and its accumulated gradient (4 x 5 floats each) on device 0; w1 and its (5 x 3) and the constant (4 x 3) on
  // device 1; on both the step's inputs, the step number (8 bytes) and the scale of the learning rate (4).
  CHECK(memory[0].front().bytes == 172);
  CHECK(memory[0].back().bytes == 172);
  CHECK(memory[1].front().bytes == 180);
  CHECK(memory[1].back().bytes == 180);
  for (size_t d = 0; d < 2; ++d) {
    for (const MemoryPoint& point : memory[d]) CHECK(point.bytes <= plan.devices[d].arena_bytes);
  }
}

TEST_CASE("trace_json: every run and copy is one event on the track of its device or link") {
  Plan plan = test::training_plan(2, true);
  plan.nodes[0].name = "a \"quoted\" name\n";
  const Json trace = parse_json(trace_json(plan, simulate(plan), "mpc (predicted)"), ErrorId::M060, "trace");
  std::set<std::string> tracks;
  size_t runs = 0, copies = 0, counters = 0;
  bool is_named = false;
  for (const Json& event : trace["traceEvents"]) {
    const std::string phase = event["ph"];
    if (phase == "M" && event["name"] == "process_name") is_named = event["args"]["name"] == "mpc (predicted)";
    if (phase == "M" && event["name"] == "thread_name") tracks.insert(event["args"]["name"].get<std::string>());
    if (phase == "C") ++counters;
    if (phase != "X") continue;
    CHECK(event["dur"].get<double>() >= 0);
    CHECK(event["args"].contains("microbatch"));
    CHECK(event["args"]["phase"] == event["cat"]);
    const bool is_copy = !event["args"].contains("op");
    ++(is_copy ? copies : runs);
    CHECK(event["tid"].get<int>() / 2 == (is_copy ? 1 : 0));  // tracks 0 and 1 are devices, 2 and 3 links
  }
  CHECK(is_named);
  CHECK(tracks == std::set<std::string>{"cpu:0", "cpu:1", "cpu:0 -> cpu:1", "cpu:1 -> cpu:0"});
  CHECK(runs == 2 * 9 + 2);
  CHECK(copies == 4);
  CHECK(counters > 4);
}

}  // namespace
}  // namespace mpc
