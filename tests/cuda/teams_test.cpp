// Kernels in teams of threads (tests/cuda/teams.h): no races, no threads at different barriers, and the bits that one
// thread gives. Bodies with such defects are caught first.

#include <algorithm>
#include <optional>
#include <variant>
#include <vector>

#include <doctest/doctest.h>

#include "compiler/base/error.h"
#include "executor/cuda/data.h"
#include "executor/cuda/library_kernels.h"
#include "tests/cuda/teams.h"
#include "tests/ops/cases.h"
#include "tests/ops/gradient_check.h"

namespace mpc::test {
namespace {

using cuda::Block;
using samples::Sample;

/// A kernel with memory: run() gives its results, with names of the memory for `teams`, if there are any.
class Bench {
 public:
  Bench(OpKind op, Case c)
      : op_(op), case_(std::move(c)), node_(node_of(op, case_.attributes, case_.inputs, case_.outputs)) {
    made_ = cuda::find_own_kernel(node_, {});
  }

  std::string declined() const { return made_.kernel == nullptr ? made_.reason : ""; }
  const mpc_cuda_step& step() const { return step_; }
  const Case& the_case() const { return case_; }

  /// @param in_place as in CallOptions
  Tensors run(Teams* teams, std::byte poison, const std::vector<int>& in_place = {}) {
    step_ = {};
    step_.step = kSampleStep.step;
    step_.seed = kSampleStep.seed;
    std::vector<Line> workspace(static_cast<size_t>(made_.kernel->workspace_bytes()) / sizeof(Line) + 1);
    std::ranges::fill(workspace, Line{poison});
    const auto call_kernel = [&](const KernelCall& call) {
      std::vector<void*> ins;
      std::vector<void*> outs;
      for (const TensorView& view : call.inputs) ins.push_back(view.data);
      for (const TensorView& view : call.outputs) outs.push_back(view.data);
      if (teams != nullptr) name_memory(teams->detector(), call, workspace.data());
      cuda::Launch launch;
      launch.inputs = ins;
      launch.outputs = outs;
      launch.workspace = workspace.data();
      launch.step = &step_;
      launch.microbatch = kSampleStep.microbatch;
      launch.tag = kTag;
      made_.kernel->run(launch);
    };
    const CallOptions options{.step = kSampleStep, .poison = poison, .in_place = in_place};
    return run_kernel(call_kernel, op_, case_.attributes, case_.inputs, case_.outputs, options);
  }

  static constexpr int32_t kTag = 77;

 private:
  struct alignas(256) Line {  // as devices align it
    explicit Line(std::byte fill = {}) { std::ranges::fill(bytes, fill); }
    std::byte bytes[256];
  };

  void name_memory(RaceDetector& detector, const KernelCall& call, const void* workspace) const {
    detector.forget_names();
    const auto name = [&](const TensorView& view, const char* text, size_t i) {
      if (view.data == nullptr) return;
      detector.name_memory(view.data, byte_size(view.shape, view.dtype), text + std::to_string(i));
    };
    for (size_t i = 0; i < call.inputs.size(); ++i) name(call.inputs[i], "operand ", i);
    for (size_t i = 0; i < call.outputs.size(); ++i) name(call.outputs[i], "result ", i);
    detector.name_memory(workspace, made_.kernel->workspace_bytes(), "the workspace");
    detector.name_memory(&step_, sizeof(step_), "the step");
  }

  OpKind op_;
  Case case_;
  executor::NodeSpec node_;
  cuda::KernelOrReason made_;
  mpc_cuda_step step_{};
};

/// Every way in which results may take the bytes of operands (ops.def), beside none.
std::vector<std::vector<int>> ways_in_place(OpKind op, const Case& c) {
  std::vector<std::vector<int>> ways;
  std::vector<int> aliases(c.outputs.size(), -1);
  for (size_t i = 0; i < aliases.size(); ++i) {
    const auto operand = aliased_input(op, static_cast<int>(i));
    if (operand && c.outputs[i]) aliases[i] = *operand;
  }
  if (std::ranges::any_of(aliases, [](int operand) { return operand >= 0; })) ways.push_back(aliases);
  if (op_share(op) != Share::kElementwise) return ways;
  const Types inputs = types_of(c.inputs);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i] && inputs[i] == c.outputs[0]) ways.push_back({static_cast<int>(i)});
  }
  return ways;
}

