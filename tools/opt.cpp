#include <memory>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "compiler/base/error.h"
#include "compiler/base/file.h"
#include "compiler/base/text.h"
#include "compiler/ir/parse.h"
#include "compiler/ir/print.h"
#include "compiler/ir/verify.h"
#include "passes/add_loss.h"
#include "passes/add_optimizer.h"
#include "passes/canonicalize.h"
#include "passes/differentiate.h"
#include "passes/insert_transfers.h"
#include "passes/pipeline.h"
#include "passes/place/place.h"
#include "tools/command.h"
#include "tools/console.h"

namespace mpc::tools {
namespace {

constexpr int64_t kMostTextBytes = int64_t{256} << 20;

struct Flags {
  std::string file;
  std::string passes;
  std::string output;
  std::string loss = "cross-entropy";
  std::string loss_input;
  std::string optimizer = "sgd,lr=0.01";
  std::string frozen;
  std::string devices = "cpu:1";
  std::string objective = "throughput";
  int microbatches = 1;
};

Graph run_add_loss(const Graph& graph, const Flags& flags) {
  const std::optional<LossKind> kind = parse_loss(flags.loss);
  if (!kind) throw Error(ErrorId::M002, "--loss " + flags.loss, "is not a loss");
  return add_loss(graph, {*kind, flags.loss_input, 1});
}

Graph run_add_optimizer(const Graph& graph, const Flags& flags) {
  OptimizerOptions options;
  options.optimizer = parse_optimizer(flags.optimizer);
  return add_optimizer(graph, options);
}

Graph run_place(const Graph& graph, const Flags& flags) {
  PlaceOptions options;
  const std::optional<Objective> objective = parse_objective(flags.objective);
  if (!objective) throw Error(ErrorId::M002, "--objective " + flags.objective, "is not an objective");
  options.objective = *objective;
  options.microbatches = flags.microbatches;
  const Cluster cluster = parse_devices(flags.devices, kAssumedGpuKind);
  const Placement placement = place_nodes(graph, cluster, options);
  return apply_placement(graph, placement.device_of_node);
}

/// A pass of the compiler as a function of the graph and the flags.
struct PassRow {
  const char* name;
  Graph (*run)(const Graph&, const Flags&);
};

constexpr PassRow kPasses[] = {
    {"canonicalize", [](const Graph& graph, const Flags&) { return canonicalize(graph); }},
    {"add_loss", run_add_loss},
    {"differentiate", [](const Graph& graph, const Flags& flags) { return differentiate(graph, {flags.frozen}); }},
    {"add_optimizer", run_add_optimizer},
    {"place", run_place},
    {"insert_transfers", [](const Graph& graph, const Flags&) { return insert_transfers(graph); }},
};

const PassRow& find_pass(const std::string& name) {
  std::vector<std::string> names;
  std::string all;
  for (const PassRow& row : kPasses) {
    if (name == row.name) return row;
    names.emplace_back(row.name);
    all += (all.empty() ? "" : ", ") + names.back();
  }
  const std::optional<std::string> near = nearest(name, names);
  throw Error(ErrorId::M002, "--passes " + name, "is not a pass",
              near ? fmt::format("did you mean {}?", *near) : "use one of " + all);
}

/// A graph that a user wrote is checked before passes rely on its rules.
void require_valid(const Graph& graph, const std::string& file) {
  if (const std::optional<std::string> violation = find_violation(graph)) throw Error(ErrorId::M064, file, *violation);
}

int optimize(const Flags& flags, Console& console) {
  std::vector<const PassRow*> rows;
  for (const std::string& name : split(flags.passes, ',')) {
    if (!name.empty()) rows.push_back(&find_pass(name));
  }
  require_other_file(flags.output, flags.file);
  Graph graph;
  try {
    graph = parse_graph(read_text_file(flags.file, kMostTextBytes));
  } catch (const Error& error) {
    if (error.id() == ErrorId::M010) throw;
    throw error.with_prefix(flags.file);
  }
  require_valid(graph, flags.file);
  for (const PassRow* row : rows) graph = row->run(graph, flags);
  if (flags.output.empty()) {
    console.data(print(graph));
  } else {
    write_file_atomic(flags.output, print(graph));
  }
  return 0;
}

}  // namespace

Body add_opt(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  app.add_option("file", flags->file, "a graph in text form (docs/ir.md)")->required()->type_name("FILE.mpc");
  app.add_option("--passes", flags->passes,
                 "canonicalize, add_loss, differentiate, add_optimizer, place, insert_transfers")
      ->type_name("A,B,...");
  app.add_option("-o,--output", flags->output, "write the graph to a file instead of stdout")->type_name("FILE");
  app.add_option("--loss", flags->loss, "of add_loss");
  app.add_option("--loss-input", flags->loss_input, "of add_loss: the output that the loss is taken of");
  app.add_option("--optimizer", flags->optimizer, "of add_optimizer");
  app.add_option("--freeze", flags->frozen, "of differentiate: parameters that are not trained")->type_name("REGEX");
  app.add_option("--devices", flags->devices, "of place");
  app.add_option("--objective", flags->objective, "of place");
  app.add_option("--microbatches", flags->microbatches, "of place")->check(CLI::PositiveNumber);
  return [flags](Console& console) { return optimize(*flags, console); };
}

}  // namespace mpc::tools
