#include <algorithm>
#include <limits>
#include <set>

#include <fmt/format.h>

#include "compiler/base/text.h"
#include "compiler/ir/rewriter.h"
#include "passes/attention.h"
#include "passes/canonicalize.h"
#include "passes/differentiate.h"
#include "passes/fold_transposes.h"
#include "passes/fuse.h"
#include "passes/fuse_bias_gradients.h"
#include "passes/fuse_products.h"
#include "passes/observed.h"
#include "passes/pack_projections.h"
#include "passes/pipeline.h"
#include "passes/round_weights.h"
#include "passes/row_mixing.h"

// From what the user asked to one graph per size of micro-batch.

namespace mpc {
namespace {

/// How the rows of a step are divided.
struct Division {
  int64_t batch = 0;  // 0: the model has no batch dimension
  int64_t rows = 0;
  int microbatches = 1;
  int64_t tail_rows() const { return batch == 0 ? 0 : batch - rows * (microbatches - 1); }
};

/// The dimension every batched input begins with.
onnx_io::DeclaredDim batch_dim(const onnx_io::ModelInfo& info) {
  for (const onnx_io::DeclaredValue& input : info.inputs) {
    if (!input.dims.empty()) return input.dims[0];
  }
  return {};
}

/// Nodes of parameters and constants only are executed once per step, unless their results depend on the number of
/// rows.
void align_rates(Graph& main, Graph& tail) {
  for (int i = 0; i < main.node_count(); ++i) {
    Node& node = main.node(NodeId(i));
    if (node.rate == Rate::per_microbatch) continue;
    bool depends_on_rows = false;
    for (const ValueId input : node.inputs) {
      depends_on_rows = depends_on_rows || (input.is_valid() && main.value(input).rate == Rate::per_microbatch);
    }
    for (const ValueId output : node.outputs) {
      depends_on_rows = depends_on_rows || (output.is_valid() && main.value(output).shape != tail.value(output).shape);
    }
    if (!depends_on_rows) continue;
    for (Graph* graph : {&main, &tail}) {
      graph->node(NodeId(i)).rate = Rate::per_microbatch;
      for (const ValueId output : node.outputs) {
        if (output.is_valid()) graph->value(output).rate = Rate::per_microbatch;
      }
    }
  }
}

/// Symbols that nobody bound get the default the model's metadata gives them.
std::map<std::string, int64_t> bound_dims(const onnx_io::ModelInfo& info, const PlanOptions& options) {
  constexpr std::string_view kPrefix = "mpc.default_";
  std::map<std::string, int64_t> dims = options.dims;
  for (const auto& [key, text] : info.metadata) {
    if (!key.starts_with(kPrefix)) continue;
    if (const auto value = parse_integer(text)) dims.emplace(key.substr(kPrefix.size()), *value);
  }
  return dims;
}

std::optional<int64_t> batch_of(const onnx_io::ModelInfo& info, const PlanOptions& options) {
  if (options.batch) return options.batch;
  for (const onnx_io::DeclaredValue& input : info.inputs) {
    const auto given = options.input_shapes.find(input.name);
    if (given != options.input_shapes.end() && !given->second.empty()) return given->second[0];
    const auto known = options.known_inputs.find(input.name);
    if (!input.dims.empty() && known == options.known_inputs.end()) break;
  }
  const onnx_io::DeclaredDim dim = batch_dim(info);
  if (dim.value >= 0) return dim.value;
  const auto dims = bound_dims(info, options);
  const auto bound = dims.find(dim.symbol);
  if (bound == dims.end()) return std::nullopt;
  return bound->second;
}

/// Symbols of dimension 0, other than the first input's, that are the batch as far as can be told: they stand nowhere
/// else, and are bound to as many rows, or to nothing while the batch is given.
std::set<std::string> other_batch_symbols(const onnx_io::ModelInfo& info, const PlanOptions& options, int64_t batch) {
  const std::map<std::string, int64_t> bound = bound_dims(info, options);
  std::set<std::string> symbols;
  std::set<std::string> no_batch = {"", batch_dim(info).symbol};
  for (const onnx_io::DeclaredValue& input : info.inputs) {
    for (size_t axis = 1; axis < input.dims.size(); ++axis) no_batch.insert(input.dims[axis].symbol);
    if (input.dims.empty() || options.known_inputs.contains(input.name)) continue;
    const std::string& symbol = input.dims[0].symbol;
    std::optional<int64_t> rows;
    if (const auto given = options.input_shapes.find(input.name); given != options.input_shapes.end()) {
      if (!given->second.empty()) rows = given->second[0];
    } else if (const auto found = bound.find(symbol); found != bound.end()) {
      rows = found->second;
    }
    const bool is_batch = rows ? *rows == batch : options.batch.has_value();
    (is_batch ? symbols : no_batch).insert(symbol);
  }
  for (const std::string& symbol : no_batch) symbols.erase(symbol);
  return symbols;
}

// count / size, rounded up; count may be any number a file states.
int64_t divided_up(int64_t count, int64_t size) {
  return count / size + (count % size != 0 ? 1 : 0);
}

Division divide(std::optional<int64_t> batch, const PlanOptions& options, const std::string& where) {
  Division division;
  if (options.microbatches < 1)
    throw Error(ErrorId::M003, "--microbatches", fmt::format("is {}, must be at least 1", options.microbatches));
  if (!batch) {
    if (options.microbatches > 1 || options.microbatch_rows) {
      throw Error(ErrorId::M045, where, "has no batch dimension to divide", "use one micro-batch");
    }
    return division;
  }
  division.batch = *batch;
  const bool by_rows = options.microbatch_rows.has_value();
  division.rows = by_rows ? *options.microbatch_rows : divided_up(*batch, options.microbatches);
  if (division.rows < 1 || division.rows > std::max<int64_t>(*batch, 1)) {
    throw Error(ErrorId::M045, where,
                fmt::format("a batch of {} cannot be divided into micro-batches of {} rows", *batch, division.rows));
  }
  const int64_t microbatches = divided_up(*batch, division.rows);
  if (microbatches > std::numeric_limits<int>::max()) {
    throw Error(ErrorId::M045, where,
                fmt::format("a batch of {} in micro-batches of {} rows is too many of them", *batch, division.rows));
  }
  division.microbatches = static_cast<int>(microbatches);
  if (!by_rows && division.microbatches != options.microbatches) {
    throw Error(ErrorId::M045, where,
                fmt::format("a batch of {} gives {} micro-batches of {} rows, not {}", *batch, division.microbatches,
                            division.rows, options.microbatches),
                fmt::format("use --microbatches {}", division.microbatches));
  }
  return division;
}

std::set<std::string> input_names(const Graph& graph) {
  std::set<std::string> names;
  for (const ValueId input : graph.inputs) names.insert(graph.value(input).name);
  return names;
}

// Where the model uses the name of an input that a pass adds, the pass's gets a suffix; it still begins with the name.
std::map<std::string, PlanInput::Role> added_inputs(const Graph& graph, const std::set<std::string>& of_model) {
  constexpr std::pair<std::string_view, PlanInput::Role> kAdded[] = {
      {kLabelsInput, PlanInput::Role::labels},
      {kLabelShareInput, PlanInput::Role::label_share},
      {kStepInput, PlanInput::Role::step},
      {kLearningRateScaleInput, PlanInput::Role::learning_rate_scale}};
  std::map<std::string, PlanInput::Role> added;
  for (const std::string& name : input_names(graph)) {
    for (const auto& [base, role] : kAdded) {
      if (!of_model.contains(name) && name.starts_with(base)) added.emplace(name, role);
    }
  }
  return added;
}

class FrontHalf {
 public:
  FrontHalf(const std::function<Graph(int64_t)>& graph_of, const PlanOptions& options, const Observed& observed)
      : graph_of_(graph_of), options_(options), observed_(observed) {}

