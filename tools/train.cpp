#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <tuple>
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
#include "tools/signals.h"

namespace mpc::tools {
namespace {

constexpr const char* kSynthetic = "synthetic";

struct Flags {
  std::optional<std::string> model;
  std::string plan;
  std::vector<std::string> data;
  std::string labels;
  std::optional<int64_t> samples;
  std::optional<int64_t> epochs;
  std::optional<int64_t> steps;
  uint64_t seed = 0;
  bool keeps_order = false;
  bool check_finite = false;
  std::string save;
  std::string trace;
  std::string report;
  std::string checkpoint;
  bool resume = false;
  DeviceFlags devices;
  ModelFlags reading;
  ShapeFlags shapes;
  SplitFlags split;
  StepFlags stepping;
  TrainingFlags training;
  PlanFlags of_plan;

  bool is_synthetic() const { return std::ranges::find(data, kSynthetic) != data.end(); }
};

/// @throws Error(M001, M003, M046) for flags that do not go together.
void check_flags(const Flags& flags) {
  if (!flags.checkpoint.empty() || flags.resume) {
    throw Error(ErrorId::M046, flags.resume ? "--resume" : "--checkpoint " + flags.checkpoint,
                "is not supported by this version of mpc", "--save writes the trained model");
  }
  if (flags.data.empty())
    throw Error(ErrorId::M001, "mpc train", "nothing says what to train on",
                "give --data NAME=FILE or --data synthetic");
  if (flags.is_synthetic() && (flags.data.size() > 1 || !flags.labels.empty())) {
    throw Error(ErrorId::M001, "mpc train", "--data synthetic makes up all inputs and the labels",
                "leave out the other --data and --labels");
  }
  if (flags.samples && !flags.is_synthetic())
    throw Error(ErrorId::M001, "mpc train", "--samples belongs to --data synthetic");
}

/// The files of --data and --labels.
DataFiles load_files(const Flags& flags, const Model& model) {
  DataFiles files;
  if (flags.is_synthetic()) return files;
  for (const std::string& text : flags.data) {
    std::string name;
    std::string path = text;
    const std::vector<DeclaredTensor> inputs = model.inputs();
    if (text.find('=') != std::string::npos) {
      std::tie(name, path) = name_and_value("--data", text);
    } else if (inputs.size() == 1) {
      name = inputs.front().name;
    } else {
      throw Error(ErrorId::M003, "--data " + text, fmt::format("the model has {} inputs", inputs.size()),
                  "say which: --data NAME=FILE");
    }
    const bool is_input = std::ranges::find(inputs, name, &DeclaredTensor::name) != inputs.end();
    if (!is_input) throw Error(ErrorId::M004, "--data " + text, fmt::format("the model has no input '{}'", name));
    if (!files.inputs.emplace(name, load_tensor(path)).second)
      throw Error(ErrorId::M003, "--data " + text, "the input is given twice");
  }
  if (!flags.labels.empty()) files.labels = load_tensor(flags.labels);
  return files;
}

/// Symbolic dimensions behind the batch (a sequence length, say) are what the data has.
void bind_dims(const Model& model, const DataFiles& files, Bindings& bindings) {
  for (const DeclaredTensor& input : model.inputs()) {
    const auto file = files.inputs.find(input.name);
    if (file == files.inputs.end() || file->second.shape.size() != input.dims.size()) continue;
    for (size_t axis = 1; axis < input.dims.size(); ++axis) {
      const std::string& dim = input.dims[axis];
      if (!parse_integer(dim) && dim != "?") bindings.dims.emplace(dim, file->second.shape[axis]);
    }
  }
}

struct Run {
  std::vector<double> losses;
  std::vector<double> seconds;  // per step
  bool is_interrupted = false;
  std::optional<Error> unheard;  // what it said could not be written, and it ended for that

  double median_seconds() const {
    if (seconds.empty()) return 0;
    std::vector<double> sorted = seconds;
    std::ranges::nth_element(sorted, sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2));
    return sorted[sorted.size() / 2];
  }
};

/// The training loop: epochs over the rows in a seeded order, one step per batch.
class Trainer {
 public:
  Trainer(const Flags& flags, const Console& console, const Plan& plan, const Dataset& data, Session& session)
      : flags_(flags),
        console_(console),
        data_(data),
        session_(session),
        batch_(std::max<int64_t>(1, plan.batch())),
        steps_per_epoch_(data.rows() / batch_) {
    if (steps_per_epoch_ == 0) {
      throw Error(ErrorId::M004, "--data", fmt::format("has {} rows, a step needs {}", data.rows(), batch_),
                  "lower --batch");
    }
    if (data.rows() % batch_ != 0) {
      console.note(fmt::format("each epoch leaves out {} of {} rows: a step takes {}", data.rows() % batch_,
                               data.rows(), batch_));
    }
    total_steps_ = flags.steps ? *flags.steps : flags.epochs.value_or(1) * steps_per_epoch_;
  }