/// Runs a case by one thread and in teams.
void check_teams(OpKind op, Case c, uint64_t seed) {
  Bench bench(op, std::move(c));
  REQUIRE(bench.declined() == "");
  const Tensors expected = bench.run(nullptr, std::byte{0xFF});
  Teams teams(seed);
  const auto check = [&](const std::vector<int>& in_place) {
    const Tensors found = bench.run(&teams, std::byte{0x5A}, in_place);
    CHECK((found == expected));
  };
  check({});
  for (const std::vector<int>& in_place : ways_in_place(op, bench.the_case())) check(in_place);
  CHECK(teams.text_of(false) == "");
  CHECK(teams.text_of(true) == "");
}

// ---- bodies with a defect each

/// One tensor of memory that a body with a defect works on.
struct Memory {
  std::vector<float> numbers = std::vector<float>(600, 1.0f);
  cuda::FloatIn in() const { return {numbers.data(), DType::f32}; }
  cuda::FloatOut out() { return {numbers.data(), DType::f32}; }
};

constexpr uint64_t kSeed = 7;

template <class Body>
std::vector<Defect> defects_of_teams(int64_t blocks, const Body& body) {
  Teams teams(kSeed);
  cuda::for_each_block({}, blocks, body, "a body");
  return teams.defects();
}

template <class Body>
std::vector<Defect> defects_of_items(int64_t count, const Body& body) {
  Teams teams(kSeed);
  cuda::for_each({}, count, body, "a body");
  return teams.defects();
}

std::vector<Defect::Kind> kinds_of(const std::vector<Defect>& defects) {
  std::vector<Defect::Kind> kinds;
  for (const Defect& defect : defects) kinds.push_back(defect.kind);
  return kinds;
}

using Kinds = std::vector<Defect::Kind>;
constexpr auto kRace = Defect::Kind::race;
constexpr auto kSameValue = Defect::Kind::same_value;
constexpr auto kDivergence = Defect::Kind::divergence;

}  // namespace

TEST_CASE("teams: a body without a defect has none, and gives the sum in the order of a GPU") {
  Memory x;
  for (size_t i = 0; i < x.numbers.size(); ++i) x.numbers[i] = 1.0f / static_cast<float>(i + 1);
  const auto run = [&] {
    Memory y;
    cuda::for_each_block(
        {}, 5,
        [x = x.in(), y = y.out()](Block& block, int64_t b) {
          const float first = block.once<float>([&] { return x[b]; });
          const double sum = block.sum(600 - b, [&](int64_t i) { return static_cast<double>(x[b + i]); });
          block.for_each(100, [&](int64_t i) { y.set(b * 100 + i, x[i] + first); });
          // The same memory of the team again, with no barrier but those that reduce and once have.
          double more = 0;
          for (int64_t k = 0; k < 3; ++k) {
            more += block.sum(600, [&](int64_t i) { return static_cast<double>(x[i]) * static_cast<double>(k); });
          }
          for (int64_t k = 0; k < 3; ++k) more += block.once<double>([&] { return static_cast<double>(k); });
          block.for_each(1, [&](int64_t) { y.set(b * 100 + 98, static_cast<float>(more)); });
          block.for_each(1, [&](int64_t) { y.set(b * 100 + 99, static_cast<float>(sum)); });
        },
        "a body");
    return y.numbers;
  };
  const std::vector<float> alone = run();
  for (uint64_t seed = 0; seed < 5; ++seed) {
    CAPTURE(seed);
    Teams teams(seed);
    CHECK((run() == alone));
    CHECK(teams.defects().empty());
  }
}

TEST_CASE("teams: what all threads write alike is caught, and told from a race of different values") {
  Memory memory;
  const auto alike = defects_of_teams(3, [y = memory.out()](Block&, int64_t b) { y.set(b, 2.0f); });
  REQUIRE(kinds_of(alike) == Kinds{kSameValue});
  CHECK(alike[0].launch == "a body");
  const auto different = defects_of_teams(1, [y = memory.out()](Block& block, int64_t) {
    int64_t last = 0;
    block.for_each(256, [&](int64_t i) { last = i; });
    y.set(0, static_cast<float>(last));
  });
  CHECK(kinds_of(different) == Kinds{kRace});
}

