#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/table.h"
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
  std::string name;
  std::string output;
  std::optional<int64_t> batch;
  uint64_t seed = 0;
  bool no_weights = false;
  std::vector<std::string> sizes;
};

int list_models(const Console& console) {
  api::Table table({"model", "what it is", "sizes (--size NAME=N)"}, {1, 2});
  Json models = Json::array();
  for (const zoo::Entry& entry : zoo::entries()) {
    std::string sizes;
    Json size_list = Json::array();
    for (const zoo::SizeFlag& size : entry.sizes) {
      sizes += fmt::format("{}{}={}", sizes.empty() ? "" : " ", size.name, size.default_value);
      size_list.push_back({{"name", size.name}, {"default", size.default_value}, {"help", size.help}});
    }
    table.add({entry.name, entry.summary, sizes});
    models.push_back({{"name", entry.name}, {"summary", entry.summary}, {"sizes", size_list}});
  }
  console.say(table.text());
  console.json({{"models", models}});
  return 0;
}

int write_model(const Flags& flags, const Console& console) {
  if (flags.output.empty()) {
    throw Error(ErrorId::M001, "mpc zoo " + flags.name, "nothing says where to write the model", "give -o FILE");
  }
  zoo::Options options;
  options.batch = flags.batch;
  options.seed = flags.seed;
  options.weights = !flags.no_weights;
  for (const std::string& text : flags.sizes) {
    const auto [name, value] = name_and_value("--size", text);
    const std::optional<int64_t> number = parse_integer(value);
    if (!number) throw Error(ErrorId::M003, "--size " + text, fmt::format("'{}' is not a number", value));
    options.sizes[name] = *number;
  }
  zoo::write(flags.name, options, flags.output);
  console.say(fmt::format("{} written to {}\n", flags.name, escaped(flags.output)));
  console.json({{"model", flags.name}, {"file", flags.output}});
  return 0;
}

}  // namespace

Body add_zoo(CommandLine& line) {
  auto flags = std::make_shared<Flags>();
  line.option("name", flags->name, "the model; without it all are listed").type("NAME");
  line.option("-o,--output", flags->output, "the file to write").type("FILE");
  line.option("--batch", flags->batch, "a fixed batch dimension instead of a symbolic one").range(1, int64_t{1} << 40);
  line.option("--seed", flags->seed, "of the weights");
  line.flag("--no-weights", flags->no_weights,
            "leave the weights out, so that the file is small and the sizes are the real ones");
  line.option("--size", flags->sizes, "a size of the model, for example layers=2").type("NAME=N");
  return
      [flags](Console& console) { return flags->name.empty() ? list_models(console) : write_model(*flags, console); };
}

}  // namespace mpc::tools
