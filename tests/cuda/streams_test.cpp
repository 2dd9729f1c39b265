// Plans on CUDA devices without a GPU: the engine, the streams and the kernels are real, the plugin is a fake that does
// the work of streams as late as it may and in a random order (fake_device.h). A missing event shows as other bits.

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <span>
#include <string>

#include "compiler/base/error.h"
#include "executor/session.h"
#include "tests/cuda/fake_device.h"
#include "tests/cuda/plans.h"
#include "tests/exec/models.h"
#include "tests/exec/plan_maker.h"
#include "tests/support/random_graph.h"
#include "tests/support/run_plan.h"

namespace {

using namespace mpc;
using test::difference;
using test::on_gpus;
using test::random_training_plan;
using test::fake_counts;
using test::fake_plugin;
using test::FakeOptions;

constexpr int kGraphs = 60;

test::Outcome run(const Plan& plan, uint64_t seed, const FakeOptions& fake,
                  const std::function<void(executor::SessionOptions&)>& change = {}) {
  test::RunOptions options;
  options.seed = seed;
  options.steps = 4;  // the first is enqueued, the second captured, the others are replayed
  options.session.cuda_plugin = fake_plugin(fake);
  if (change) change(options.session);
  return test::run_plan(plan, test::SeededWeights(seed), options);
}

template <class F>
Error error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error;
  }
  FAIL("no error");
  return Error(ErrorId::M700, "", "");
}

bool contains(const Error& error, const std::string& text) {
  return std::string(error.what()).find(text) != std::string::npos;
}

/// A session of the two-layer model with its input bound.
struct Run {
  Run(const Plan& plan, const executor::SessionOptions& options) : session(plan, test::NumberedWeights(), options) {
    session.bind("x", DType::f32, Shape{8, 6}, test::bytes_of(x));
  }
  std::vector<float> x = test::numbers("x", 48);
  executor::Session session;
};

const test::Batches kFour{4, 8, 2};

executor::SessionOptions with_plugin(const FakeOptions& fake = {}) {
  executor::SessionOptions options;
  options.cuda_plugin = fake_plugin(fake);
  return options;
}

}  // namespace

TEST_CASE("streams: random graphs on k logical devices give the bits of one, in any order that the events allow") {
  for (uint64_t seed = 1; seed <= kGraphs; ++seed) {
    CAPTURE(seed);
    const test::Outcome one = run(on_gpus(random_training_plan(seed, 1, false), {0}), seed, {});
    for (const bool is_random : {false, true}) {
      const int devices = 2 + static_cast<int>(seed % 3);
      const Plan plan = on_gpus(random_training_plan(seed, devices, is_random), std::vector<int>(4, 0));
      CHECK(difference(one, run(plan, seed, {.seed = seed})) == "");
      CHECK(difference(one, run(plan, seed, {.seed = seed + 1000})) == "");
    }
  }
  CHECK(fake_counts().live_objects == 0);
}

TEST_CASE("streams: a replayed graph gives the bits of the steps that are enqueued") {
  for (uint64_t seed = 1; seed <= kGraphs / 2; ++seed) {
    CAPTURE(seed);
    const Plan plan = on_gpus(random_training_plan(seed, 3, true), {0, 0, 0});
    const test::Outcome replayed = run(plan, seed, {});
    CHECK(fake_counts().graphs == 1);
    const test::Outcome enqueued = run(plan, seed, {}, [](auto& options) { options.captures = false; });
    CHECK(fake_counts().graphs == 0);
    CHECK(difference(enqueued, replayed) == "");
  }
}

TEST_CASE("streams: every transport gives the same bits, and is the one that was asked for") {
  using executor::Transport;
  for (uint64_t seed = 1; seed <= kGraphs / 4; ++seed) {
    CAPTURE(seed);
    const Plan one_gpu = on_gpus(random_training_plan(seed, 3, true), {0, 0, 0});
    const test::Outcome expected = run(one_gpu, seed, {});
    const auto force = [](Transport transport) {
      return [transport](executor::SessionOptions& options) { options.transport = transport; };
    };
    CHECK(difference(expected, run(one_gpu, seed, {}, force(Transport::staged))) == "");
    CHECK(fake_counts().device_copies == 0);
    const Plan three_gpus = on_gpus(random_training_plan(seed, 3, true), {0, 1, 2});
    const FakeOptions three{.devices = 3};
    CHECK(difference(expected, run(three_gpus, seed, three)) == "");
    CHECK(fake_counts().device_copies == 0);
    CHECK(difference(expected, run(three_gpus, seed, {.devices = 3, .has_peer_access = false})) == "");
    CHECK(fake_counts().peer_copies == 0);
    CHECK(difference(expected, run(three_gpus, seed, three, force(Transport::staged))) == "");
    CHECK(fake_counts().peer_copies == 0);
  }
}

