#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "models/zoo.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/console.h"
#include "tools/options.h"

namespace mpc::tools {
namespace {

struct Flags {
  std::string output;
  std::vector<std::string> models;
  bool train = false;
  bool only_models = false;
  std::string precision = "f32";
  std::string optimizer = "adam";
  DeviceFlags devices;
  ModelFlags reading;
  ShapeFlags shapes;
};

/// Sample models whose nodes stand for those of their family. Two sizes each, so that a size between has neighbours.
/// In 16 bits one size each.
struct Row {
  const char* model;
  int64_t batch;
  bool is_training;
  std::vector<std::pair<std::string, int64_t>> sizes;
  const char* precision = "f32";
  const char* optimizer = "adam";
};

std::vector<Row> sample_rows() {
  const std::pair<std::string, int64_t> one_layer{"layers", 1};
  return {{"mlp", 64, false, {}},
          {"mlp", 64, true, {}},
          {"resnet50", 1, false, {}},
          {"resnet50", 8, false, {}},
          {"resnet50", 4, true, {}},
          {"resnet18", 4, true, {{"image", 48}, {"width", 24}}},  // images so small that weights are most of the bytes
          {"bert-base", 1, false, {one_layer}},
          {"bert-base", 8, false, {one_layer}},
          {"bert-base", 4, true, {one_layer}},
          {"gpt2", 1, false, {one_layer}},
          {"gpt2", 2, true, {one_layer}},
          {"llama", 4, false, {one_layer}},
          {"llama", 4, true, {one_layer}},
          {"encoder-decoder", 16, false, {}},
          {"encoder-decoder", 16, true, {}},
          {"unet", 4, false, {}},
          {"unet", 4, true, {}},
          {"inception", 4, false, {}},
          {"inception", 4, true, {}},
          // Only the updates of these differ from those above, and nodes are timed once.
          {"mlp", 64, true, {}, "f32", "sgd"},
          {"resnet50", 4, true, {}, "f32", "sgd"},
          {"mlp", 64, true, {}, "f32", "momentum"},
          {"resnet50", 4, true, {}, "f32", "momentum"},
          {"mlp", 64, false, {}, "bf16"},
          {"mlp", 64, true, {}, "bf16"},
          {"resnet50", 4, false, {}, "bf16"},
          {"resnet50", 4, true, {}, "bf16"},
          {"bert-base", 4, false, {one_layer}, "bf16"},
          {"bert-base", 4, true, {one_layer}, "bf16"},
          {"gpt2", 2, true, {one_layer}, "bf16"},
          {"encoder-decoder", 16, true, {}, "bf16"},
          {"mlp", 64, false, {}, "f16"},
          {"mlp", 64, true, {}, "f16"},
          {"resnet50", 4, true, {}, "f16"},
          {"bert-base", 4, true, {one_layer}, "f16"}};
}

/// A folder for files that no one keeps, removed with the object.
class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "mpc-profile-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw Error(ErrorId::M011, name, "cannot be made");
    path_ = name;
  }
  ~Scratch() {
    std::error_code ignored;  // a file that cannot be removed is no reason to lose what was measured
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

ProfileModel sample_model(const Row& row, const Scratch& scratch, const ModelFlags& reading) {
  zoo::Options options;
  options.weights = false;
  for (const auto& [name, value] : row.sizes) options.sizes[name] = value;
  const std::string path = scratch / fmt::format("{}.onnx", row.model);
  zoo::write(row.model, options, path);
  ProfileModel result{reading.load(path), {}, row.is_training, row.precision, row.optimizer};
  result.bindings.batch = row.batch;
  return result;
}

int profile(const Flags& flags, Console& console) {
  for (const std::string& model : flags.models) require_other_file(flags.output, model);
  if (flags.only_models && flags.models.empty())
    throw Error(ErrorId::M001, "mpc profile --only-models", "no --model is given");
  const Scratch scratch;
  std::vector<ProfileModel> models;
  if (!flags.only_models) {
    for (const Row& row : sample_rows()) models.push_back(sample_model(row, scratch, flags.reading));
  }
  for (const std::string& path : flags.models) {
    Model model = flags.reading.load(path);
    Bindings bindings = flags.shapes.bindings(model);
    models.push_back({std::move(model), std::move(bindings), false, flags.precision, flags.optimizer});
    if (!flags.train) continue;
    models.push_back(models.back());
    models.back().is_training = true;
  }
  DeviceFlags devices = flags.devices;
  if (!devices.is_given()) devices.devices = "cpu:2";  // two: the link between them is measured too
  const Cluster cluster = devices.for_running(console);
  std::optional<Progress> bar;
  const Profile measured = Profile::measure(cluster, models, [&](int64_t done, int64_t total, const std::string& op) {
    if (!bar) bar.emplace(console, "measuring", total, "nodes");
    bar->update(done, op);
  });
  bar.reset();
  measured.save(flags.output);
  console.say(measured.report_text());
  console.json_text(measured.json());
  return 0;
}

}  // namespace

Body add_profile(CommandLine& line) {
  auto flags = std::make_shared<Flags>();
  line.option("-o,--output", flags->output, "the file to write").required().type("FILE");
  line.option("--model", flags->models, "time the nodes of this model too").type("MODEL");
  line.flag("--only-models", flags->only_models, "time the nodes of --model and no others");
  line.flag("--train", flags->train, "of --model, also gradients and updates");
  line.option("--optimizer", flags->optimizer, "of --model with --train: sgd | momentum | adam | adamw").type("TEXT");
  line.option("--precision", flags->precision, "f32 | bf16 | f16: what the nodes of --model compute in").type("NAME");
  flags->devices.add(line);
  flags->reading.add(line);
  flags->shapes.add(line);
  return [flags](Console& console) { return profile(*flags, console); };
}

}  // namespace mpc::tools