TEST_CASE("teams: what all threads add up outside of for_each is caught") {
  Memory memory;
  const auto found =
      defects_of_teams(1, [x = memory.in(), y = memory.out()](Block&, int64_t) { y.set(3, x[3] + 1.0f); });
  REQUIRE(std::ranges::count(kinds_of(found), kRace) == 1);
}

TEST_CASE("teams: reading what another thread wrote without a barrier between is caught, by plain pointers too") {
  Memory memory;
  float* const y = memory.numbers.data();
  const auto found = defects_of_teams(1, [y](Block& block, int64_t) {
    block.for_each(256, [&](int64_t i) {
      y[i] = static_cast<float>(i);
      y[300 + i] = y[255 - i];
    });
  });
  CHECK(kinds_of(found) == Kinds{kRace});
  const auto with_barrier = defects_of_teams(1, [y](Block& block, int64_t) {
    block.for_each(256, [&](int64_t i) { y[i] = static_cast<float>(i); });
    block.for_each(256, [&](int64_t i) { y[300 + i] = y[255 - i]; });
  });
  CHECK(with_barrier.empty());
}

TEST_CASE("teams: a read of memory that the next for_each overwrites is caught") {
  Memory memory;
  const auto found = defects_of_teams(1, [x = memory.in(), y = memory.out()](Block& block, int64_t) {
    const float scale = x[0];
    block.for_each(600, [&](int64_t i) { y.set(i, scale * static_cast<float>(i)); });
  });
  CHECK(kinds_of(found) == Kinds{kRace});
}

TEST_CASE("teams: blocks of a launch that touch the same element are caught, whichever team takes them") {
  Memory memory;
  for (const int64_t distance : {1, 3}) {
    CAPTURE(distance);
    const auto found = defects_of_teams(4, [x = memory.in(), y = memory.out(), distance](Block& block, int64_t b) {
      block.for_each(1, [&](int64_t) { y.set(b, b < distance ? 1.0f : x[b - distance]); });
    });
    CHECK(kinds_of(found) == Kinds{kRace});
  }
}

TEST_CASE("teams: items of for_each that touch the same element are caught") {
  Memory memory;
  const auto neighbours = defects_of_items(500, [x = memory.in(), y = memory.out()](int64_t i) { y.set(i, x[i + 1]); });
  CHECK(kinds_of(neighbours) == Kinds{kRace});
  const auto sums =
      defects_of_items(500, [x = memory.in(), y = memory.out()](int64_t i) { y.set(i % 7, x[i % 7] + 1.0f); });
  CHECK(std::ranges::count(kinds_of(sums), kRace) == 1);
  // The same thread takes both: in another launch it might not.
  const auto far = defects_of_items(2000, [y = memory.out()](int64_t i) {
    if (i == 5 || i == 5 + 3 * 256) y.set(0, static_cast<float>(i));
  });
  CHECK(kinds_of(far) == Kinds{kRace});
}

TEST_CASE("teams: bytes of one word, and words of one array, are told apart") {
  std::vector<uint8_t> bytes(600);
  const cuda::IntegerOut y{bytes.data(), DType::u8};
  CHECK(defects_of_items(600, [y](int64_t i) { y.set(i, i); }).empty());
  const auto found = defects_of_items(4, [&](int64_t i) {
    if (i == 0) {
      *reinterpret_cast<uint32_t*>(bytes.data() + 4) = 9;
    } else {
      y.set(4 + i, 1 + i);
    }
  });
  CHECK(kinds_of(found) == Kinds{kRace});
}

TEST_CASE("teams: a barrier that some threads do not come to is caught") {
  Memory memory;
  const auto y = memory.out();
  // Thread by thread, so that conditions on it are possible at all.
  const auto leaves = defects_of_teams(2, [y](Block& block, int64_t) {
    bool is_first = false;
    block.for_each(256, [&](int64_t i) { is_first = i == 0; });
    if (is_first) return;
    block.for_each(1, [&](int64_t) { y.set(0, 1.0f); });
  });
  REQUIRE(!leaves.empty());
  CHECK(leaves[0].kind == kDivergence);
  CHECK(leaves[0].text.find("barrier") != std::string::npos);
  const auto parts = defects_of_teams(1, [y](Block& block, int64_t) {
    bool is_even = false;
    block.for_each(256, [&](int64_t i) { is_even = i % 2 == 0; });
    const double sum =
        is_even ? block.sum(10, [](int64_t) { return 1.0; }) : block.sum(10, [](int64_t) { return 2.0; });
    block.for_each(1, [&](int64_t) { y.set(0, static_cast<float>(sum)); });
  });
  CHECK(std::ranges::count(kinds_of(parts), kDivergence) == 1);
  // The next launch is none the worse for it.
  CHECK(defects_of_teams(2, [y](Block& block, int64_t b) {
          block.for_each(1, [&](int64_t) { y.set(b, 1.0f); });
        }).empty());
}

