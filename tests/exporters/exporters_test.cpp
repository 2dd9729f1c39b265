// Models as torch.onnx writes them, by both of its exporters: mpc computes with them what ONNX Runtime does, trains
// them as PyTorch does, and splitting them changes no bit. make_models.py says what they are and what is stored.

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "api/reference_evaluator.h"
#include "compiler/base/npy.h"
#include "tests/e2e/cli.h"
#include "tests/goldens/goldens.h"
#include "tests/support/run_plan.h"

namespace mpc::test {
namespace {

const std::string kData = std::string(MPC_SOURCE_DIR) + "/tests/exporters/data/";
constexpr int64_t kRows = 3;  // of test_data_set_0

struct Exported {
  std::string name;
  std::string input;
  std::map<std::string, int64_t> dims = {};  // symbols beside the batch
};
const std::vector<Exported> kExported = {{"gpt-dynamo", "ids"},
                                         {"gpt-dynamo-fixed", "ids"},
                                         {"gpt-dynamo-23", "ids", {{"sequence", 12}}},
                                         {"gpt-torchscript", "ids", {{"sequence", 12}}},
                                         {"encoder-dynamo", "ids"},
                                         {"encoder-torchscript", "ids"},
                                         {"cnn-dynamo", "x"},
                                         {"cnn-torchscript", "x"},
                                         {"gram-dynamo", "x"},
                                         {"gram-torchscript", "x"},
                                         {"gru-dynamo", "ids"},
                                         {"gru-torchscript", "ids"},
                                         {"attention-jax", "in_0"},
                                         {"cnn-training", "x"}};

std::string input_of(const Exported& exported) {
  return kData + exported.name + "/test_data_set_0/input_0.pb";
}
std::string labels_of(const Exported& exported) {
  return kData + exported.name + "/labels.npy";
}

/// What `mpc train` is called with to do what make_models.py did.
std::vector<std::string> train_command(const Exported& exported) {
  return {"train",       kData + exported.name + "/model.onnx",
          "--data",      exported.input + "=" + input_of(exported),
          "--labels",    labels_of(exported),
          "--batch",     std::to_string(kRows),
          "--steps",     "2",
          "--optimizer", "sgd,lr=0.1",
          "--keep-order"};
}

TEST_CASE("exporters: every exported model gives ONNX Runtime's outputs on 1, 2, 3 and 4 devices") {
  // Outputs are of magnitude 1; seen are differences up to 7e-7, which f32 sums in another order explain. Relative to
  // an element that is near zero that is more, so the absolute bound counts there.
  for (const std::string devices : {"cpu:1", "cpu:2", "cpu:3", "cpu:4"}) {
    INFO(devices);
    const nlohmann::json answer = answer_of({"verify", "--suite", kData, "--filter", "-(dynamo|torchscript|jax)",
                                             "--devices", devices, "--rtol", "1e-4", "--atol", "1e-5", "--quiet"});
    CHECK(answer["passed"] == true);
    CHECK(answer["counts"]["passed"] == 13);
    CHECK(answer["cases"].size() == 13);
  }
}

TEST_CASE("exporters: a model for a fixed number of rows says so when it is asked for another") {
  const std::string model = kData + "gpt-dynamo-fixed/model.onnx";
  const CommandResult result = run_mpc({"partition", model, "--devices", "cpu:2", "--batch", "4"});
  CHECK(result.exit_code == 3);
  INFO(result.err);
  CHECK(result.err.find("error[M032]") != std::string::npos);
  CHECK(result.err.find("the file is for 3 rows and may not work for 4: export it with a dynamic batch") !=
        std::string::npos);
}

TEST_CASE("exporters: `mpc train` has the losses of PyTorch and JAX") {
  for (const Exported& exported : kExported) {
    INFO(exported.name);
    const Goldens goldens(kData + exported.name + "/training.safetensors");
    std::vector<std::string> command = train_command(exported);
    const nlohmann::json one = answer_of(command)["loss"];
    REQUIRE(one.size() == 2);
    for (const int step : {1, 2}) {
      const double expected = goldens.read("step" + std::to_string(step) + "/loss").sample.at(0);
      CHECK(one[static_cast<size_t>(step - 1)].get<double>() == doctest::Approx(expected).epsilon(1e-5));
    }
    command.insert(command.end(), {"--devices", "cpu:2"});
    CHECK(answer_of(command)["loss"] == one);
  }
}

/// An exported model, planned and run on the stored inputs and labels.
class Trained {
 public:
  explicit Trained(const Exported& exported)
      : exported_(exported), model_(onnx_io::Model::load(kData + exported.name + "/model.onnx")) {
    options_.batch = kRows;
    options_.dims = exported.dims;
    options_.train = true;
    options_.keep_outputs = true;
    options_.optimizer.optimizer = parse_optimizer("sgd,lr=0.1");
    inputs_.inputs = {{exported.input, onnx_io::read_tensor_file(input_of(exported))},
                      {"labels", read_npy(labels_of(exported))}};
  }