  FrontGraphs run(const Division& division, const std::string& where) const {
    FrontGraphs graphs;
    graphs.batch = division.batch;
    graphs.microbatch_rows = division.rows;
    graphs.microbatches = division.microbatches;
    const bool has_tail = division.batch > 0 && division.tail_rows() != division.rows;
    // Simplification may depend on the shapes: where that gives two graphs, they follow the model node by node.
    for (const bool simplify : {true, false}) {
      graphs.warnings.clear();
      graphs.notes.clear();
      graphs.main = import(division.rows, simplify);
      if (has_tail) {
        graphs.tail = import(division.tail_rows(), simplify);
        if (!have_same_structure(graphs.main, *graphs.tail)) continue;
        align_rates(graphs.main, *graphs.tail);
      }
      if (division.microbatches > 1) warn_of_rows(graphs, division, simplify);
      if (!options_.train) {
        graphs.main = lower(std::move(graphs.main));
        if (has_tail) graphs.tail = lower(std::move(*graphs.tail));
      }
      if (options_.train) {
        ShapeChoices choices;
        const std::set<std::string> of_model = input_names(graphs.main);
        graphs.main = train(std::move(graphs.main), division, division.rows, choices);
        graphs.own_inputs = added_inputs(graphs.main, of_model);
        choices.is_replay = true;
        if (has_tail) graphs.tail = train(std::move(*graphs.tail), division, division.tail_rows(), choices);
      }
      if (has_tail && !have_same_structure(graphs.main, *graphs.tail)) continue;
      if (options_.may_fuse) fuse_nodes(graphs);
      return graphs;
    }
    throw Error(ErrorId::M045, where,
                fmt::format("the model is another graph for the last micro-batch of {} rows than for {}",
                            division.tail_rows(), division.rows),
                "choose a batch that the micro-batches divide evenly");
  }

