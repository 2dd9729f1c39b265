// How well two CPU devices work at the same time: training steps in micro-batches, measured on two devices and on one.
//
//   pipeline_bench OUT.json PROFILE [STEPS [MODEL...]]
//
// Stages are balanced by PROFILE: a file of `mpc profile`, "models" to time the nodes of every model before its row, as
// `mpc profile --model` does, or - for the built-in rates of a CPU.
// One thread per device; nothing else may use the machine's cores. Plans of one device and of two take turns. On a
// machine that others share, cores lose up to half of their speed for seconds: each figure is the median over the
// fastest quarter of STEPS steps. Per model, number of micro-batches and schedule:
//   speed_up          step on one device over step on two
//   machine_speed_up  2 for cores that do not disturb each other: twice the step on one device over that step while
//                     another session takes the same steps beside it
//   overlap_seconds   time in which both devices run a node
//   bubble            idle share of the two devices from the start of the first node to the end of the last, measured
//   replayed_bubble   the same from the simulator, given the time that every instruction took in that step
//   simulated_bubble  the same from the simulator, given the median time of every node and transfer
//   predicted_bubble  the same from the simulator with the cost model's times
//   outside_seconds   the rest of the step: waking the devices' threads and the caller

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include <unistd.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/reference_evaluator.h"
#include "compiler/base/file.h"
#include "compiler/base/json.h"
#include "compiler/base/random.h"
#include "compiler/cost/profile.h"
#include "compiler/onnx/model.h"
#include "compiler/plan/simulate.h"
#include "executor/session.h"
#include "models/zoo.h"
#include "mpc/profile.h"
#include "passes/pipeline.h"

namespace mpc {
namespace {

struct Case {
  std::string model;
  int64_t batch = 0;
  std::map<std::string, int64_t> sizes = {};
  LossKind loss = LossKind::cross_entropy;
  std::string loss_output = {};
  int64_t integer_bound = 2;  // labels and tokens
};

constexpr int kWarmUp = 3;
constexpr int kMicrobatches[] = {1, 2, 4, 8, 16};
constexpr ScheduleKind kSchedules[] = {ScheduleKind::one_f_one_b, ScheduleKind::automatic};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values.empty() ? 0 : values[values.size() / 2];
}

std::string sample_model(const Case& c, const std::filesystem::path& folder) {
  zoo::Options options;
  options.batch = c.batch;
  options.sizes = c.sizes;
  const std::string path = (folder / (c.model + ".onnx")).string();
  zoo::write(c.model, options, path);
  return path;
}

/// One-thread CPU devices.
Cluster cpu_devices(int devices, const std::optional<Profile>& profile) {
  Cluster cluster = parse_devices(fmt::format("cpu:{}", devices), "h100-80g");
  for (Device& device : cluster.devices) device.threads = 1;
  if (profile) apply_profile(*profile, "the profile", cluster);
  return cluster;
}

/// Of the nodes of a model, for micro-batches of so many rows.
Profile profile_of(const std::string& path, int64_t rows) {
  v1::ProfileModel model{v1::Model::load(path), {}, true, "f32", "sgd"};
  model.bindings.batch = rows;
  return parse_profile(v1::Profile::measure(v1::Cluster::devices("cpu:2"), {model}).json(), "the profile");
}

Plan plan_of(const onnx_io::Model& model, const Case& c, const Cluster& cluster, int microbatches,
             ScheduleKind schedule) {
  PlanOptions options;
  options.train = true;
  options.loss = c.loss;
  options.loss_output = c.loss_output;
  options.optimizer.optimizer = parse_optimizer("sgd,lr=0.001");
  options.microbatches = microbatches;
  options.schedule = schedule;
  return std::get<Plan>(make_plan(model, cluster, options, ReferenceEvaluator()));
}

/// A session with random data of its own.
class Run {
 public:
  Run(const Plan& plan, const onnx_io::Model& model, int64_t integer_bound)
      : session_(plan, model.weights(), options()) {
    for (const PlanInput& input : plan.inputs) {
      if (input.role == PlanInput::Role::step || input.role == PlanInput::Role::learning_rate_scale) continue;
      const PlanValue& value = plan.values[input.value];
      Shape shape = value.shapes[0];
      if (input.is_batched) shape.set(0, plan.batch);
      std::vector<std::byte>& bytes = data_.emplace_back(static_cast<size_t>(byte_size(shape, value.dtype)));
      const auto width = static_cast<size_t>(dtype_bytes(value.dtype));
      uint64_t state = 0;
      for (size_t i = 0; i < bytes.size(); i += width) {
        const uint64_t word = mix_bits(++state);
        if (value.dtype == DType::i64) {
          write_integer(value.dtype, &bytes[i], static_cast<int64_t>(word % static_cast<uint64_t>(integer_bound)));
        } else {
          write_number(value.dtype, &bytes[i], 2.0 * unit_float(static_cast<uint32_t>(word)) - 1.0);
        }
      }
      session_.bind(input.name, value.dtype, shape, bytes);
    }
  }

  double step() { return session_.step().seconds; }
  const std::vector<executor::MeasuredEntry>& measured() const { return session_.measured(); }

