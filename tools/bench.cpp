#include <algorithm>
#include <cstdint>
#include <ctime>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/error.h"
#include "compiler/base/file.h"
#include "compiler/base/text.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/console.h"
#include "tools/dataset.h"
#include "tools/options.h"
#include "tools/results.h"

namespace mpc::tools {
namespace {

struct Flags {
  std::string model;
  std::string report;
  int warmup = 3;
  int repetitions = 20;
  bool train = false;
  uint64_t seed = 0;
  DeviceFlags devices;
  ModelFlags reading;
  ShapeFlags shapes;
  SplitFlags split;
  StepFlags stepping;
  TrainingFlags training;
};

constexpr int kTracedSteps = 10;  // whose ops are timed, where steps are replayed

/// The value below which `share` of the sorted values lie (nearest rank).
double percentile(const std::vector<double>& sorted, double share) {
  const size_t rank = static_cast<size_t>(share * static_cast<double>(sorted.size() - 1) + 0.5);
  return sorted[std::min(rank, sorted.size() - 1)];
}

/// Medians over the steps that were measured.
class OpMedians {
 public:
  void add(const std::vector<OpTime>& times) {
    for (const OpTime& time : times) {
      auto& [last, seconds] = of_op_[time.op];
      last = time;
      seconds.push_back(time.seconds);
    }
  }
  /// Largest first.
  std::vector<OpTime> done() const {
    std::vector<OpTime> result;
    for (auto [op, times] : of_op_) {
      std::ranges::sort(times.second);
      times.first.seconds = percentile(times.second, 0.5);
      result.push_back(times.first);
    }
    std::ranges::stable_sort(result, [](const OpTime& a, const OpTime& b) { return a.seconds > b.seconds; });
    return result;
  }

 private:
  std::map<std::string, std::pair<OpTime, std::vector<double>>> of_op_;
};

int bench(const Flags& flags, Console& console) {
  for (const std::string& output : {flags.report, console.json_path}) require_other_file(output, flags.model);
  const Cluster cluster = flags.devices.for_running(console);
  const Model model = flags.reading.load(flags.model);
  CompileOptions options;
  options.bindings = flags.shapes.bindings(model);
  flags.split.apply(cluster, options);
  flags.split.keep_placement(model, cluster, console, options);
  if (flags.train) options.training = flags.training.options();
  const std::optional<Plan> plan = compile_or_report(console, model, cluster, options);
  if (!plan) return exit_code(ErrorId::M050);
  tell_warnings(console, *plan);
  // A step on CUDA devices is replayed as one graph only where nothing within it is timed.
  const bool has_cuda = std::ranges::any_of(plan->devices(), [](const DevicePlan& d) { return d.backend == "cuda"; });
  std::optional<Session> session;
  const auto open_session = [&](bool is_traced) {
    SessionOptions session_options;
    session_options.record_trace = is_traced;
    flags.stepping.apply(session_options);
    session.reset();  // its memory is needed
    session.emplace(*plan, model, session_options);
    for (const TensorInfo& input : plan->inputs()) session->bind(input.name, random_input(input, flags.seed));
  };
  std::vector<double> seconds;
  OpMedians ops_measured;
  // Of all threads: what a busy machine does not distort. Over all steps at once, because the system's account of a
  // thread that runs on another core lags by a tick, which is longer than a short step.
  double cpu_seconds = 0;
  {
    Progress progress(console, "measuring", flags.warmup + flags.repetitions, "steps");
    open_session(!has_cuda);
    std::clock_t cpu_begin = std::clock();
    for (int i = 0; i < flags.warmup + flags.repetitions; ++i) {
      if (i == flags.warmup) cpu_begin = std::clock();
      const StepResult result = session->step();
      if (i >= flags.warmup) {
        seconds.push_back(result.seconds);
        if (!has_cuda) ops_measured.add(session->op_times());
      }
      progress.update(i + 1);
    }
    cpu_seconds = static_cast<double>(std::clock() - cpu_begin) / CLOCKS_PER_SEC / flags.repetitions;
  }
  if (has_cuda) {
    open_session(true);
    for (int i = 0; i < flags.warmup + std::min(flags.repetitions, kTracedSteps); ++i) {
      session->step();
      if (i >= flags.warmup) ops_measured.add(session->op_times());
    }
  }
  std::ranges::sort(seconds);
  const double median = percentile(seconds, 0.5);
  const double p90 = percentile(seconds, 0.9);
  const double p99 = percentile(seconds, 0.99);
  const double rows = static_cast<double>(std::max<int64_t>(1, plan->batch()));
  const Measured measured{median, ops_measured.done()};
  if (!flags.report.empty()) write_file_atomic(flags.report, session->report_html());
  console.say(execution_text(*plan, *session, measured) +
              fmt::format("\n{} steps: median {}, p90 {}, p99 {}; {:.4g} rows/s\n", flags.repetitions,
                          seconds_text(median), seconds_text(p90), seconds_text(p99), median > 0 ? rows / median : 0));
  Json answer = execution_json(*plan, *session, measured);
  answer["repetitions"] = flags.repetitions;
  answer["median_seconds"] = median;
  answer["cpu_seconds"] = cpu_seconds;
  answer["p90_seconds"] = p90;
  answer["p99_seconds"] = p99;
  answer["rows_per_second"] = median > 0 ? rows / median : 0;
  console.json(answer);
  return 0;
}

}  // namespace

Body add_bench(CommandLine& line) {
  auto flags = std::make_shared<Flags>();
  line.option("model", flags->model, "the ONNX file").required().type("MODEL");
  line.option("--warmup", flags->warmup, "steps before measuring").range(0, 1 << 20);
  line.option("--repetitions", flags->repetitions, "steps that are measured").range(1, 1 << 20);
  Flag train = line.flag("--train", flags->train, "measure training steps").group("Training");
  line.option("--seed", flags->seed, "of the random inputs");
  line.option("--report", flags->report, "write the plan and the last step as an HTML page").type("FILE.html");
  flags->training.add(line, train);
  flags->devices.add(line);
  flags->devices.add_profile(line);
  flags->stepping.add(line);
  flags->reading.add(line);
  flags->shapes.add(line);
  flags->split.add(line);
  return [flags](Console& console) { return bench(*flags, console); };
}

}  // namespace mpc::tools