 private:
  // Compares the graphs of a micro-batch and of the whole batch.
  void warn_of_rows(FrontGraphs& graphs, const Division& division, bool simplify) const {
    try {
      const Graph whole = import(division.batch, simplify);
      if (!have_same_structure(graphs.main, whole)) return;
      const RowUse use = options_.train ? RowUse::training : RowUse::inference;
      if (const std::optional<NodeId> mixer = node_across_rows(graphs.main, whole, use)) {
        graphs.warnings = {fmt::format(
            "{} computes across the rows of a batch: every micro-batch is taken by itself, so results are not those of "
            "all {} rows at once",
            describe(graphs.main.node(*mixer)), division.batch)};
      }
    } catch (const Error& error) {
      // Micro-batches may be all that the model works for; the request is for those.
      graphs.notes = {fmt::format("whether rows of a batch depend on each other is not known: {} (for {} rows)",
                                  error.what_happened(), division.batch)};
    }
  }

  Graph import(int64_t rows, bool simplify) const {
    Graph graph = observed_.after("import", graph_of_(rows));
    return simplify ? observed_.after("canonicalize", canonicalize(graph)) : graph;
  }

  // On the whole step, so that gradients and updates are fused too; before placement, which does not cut a group.
  // Transposes before products, which take in what follows them; products before elementwise operators, which get the
  // rest.
  void fuse_nodes(FrontGraphs& graphs) const {
    const FusionLimits limits = {options_.pins, options_.assignment};
    const auto become = [&](std::string_view pass, std::vector<Graph> made) {
      if (graphs.tail) graphs.tail = observed_.after(pass, std::move(made.back()));
      graphs.main = observed_.after(pass, std::move(made.front()));
    };
    become("fold_transposes", fold_transposes(variants_of(graphs), limits));
    become("fuse_products", fuse_products(variants_of(graphs), limits));
    become("fuse_bias_gradients", fuse_bias_gradients(variants_of(graphs)));
    const FusionGroups groups = fusion_groups(variants_of(graphs), limits);
    graphs.main = observed_.after("fuse", fuse(graphs.main, groups));
    if (graphs.tail) graphs.tail = observed_.after("fuse", fuse(*graphs.tail, groups));
  }

  Graph lower(Graph graph) const {
    const std::optional<DType> low = low_dtype(options_.precision);
    if (!low) return graph;
    graph = observed_.after("raise_attention", raise_attention(graph));
    graph = observed_.after("pack_projections", pack_projections(graph, {options_.pins, options_.assignment}));
    graph = observed_.after("lower_precision", lower_precision(graph, *low));
    return options_.train ? std::move(graph) : observed_.after("round_weights", round_weights(graph));
  }

  static std::vector<const Graph*> variants_of(const FrontGraphs& graphs) {
    std::vector<const Graph*> both = {&graphs.main};
    if (graphs.tail) both.push_back(&*graphs.tail);
    return both;
  }