 private:
  static executor::SessionOptions options() {
    executor::SessionOptions options;
    options.record_timeline = true;
    return options;
  }

  executor::Session session_;
  std::vector<std::vector<std::byte>> data_;
};

/// Seconds per step of two sessions that work at the same time.
std::vector<double> steps_side_by_side(Run& first, Run& second, int steps) {
  std::vector<double> seconds;
  std::atomic<bool> is_over = false;
  std::thread neighbour([&] {
    while (!is_over) second.step();
  });
  for (int i = 0; i < steps; ++i) seconds.push_back(first.step());
  is_over = true;
  neighbour.join();
  return seconds;
}

/// Positions of the fastest quarter.
std::vector<size_t> fastest_of(const std::vector<double>& seconds) {
  std::vector<size_t> order(seconds.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) { return seconds[i]; });
  order.resize((order.size() + 3) / 4);
  return order;
}

/// The measured nodes of a step.
struct StepTimes {
  double busy_s = 0;
  double overlap_s = 0;
  double first_start_s = std::numeric_limits<double>::max();
  double last_end_s = 0;
};

StepTimes times_of(const Plan& plan, const std::vector<executor::MeasuredEntry>& entries) {
  StepTimes times;
  std::vector<std::pair<double, double>> of_device[2];
  for (const executor::MeasuredEntry& entry : entries) {
    const Instruction& instruction = plan.instructions[entry.instruction];
    times.first_start_s = std::min(times.first_start_s, entry.start_s);
    times.last_end_s = std::max(times.last_end_s, entry.end_s);
    if (instruction.action != Action::run) continue;
    times.busy_s += entry.end_s - entry.start_s;
    of_device[plan.nodes[instruction.index].device.index()].push_back({entry.start_s, entry.end_s});
  }
  for (auto& runs : of_device) std::ranges::sort(runs);
  size_t first = 0;  // of the second device: earlier ones ended before the runs still to come
  for (const auto& [start_s, end_s] : of_device[0]) {
    while (first < of_device[1].size() && of_device[1][first].second <= start_s) ++first;
    for (size_t i = first; i < of_device[1].size() && of_device[1][i].first < end_s; ++i)
      times.overlap_s += std::min(end_s, of_device[1][i].second) - std::max(start_s, of_device[1][i].first);
  }
  return times;
}

/// The plan with what was measured, per node and transfer, instead of what the cost model says.
Plan with_measured_times(Plan plan, const std::vector<std::vector<executor::MeasuredEntry>>& steps) {
  std::map<PlanIndex, std::vector<double>> of_node;
  std::map<PlanIndex, std::vector<double>> of_transfer;
  for (const auto& entries : steps) {
    for (const executor::MeasuredEntry& entry : entries) {
      const Instruction& instruction = plan.instructions[entry.instruction];
      if (instruction.action == Action::run) of_node[instruction.index].push_back(entry.end_s - entry.start_s);
      if (instruction.action == Action::recv) of_transfer[instruction.index].push_back(entry.end_s - entry.start_s);
    }
  }
  for (auto& [node, seconds] : of_node) plan.nodes[node].seconds = {median(std::move(seconds))};
  for (auto& [transfer, seconds] : of_transfer) plan.transfers[transfer].seconds = {median(std::move(seconds))};
  return plan;
}

/// [instruction]; 0 for what was not measured.
std::vector<double> seconds_of(const Plan& plan, const std::vector<executor::MeasuredEntry>& entries) {
  std::vector<double> seconds(plan.instructions.size(), 0);
  for (const executor::MeasuredEntry& entry : entries) seconds[entry.instruction] = entry.end_s - entry.start_s;
  return seconds;
}

