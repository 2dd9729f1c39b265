#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/error.h"
#include "compiler/base/file.h"
#include "compiler/base/text.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/console.h"
#include "tools/options.h"

namespace mpc::tools {
namespace {

struct Flags {
  std::string file;
  ModelFlags reading;
  ShapeFlags shapes;
};

enum class Kind : uint8_t { plan, safetensors, tensor, model };

/// What a file is, by its name and its first bytes. A plan is JSON, and its first byte is a brace; no ONNX file of any
/// meaning begins with one (field 15, group).
Kind kind_of(const std::string& path) {
  if (path.ends_with(".safetensors")) return Kind::safetensors;
  if (path.ends_with(".npy") || path.ends_with(".pb")) return Kind::tensor;
  const InputFile file(path);
  std::byte first{};
  if (file.bytes() == 0) return Kind::model;
  file.read(0, std::span(&first, 1));
  return first == std::byte{'{'} ? Kind::plan : Kind::model;
}

int check_safetensors_file(const Flags& flags, const Console& console) {
  const size_t tensors = count_safetensors(flags.file);
  console.say(fmt::format("{}: nothing wrong was found: {} tensors\n", escaped(flags.file), tensors));
  console.json(
      {{"file", flags.file}, {"kind", "safetensors"}, {"ok", true}, {"complete", true}, {"warnings", Json::array()}});
  return 0;
}

int check_tensor_file(const Flags& flags, const Console& console) {
  const Tensor tensor = load_tensor(flags.file);
  console.say(fmt::format("{}: nothing wrong was found: {}\n", escaped(flags.file),
                          std::string(to_string(tensor.dtype)) + shape_text(tensor.shape)));
  console.json(
      {{"file", flags.file}, {"kind", "tensor"}, {"ok", true}, {"complete", true}, {"warnings", Json::array()}});
  return 0;
}

int check_plan_file(const Flags& flags, const Console& console) {
  const Plan plan = Plan::load(flags.file);
  std::string text =
      fmt::format("{}: the plan is sound: {} devices, {} transfers, {} micro-batches\n", escaped(flags.file),
                  plan.devices().size(), plan.transfers().size(), plan.microbatches());
  for (const std::string& warning : plan.warnings()) text += "warning: " + escaped(warning) + "\n";
  console.say(text);
  console.json(
      {{"file", flags.file}, {"kind", "plan"}, {"ok", true}, {"complete", true}, {"warnings", plan.warnings()}});
  return 0;
}

int check_model_file(const Flags& flags, const Console& console) {
  const Model model = flags.reading.load(flags.file);
  model.annotation();  // throws when the annotations are inconsistent
  const Bindings bindings = flags.shapes.bindings(model);
  Json warnings = Json::array();
  try {
    model.check(bindings);
  } catch (const Error& error) {
    // A shape that is open is not wrong: what depends on it is checked when a flag binds it.
    if (error.id() != ErrorId::M043) throw;
    warnings.push_back(error.what());
  }
  const ModelReport report = model.inspect(bindings);
  std::string text = fmt::format("{}: nothing wrong was found: opset {}, {} parameters", escaped(flags.file),
                                 report.opset, count_text(report.parameters));
  text += report.is_complete ? fmt::format(", {} nodes\n", count_text(report.nodes)) : "\n";
  for (const Json& warning : warnings) text += fmt::format("not checked to the end: {}\n", warning.get<std::string>());
  console.say(text);
  console.json({{"file", flags.file},
                {"kind", "model"},
                {"ok", true},
                {"complete", report.is_complete},
                {"warnings", warnings}});
  return 0;
}

}  // namespace

Body add_check(CommandLine& line) {
  auto flags = std::make_shared<Flags>();
  line.option("file", flags->file, "an ONNX file, a plan, or a tensor file (.npy, .pb, .safetensors)")
      .required()
      .type("FILE");
  flags->reading.add(line);
  flags->shapes.add(line);
  return [flags](Console& console) {
    require_other_file(console.json_path, flags->file);
    switch (kind_of(flags->file)) {
      case Kind::plan:
        return check_plan_file(*flags, console);
      case Kind::safetensors:
        return check_safetensors_file(*flags, console);
      case Kind::tensor:
        return check_tensor_file(*flags, console);
      case Kind::model:
        break;
    }
    return check_model_file(*flags, console);
  };
}

}  // namespace mpc::tools
