#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/file.h"
#include "compiler/base/text.h"
#include "compiler/ir/parse.h"
#include "compiler/ir/print.h"
#include "compiler/ir/verify.h"
#include "compiler/ops/verify_types.h"
#include "passes/add_loss.h"
#include "passes/add_optimizer.h"
#include "passes/canonicalize.h"
#include "passes/differentiate.h"
#include "passes/insert_transfers.h"
#include "passes/pipeline.h"
#include "passes/place/place.h"
#include "tools/command.h"
#include "tools/command_line.h"
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
  if (graph.loss.is_valid()) throw Error(ErrorId::M064, "graph " + graph.name, "has a loss already");
  const std::optional<LossKind> kind = parse_loss(flags.loss);
  if (!kind) throw Error(ErrorId::M002, "--loss " + flags.loss, "is not a loss");
  return add_loss(graph, {*kind, flags.loss_input, 1});
}

Graph run_add_optimizer(const Graph& graph, const Flags& flags) {
  for (const ParameterGradient& g : graph.gradients) {
    const auto updates_it = [&](const Update& update) { return update.persistent == g.parameter; };
    if (std::ranges::none_of(graph.updates, updates_it)) continue;
    throw Error(ErrorId::M064, "graph " + graph.name,
                fmt::format("parameter \"{}\" is updated already", graph.value(g.parameter).name));
  }
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

Graph run_differentiate(const Graph& graph, const Flags& flags) {
  if (!graph.loss.is_valid()) throw Error(ErrorId::M064, "graph " + graph.name, "has no loss to differentiate");
  return differentiate(graph, {flags.frozen});
}

/// A pass of the compiler as a function of the graph and the flags, and the stages of a graph that it takes.
struct PassRow {
  const char* name;
  Stage first;
  Stage last;
  Graph (*run)(const Graph&, const Flags&);
};

constexpr PassRow kPasses[] = {
    {"canonicalize", Stage::imported, Stage::canonical,
     [](const Graph& graph, const Flags&) { return canonicalize(graph); }},
    {"add_loss", Stage::imported, Stage::canonical, run_add_loss},
    {"differentiate", Stage::imported, Stage::canonical, run_differentiate},
    {"add_optimizer", Stage::training, Stage::training, run_add_optimizer},
    {"place", Stage::imported, Stage::training, run_place},
    {"insert_transfers", Stage::placed, Stage::placed,
     [](const Graph& graph, const Flags&) { return insert_transfers(graph); }},
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

/// A graph that a user wrote is checked and completed before passes rely on its rules.
void make_valid(Graph& graph) {
  if (const std::optional<std::string> violation = find_violation(graph)) throw Error(ErrorId::M064, "", *violation);
  complete_attributes(graph);
}

/// Passes are written for graphs of some stages only; a text may state any.
void require_stage(const Graph& graph, const PassRow& row) {
  if (graph.stage >= row.first && graph.stage <= row.last) return;
  const std::string first(stage_name(row.first));
  throw Error(ErrorId::M064, "graph " + graph.name,
              fmt::format("is {}, the pass {} takes a graph that is {}", stage_name(graph.stage), row.name,
                          row.first == row.last ? first : fmt::format("{} to {}", first, stage_name(row.last))));
}

int optimize(const Flags& flags, Console& console) {
  std::vector<const PassRow*> rows;
  for (const std::string& name : split(flags.passes, ',')) {
    if (!name.empty()) rows.push_back(&find_pass(name));
  }
  require_other_file(flags.output, flags.file);
  const std::string text = read_text_file(flags.file, kMostTextBytes);
  Graph graph;
  try {
    graph = parse_graph(text);
    make_valid(graph);
    for (const PassRow* row : rows) {
      require_stage(graph, *row);
      graph = row->run(graph, flags);
      verify(graph);
      verify_types(graph);
    }
  } catch (const Error& error) {
    // What is wrong with the command line does not lie in the file.
    if (exit_code(error.id()) == 2) throw;
    throw error.with_prefix(flags.file);
  }
  if (flags.output.empty()) {
    console.data(print(graph));
  } else {
    write_file_atomic(flags.output, print(graph));
  }
  return 0;
}

}  // namespace

Body add_opt(CommandLine& line) {
  auto flags = std::make_shared<Flags>();
  line.option("file", flags->file, "a graph in text form (docs/ir.md)").required().type("FILE.mpc");
  line.option("--passes", flags->passes,
              "canonicalize, add_loss, differentiate, add_optimizer, place, insert_transfers")
      .type("A,B,...");
  line.option("-o,--output", flags->output, "write the graph to a file instead of stdout").type("FILE");
  line.option("--loss", flags->loss, "of add_loss");
  line.option("--loss-input", flags->loss_input, "of add_loss: the output that the loss is taken of");
  line.option("--optimizer", flags->optimizer, "of add_optimizer");
  line.option("--freeze", flags->frozen, "of differentiate: parameters that are not trained").type("REGEX");
  line.option("--devices", flags->devices, "of place");
  line.option("--objective", flags->objective, "of place");
  line.option("--microbatches", flags->microbatches, "of place").positive();
  return [flags](Console& console) { return optimize(*flags, console); };
}

}  // namespace mpc::tools