  Graph train(Graph graph, const Division& division, int64_t rows, ShapeChoices& choices) const {
    const double weight = division.batch > 0 ? static_cast<double>(rows) / static_cast<double>(division.batch) : 1;
    graph =
        add_loss(graph, {options_.loss, options_.loss_output, weight, options_.keep_outputs, options_.ignored_label});
    graph = remove_dead_nodes(observed_.after("add_loss", std::move(graph)));
    // Before differentiate: gradients have the types of what they are gradients of.
    graph = lower(std::move(graph));
    OptimizerOptions optimizer = options_.optimizer;
    if (options_.precision == Precision::f16) optimizer.loss_scale = add_loss_scale(graph, options_.loss_scale);
    const ValueId seed = optimizer.loss_scale ? optimizer.loss_scale->scale : ValueId{};
    graph = observed_.after("differentiate", differentiate(graph, {options_.frozen, seed}, &choices));
    return observed_.after("add_optimizer", add_optimizer(graph, optimizer));
  }

  const std::function<Graph(int64_t)>& graph_of_;
  const PlanOptions& options_;
  const Observed& observed_;
};

Graph import_at(const onnx_io::Model& model, const PlanOptions& options, const Evaluator& evaluator,
                const Division& division, int64_t rows) {
  onnx_io::ImportOptions import;
  import.dims = bound_dims(model.info(), options);
  import.input_shapes = options.input_shapes;
  import.known_inputs = options.known_inputs;
  import.mode = options.train ? onnx_io::ImportOptions::Mode::training : onnx_io::ImportOptions::Mode::inference;
  if (division.batch > 0 && (options.batch || division.microbatches > 1)) {
    import.batch = rows;
    import.batch_symbols = other_batch_symbols(model.info(), options, division.batch);
  }
  try {
    return model.import(import, evaluator);
  } catch (const Error& error) {
    const int64_t fixed = batch_dim(model.info()).value;
    const bool is_other = import.batch && fixed >= 0 && fixed != rows;
    if (!is_other || error.id() != ErrorId::M032 || !error.hint().empty()) throw;
    throw Error(
        error.id(), error.where(), error.what_happened(),
        fmt::format("the file is for {} rows and may not work for {}: export it with a dynamic batch", fixed, rows));
  }
}

}  // namespace

FrontGraphs make_front_graphs(const std::function<Graph(int64_t)>& graph_of, std::optional<int64_t> batch,
                              const PlanOptions& options, const std::string& where, const PipelineHooks& hooks) {
  const Observed observed(hooks);
  observed.stage("import", 0);
  return FrontHalf(graph_of, options, observed).run(divide(batch, options, where), where);
}

FrontGraphs make_front_graphs(const onnx_io::Model& model, const PlanOptions& options, const Evaluator& evaluator,
                              const PipelineHooks& hooks) {
  const std::string& path = model.info().path;
  const std::optional<int64_t> batch = batch_of(model.info(), options);
  const Division division = divide(batch, options, path);
  const auto graph_of = [&](int64_t rows) { return import_at(model, options, evaluator, division, rows); };
  FrontGraphs graphs = make_front_graphs(graph_of, batch, options, path, hooks);
  if (division.batch == 0) return graphs;
  const std::map<std::string, int64_t> bound = bound_dims(model.info(), options);
  const std::set<std::string> symbols = other_batch_symbols(model.info(), options, division.batch);
  for (const onnx_io::DeclaredValue& input : model.info().inputs) {
    if (input.dims.empty() || !symbols.contains(input.dims[0].symbol)) continue;
    const std::string symbol = escaped(input.dims[0].symbol, 100);
    if (!options.input_shapes.contains(input.name) && !bound.contains(input.dims[0].symbol)) {
      graphs.notes.push_back(
          fmt::format("input \"{}\": its dimension {}, which nothing binds, is taken for the batch "
                      "(--dim {}=N says otherwise)",
                      escaped(input.name, 100), symbol, symbol));
      continue;
    }
    if (division.microbatches < 2) continue;
    graphs.notes.push_back(
        fmt::format("input \"{}\" is cut into micro-batches, too: its dimension {} is as long as the batch",
                    escaped(input.name, 100), symbol));
  }
  return graphs;
}

Graph import_graph(const onnx_io::Model& model, const PlanOptions& options, const Evaluator& evaluator) {
  const Division division = divide(batch_of(model.info(), options), options, model.info().path);
  return canonicalize(import_at(model, options, evaluator, division, division.rows));
}

}  // namespace mpc
