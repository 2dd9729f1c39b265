#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <regex>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/console.h"
#include "tools/options.h"
#include "tools/results.h"
#include "tools/verification.h"

namespace mpc::tools {
namespace {

namespace fs = std::filesystem;

struct Flags {
  std::optional<std::string> model;
  std::string test_data;
  std::string suite;
  std::string filter;
  double rtol = 1e-3;
  double atol = 1e-5;
  bool use_reference = false;
  DeviceFlags devices;
  ModelFlags reading;
  ShapeFlags shapes;
  SplitFlags split;
  StepFlags stepping;
};

VerifyOptions verify_options(const Flags& flags, const Cluster& cluster, Bindings bindings) {
  VerifyOptions options;
  options.bindings = std::move(bindings);
  flags.split.apply(cluster, options.compile);
  options.session.use_reference = flags.use_reference;
  flags.stepping.apply(options.session);
  options.rtol = flags.rtol;
  options.atol = flags.atol;
  return options;
}

int verify_model(const Flags& flags, Console& console) {
  if (!flags.model || flags.test_data.empty()) {
    throw Error(ErrorId::M001, "mpc verify", "a model and its test data are needed",
                "mpc verify MODEL --test-data DIR, or mpc verify --suite DIR");
  }
  require_other_file(console.json_path, *flags.model);
  const Cluster cluster = flags.devices.for_running(console);
  const Model model = flags.reading.load(*flags.model);
  VerifyOptions options = verify_options(flags, cluster, flags.shapes.bindings(model));
  flags.split.keep_placement(model, cluster, console, options.compile);
  const std::vector<std::string> sets = data_sets(flags.test_data);
  Json answer;
  std::string text;
  Verdict worst;
  for (const std::string& set : sets) {
    const Verdict verdict =
        verify_set(model, set, cluster, options, [&](const Session& session, const StepResult& result) {
          answer = execution_json(session.plan(), session, {result.seconds});
          text = execution_text(session.plan(), session, {result.seconds});
        });
    console.say(fmt::format("{} {}: largest error {:.3g} absolute, {:.3g} relative\n",
                            verdict.passed ? "passed" : "FAILED", escaped(set), verdict.max_abs_error,
                            verdict.max_rel_error));
    if (!verdict.without_file.empty()) {
      console.note(fmt::format("{}: nothing to compare {} output(s) with: {}", set, verdict.without_file.size(),
                               fmt::join(verdict.without_file, ", ")));
    }
    if (worst.passed && !verdict.passed) worst.first_mismatch = verdict.first_mismatch;
    worst.passed = worst.passed && verdict.passed;
    worst.max_abs_error = std::max(worst.max_abs_error, verdict.max_abs_error);
    worst.max_rel_error = std::max(worst.max_rel_error, verdict.max_rel_error);
  }
  console.detail(text);
  answer["passed"] = worst.passed;
  answer["data_sets"] = sets.size();
  answer["max_abs_error"] = worst.max_abs_error;
  answer["max_rel_error"] = worst.max_rel_error;
  console.json(answer);
  if (worst.passed) return 0;
  Console errors = console;
  errors.json_path.clear();  // the answer is there already
  errors.report(Error(ErrorId::M090, *flags.model, worst.first_mismatch));
  return exit_code(ErrorId::M090);
}

/// Folders below `root` that hold a model.onnx, in order of names. @throws Error(M010, M003).
std::vector<std::string> suite_cases(const std::string& root, const std::string& filter) {
  std::optional<std::regex> pattern;
  try {
    if (!filter.empty()) pattern.emplace(filter);
  } catch (const std::regex_error& error) {
    throw Error(ErrorId::M003, "--filter " + filter, error.what());
  }
  std::vector<std::string> cases;
  std::error_code code;
  for (fs::recursive_directory_iterator entry(root, code), end; !code && entry != end; entry.increment(code)) {
    if (entry->path().filename() != "model.onnx") continue;
    const std::string folder = entry->path().parent_path().string();
    if (!pattern || std::regex_search(folder, *pattern)) cases.push_back(folder);
  }
  if (code) throw Error(ErrorId::M010, root, code.message());
  std::ranges::sort(cases);
  return cases;
}

struct SuiteResult {
  std::string name;
  std::string state;  // "passed", "failed", "unsupported", "error"
  std::string reason;
};

SuiteResult run_case(const std::string& folder, const Flags& flags, const Cluster& cluster,
                     const VerifyOptions& options) {
  SuiteResult result{fs::path(folder).filename().string(), "passed", ""};
  constexpr int kUnsupported = 4;
  try {
    const Model model = flags.reading.load(folder + "/model.onnx");
    // A value that is not a tensor (a sequence, a string) makes the case unsupported whatever its files hold.
    for (const auto& values : {model.inputs(), model.outputs()}) {
      for (const DeclaredTensor& value : values) {
        if (value.dtype.empty())
          throw Error(ErrorId::M041, fmt::format("value \"{}\"", value.name),
                      "is of a type that mpc has no tensors of");
      }
    }
    for (const std::string& set : data_sets(folder)) {
      const Verdict verdict = verify_set(model, set, cluster, options);
      if (verdict.passed) continue;
      result.state = "failed";
      result.reason = verdict.first_mismatch;
      break;
    }
  } catch (const Error& error) {
    result.state = error.code() == kUnsupported ? "unsupported" : "error";
    result.reason = fmt::format("[{}] {}", error_name(error.id()), error.what());
  }
  return result;
}

int verify_suite(const Flags& flags, Console& console) {
  const Cluster cluster = flags.devices.for_running(console);
  const VerifyOptions options = verify_options(flags, cluster, flags.shapes.bindings());
  const std::vector<std::string> cases = suite_cases(flags.suite, flags.filter);
  if (cases.empty()) throw Error(ErrorId::M010, flags.suite, "holds no folder with a model.onnx");
  std::map<std::string, int64_t> counts = {{"passed", 0}, {"failed", 0}, {"unsupported", 0}, {"error", 0}};
  Json list = Json::array();
  {
    Progress progress(console, "verifying", static_cast<int64_t>(cases.size()), "cases");
    for (const std::string& folder : cases) {
      const SuiteResult result = run_case(folder, flags, cluster, options);
      ++counts[result.state];
      list.push_back({{"name", result.name}, {"state", result.state}, {"reason", result.reason}});
      const std::string line = fmt::format("{:<12}{}  {}\n", result.state, result.name, escaped(result.reason, 200));
      if (result.state == "failed" || result.state == "error") {
        progress.clear();
        console.say(line);
      } else {
        if (console.is_verbose) progress.clear();
        console.detail(line);
      }
      progress.update(static_cast<int64_t>(list.size()), result.name);
    }
  }
  console.say(fmt::format("{} cases: {} passed, {} failed, {} errors, {} unsupported\n", cases.size(), counts["passed"],
                          counts["failed"], counts["error"], counts["unsupported"]));
  const bool passed = counts["failed"] == 0 && counts["error"] == 0;
  console.json({{"passed", passed}, {"counts", counts}, {"cases", list}});
  return passed ? 0 : exit_code(ErrorId::M090);
}

}  // namespace

Body add_verify(CommandLine& line) {
  auto flags = std::make_shared<Flags>();
  line.option("model", flags->model, "the ONNX file").type("MODEL");
  line.option("--test-data", flags->test_data,
              "a folder with input_<i>.pb and output_<i>.pb (or .npy), or with test_data_set_<n> folders")
      .type("DIR");
  Flag suite =
      line.option("--suite", flags->suite, "verify every folder below that has a model.onnx and test data").type("DIR");
  line.option("--filter", flags->filter, "of --suite only folders whose path matches").type("REGEX").needs(suite);
  flags->stepping.add(line);
  line.option("--rtol", flags->rtol, "relative tolerance").not_negative();
  line.option("--atol", flags->atol, "absolute tolerance").not_negative();
  line.flag("--reference", flags->use_reference, "one thread and plain kernels");
  flags->devices.add(line);
  flags->devices.add_profile(line);
  flags->reading.add(line);
  flags->shapes.add(line);
  flags->split.add(line);
  return [flags](Console& console) {
    return flags->suite.empty() ? verify_model(*flags, console) : verify_suite(*flags, console);
  };
}

}  // namespace mpc::tools
