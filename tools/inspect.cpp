#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/table.h"
#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/console.h"
#include "tools/options.h"

namespace mpc::tools {
namespace {

struct Flags {
  std::string model;
  ModelFlags reading;
  ShapeFlags shapes;
};

std::string tensor_text(const DeclaredTensor& tensor) {
  std::string dims;
  for (const std::string& dim : tensor.dims) dims += (dims.empty() ? "" : ", ") + dim;
  return fmt::format("{} {}{}", escaped(tensor.name, 100), tensor.dtype.empty() ? "?" : tensor.dtype,
                     tensor.has_shape ? "(" + escaped(dims, 200) + ")" : " of unknown shape");
}

std::string problems_text(const std::string& title, const std::vector<NodeProblem>& problems) {
  if (problems.empty()) return "";
  constexpr size_t kMostLines = 20;
  std::string text = fmt::format("{}: {} node{}\n", title, problems.size(), problems.size() == 1 ? "" : "s");
  for (size_t i = 0; i < std::min(kMostLines, problems.size()); ++i) {
    text += fmt::format("  {} ({}): {}\n", escaped(problems[i].node, 100), escaped(problems[i].op, 60),
                        escaped(problems[i].reason, 200));
  }
  if (problems.size() > kMostLines)
    text += fmt::format("  ... and {} more (--json lists all)\n", problems.size() - kMostLines);
  return text;
}

std::string report_text(const ModelReport& report) {
  std::string text;
  const auto line = [&](std::string_view name, const std::string& value) {
    text += fmt::format("{:<14}{}\n", name, value);
  };
  line("model", escaped(report.path));
  line("made by", report.producer.empty() ? "unknown" : escaped(report.producer, 100));
  line("ONNX", fmt::format("IR version {}, opset {}", report.ir_version, report.opset));
  for (const DeclaredTensor& input : report.inputs) line("input", tensor_text(input));
  for (const DeclaredTensor& output : report.outputs) line("output", tensor_text(output));
  for (const std::string& dim : report.open_dims)
    line("dynamic dim", fmt::format("{} (bind it with --dim {}=N)", escaped(dim, 100), escaped(dim, 100)));
  line("parameters", fmt::format("{} ({})", count_text(report.parameters), bytes_text(report.parameter_bytes)));
  if (report.is_complete) {
    if (report.batch > 0) line("batch", std::to_string(report.batch));
    line("FLOPs", fmt::format("{} forward", flops_text(report.flops)));
    line("activations", bytes_text(report.activation_bytes));
    line("nodes", count_text(report.nodes));
  } else {
    line("incomplete", escaped(report.incomplete_reason, 600));
  }
  text += "\n";
  api::Table table({"op", "count", "FLOPs", "forward", "backward"}, {3, 4});
  for (const OpUse& use : report.ops) {
    table.add({escaped(use.op, 60), count_text(use.count), use.is_supported ? flops_text(use.flops) : "",
               use.is_supported ? "yes" : "no", use.is_differentiable ? "yes" : "no"});
  }
  if (!table.empty()) text += table.text() + "\n";
  text += problems_text("not supported", report.unsupported);
  text += problems_text("cannot be trained through", report.not_differentiable);
  return text;
}

Json tensors_json(const std::vector<DeclaredTensor>& tensors) {
  Json list = Json::array();
  for (const DeclaredTensor& tensor : tensors)
    list.push_back({{"name", tensor.name}, {"dtype", tensor.dtype}, {"dims", tensor.dims}});
  return list;
}

Json problems_json(const std::vector<NodeProblem>& problems) {
  Json list = Json::array();
  for (const NodeProblem& problem : problems)
    list.push_back({{"node", problem.node}, {"op", problem.op}, {"reason", problem.reason}});
  return list;
}

Json report_json(const ModelReport& report) {
  Json ops = Json::array();
  for (const OpUse& use : report.ops) {
    ops.push_back({{"op", use.op},
                   {"count", use.count},
                   {"flops", use.flops},
                   {"forward", use.is_supported},
                   {"backward", use.is_differentiable}});
  }
  return {{"model", report.path},
          {"sha256", report.sha256},
          {"producer", report.producer},
          {"ir_version", report.ir_version},
          {"opset", report.opset},
          {"inputs", tensors_json(report.inputs)},
          {"outputs", tensors_json(report.outputs)},
          {"dynamic_dims", report.open_dims},
          {"complete", report.is_complete},
          {"incomplete_reason", report.incomplete_reason},
          {"nodes", report.nodes},
          {"parameters", report.parameters},
          {"parameter_bytes", report.parameter_bytes},
          {"activation_bytes", report.activation_bytes},
          {"flops", report.flops},
          {"ops", ops},
          {"unsupported",
           {{"forward", problems_json(report.unsupported)}, {"backward", problems_json(report.not_differentiable)}}}};
}

}  // namespace

Body add_inspect(CommandLine& line) {
  auto flags = std::make_shared<Flags>();
  line.option("model", flags->model, "the ONNX file").required().type("MODEL");
  flags->reading.add(line);
  flags->shapes.add(line);
  return [flags](Console& console) {
    require_other_file(console.json_path, flags->model);
    const Model model = flags->reading.load(flags->model);
    const ModelReport report = model.inspect(flags->shapes.bindings(model));
    console.say(report_text(report));
    console.json(report_json(report));
    return 0;
  };
}

}  // namespace mpc::tools
