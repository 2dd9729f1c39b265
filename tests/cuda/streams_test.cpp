// Plans on CUDA devices without a GPU: the engine, the streams and the kernels are real, the plugin is a fake that does
// the work of streams as late as it may and in a random order (fake_device.h). A missing event shows as other bits.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "api/kernel_gaps.h"
#include "compiler/base/error.h"
#include "compiler/ir/parse.h"
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
using test::fake_counts;
using test::fake_plugin;
using test::FakeOptions;
using test::on_gpus;
using test::random_training_plan;

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
    CHECK(fake_counts().nccl_copies == 0);  // only when it is asked for
    for (const Plan& plan : {one_gpu, three_gpus}) {
      CHECK(difference(expected, run(plan, seed, three, force(Transport::nccl))) == "");
      CHECK(fake_counts().nccl_copies > 0);
      CHECK(fake_counts().device_copies + fake_counts().peer_copies == 0);
    }
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

TEST_CASE("streams: events order every two accesses to the same bytes, whatever the device does first") {
  int64_t compared = 0;
  for (uint64_t seed = 1; seed <= kGraphs; ++seed) {
    CAPTURE(seed);
    const int devices = 1 + static_cast<int>(seed % 4);
    const Plan plan = on_gpus(random_training_plan(seed, devices, true), {0, 0, 0, 0});
    run(plan, seed, {});
    CHECK_MESSAGE(fake_counts().unordered == 0, test::fake_unordered());
    compared += fake_counts().compared;
    const Plan mixed = on_gpus(random_training_plan(seed, 3, true), {-1, 0, 1});
    run(mixed, seed, {.devices = 2, .has_peer_access = seed % 2 == 0});
    CHECK_MESSAGE(fake_counts().unordered == 0, test::fake_unordered());
  }
  CHECK(compared > 1000 * kGraphs);  // or nothing was looked at
}

TEST_CASE("streams: accesses are unordered when streams wait for no events") {
  int unordered = 0;
  constexpr int kPlans = 10;
  for (uint64_t seed = 1; seed <= kPlans; ++seed) {
    const Plan plan = on_gpus(random_training_plan(seed, 3, true), {0, 0, 0});
    run(plan, seed, {.forgets_waits = true}, [](auto& options) { options.captures = false; });
    unordered += fake_counts().unordered > 0 ? 1 : 0;
  }
  CHECK(unordered == kPlans);
}

