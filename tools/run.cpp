#include <algorithm>
#include <cstdint>
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
#include "tools/options.h"
#include "tools/results.h"

namespace mpc::tools {
namespace {

struct Flags {
  std::optional<std::string> model;
  std::string plan;
  std::vector<std::string> inputs;
  std::vector<std::string> outputs;
  std::vector<std::string> compares;
  double rtol = 1e-3;
  double atol = 1e-5;
  uint64_t seed = 0;
  bool use_reference = false;
  bool check_finite = false;
  std::string trace;
  std::string report;
  DeviceFlags devices;
  ModelFlags reading;
  ShapeFlags shapes;
  SplitFlags split;
  StepFlags stepping;
  PlanFlags of_plan;
};

/// What --input says: files by input name, and the names (or "" for all others) that get random content.
struct GivenInputs {
  std::map<std::string, Tensor> tensors;
  std::vector<std::string> random;
  bool is_rest_random = false;
};

GivenInputs read_inputs(const Flags& flags) {
  GivenInputs given;
  for (const std::string& text : flags.inputs) {
    if (text == "random") {
      given.is_rest_random = true;
      continue;
    }
    const auto [name, value] = name_and_value("--input", text);
    if (given.tensors.contains(name)) throw Error(ErrorId::M003, "--input " + text, "the input is given twice");
    if (value == "random") {
      given.random.push_back(name);
    } else {
      given.tensors.emplace(name, load_tensor(value));
    }
  }
  return given;
}

/// Binds every input of the plan. @throws Error(M004) naming what is missing or unknown.
void bind_inputs(const GivenInputs& given, const Plan& plan, uint64_t seed, Session& session) {
  const std::vector<TensorInfo> inputs = plan.inputs();
  std::vector<std::string> names;
  for (const TensorInfo& input : inputs) names.push_back(input.name);
  const auto require_known = [&](const std::string& name) {
    if (std::ranges::find(names, name) != names.end()) return;
    const std::optional<std::string> near = nearest(name, names);
    throw Error(ErrorId::M004, "--input " + name, "the model has no such input",
                near ? fmt::format("did you mean {}?", *near) : "");
  };
  for (const auto& [name, tensor] : given.tensors) require_known(name);
  for (const std::string& name : given.random) require_known(name);
  for (const TensorInfo& input : inputs) {
    const auto tensor = given.tensors.find(input.name);
    if (tensor != given.tensors.end()) {
      session.bind(input.name, tensor->second);
    } else if (given.is_rest_random || std::ranges::find(given.random, input.name) != given.random.end()) {
      session.bind(input.name, random_input(input, seed));
    } else {
      throw Error(ErrorId::M004, fmt::format("input \"{}\"", input.name), "has no content",
                  fmt::format("give --input {0}=FILE ({1}{2}) or --input {0}=random", input.name,
                              to_string(input.dtype), shape_text(input.shape)));
    }
  }
}

/// NAME=FILE pairs of --output and --compare. @throws Error(M002) for a name that is no output.
std::vector<std::pair<std::string, std::string>> output_pairs(const char* flag, const std::vector<std::string>& texts,
                                                              const Plan& plan) {
  std::vector<std::string> names;
  for (const TensorInfo& output : plan.outputs()) names.push_back(output.name);
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const std::string& text : texts) {
    auto pair = name_and_value(flag, text);
    if (std::ranges::find(names, pair.first) == names.end()) {
      const std::optional<std::string> near = nearest(pair.first, names);
      throw Error(ErrorId::M002, fmt::format("{} {}", flag, text),
                  fmt::format("the model has no output '{}'", pair.first),
                  near ? fmt::format("did you mean {}?", *near) : "");
    }
    pairs.push_back(std::move(pair));
  }
  return pairs;
}

/// The plan of --plan, or one made for the flags' devices and the inputs' shapes.
std::optional<Plan> find_plan(const Flags& flags, const GivenInputs& given, std::optional<Model>& model,
                              Console& console) {
  if (!flags.plan.empty()) {
    flags.of_plan.refuse("mpc run");
    Plan plan = Plan::load(flags.plan);
    model = flags.reading.load(flags.model.value_or(plan.model_path()));
    return plan;
  }
  if (!flags.model) throw Error(ErrorId::M001, "mpc run", "no model and no --plan is given");
  const Cluster cluster = flags.devices.for_running(console);
  model = flags.reading.load(*flags.model);
  CompileOptions options;
  options.bindings = flags.shapes.bindings(*model);
  flags.split.apply(cluster, options);
  flags.split.keep_placement(*model, cluster, console, options);
  for (const auto& [name, tensor] : given.tensors) options.bindings.input_shapes[name] = tensor.shape;
  return compile_or_report(console, *model, cluster, options);
}

int run(const Flags& flags, Console& console) {
  const GivenInputs given = read_inputs(flags);
  std::optional<Model> model;
  const std::optional<Plan> plan = find_plan(flags, given, model, console);
  if (!plan) return exit_code(ErrorId::M050);
  tell_warnings(console, *plan);
  for (const std::string& path : {flags.trace, flags.report, console.json_path})
    require_other_file(path, model->path());
  const auto outputs = output_pairs("--output", flags.outputs, *plan);
  for (const auto& [name, path] : outputs) require_other_file(path, model->path());
  const auto compares = output_pairs("--compare", flags.compares, *plan);
  std::vector<Tensor> expected;
  for (const auto& [name, path] : compares) expected.push_back(load_tensor(path));

  SessionOptions options;
  options.use_reference = flags.use_reference;
  options.record_trace = true;  // one step: nothing is gained by replaying it as one graph
  options.check_finite = flags.check_finite;
  flags.stepping.apply(options);
  options.seed = flags.seed;
  Session session(*plan, *model, options);
  bind_inputs(given, *plan, flags.seed, session);
  const StepResult result = session.step();

  for (const auto& [name, path] : outputs) save_tensor(path, session.output(name));
  if (!flags.trace.empty()) write_file_atomic(flags.trace, session.trace_json());
  if (!flags.report.empty()) write_file_atomic(flags.report, session.report_html());
  const Measured measured{result.seconds, session.op_times()};
  Json answer = execution_json(*plan, session, measured);
  std::string text = execution_text(*plan, session, measured);
  Json& list = answer["outputs"] = Json::array();
  for (const TensorInfo& output : plan->outputs()) {
    list.push_back({{"name", output.name}, {"dtype", to_string(output.dtype)}, {"shape", output.shape}});
    text +=
        fmt::format("output {} {}{}\n", escaped(output.name, 100), to_string(output.dtype), shape_text(output.shape));
  }
  bool passed = true;
  std::string first_mismatch;
  Json& comparisons = answer["comparisons"] = Json::array();
  for (size_t i = 0; i < compares.size(); ++i) {
    const Difference difference = compare(session.output(compares[i].first), expected[i], flags.rtol, flags.atol);
    comparisons.push_back({{"output", compares[i].first},
                           {"passed", difference.is_equal},
                           {"max_abs_error", difference.max_abs_error},
                           {"max_rel_error", difference.max_rel_error},
                           {"mismatches", difference.mismatches}});
    text += fmt::format("{} {}: largest error {:.3g} absolute, {:.3g} relative\n",
                        difference.is_equal ? "equal" : "DIFFERENT", escaped(compares[i].first, 100),
                        difference.max_abs_error, difference.max_rel_error);
    if (!difference.is_equal && passed)
      first_mismatch = fmt::format("output \"{}\" {}", compares[i].first, difference.first_mismatch);
    passed = passed && difference.is_equal;
  }
  if (!compares.empty()) answer["passed"] = passed;
  console.say(text);
  console.json(answer);
  if (passed) return 0;
  Console errors = console;
  errors.json_path.clear();  // the answer is there already
  errors.report(Error(ErrorId::M090, model->path(), first_mismatch));
  return exit_code(ErrorId::M090);
}

}  // namespace