  Run train() {
    const DeferInterrupts deferred;
    Progress progress(console_, "training", total_steps_ * batch_, "samples");
    for (int64_t step = 0; step < total_steps_ && !run_.is_interrupted && !run_.unheard; ++step) {
      one_step(step, progress);
      run_.is_interrupted = DeferInterrupts::pending() != 0;
    }
    progress.clear();
    if (!run_.is_interrupted) tell([&] { console_.say("Training finished.\n"); });
    return std::move(run_);
  }

 private:
  void one_step(int64_t step, Progress& progress) {
    const int64_t epoch = step / steps_per_epoch_;
    const int64_t place = step % steps_per_epoch_;
    if (place == 0) start_epoch(epoch);
    data_.bind(std::span(order_).subspan(static_cast<size_t>(place * batch_), static_cast<size_t>(batch_)), session_);
    const StepResult result = session_.step();
    if (!std::isfinite(result.loss)) {
      throw Error(ErrorId::M091, fmt::format("step {}", step + 1),
                  fmt::format("the loss is {}", number_text(result.loss)),
                  "lower the learning rate; --check-finite names the node that made it");
    }
    run_.losses.push_back(result.loss);
    run_.seconds.push_back(result.seconds);
    epoch_loss_ += result.loss;
    progress.update((step + 1) * batch_, fmt::format("loss {:.4f}", result.loss));
    tell([&] { say_progress(step, epoch, place, result.loss, progress); });
  }

  // What was trained is saved even if nobody listens any more.
  template <class F>
  void tell(F&& f) {
    try {
      f();
    } catch (const Error& error) {
      if (!run_.unheard) run_.unheard = error;
    }
  }

  void start_epoch(int64_t epoch) {
    epoch_loss_ = 0;
    if (!flags_.keeps_order) {
      order_ = shuffled_rows(data_.rows(), flags_.seed, epoch);
    } else if (order_.empty()) {
      order_.resize(static_cast<size_t>(data_.rows()));
      std::iota(order_.begin(), order_.end(), int64_t{0});
    }
  }

  void say_progress(int64_t step, int64_t epoch, int64_t place, double loss, Progress& progress) {
    if (console_.is_verbose) {
      progress.clear();
      console_.say(fmt::format("Step [{}/{}], Loss: {:.4f}\n", step + 1, total_steps_, loss));
    }
    if (place + 1 == steps_per_epoch_) {
      progress.clear();
      const int64_t epochs = (total_steps_ + steps_per_epoch_ - 1) / steps_per_epoch_;
      console_.say(fmt::format("Epoch [{}/{}], Loss: {:.4f}\n", epoch + 1, epochs,
                               epoch_loss_ / static_cast<double>(steps_per_epoch_)));
    } else if (step + 1 == total_steps_ && !console_.is_verbose) {
      progress.clear();
      console_.say(fmt::format("Step [{}/{}], Loss: {:.4f}\n", step + 1, total_steps_, loss));
    }
  }