  /// The plan for CPU devices; with a seed, nodes are on any of them, else where the planner puts them.
  Plan plan(int devices, std::optional<uint64_t> seed = {}) const {
    const ReferenceEvaluator evaluator;
    const auto graph_of = [&](int64_t rows) {
      onnx_io::ImportOptions import;
      import.batch = rows;
      import.dims = exported_.dims;
      import.mode = onnx_io::ImportOptions::Mode::training;
      return model_.import(import, evaluator);
    };
    const FrontGraphs graphs = make_front_graphs(graph_of, kRows, options_, exported_.name);
    PlanOptions options = options_;
    if (seed) options.assignment = random_assignment(graphs.main, devices, *seed);
    return plan_on_cpus(graphs, devices, options);
  }
  Outcome run(const Plan& plan, int steps) const {
    RunOptions options = inputs_;
    options.steps = steps;
    return run_plan(plan, model_.weights(), options);
  }

 private:
  const Exported& exported_;
  onnx_io::Model model_;
  PlanOptions options_;
  RunOptions inputs_;
};

TEST_CASE("exporters: gradients of two steps are PyTorch's and JAX's, and as many parameters are trained") {
  for (const Exported& exported : kExported) {
    INFO(exported.name);
    const Goldens goldens(kData + exported.name + "/training.safetensors");
    const Trained trained(exported);
    const Plan plan = trained.plan(2);
    for (const int step : {1, 2}) {
      const Outcome outcome = trained.run(plan, step);
      size_t compared = 0;
      for (const auto& [name, gradient] : outcome.tensors) {
        if (!name.starts_with("gradient of ")) continue;
        INFO("step ", step, ", ", name);
        // Of the tensor's largest element: the bound that the acceptance rows have for f32.
        CHECK(distance(gradient, goldens.read("step" + std::to_string(step) + "/" + name)) <= 1e-4);
        ++compared;
      }
      CHECK(compared == goldens.count("step" + std::to_string(step) + "/gradient of "));
    }
  }
}

TEST_CASE("exporters: batch normalization exported for training moves its running means as PyTorch does") {
  const Goldens goldens(kData + "cnn-training/training.safetensors");
  const Trained trained(kExported.back());
  const Outcome outcome = trained.run(trained.plan(2), 2);
  size_t compared = 0;
  for (const auto& [name, tensor] : outcome.tensors) {
    if (!name.ends_with("running_mean")) continue;
    INFO(name);
    CHECK(distance(tensor, goldens.read("final " + name)) <= 1e-5);
    ++compared;
  }
  CHECK(compared == 6);
}

TEST_CASE("exporters: two training steps on 2, 3 and 4 devices have the bits of one device, wherever the nodes are") {
  for (const Exported& exported : kExported) {
    INFO(exported.name);
    const Trained trained(exported);
    const Outcome alone = trained.run(trained.plan(1), 2);
    CHECK(std::ranges::any_of(alone.tensors, [](const auto& tensor) { return tensor.first.starts_with("output "); }));
    CHECK(is_finite(alone));
    for (const int devices : {2, 3, 4}) {
      for (const std::optional<uint64_t> seed : {std::optional<uint64_t>(), std::optional<uint64_t>(7)}) {
        const Plan plan = trained.plan(devices, seed);
        INFO(devices, " devices, ", seed ? "random placement" : "planned");
        for (int d = 0; d < devices; ++d)
          CHECK(std::ranges::any_of(plan.nodes, [&](const PlanNode& node) { return node.device == DeviceId(d); }));
        const auto difference = find_difference(alone, trained.run(plan, 2));
        CHECK_MESSAGE(!difference, difference.value_or(""));
      }
    }
  }
}

}  // namespace
}  // namespace mpc::test
