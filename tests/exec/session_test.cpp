#include "executor/session.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <latch>
#include <string>

#include "compiler/base/error.h"
#include "tests/exec/models.h"

namespace mpc::executor {
namespace {

using test::Batches;
using test::kOneDevice;
using test::kThreeDevices;
using test::kTwoDevices;

constexpr int64_t kRowCount = 8;
constexpr int64_t kFeatureCount = 6;
const Batches kWhole{1, kRowCount, kRowCount};
const Batches kFour{4, kRowCount, 2};
const Batches kUneven{3, kRowCount, 3};  // 3 + 3 + 2 rows

SessionOptions reference_threads() {
  SessionOptions options;
  options.kernels = KernelSet::reference;
  return options;
}

SessionOptions in_order() {
  SessionOptions options;
  options.interpreter = Interpreter::reference;
  return options;
}

/// A session with its input bound.
struct Run {
  Run(const Plan& plan, const SessionOptions& options) : session(plan, test::NumberedWeights(), options) {
    session.bind("x", DType::f32, Shape{kRowCount, kFeatureCount}, test::bytes_of(x));
  }
  std::vector<float> x = test::numbers("x", kRowCount* kFeatureCount);
  Session session;
};

bool same_bits(const Literal& a, const Literal& b) {
  return a == b;
}

/// The result of `steps` training steps: loss of every step, then A, B and y.
struct Trained {
  std::vector<double> losses;
  Literal a;
  Literal b;
  Literal y;
};

Trained trained(const Plan& plan, const SessionOptions& options, int steps) {
  Run run(plan, options);
  Trained result;
  for (int i = 0; i < steps; ++i) result.losses.push_back(run.session.step().loss);
  result.a = run.session.read("A");
  result.b = run.session.read("B");
  result.y = run.session.output("y");
  return result;
}

void check_equal(const Trained& a, const Trained& b) {
  CHECK(a.losses == b.losses);
  CHECK(same_bits(a.a, b.a));
  CHECK(same_bits(a.b, b.b));
  CHECK(same_bits(a.y, b.y));
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

/// Calls a function instead of the node's kernel, then the reference kernel.
class Intercepted final : public Kernel {
 public:
  Intercepted(OpKind op, std::function<void(const KernelCall&)> before) : op_(op), before_(std::move(before)) {}
  void run(const KernelCall& call) override {
    before_(call);
    reference_kernel(op_)(call);
  }
  std::string_view name() const override { return "intercepted"; }

 private:
  OpKind op_;
  std::function<void(const KernelCall&)> before_;
};

SessionOptions intercepting(SessionOptions options, OpKind op, std::function<void(const KernelCall&)> before) {
  options.kernel_override = [op, before](const NodeSpec& spec) -> KernelOrReason {
    if (spec.op != op) return {};
    return {std::make_unique<Intercepted>(op, before), ""};
  };
  return options;
}

TEST_CASE("session: a forward plan computes the product by hand") {
  Run run(test::forward_plan(kTwoDevices, kFour), reference_threads());
  run.session.step();
  const Literal y = run.session.output("y");
  CHECK(y.shape() == Shape{8, 4});
  const std::vector<float> a = test::numbers("A", 30);
  const std::vector<float> b = test::numbers("B", 20);
  for (int64_t row = 0; row < 8; ++row) {
    for (int64_t column = 0; column < 4; ++column) {
      double sum = 0;
      for (int64_t j = 0; j < 5; ++j) {
        double hidden = 0;
        for (int64_t k = 0; k < 6; ++k) {
          hidden += double{run.x[static_cast<size_t>(row * 6 + k)]} * a[static_cast<size_t>(k * 5 + j)];
        }
        sum += std::max(hidden, 0.0) * b[static_cast<size_t>(j * 4 + column)];
      }
      // f32 storage of the hidden layer: a few units in the last place of values below 10.
      CHECK(y.number(row * 4 + column) == doctest::Approx(sum).epsilon(1e-5));
    }
  }
}

TEST_CASE("session: training gives the same bits on one, two and three devices, in order and in threads") {
  for (const Batches& batches : {kWhole, kFour, kUneven}) {
    const Trained expected = trained(test::training_plan(kOneDevice, batches), in_order(), 5);
    CHECK(expected.losses.back() < expected.losses.front());
    for (const test::Placement& placement : {kOneDevice, kTwoDevices, kThreeDevices}) {
      const Plan plan = test::training_plan(placement, batches);
      check_equal(expected, trained(plan, in_order(), 5));
      check_equal(expected, trained(plan, reference_threads(), 5));
    }
  }
}

TEST_CASE("session: training with the fastest kernels gives the same bits on one, two and three devices") {
  const Trained expected = trained(test::training_plan(kOneDevice, kUneven), SessionOptions{}, 5);
  check_equal(expected, trained(test::training_plan(kTwoDevices, kUneven), SessionOptions{}, 5));
  check_equal(expected, trained(test::training_plan(kThreeDevices, kUneven), SessionOptions{}, 5));
}

TEST_CASE("session: hundreds of steps keep the queues in step") {
  const Trained expected = trained(test::training_plan(kOneDevice, kFour), in_order(), 300);
  check_equal(expected, trained(test::training_plan(kThreeDevices, kFour), reference_threads(), 300));
}

// Lanes look at what others change all the time, so what changes between two looks of one must not be lost: a sender
// that saw its link open and then slept, while the receiver made the last copy, would sleep for ever.
TEST_CASE("session: a lane misses nothing that happens between its looks") {
  SessionOptions options = reference_threads();
  options.watchdog_seconds = 60;
  std::atomic<uint32_t> looks = 0;
  options.before_look = [&looks] {
    // Up to 64 us, and not by giving the core away: on a busy machine that would take milliseconds each time.
    const std::chrono::microseconds pause(looks.fetch_add(1, std::memory_order_relaxed) * 2654435761u >> 26);
    const auto end = std::chrono::steady_clock::now() + pause;
    while (std::chrono::steady_clock::now() < end) continue;
  };
  for (const auto& placement : {kTwoDevices, kThreeDevices}) {
    Run forward(test::forward_plan(placement, kFour), options);
    for (int i = 0; i < 50; ++i) forward.session.step();
    check_equal(trained(test::training_plan(kOneDevice, kFour), in_order(), 50),
                trained(test::training_plan(placement, kFour), options, 50));
  }
  CHECK(looks > 0);
}

TEST_CASE("session: the gradient of a step is the difference quotient of its loss") {
  Run run(test::training_plan(kTwoDevices, kUneven), reference_threads());
  StepOptions no_update;
  no_update.update = false;
  run.session.step(no_update);
  const Literal gradient = run.session.gradient("A");
  const Literal a = run.session.read("A");
  constexpr double kDelta = 1e-2;  // the loss is quadratic between kinks: a wide difference has no error of its own
  for (const int64_t element : {0, 7, 29}) {
    double losses[2];
    for (int side = 0; side < 2; ++side) {
      std::vector<std::byte> moved = a.dense();
      write_number(DType::f32, moved.data() + element * 4, a.number(element) + (side == 0 ? -kDelta : kDelta));
      run.session.write("A", Literal(DType::f32, a.shape(), moved));
      losses[side] = run.session.step(no_update).loss;
    }
    run.session.write("A", a);
    // f32 losses near 10 carry an error of 1e-6, the quotient 1e-4; a kink inside would show as some percent.
    CHECK(gradient.number(element) == doctest::Approx((losses[1] - losses[0]) / (2 * kDelta)).epsilon(2e-3));
  }
}

TEST_CASE("session: updating each device by itself equals one whole step") {
  const Plan plan = test::training_plan(kTwoDevices, kFour);
  Run whole(plan, reference_threads());
  Run parts(plan, reference_threads());
  StepOptions options;
  for (int i = 0; i < 3; ++i) {
    options.update = true;
    options.learning_rate_scale = 0.5;
    whole.session.step(options);
    StepOptions part = options;
    part.update = false;
    parts.session.step(part);
    part.update = true;
    part.update_devices = {DeviceId(0)};
    parts.session.update(part);
    CHECK(parts.session.read("B") != whole.session.read("B"));
    part.update_devices = {DeviceId(1)};
    parts.session.update(part);
    CHECK(parts.session.steps_done() == i + 1);
    CHECK(whole.session.steps_done() == i + 1);
    CHECK(parts.session.read("A") == whole.session.read("A"));
    CHECK(parts.session.read("B") == whole.session.read("B"));
  }
  StepOptions wrong;
  wrong.update_devices = {DeviceId(2)};
  CHECK(error_of([&] { whole.session.step(wrong); }).id() == ErrorId::M003);
}

TEST_CASE("session: the kernels see the number of the step, the micro-batch and the scale of the learning rate") {
  std::vector<int64_t> steps;
  std::vector<float> scales;
  Run run(test::training_plan(kOneDevice, kFour),
          intercepting(in_order(), OpKind::SgdUpdate, [&](const KernelCall& call) {
            steps.push_back(*call.inputs[2].as<int64_t>());
            scales.push_back(*call.inputs[3].as<float>());
          }));
  run.session.set_steps_done(41);
  StepOptions options;
  options.learning_rate_scale = 0.25;
  run.session.step(options);
  CHECK(steps == std::vector<int64_t>{42, 42});
  CHECK(scales == std::vector<float>{0.25f, 0.25f});
  CHECK(run.session.steps_done() == 42);
}

TEST_CASE("session: a kernel that fails ends the step, releases every queue, and stays the error") {
  for (const SessionOptions& base : {in_order(), reference_threads()}) {
    int calls = 0;
    Run run(test::training_plan(kThreeDevices, kFour), intercepting(base, OpKind::Relu, [&](const KernelCall&) {
              // The third micro-batch of the second step: others are in flight.
              if (++calls == 7) throw Error(ErrorId::M033, "Relu", "made to fail");
            }));
    run.session.step();
    const Error error = error_of([&] { run.session.step(); });
    CHECK(error.id() == ErrorId::M033);
    CHECK(contains(error, "made/h: Relu: made to fail"));
    CHECK(error_of([&] { run.session.step(); }).what() == std::string(error.what()));
    CHECK(error_of([&] { run.session.read("A"); }).what() == std::string(error.what()));
    CHECK(calls == 7);
  }
}

TEST_CASE("session: exceptions of the standard library become errors that name the node") {
  Run no_memory(test::forward_plan(kTwoDevices, kFour),
                intercepting(reference_threads(), OpKind::Relu, [](const KernelCall&) { throw std::bad_alloc(); }));
  const Error out_of_memory = error_of([&] { no_memory.session.step(); });
  CHECK(out_of_memory.id() == ErrorId::M070);
  CHECK(contains(out_of_memory, "made/h"));
  Run broken(test::forward_plan(kTwoDevices, kFour),
             intercepting(reference_threads(), OpKind::Relu,
                          [](const KernelCall&) { throw std::runtime_error("the device is gone"); }));
  const Error device = error_of([&] { broken.session.step(); });
  CHECK(device.id() == ErrorId::M080);
  CHECK(contains(device, "the device is gone"));
}

TEST_CASE("session: a step in which nothing moves ends at the watchdog and names what it waits for") {
  std::latch released(1);
  SessionOptions options = intercepting(reference_threads(), OpKind::Relu, [&](const KernelCall&) { released.wait(); });
  options.watchdog_seconds = 0.05;
  Run run(test::forward_plan(kThreeDevices, kFour), options);
  const Error error = error_of([&] { run.session.step(); });
  released.count_down();
  CHECK(error.id() == ErrorId::M081);
  CHECK(contains(error, "cpu:1 is at run made/h"));
  CHECK(error_of([&] { run.session.step(); }).id() == ErrorId::M081);
}

TEST_CASE("session: a step given up before its threads have woken leaves no thread behind") {
  SessionOptions options = reference_threads();
  options.watchdog_seconds = 1e-9;
  for (int i = 0; i < 200; ++i) {
    Run run(test::forward_plan(kThreeDevices, kFour), options);
    try {
      run.session.step();
    } catch (const Error& error) {
      CHECK(error.id() == ErrorId::M081);
    }
  }  // the session's end joins its threads: a lost one would hang here
}

TEST_CASE("session: the first NaN is an error with node, output, step, micro-batch and device") {
  SessionOptions options = reference_threads();
  options.check_finite = true;
  Run run(test::training_plan(kTwoDevices, kFour), options);
  run.session.step();
  run.x[4 * kFeatureCount] = std::nanf("");  // first row of the third micro-batch
  const Error error = error_of([&] { run.session.step(); });
  CHECK(error.id() == ErrorId::M091);
  CHECK(contains(error,
                 "made/xa: element 0 of its output \"xa\" f32[2,5] is nan (step 2, micro-batch 2, device \"cpu:0\")"));
}

TEST_CASE("session: poisoned memory changes nothing") {
  for (const test::Placement& placement : {kOneDevice, kThreeDevices}) {
    const Plan plan = test::training_plan(placement, kUneven);
    SessionOptions poisoned = reference_threads();
    poisoned.poison = true;
    check_equal(trained(plan, reference_threads(), 4), trained(plan, poisoned, 4));
  }
}

TEST_CASE("session: poison shows a value that is read after its last reader") {
  SessionOptions poisoned = in_order();
  poisoned.poison = true;
  poisoned.check_finite = true;
  const float* relu_input = nullptr;
  float seen_later = 0;
  const auto look = [&](const NodeSpec& spec) -> KernelOrReason {
    if (spec.op == OpKind::Relu) {
      return {std::make_unique<Intercepted>(OpKind::Relu,
                                            [&](const KernelCall& call) { relu_input = call.inputs[0].as<float>(); }),
              ""};
    }
    if (spec.op != OpKind::Gemm) return {};
    return {std::make_unique<Intercepted>(OpKind::Gemm,
                                          [&](const KernelCall&) {
                                            if (relu_input != nullptr) seen_later = *relu_input;
                                          }),
            ""};
  };
  poisoned.kernel_override = look;
  Run run(test::forward_plan(kOneDevice, kWhole), poisoned);
  run.session.step();
  CHECK(std::isnan(seen_later));
}

TEST_CASE("session: a timeline has every run, send and recv, and respects what depends on what") {
  SessionOptions options = reference_threads();
  options.record_timeline = true;
  Run run(test::forward_plan(kTwoDevices, kFour), options);
  run.session.step();
  const Plan& plan = run.session.plan();
  // 4 micro-batches of 3 nodes and a send and a recv.
  CHECK(run.session.measured().size() == 4 * (3 + 2));
  double produced_s = 0;
  double received_s = 0;
  for (const MeasuredEntry& entry : run.session.measured()) {
    CHECK(entry.start_s >= 0);
    CHECK(entry.end_s >= entry.start_s);
    const Instruction& instruction = plan.instructions[entry.instruction];
    if (instruction.microbatch != 2) continue;
    if (instruction.action == Action::recv) {
      CHECK(entry.start_s >= produced_s);
      received_s = entry.end_s;
    } else if (instruction.action == Action::run && plan.nodes[instruction.index].name == "h") {
      produced_s = entry.end_s;
    } else if (instruction.action == Action::run && plan.nodes[instruction.index].name == "y") {
      CHECK(entry.start_s >= received_s);
    }
  }
  CHECK(received_s > 0);
}

TEST_CASE("session: arenas are used up to their last slice, and hold only the parameters of their device") {
  Run run(test::forward_plan(kTwoDevices, kWhole), reference_threads());
  const auto before = run.session.arena_use();
  run.session.step();
  const auto after = run.session.arena_use();
  REQUIRE(after.size() == 2);
  // Device 0 is laid out as x (192 B), A (120 B), xa, h (160 B each): every slice starts at a multiple of 256.
  CHECK(before[0].used_bytes == 256 + 120);
  CHECK(after[0].used_bytes == 3 * 256 + 160);
  CHECK(after[0].arena_bytes == 4 * 256);
  // Device 1: the copy of h, B (80 B), y (128 B).
  CHECK(before[1].used_bytes == 256 + 80);
  CHECK(after[1].used_bytes == 2 * 256 + 128);
}

TEST_CASE("session: kernels keep weights in layouts of their own only where the device has room, with the same bits") {
  const Plan tight = test::forward_plan(kOneDevice, kWhole);  // its arena is all that the device has
  Plan roomy = tight;
  roomy.devices[0].capacity_bytes += 1 << 20;
  Run without(tight, SessionOptions{});
  Run with(roomy, SessionOptions{});
  CHECK(without.session.arena_use()[0].kept_bytes == 0);
  const auto choices = with.session.kernel_choices();
  const bool has_library = std::ranges::any_of(
      choices, [](const auto& choice) { return choice.kernel.find("onednn") != std::string::npos; });
  CHECK((with.session.arena_use()[0].kept_bytes > 0) == has_library);
  const auto same_result = [&] {
    without.session.step();
    with.session.step();
    return same_bits(without.session.output("y"), with.session.output("y"));
  };
  CHECK(same_result());
  const Literal before = with.session.output("y");
  const Literal a = with.session.read("A");
  std::vector<std::byte> moved = a.dense();
  for (size_t i = 0; i < moved.size(); i += 4)
    write_number(DType::f32, moved.data() + i, 0.25 * static_cast<double>(i % 7));
  for (Run* run : {&without, &with}) run->session.write("A", Literal(DType::f32, a.shape(), moved));
  CHECK(same_result());
  CHECK(!same_bits(before, with.session.output("y")));
}

TEST_CASE("session: names and types that the plan does not have are refused") {
  Run run(test::training_plan(kOneDevice, kFour), reference_threads());
  CHECK(error_of([&] { run.session.output("y"); }).id() == ErrorId::M002);
  run.session.step();
  CHECK(contains(error_of([&] { run.session.output("yy"); }), "did you mean \"y\"?"));
  CHECK(error_of([&] { run.session.read("h"); }).id() == ErrorId::M002);
  CHECK(error_of([&] { run.session.gradient("half"); }).id() == ErrorId::M002);
  CHECK(error_of([&] { run.session.write("A", Literal::scalar(DType::f32, 1)); }).id() == ErrorId::M004);
  const std::vector<float> few = test::numbers("x", 12);
  const Error shape = error_of([&] { run.session.bind("x", DType::f32, Shape{2, 6}, test::bytes_of(few)); });
  CHECK(shape.id() == ErrorId::M004);
  CHECK(contains(shape, "is f32[2,6], expected f32[8,6]"));
  CHECK(error_of([&] { run.session.bind("step", DType::i64, Shape{}, {}); }).id() == ErrorId::M004);
  CHECK(error_of([&] { run.session.bind("x", DType::f32, Shape{8, 6}, test::bytes_of(few)); }).id() == ErrorId::M004);
  Session unbound(test::forward_plan(kOneDevice, kWhole), test::NumberedWeights(), reference_threads());
  const Error missing = error_of([&] { unbound.step(); });
  CHECK(missing.id() == ErrorId::M004);
  CHECK(contains(missing, "input \"x\": is not bound"));
}

TEST_CASE("session: an arena that the host cannot hold is an error with the bytes") {
  Plan plan = test::forward_plan(kTwoDevices, kWhole);
  plan.devices[1].arena_bytes = int64_t{1} << 47;  // all of a process's address space
  plan.devices[1].capacity_bytes = plan.devices[1].arena_bytes;
  const Error error = error_of([&] { Session(plan, test::NumberedWeights(), reference_threads()); });
  CHECK(error.id() == ErrorId::M070);
  CHECK(contains(error, "device \"cpu:1\": 140737488355328 bytes"));
}

TEST_CASE("session: a device of a backend that is not there is refused") {
  Plan plan = test::forward_plan(kTwoDevices, kWhole);
  plan.devices[1].backend = "cuda";
  CHECK(error_of([&] { Session(plan, test::NumberedWeights(), reference_threads()); }).id() == ErrorId::M080);
}

TEST_CASE("session: a plan that fails the checker is never run") {
  Plan plan = test::forward_plan(kTwoDevices, kWhole);
  plan.instructions.pop_back();
  CHECK(error_of([&] { Session(plan, test::NumberedWeights(), reference_threads()); }).id() == ErrorId::M061);
}

TEST_CASE("session: kernel choices name a kernel per node and say why faster ones declined") {
  Run reference(test::forward_plan(kTwoDevices, kUneven), in_order());
  const auto choices = reference.session.kernel_choices();
  REQUIRE(choices.size() == 6);  // 3 nodes in 2 sizes
  for (const auto& choice : choices) CHECK(choice.kernel == "reference");
  Run best(test::forward_plan(kTwoDevices, kUneven), SessionOptions{});
  for (const auto& choice : best.session.kernel_choices()) {
    CHECK((choice.kernel != "reference" || !choice.declined.empty()));
  }
}

}  // namespace
}  // namespace mpc::executor
