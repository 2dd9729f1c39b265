#include "tools/verification.h"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "compiler/base/error.h"

namespace mpc::tools {
namespace {

namespace fs = std::filesystem;

/// The tensor `<stem>_<i>` of a data set, or nothing when there is no such file.
std::optional<Tensor> find_tensor(const std::string& folder, const std::string& stem, size_t index) {
  for (const char* ending : {".pb", ".npy"}) {
    const fs::path path = fs::path(folder) / fmt::format("{}_{}{}", stem, index, ending);
    std::error_code ignored;
    if (fs::exists(path, ignored)) return load_tensor(path.string());
  }
  return std::nullopt;
}

bool is_small_integer(const Tensor& tensor) {
  // A shape has few elements; anything larger is data, which must not be baked into a plan.
  constexpr int64_t kMostElements = 4096;
  const bool is_float = tensor.dtype == DType::f32 || tensor.dtype == DType::f64 || tensor.dtype == DType::f16 ||
                        tensor.dtype == DType::bf16;
  return !is_float && tensor.elements() <= kMostElements;
}

Plan make_plan(const Model& model, const Cluster& cluster, const VerifyOptions& options,
               const std::map<std::string, Tensor>& inputs) {
  CompileOptions compile_options = options.compile;
  compile_options.bindings = options.bindings;
  for (const auto& [name, tensor] : inputs) compile_options.bindings.input_shapes[name] = tensor.shape;
  try {
    return compile(model, cluster, compile_options).value();
  } catch (const Error& error) {
    if (error.id() != ErrorId::M043) throw;
  }
  for (const auto& [name, tensor] : inputs) {
    if (!is_small_integer(tensor)) continue;
    compile_options.bindings.known_inputs.emplace(name, tensor);
    compile_options.bindings.input_shapes.erase(name);
  }
  return compile(model, cluster, compile_options).value();
}

}  // namespace

std::vector<std::string> data_sets(const std::string& folder) {
  std::error_code code;
  std::vector<std::string> sets;
  bool has_tensors = false;
  for (fs::directory_iterator entry(folder, code), end; !code && entry != end; entry.increment(code)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with("test_data_set_")) sets.push_back(entry->path().string());
    has_tensors = has_tensors || name.starts_with("output_") || name.starts_with("input_");
  }
  if (code) throw Error(ErrorId::M010, folder, code.message());
  std::ranges::sort(sets);
  if (has_tensors) sets.push_back(folder);
  if (sets.empty()) {
    throw Error(ErrorId::M010, folder, "holds no test data",
                "expected test_data_set_<n> folders, or input_<i>.pb and output_<i>.pb");
  }
  return sets;
}

Verdict verify_set(const Model& model, const std::string& folder, const Cluster& cluster, const VerifyOptions& options,
                   const std::function<void(const Session&, const StepResult&)>& inspect) {
  std::map<std::string, Tensor> inputs;
  const std::vector<DeclaredTensor> declared = model.inputs();
  for (size_t i = 0; i < declared.size(); ++i) {
    std::optional<Tensor> tensor = find_tensor(folder, "input", i);
    if (tensor) inputs.emplace(declared[i].name, std::move(*tensor));
  }
  const std::vector<DeclaredTensor> outputs = model.outputs();
  std::map<size_t, Tensor> expected;
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::optional<Tensor> tensor = find_tensor(folder, "output", i);
    if (tensor) expected.emplace(i, std::move(*tensor));
  }
  if (expected.empty())
    throw Error(ErrorId::M010, folder, "holds no expected output",
                "output_<i>.pb or .npy, i counts the model's outputs");
  Verdict verdict;
  verdict.plan = make_plan(model, cluster, options, inputs);
  Session session(*verdict.plan, model, options.session);
  for (const TensorInfo& input : verdict.plan->inputs()) {
    const auto tensor = inputs.find(input.name);
    if (tensor == inputs.end())
      throw Error(ErrorId::M004, fmt::format("input \"{}\"", input.name), "the test data has no content for it");
    session.bind(input.name, tensor->second);
  }
  const StepResult result = session.step();
  for (const auto& [i, tensor] : expected) {
    const Difference difference = compare(session.output(outputs[i].name), tensor, options.rtol, options.atol);
    verdict.max_abs_error = std::max(verdict.max_abs_error, difference.max_abs_error);
    verdict.max_rel_error = std::max(verdict.max_rel_error, difference.max_rel_error);
    if (!difference.is_equal && verdict.passed) {
      verdict.first_mismatch = fmt::format("output \"{}\" {}", outputs[i].name, difference.first_mismatch);
    }
    verdict.passed = verdict.passed && difference.is_equal;
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!expected.contains(i)) verdict.without_file.push_back(outputs[i].name);
  }
  if (inspect) inspect(session, result);
  return verdict;
}

}  // namespace mpc::tools