Body add_run(CommandLine& line) {
  auto flags = std::make_shared<Flags>();
  line.option("model", flags->model, "the ONNX file").type("MODEL");
  line.option("--plan", flags->plan, "a plan that `mpc partition -o` wrote").type("PLAN.json");
  line.option("--input", flags->inputs, "content of an input: .npy, .pb, IDX, or random; `random` alone for all others")
      .type("NAME=FILE|random");
  line.option("--output", flags->outputs, "write an output as .npy").type("NAME=FILE");
  line.option("--compare", flags->compares, "compare an output with a file; a difference ends with code 9")
      .type("NAME=FILE");
  line.option("--rtol", flags->rtol, "relative tolerance of --compare").not_negative();
  line.option("--atol", flags->atol, "absolute tolerance of --compare").not_negative();
  line.option("--seed", flags->seed, "of random inputs");
  line.flag("--reference", flags->use_reference, "one thread and plain kernels: slow, the oracle");
  line.flag("--check-finite", flags->check_finite, "stop at the first NaN or infinity and name its node");
  line.option("--trace", flags->trace, "write the measured step as a trace for Perfetto").type("FILE");
  line.option("--report", flags->report, "write the plan and the measured step as an HTML page").type("FILE.html");
  flags->of_plan.begin(line);
  flags->devices.add(line);
  flags->devices.add_profile(line);
  flags->shapes.add(line);
  flags->split.add(line);
  flags->of_plan.end(line);
  flags->stepping.add(line);
  flags->reading.add(line);
  return [flags](Console& console) {
    if (flags->trace.empty()) flags->trace = console.environment.trace_path;
    return run(*flags, console);
  };
}

}  // namespace mpc::tools