TEST_CASE("teams: a copy onto part of itself is caught") {
  Memory memory;
  Teams teams(kSeed);
  cuda::copy_bytes({}, memory.numbers.data(), memory.numbers.data() + 10, 40);
  CHECK(teams.defects().empty());
  cuda::copy_bytes({}, memory.numbers.data(), memory.numbers.data() + 10, 44);
  CHECK(kinds_of(teams.defects()) == Kinds{Defect::Kind::overlap});
}

TEST_CASE("teams: every kernel gives the bits of one thread without a race, on every sample, in place and in f64 too") {
  uint64_t seed = 0;
  int widened = 0;
  for (const Sample& sample : samples::all_samples()) {
    if (sample.op == OpKind::Transfer) continue;  // transports carry it out
    const std::string name = full_name(sample);
    INFO(name);
    check_teams(sample.op, case_of(sample), ++seed);
    if (!takes_f64(sample)) continue;
    ++widened;
    check_teams(sample.op, case_of(sample, samples::Floats::f64), ++seed);
  }
  CHECK(widened > 200);  // most samples are f32
}

TEST_CASE("teams: what kernels of libraries need of the plugin's own gives the bits of one thread without a race") {
  const auto sample = std::ranges::find_if(samples::all_samples(), [](const Sample& s) {
    return s.op == OpKind::BatchNormalizationTraining && s.outputs == std::vector<bool>(5, true);
  });
  REQUIRE(sample != samples::all_samples().end());
  const Case c = case_of(*sample);
  const cuda::MovingStatistics statistics(node_of(sample->op, c.attributes, c.inputs, c.outputs));
  const auto run = [&] {
    Memory memory;  // mean, variance, and what the batch has of both
    for (size_t i = 0; i < memory.numbers.size(); ++i) memory.numbers[i] = 1.0f / static_cast<float>(i + 1);
    cuda::add_channel_bias({}, memory.numbers.data(), DType::f32, memory.numbers.data() + 400, DType::f32, 400,
                           PlaneOrder({}, Shape{2, 20, 10}));
    const auto at = [&](size_t i) -> void* { return memory.numbers.data() + 100 * i; };
    void* const inputs[] = {nullptr, nullptr, nullptr, at(0), at(1)};
    void* const outputs[] = {nullptr, at(0), at(1), at(2), at(3)};
    cuda::Launch launch;
    launch.inputs = inputs;
    launch.outputs = outputs;
    statistics.run(launch);
    return memory.numbers;
  };
  const std::vector<float> alone = run();
  Teams teams(kSeed);
  CHECK((run() == alone));
  CHECK(teams.defects().empty());
}

TEST_CASE("teams: of many threads that report a fault one is told, with what belongs together") {
  Case c;
  c.attributes.set("axis", int64_t{0});
  std::vector<double> indices;
  for (int i = 0; i < 700; ++i) indices.push_back(100 + i);
  c.inputs = {literal_of(DType::f32, {5}, {1, 2, 3, 4, 5}), literal_of(DType::i64, {700}, indices)};
  c.outputs = infer_types(OpKind::Gather, "faults", c.attributes, types_of(c.inputs), 1);
  Bench bench(OpKind::Gather, std::move(c));
  std::vector<int64_t> reported;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    Teams teams(seed);
    bench.run(&teams, std::byte{0xFF});
    CHECK(teams.text_of(false) == "");
    CHECK(teams.text_of(true) == "");
    CHECK(bench.step().fault == MPC_CUDA_FAULT_INDEX);
    CHECK(bench.step().fault_tag == Bench::kTag);
    CHECK(bench.step().fault_bound == 5);
    CHECK(bench.step().fault_value >= 100);
    reported.push_back(bench.step().fault_value);
  }
  // Which of them it is depends on the order: so orders differ at all.
  CHECK(std::ranges::count(reported, reported[0]) < 4);
}

}  // namespace mpc::test