TEST_CASE("streams: a step makes one copy for every cut edge, and no other") {
  for (uint64_t seed = 1; seed <= kGraphs / 2; ++seed) {
    CAPTURE(seed);
    const Plan plan = on_gpus(random_training_plan(seed, 3, true), {0, 0, 0});
    std::set<std::pair<DeviceId, DeviceId>> links;
    for (const PlanTransfer& transfer : plan.transfers) links.insert({transfer.from, transfer.to});
    test::RunOptions options;
    options.seed = seed;
    options.steps = 1;
    options.session = with_plugin();
    test::run_plan(plan, test::SeededWeights(seed), options);
    const int64_t probes = static_cast<int64_t>(links.size());
    CHECK(fake_counts().device_copies - probes == test::cut_edges(seed, 3));
  }
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

namespace {

/// Six layers, trained, on CPU devices of which the first has `share` of what it would like for activations; what does
/// not fit waits in host memory.
Plan offloading_plan(int devices, double share) {
  PlanOptions options;
  options.batch = 256;  // activations are larger than what is made of weights
  options.microbatches = devices == 1 ? 1 : 4;
  options.train = true;
  options.loss = LossKind::mse;
  options.schedule = ScheduleKind::one_f_one_b;  // `auto` may find an order in which all fits
  options.may_recompute = false;
  const auto graph_of = [](int64_t rows) {
    const std::string type = " f32[" + std::to_string(rows) + ",32] = ";
    std::string text = "graph \"layers\" imported\ninput %x f32[" + std::to_string(rows) + ",32]\n";
    std::string nodes;
    std::string value = "%x";
    for (int i = 0; i < 6; ++i) {
      const std::string n = std::to_string(i);
      text += "parameter %w" + n + " f32[32,32] from \"w" + n + "\"\n";
      nodes += "%a" + n + type + "MatMul(" + value + ", %w" + n + ") @a" + n + "\n";
      nodes += "%t" + n + type + "Tanh(%a" + n + ") @t" + n + "\n";
      value = "%t" + n;
    }
    return parse_graph(text + nodes + "output y = " + value + "\n");
  };
  const FrontGraphs graphs = make_front_graphs(graph_of, options.batch, options, "layers");
  Cluster cluster = uniform_cluster(*find_device_kind("cpu"), devices);
  const Plan ample = std::get<Plan>(make_plan(graphs, cluster, options));
  if (share == 1) return ample;
  // The first device has least room for what it has in flight; the same nodes stay on it.
  for (const PlanNode& node : ample.nodes) {
    if (node.phase == PlanPhase::forward) options.assignment[node.name] = static_cast<int>(node.device.index());
  }
  const MemoryUse& memory = ample.devices[0].memory;
  const int64_t stays = memory.parameter_bytes + memory.gradient_bytes;
  const auto rest = static_cast<double>(ample.devices[0].arena_bytes - stays);
  cluster.devices[0].memory_bytes = stays + static_cast<int64_t>(share * rest);
  auto made = make_plan(graphs, cluster, options);
  REQUIRE(std::holds_alternative<Plan>(made));
  return std::get<Plan>(std::move(made));
}

}  // namespace

TEST_CASE(
    "streams: what waits in pinned host memory gives the bits of what stays, in any order that the events allow") {
  for (const int devices : {1, 2}) {
    CAPTURE(devices);
    const std::vector<int> gpus(static_cast<size_t>(devices), 0);
    const test::Outcome expected = run(on_gpus(offloading_plan(1, 1), {0}), 1, {});
    Plan plan = offloading_plan(devices, devices == 1 ? 0.7 : 0.8);
    REQUIRE(plan.devices.back().backend == "host");
    std::vector<int> places(gpus);
    places.push_back(-1);
    plan = on_gpus(std::move(plan), places);
    for (const uint64_t seed : {1, 2, 3, 4}) {
      CAPTURE(seed);
      const test::Outcome outcome = run(plan, 1, {.seed = seed});
      CHECK(fake_counts().graphs == 1);  // the copies are in the graph that is replayed
      if (devices == 1) CHECK(difference(expected, outcome) == "");
      if (devices == 2) CHECK(difference(run(on_gpus(offloading_plan(2, 1), gpus), 1, {}), outcome) == "");
    }
  }
  CHECK(fake_counts().live_objects == 0);
}

/// MaxPool over four spatial dimensions, which the CUDA backend has no kernel for, between two that it has.
FrontGraphs deep_pool_graphs(const PlanOptions& options) {
  const auto graph_of = [](int64_t) {
    return parse_graph(R"(graph "deep" imported
input %x f32[2,1,4,4,4,4]
%a f32[2,1,4,4,4,4] = Relu(%x) @first
%b f32[2,1,2,2,2,2] = MaxPool(%a) {ceil_mode = 0, dilations = [1, 1, 1, 1], kernel_shape = [2, 2, 2, 2], pads = [0, 0, 0, 0, 0, 0, 0, 0], storage_order = 0, strides = [2, 2, 2, 2]} @pool
%y f32[2,1,2,2,2,2] = Relu(%b) @last
output y = %y
)");
  };
  return make_front_graphs(graph_of, 2, options, "deep");
}

PlanOptions options_with_gaps() {
  PlanOptions options;
  options.batch = 2;
  options.refusal = api::known_kernel_gaps();
  return options;
}

TEST_CASE("streams: what has no CUDA kernel is planned on a CPU device, and said so") {
  const PlanOptions options = options_with_gaps();
  const FrontGraphs graphs = deep_pool_graphs(options);
  auto made = make_plan(graphs, parse_devices("cpu,cuda:0", kAssumedGpuKind), options);
  REQUIRE(std::holds_alternative<Plan>(made));
  Plan plan = std::get<Plan>(std::move(made));
  for (const PlanNode& node : plan.nodes) {
    if (node.op == OpKind::MaxPool) CHECK(plan.devices[node.device.index()].backend == "cpu");
  }
  const auto is_named = [](const std::string& note) {
    return note.find("pool (MaxPool) runs on cpu:0: the CUDA backend has windows over 1 to 3") != std::string::npos;
  };
  CHECK(std::ranges::any_of(plan.notes, is_named));
  const test::Outcome mixed = run(plan, 1, {});
  const test::Outcome host = run(test::plan_on_cpus(graphs, 1, options), 1, {});
  CHECK(difference(host, mixed) == "");  // maxima: the same bits everywhere
}

TEST_CASE("streams: what no device has a kernel for is refused by name when it is planned") {
  const PlanOptions options = options_with_gaps();
  const FrontGraphs graphs = deep_pool_graphs(options);
  const Error nowhere = error_of([&] { make_plan(graphs, parse_devices("cuda:0", kAssumedGpuKind), options); });
  CHECK(nowhere.id() == ErrorId::M046);
  CHECK(contains(nowhere, "pool (MaxPool)"));
  CHECK(contains(nowhere, "cpu,cuda:0"));
  PlanOptions pinned = options;
  pinned.pins = {{"^pool$", 1}};
  const Error at_pin = error_of([&] { make_plan(graphs, parse_devices("cpu,cuda:0", kAssumedGpuKind), pinned); });
  CHECK(at_pin.id() == ErrorId::M046);
  CHECK(contains(at_pin, "pinned to cuda:0"));
}

TEST_CASE("streams: a node without a CUDA kernel is refused by name") {
  test::PlanMaker maker(1, 1, 2, 2);
  const PlanIndex x = maker.input("x", DType::f32, {test::kRows, 1, 2, 2, 2, 2});
  test::PlanMaker::NodeOptions pool;
  pool.attributes = {{"kernel_shape", std::vector<int64_t>(4, 1)},
                     {"strides", std::vector<int64_t>(4, 1)},
                     {"pads", std::vector<int64_t>(8, 0)},
                     {"dilations", std::vector<int64_t>(4, 1)},
                     {"storage_order", int64_t{0}}};
  maker.output("y", maker.node(OpKind::MaxPool, "y", 0, {x}, {test::kRows, 1, 2, 2, 2, 2}, pool),
               PlanOutput::Combine::concatenate);
  const Plan plan = on_gpus(maker.finish(), {0});
  const Error error = error_of([&] { executor::Session(plan, test::NumberedWeights(), with_plugin()); });
  CHECK(error.id() == ErrorId::M046);
  CHECK(contains(error, "y (MaxPool)"));
  CHECK(contains(error, "cpu:0"));
}

TEST_CASE("streams: an integer division by 0 and a bad sequence length end the step and name their node") {
  test::PlanMaker maker(1, 1, 3, 3);
  const PlanIndex a = maker.input("a", DType::i64, {test::kRows});
  const PlanIndex b = maker.input("b", DType::i64, {test::kRows});
  test::PlanMaker::NodeOptions whole;
  whole.dtype = DType::i64;
  maker.output("q", maker.node(OpKind::Div, "q", 0, {a, b}, {test::kRows}, whole), PlanOutput::Combine::concatenate);
  executor::Session session(on_gpus(maker.finish(), {0}), test::NumberedWeights(), with_plugin());
  const std::vector<int64_t> dividends = {7, -7, 9};
  std::vector<int64_t> divisors = {2, 2, -3};
  session.bind("a", DType::i64, Shape{3}, std::as_bytes(std::span(dividends)));
  session.bind("b", DType::i64, Shape{3}, std::as_bytes(std::span(divisors)));
  session.step();
  CHECK(session.output("q").to_integers() == std::vector<int64_t>{3, -3, -3});
  divisors[1] = 0;
  const Error error = error_of([&] { session.step(); });
  CHECK(error.id() == ErrorId::M033);
  CHECK(contains(error, "q: an integer is divided by 0"));

  test::PlanMaker lstm(1, 1, 2, 2);
  const PlanIndex x = lstm.input("x", DType::f32, {test::kRows, 3, 1});
  const PlanIndex w = lstm.parameter("w", {1, 4, 1});
  const PlanIndex r = lstm.parameter("r", {1, 4, 1});
  const PlanIndex lengths = lstm.input("lengths", DType::i32, {test::kRows});
  test::PlanMaker::NodeOptions options;
  options.attributes = {{"direction", std::string("forward")}, {"hidden_size", int64_t{1}}, {"layout", int64_t{1}}};
  lstm.output("y", lstm.node(OpKind::LSTM, "y", 0, {x, w, r, kNone, lengths}, {test::kRows, 3, 1, 1}, options),
              PlanOutput::Combine::concatenate);
  executor::Session sequences(on_gpus(lstm.finish(), {0}), test::NumberedWeights(), with_plugin());
  const std::vector<float> numbers = test::numbers("x", 6);
  std::vector<int32_t> steps = {3, 0};
  sequences.bind("x", DType::f32, Shape{2, 3, 1}, std::as_bytes(std::span(numbers)));
  sequences.bind("lengths", DType::i32, Shape{2}, std::as_bytes(std::span(steps)));
  sequences.step();
  steps[1] = 4;
  const Error too_long = error_of([&] { sequences.step(); });
  CHECK(too_long.id() == ErrorId::M033);
  CHECK(contains(too_long, "y: a sequence length is 4, there are 3 steps"));
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