nlohmann::ordered_json measure(const onnx_io::Model& model, const Case& c, const std::optional<Profile>& profile,
                               int microbatches, ScheduleKind schedule, int steps) {
  const Plan one = plan_of(model, c, cpu_devices(1, profile), microbatches, ScheduleKind::automatic);
  const Plan two = plan_of(model, c, cpu_devices(2, profile), microbatches, schedule);
  Run on_one(one, model, c.integer_bound);
  Run on_two(two, model, c.integer_bound);
  for (int i = 0; i < kWarmUp; ++i) {
    on_one.step();
    on_two.step();
  }
  std::vector<double> all_one_s;
  std::vector<double> all_two_s;
  std::vector<std::vector<executor::MeasuredEntry>> all_measured;
  for (int i = 0; i < steps; ++i) {
    all_one_s.push_back(on_one.step());
    all_two_s.push_back(on_two.step());
    all_measured.push_back(on_two.measured());
  }
  const auto fastest_median = [](const std::vector<double>& all) {
    std::vector<double> fastest;
    for (const size_t i : fastest_of(all)) fastest.push_back(all[i]);
    return median(std::move(fastest));
  };
  const double one_s = fastest_median(all_one_s);
  Run beside(one, model, c.integer_bound);
  beside.step();
  const double side_by_side_s = fastest_median(steps_side_by_side(on_one, beside, steps));
  std::vector<double> two_s;
  std::vector<double> bubble;
  std::vector<double> replayed;
  std::vector<double> overlap_s;
  std::vector<double> outside;
  std::vector<std::vector<executor::MeasuredEntry>> measured;
  for (const size_t i : fastest_of(all_two_s)) {
    two_s.push_back(all_two_s[i]);
    measured.push_back(all_measured[i]);
    const StepTimes times = times_of(two, measured.back());
    const double span_s = times.last_end_s - times.first_start_s;
    bubble.push_back(1 - times.busy_s / (2 * span_s));
    replayed.push_back(replay(two, seconds_of(two, measured.back())).bubble);
    overlap_s.push_back(times.overlap_s);
    outside.push_back(two_s.back() - span_s);
  }
  return {{"model", c.model},
          {"batch", c.batch},
          {"microbatches", microbatches},
          {"schedule", two.schedule},
          {"one_device_seconds", one_s},
          {"two_devices_seconds", median(two_s)},
          {"speed_up", one_s / median(two_s)},
          {"machine_speed_up", 2 * one_s / side_by_side_s},
          {"overlap_seconds", median(overlap_s)},
          {"bubble", median(bubble)},
          {"replayed_bubble", median(replayed)},
          {"simulated_bubble", simulate(with_measured_times(two, measured)).bubble},
          {"predicted_bubble", two.bubble},
          {"outside_seconds", median(outside)},
          {"predicted_seconds", two.step_seconds}};
}

int run(const std::string& output, const std::string& profile, int steps, const std::vector<std::string>& models) {
  const std::vector<Case> cases = {
      {.model = "two-linear", .batch = 64, .loss = LossKind::mse},
      {.model = "mlp", .batch = 512, .sizes = {{"hidden", 1024}}, .integer_bound = 10},
      {.model = "resnet18", .batch = 32, .sizes = {{"image", 64}, {"width", 32}}, .integer_bound = 10},
      {.model = "bert-base",
       .batch = 32,
       .sizes = {{"layers", 4}, {"hidden", 256}, {"heads", 4}, {"vocab", 1000}, {"sequence", 64}},
       .loss = LossKind::mse},
      {.model = "gpt2",
       .batch = 32,
       .sizes = {{"layers", 6}, {"hidden", 256}, {"heads", 4}, {"vocab", 256}, {"sequence", 64}},
       .integer_bound = 256},
  };
  std::filesystem::path folder =
      std::filesystem::temp_directory_path() / fmt::format("mpc_pipeline_bench_{}", getpid());
  std::filesystem::create_directories(folder);
  const bool by_models = profile == "models";
  std::optional<Profile> rates;
  if (!by_models && profile != "-") rates = parse_profile(read_text_file(profile, kMaxJsonBytes), profile);
  nlohmann::ordered_json answer = {{"cores", std::thread::hardware_concurrency()},
                                   {"steps", steps},
                                   {"profile", by_models        ? "of each model"
                                               : profile == "-" ? "none"
                                                                : "of samples"}};
  for (const Case& c : cases) {
    if (!models.empty() && std::ranges::find(models, c.model) == models.end()) continue;
    const std::string path = sample_model(c, folder);
    const onnx_io::Model model = onnx_io::Model::load(path);
    for (const int microbatches : kMicrobatches) {
      if (by_models) rates = profile_of(path, c.batch / microbatches);
      for (const ScheduleKind schedule : kSchedules) {
        if (microbatches == 1 && schedule != ScheduleKind::automatic) continue;
        const nlohmann::ordered_json row = measure(model, c, rates, microbatches, schedule, steps);
        fmt::print(
            "{:<12} {:>2} micro-batches, {:<10}: {:8.3f} ms on one, {:8.3f} ms on two, speed-up {:.2f} of {:.2f}; "
            "bubble {:.3f}, replayed {:.3f}, simulated {:.3f}, predicted {:.3f}; overlap {:.3f} ms\n",
            c.model, microbatches, row["schedule"].get<std::string>(), row["one_device_seconds"].get<double>() * 1e3,
            row["two_devices_seconds"].get<double>() * 1e3, row["speed_up"].get<double>(),
            row["machine_speed_up"].get<double>(), row["bubble"].get<double>(), row["replayed_bubble"].get<double>(),
            row["simulated_bubble"].get<double>(), row["predicted_bubble"].get<double>(),
            row["overlap_seconds"].get<double>() * 1e3);
        std::fflush(stdout);
        answer["rows"].push_back(row);
      }
    }
  }
  std::filesystem::remove_all(folder);
  std::ofstream(output) << answer.dump(1) << '\n';
  return 0;
}

}  // namespace
}  // namespace mpc

int main(int argc, char** argv) {
  const int steps = argc > 3 ? std::atoi(argv[3]) : 50;
  if (argc < 3 || steps < 1) {
    fmt::print(stderr, "usage: pipeline_bench OUT.json PROFILE|models|- [STEPS [MODEL...]]\n");
    return 2;
  }
  return mpc::run(argv[1], argv[2], steps, {argv + std::min(argc, 4), argv + argc});
}