TEST_CASE("streams: plans over CPU and CUDA devices give the same bits in any order") {
  for (uint64_t seed = 1; seed <= kGraphs / 2; ++seed) {
    CAPTURE(seed);
    const Plan plan = on_gpus(random_training_plan(seed, 3, true), {-1, 0, 0});
    const test::Outcome first = run(plan, seed, {.seed = 1});
    CHECK(fake_counts().graphs == 0);  // the host takes part in the step
    for (uint64_t order = 2; order <= 4; ++order) CHECK(difference(first, run(plan, seed, {.seed = order})) == "");
  }
  CHECK(fake_counts().live_objects == 0);
}

TEST_CASE("streams: the random order shows events that are missing") {
  // The same plans with streams that wait for nothing: most give other bits, or the tests above could not fail.
  int wrong = 0;
  constexpr int kPlans = 10;
  for (uint64_t seed = 1; seed <= kPlans; ++seed) {
    const Plan plan = on_gpus(random_training_plan(seed, 3, true), {0, 0, 0});
    const test::Outcome expected = run(plan, seed, {});
    const auto change = [](executor::SessionOptions& options) { options.captures = false; };
    wrong += difference(expected, run(plan, seed, {.forgets_waits = true}, change)).empty() ? 0 : 1;
  }
  CHECK(wrong > kPlans / 2);
}

TEST_CASE("streams: a step allocates nothing, and its kernels are replayed") {
  Run run(on_gpus(test::training_plan(test::kTwoDevices, kFour), {0, 0}), with_plugin());
  run.session.step();
  const int64_t kernels = fake_counts().kernels;
  const int64_t allocations = fake_counts().allocations;
  CHECK(!run.session.was_replayed());
  for (int i = 0; i < 3; ++i) {
    run.session.step();
    CHECK(run.session.was_replayed());
  }
  CHECK(fake_counts().kernels == kernels);
  CHECK(fake_counts().allocations == allocations);
  CHECK(fake_counts().graphs == 1);
}

TEST_CASE("streams: steps without updates, and updates on their own, equal whole steps") {
  const Plan plan = on_gpus(test::training_plan(test::kTwoDevices, kFour), {0, 0});
  Run whole(plan, with_plugin());
  for (int i = 0; i < 3; ++i) whole.session.step();
  const Literal expected = whole.session.read("A");
  Run parts(plan, with_plugin());
  for (int i = 0; i < 3; ++i) {
    executor::StepOptions options;
    options.update = false;
    parts.session.step(options);
    options.update = true;
    options.update_devices = {DeviceId(0)};
    parts.session.update(options);
    options.update_devices = {DeviceId(1)};
    parts.session.update(options);
  }
  CHECK(parts.session.read("A") == expected);
  CHECK(parts.session.read("B") == whole.session.read("B"));
}

TEST_CASE("streams: parameters can be written, and outputs are read") {
  const Plan plan = on_gpus(test::forward_plan(test::kTwoDevices, kFour), {0, 0});
  Run run(plan, with_plugin());
  run.session.step();
  const Literal before = run.session.output("y");
  const Literal a = run.session.read("A");
  std::vector<std::byte> zeros(a.dense().size());
  run.session.write("A", Literal(DType::f32, a.shape(), zeros));
  run.session.step();
  CHECK(run.session.output("y") != before);
  run.session.write("A", a);
  run.session.step();
  CHECK(run.session.output("y") == before);
}

TEST_CASE("streams: a GPU without enough memory is named, with the tensor and the bytes, and the process goes on") {
  const Plan plan = on_gpus(test::forward_plan(test::kTwoDevices, kFour), {0, 0});
  const Error error = error_of([&] { Run(plan, with_plugin({.memory_bytes = 512})); });
  CHECK(error.id() == ErrorId::M070);
  CHECK(contains(error, "cuda:0.0"));
  CHECK(contains(error, std::to_string(plan.devices[0].arena_bytes) + " bytes"));
  CHECK(contains(error, "are free"));
  CHECK(fake_counts().live_objects == 0);
  Run again(plan, with_plugin());
  again.session.step();
}