  const Flags& flags_;
  const Console& console_;
  const Dataset& data_;
  Session& session_;
  int64_t batch_;
  int64_t steps_per_epoch_;
  int64_t total_steps_ = 0;
  std::vector<int64_t> order_;
  double epoch_loss_ = 0;
  Run run_;
};

std::optional<Plan> find_plan(const Flags& flags, const Model& model, const DataFiles& files, Console& console) {
  if (!flags.plan.empty()) {
    flags.of_plan.refuse("mpc train");
    Plan plan = Plan::load(flags.plan);
    if (!plan.is_training())
      throw Error(ErrorId::M004, flags.plan, "is a plan for inference", "partition with --train");
    return plan;
  }
  const Cluster cluster = flags.devices.for_running(console);
  CompileOptions options;
  options.bindings = flags.shapes.bindings(model);
  bind_dims(model, files, options.bindings);
  flags.split.apply(cluster, options);
  flags.split.keep_placement(model, cluster, console, options);
  options.training = flags.training.options();
  return compile_or_report(console, model, cluster, options);
}

std::string model_path(const Flags& flags) {
  if (flags.model) return *flags.model;
  if (flags.plan.empty()) throw Error(ErrorId::M001, "mpc train", "no model and no --plan is given");
  return Plan::load(flags.plan).model_path();
}

int train(const Flags& flags, Console& console) {
  check_flags(flags);
  const std::string path = model_path(flags);
  for (const std::string& output : {flags.save, flags.trace, flags.report, console.json_path})
    require_other_file(output, path);
  // Where nothing can be written is found out before the work, not after it.
  if (!flags.save.empty()) AtomicFile probe(flags.save);
  const Model model = flags.reading.load(path);
  const DataFiles files = load_files(flags, model);
  const std::optional<Plan> plan = find_plan(flags, model, files, console);
  if (!plan) return exit_code(ErrorId::M050);
  tell_warnings(console, *plan);
  constexpr int64_t kDefaultBatches = 10;
  const int64_t batch = std::max<int64_t>(1, plan->batch());
  const Dataset data = flags.is_synthetic()
                           ? Dataset::synthetic(*plan, flags.samples.value_or(kDefaultBatches * batch), flags.seed)
                           : Dataset::from_files(files, *plan);
  SessionOptions options;
  options.seed = flags.seed;
  options.record_trace = !flags.trace.empty() || !flags.report.empty() || records_for_free(*plan);
  options.check_finite = flags.check_finite;
  flags.stepping.apply(options);
  Session session(*plan, model, options);
  const Run run = Trainer(flags, console, *plan, data, session).train();
  if (run.unheard) {
    if (flags.save.empty()) throw Error(*run.unheard);
    session.save_model(flags.save);
    throw Error(run.unheard->id(), run.unheard->where(), run.unheard->what_happened(),
                fmt::format("{} holds the weights after {} steps", escaped(flags.save), session.steps_done()));
  }
  if (!flags.trace.empty() && !run.losses.empty()) write_file_atomic(flags.trace, session.trace_json());
  if (!flags.report.empty() && !run.losses.empty()) write_file_atomic(flags.report, session.report_html());
  if (!flags.save.empty()) {
    session.save_model(flags.save);
    console.say(fmt::format("saved to {} after {} steps\n", escaped(flags.save), session.steps_done()));
  }
  const Measured measured{run.median_seconds(), session.op_times()};
  console.detail(execution_text(*plan, session, measured));
  // Not with the losses, which are the same on any number of devices.
  if (!console.is_verbose && !run.losses.empty()) console.note(execution_summary(*plan, session, measured));
  Json answer = execution_json(*plan, session, measured);
  answer["loss"] = run.losses;
  answer["steps"] = session.steps_done();
  answer["interrupted"] = run.is_interrupted;
  console.json(answer);
  if (!run.is_interrupted) return 0;
  Console errors = console;
  errors.json_path.clear();  // the answer is there already
  errors.report(Error(ErrorId::M130, path, fmt::format("interrupted after {} steps", session.steps_done()),
                      flags.save.empty() ? "" : flags.save + " holds the weights so far"));
  constexpr int kSignalExitBase = 128;
  return kSignalExitBase + DeferInterrupts::pending();
}

}  // namespace

Body add_train(CommandLine& line) {
  auto flags = std::make_shared<Flags>();
  constexpr int64_t kMost = int64_t{1} << 40;  // products of two such numbers still are numbers of rows
  line.option("model", flags->model, "the ONNX file").type("MODEL");
  line.option("--plan", flags->plan, "a plan that `mpc partition --train -o` wrote").type("PLAN.json");
  line.option("--data", flags->data, "content of an input (.npy, IDX, .pb), rows in dimension 0; or `synthetic`")
      .type("NAME=FILE|synthetic")
      .group("Data");
  line.option("--labels", flags->labels, "the labels or targets").type("FILE").group("Data");
  line.option("--samples", flags->samples, "rows of --data synthetic (default: ten batches)")
      .range(1, kMost)
      .group("Data");
  Flag epochs = line.option("--epochs", flags->epochs, "passes over the data").range(1, kMost).group("Data");
  line.option("--steps", flags->steps, "steps, instead of epochs").range(1, kMost).excludes(epochs).group("Data");
  line.option("--seed", flags->seed, "of shuffling, dropout and synthetic data").group("Data");
  line.flag("--keep-order", flags->keeps_order, "visit the rows in the order of the file").group("Data");
  flags->of_plan.begin(line);
  flags->training.add(line);
  flags->devices.add(line);
  flags->devices.add_profile(line);
  flags->shapes.add(line);
  flags->split.add(line);
  flags->of_plan.end(line);
  flags->stepping.add(line);
  flags->reading.add(line);
  line.flag("--check-finite", flags->check_finite, "stop at the first NaN or infinity and name its node");
  line.option("--save", flags->save, "write the trained model; after Ctrl-C too").type("OUT.onnx").group("Results");
  line.option("--trace", flags->trace, "write the last step as a trace for Perfetto").type("FILE").group("Results");
  line.option("--report", flags->report, "write the plan and the last step as an HTML page")
      .type("FILE.html")
      .group("Results");
  line.option("--checkpoint", flags->checkpoint, "not supported by this version").type("DIR").group("");
  line.flag("--resume", flags->resume, "not supported by this version").group("");
  return [flags](Console& console) {
    if (flags->trace.empty()) flags->trace = console.environment.trace_path;
    return train(*flags, console);
  };
}

}  // namespace mpc::tools
