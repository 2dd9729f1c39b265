#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "compiler/ir/verify.h"
#include "tests/unit/onnx_support.h"

// The models of the ONNX backend test suite: each is imported and, when mpc has its operators, computed by the
// reference kernels and compared with the outputs that the suite expects.

namespace mpc::test {
namespace {

namespace fs = std::filesystem;

struct Case {
  std::vector<Literal> inputs;
  std::vector<Literal> outputs;
};

std::vector<Literal> read_all(const fs::path& folder, const std::string& kind) {
  std::vector<Literal> tensors;
  for (int i = 0; fs::exists(folder / (kind + std::to_string(i) + ".pb")); ++i)
    tensors.push_back(onnx_io::read_tensor_file(folder / (kind + std::to_string(i) + ".pb")));
  return tensors;
}

/// First with every input given at run time, then with those that decide shapes known: integers, and a few floats
/// (scales).
Graph import_case(const onnx_io::Model& model, const Case& test) {
  constexpr int64_t kFew = 8;
  onnx_io::ImportOptions options;
  onnx_io::ImportOptions known;
  for (size_t i = 0; i < std::min(model.info().inputs.size(), test.inputs.size()); ++i) {
    const std::string& name = model.info().inputs[i].name;
    const Literal& input = test.inputs[i];
    options.input_shapes[name] = input.shape().to_vector();
    if (!is_float(input.dtype()) || input.shape().elements() <= kFew) {
      known.known_inputs.emplace(name, input);
    } else {
      known.input_shapes[name] = input.shape().to_vector();
    }
  }
  const auto error = error_of([&] { import(model, options); });
  return import(model, error ? known : options);
}

/// Relative and absolute tolerance: the suite's rtol with the atol of ONNX Runtime for f32 (summation order differs);
/// half-precision results may differ in their last two bits where the suite's generator rounded in between.
bool is_near(DType dtype, double a, double b) {
  if (a == b || (std::isnan(a) && std::isnan(b))) return true;
  double relative = 1e-3;
  double absolute = 1e-5;
  if (dtype == DType::f16) relative = 1e-2, absolute = 2e-3;
  if (dtype == DType::bf16) relative = 2e-2, absolute = 1e-2;
  return std::abs(a - b) <= absolute + relative * std::abs(b);
}

std::string difference(const std::vector<Literal>& results, const std::vector<Literal>& expected) {
  if (results.size() != expected.size()) return "another number of outputs";
  for (size_t k = 0; k < expected.size(); ++k) {
    if (results[k].dtype() != expected[k].dtype() || results[k].shape() != expected[k].shape()) {
      return "output " + std::to_string(k) + " is " + type_text(results[k].dtype(), results[k].shape()) + ", not " +
             type_text(expected[k].dtype(), expected[k].shape());
    }
    for (int64_t i = 0; i < expected[k].shape().elements(); ++i) {
      if (is_near(expected[k].dtype(), results[k].number(i), expected[k].number(i))) continue;
      return "output " + std::to_string(k) + " element " + std::to_string(i) + " is " +
             std::to_string(results[k].number(i)) + ", not " + std::to_string(expected[k].number(i));
    }
  }
  return {};
}

}  // namespace

TEST_CASE("backend: every model of the suite loads, and computes what is expected when mpc has its operators") {
  const fs::path root = MPC_ONNX_TEST_DATA;
  if (!fs::exists(root)) {
    MESSAGE("skipped: no ONNX test data in " << root.string());
    return;
  }
  // Their masks come from numpy's generator.
  const std::vector<std::string> random = {"test_training_dropout", "test_training_dropout_default"};
  int passed = 0;
  int loaded = 0;
  for (const char* kind : {"node", "simple", "pytorch-operator", "pytorch-converted"}) {
    std::vector<fs::path> folders;
    for (const auto& entry : fs::directory_iterator(root / kind)) folders.push_back(entry.path());
    std::ranges::sort(folders);
    for (const fs::path& folder : folders) {
      const std::string name = folder.filename();
      CAPTURE(name);
      const onnx_io::Model model = onnx_io::Model::load((folder / "model.onnx").string());
      ++loaded;
      if (std::ranges::find(random, name) != random.end()) continue;
      std::vector<Literal> results;
      Case test;
      // Sequences and optionals are no tensor files; what they hold is refused one way or another.
      const bool has_tensors =
          std::ranges::all_of(model.info().inputs, [](const auto& input) { return input.dtype.has_value(); }) &&
          std::ranges::all_of(model.info().outputs, [](const auto& output) { return output.dtype.has_value(); });
      if (!has_tensors) continue;
      const auto error = error_of([&] {
        test = {read_all(folder / "test_data_set_0", "input_"), read_all(folder / "test_data_set_0", "output_")};
        const Graph graph = import_case(model, test);
        verify(graph);
        std::map<std::string, Literal> inputs;
        for (size_t i = 0; i < std::min(model.info().inputs.size(), test.inputs.size()); ++i)
          inputs.emplace(model.info().inputs[i].name, test.inputs[i]);
        results = run(model, graph, inputs);
      });
      if (error) {
        CHECK_MESSAGE(error->code() == 4, error->what());
        continue;
      }
      const std::string found = difference(results, test.outputs);
      CHECK_MESSAGE(found.empty(), found);
      passed += found.empty();
    }
  }
  CHECK(loaded == 1905);
  CHECK(passed >= 1419);  // as many as there were when this was written; only more may follow
}

}  // namespace mpc::test