TEST_CASE("streams: GPUs that are not there are refused, with what is there") {
  const Plan plan = on_gpus(test::forward_plan(test::kTwoDevices, kFour), {0, 3});
  const Error error = error_of([&] { Run(plan, with_plugin({.devices = 1})); });
  CHECK(error.id() == ErrorId::M080);
  CHECK(contains(error, "cuda:3.1"));
  CHECK(contains(error, "cuda:0*2"));
}

TEST_CASE("streams: a link that loses what is sent is found before the first step") {
  const Plan plan = on_gpus(test::forward_plan(test::kTwoDevices, kFour), {0, 1});
  executor::SessionOptions options = with_plugin({.devices = 2, .loses_copies = true});
  Run staged(plan, options);
  REQUIRE(staged.session.routes().size() == 1);
  CHECK(staged.session.routes()[0].transport == executor::Transport::staged);
  options.transport = executor::Transport::peer;
  const Error error = error_of([&] { Run(plan, options); });
  CHECK(error.id() == ErrorId::M081);
  CHECK(contains(error, "peer"));
}

TEST_CASE("streams: a node without a CUDA kernel is refused by name") {
  Plan plan = on_gpus(test::forward_plan(test::kOneDevice, kFour), {0});
  for (PlanNode& node : plan.nodes) {
    if (node.op == OpKind::Relu) node.op = OpKind::LRN;
  }
  const Error error = error_of([&] { Run(plan, with_plugin()); });
  CHECK(error.id() == ErrorId::M046);
  CHECK(contains(error, "LRN"));
  CHECK(contains(error, "cpu:0"));
}

TEST_CASE("streams: an index outside of its range ends the step and names its node") {
  test::PlanMaker maker(1, 1, 8, 8);
  const PlanIndex table = maker.parameter("T", {5, 4});
  const PlanIndex indices = maker.input("i", DType::i64, {test::kRows});
  test::PlanMaker::NodeOptions gather;
  gather.attributes = {{"axis", int64_t{0}}};
  const PlanIndex y = maker.node(OpKind::Gather, "y", 0, {table, indices}, {test::kRows, 4}, gather);
  maker.output("y", y, PlanOutput::Combine::concatenate);
  executor::Session session(on_gpus(maker.finish(), {0}), test::NumberedWeights(), with_plugin());
  std::vector<int64_t> content = {0, 1, 2, 3, 4, -1, -5, 0};
  session.bind("i", DType::i64, Shape{8}, std::as_bytes(std::span(content)));
  for (int step = 0; step < 3; ++step) session.step();
  content[3] = 7;  // found in a replayed step too
  const Error error = error_of([&] { session.step(); });
  CHECK(error.id() == ErrorId::M033);
  CHECK(contains(error, "y: "));
  CHECK(contains(error, "index or label 7 is out of range for 5"));
}

TEST_CASE("streams: the first number that is not finite names its node") {
  const Plan plan = on_gpus(test::forward_plan(test::kTwoDevices, kFour), {0, 0});
  executor::SessionOptions options = with_plugin();
  options.check_finite = true;
  Run run(plan, options);
  run.session.step();
  run.x[0] = INFINITY;
  const Error error = error_of([&] { run.session.step(); });
  CHECK(error.id() == ErrorId::M091);
  CHECK(error_of([&] { run.session.step(); }).id() == ErrorId::M091);  // a failed session stays failed
}

TEST_CASE("streams: measured times cover every node and transfer") {
  const Plan plan = on_gpus(test::forward_plan(test::kTwoDevices, kFour), {0, 0});
  executor::SessionOptions options = with_plugin();
  options.record_timeline = true;
  Run run(plan, options);
  run.session.step();
  size_t expected = 0;
  for (const Instruction& instruction : plan.instructions) {
    expected +=
        instruction.action == Action::run || instruction.action == Action::send || instruction.action == Action::recv
            ? 1
            : 0;
  }
  CHECK(run.session.measured().size() == expected);
}
