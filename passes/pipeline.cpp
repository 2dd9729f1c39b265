#include "passes/pipeline.h"

#include <algorithm>
#include <limits>
#include <set>

#include <fmt/format.h>

#include "compiler/base/text.h"
#include "compiler/cost/estimate.h"
#include "compiler/ir/rewriter.h"
#include "compiler/ir/verify.h"
#include "compiler/ops/verify_types.h"
#include "compiler/plan/simulate.h"
#include "passes/canonicalize.h"
#include "passes/chunks.h"
#include "passes/differentiate.h"
#include "passes/insert_transfers.h"
#include "passes/lower.h"
#include "passes/plan_memory.h"
#include "passes/recompute.h"
#include "passes/synchronize.h"

// The whole compiler on one page. A model becomes one graph per size of micro-batch (front half), which is placed,
// scheduled and lowered to a plan (back half).

namespace mpc {
namespace {

// Attempts to raise the planner's memory estimate to what planning memory exactly found.
constexpr int kMostAttempts = 8;

class Observed {
 public:
  explicit Observed(const PipelineHooks& hooks) : hooks_(hooks) {}
  void stage(std::string_view name, double share) const {
    if (hooks_.progress) hooks_.progress(name, share);
  }
  /// Verifies what a pass made, and shows it to whoever asked for it.
  Graph after(std::string_view pass, Graph graph) const {
    if (hooks_.verifies) {
      verify(graph);
      verify_types(graph);
    }
    if (hooks_.graph) hooks_.graph(pass, graph);
    return graph;
  }

 private:
  const PipelineHooks& hooks_;
};

// --- Front half: from what the user asked to one graph per size of micro-batch. ---

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

/// Nodes of parameters and constants only are executed once per step, unless their results depend on the number of rows.
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

// count / size, rounded up; count may be any number a file states.
int64_t divided_up(int64_t count, int64_t size) {
  return count / size + (count % size != 0 ? 1 : 0);
}

Division divide(std::optional<int64_t> batch, const PlanOptions& options, const std::string& where) {
  Division division;
  if (options.microbatches < 1) throw Error(ErrorId::M003, "--microbatches", fmt::format("is {}, must be at least 1", options.microbatches));
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
    throw Error(ErrorId::M045, where, fmt::format("a batch of {} cannot be divided into micro-batches of {} rows", *batch, division.rows));
  }
  const int64_t microbatches = divided_up(*batch, division.rows);
  if (microbatches > std::numeric_limits<int>::max()) {
    throw Error(ErrorId::M045, where, fmt::format("a batch of {} in micro-batches of {} rows is too many of them", *batch, division.rows));
  }
  division.microbatches = static_cast<int>(microbatches);
  if (!by_rows && division.microbatches != options.microbatches) {
    throw Error(ErrorId::M045, where, fmt::format("a batch of {} gives {} micro-batches of {} rows, not {}", *batch, division.microbatches, division.rows, options.microbatches),
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
      graphs.main = import(division.rows, simplify);
      if (has_tail) {
        graphs.tail = import(division.tail_rows(), simplify);
        if (!have_same_structure(graphs.main, *graphs.tail)) continue;
        align_rates(graphs.main, *graphs.tail);
      }
      if (!options_.train && options_.precision == Precision::bf16) {
        graphs.main = observed_.after("lower_precision", lower_precision(graphs.main));
        if (has_tail) graphs.tail = observed_.after("lower_precision", lower_precision(*graphs.tail));
      }
      if (options_.train) {
        ShapeChoices choices;
        const std::set<std::string> of_model = input_names(graphs.main);
        graphs.main = train(std::move(graphs.main), division, division.rows, choices);
        graphs.own_inputs = added_inputs(graphs.main, of_model);
        choices.is_replay = true;
        if (has_tail) graphs.tail = train(std::move(*graphs.tail), division, division.tail_rows(), choices);
      }
      if (!has_tail || have_same_structure(graphs.main, *graphs.tail)) return graphs;
    }
    throw Error(ErrorId::M045, where, fmt::format("the model is another graph for the last micro-batch of {} rows than for {}", division.tail_rows(), division.rows),
                "choose a batch that the micro-batches divide evenly");
  }

 private:
  Graph import(int64_t rows, bool simplify) const {
    Graph graph = observed_.after("import", graph_of_(rows));
    return simplify ? observed_.after("canonicalize", canonicalize(graph)) : graph;
  }

  Graph train(Graph graph, const Division& division, int64_t rows, ShapeChoices& choices) const {
    const double weight = division.batch > 0 ? static_cast<double>(rows) / static_cast<double>(division.batch) : 1;
    graph = add_loss(graph, {options_.loss, options_.loss_output, weight, options_.keep_outputs});
    graph = remove_dead_nodes(observed_.after("add_loss", std::move(graph)));
    // Before differentiate: gradients have the types of what they are gradients of.
    if (options_.precision == Precision::bf16) {
      graph = observed_.after("lower_precision", lower_precision(graph));
    }
    graph = observed_.after("differentiate", differentiate(graph, {options_.frozen}, &choices));
    return observed_.after("add_optimizer", add_optimizer(graph, options_.optimizer));
  }

  const std::function<Graph(int64_t)>& graph_of_;
  const PlanOptions& options_;
  const Observed& observed_;
};

Graph import_at(const onnx_io::Model& model, const PlanOptions& options, const Evaluator& evaluator, const Division& division, int64_t rows) {
  onnx_io::ImportOptions import;
  import.dims = bound_dims(model.info(), options);
  import.input_shapes = options.input_shapes;
  import.known_inputs = options.known_inputs;
  import.mode = options.train ? onnx_io::ImportOptions::Mode::training : onnx_io::ImportOptions::Mode::inference;
  if (division.batch > 0 && (options.batch || division.microbatches > 1)) import.batch = rows;
  try {
    return model.import(import, evaluator);
  } catch (const Error& error) {
    const int64_t fixed = batch_dim(model.info()).value;
    const bool is_other = import.batch && fixed >= 0 && fixed != rows;
    if (!is_other || error.id() != ErrorId::M032 || !error.hint().empty()) throw;
    throw Error(error.id(), error.where(), error.what_happened(),
                fmt::format("the file is for {} rows and may not work for {}: export it with a dynamic batch", fixed, rows));
  }
}

// --- Back half: from graphs to a plan. ---

struct Attempt {
  Plan plan;
  Placement placement;
  Schedule schedule;
  std::vector<ValueId> dropped;  // of the main graph: computed again in the backward pass
  std::vector<std::string> notes;
  int64_t excess_bytes = 0;  // above the devices' capacities; 0: it fits
  bool is_of_parts = false;  // placed on parts of devices
  double step_seconds = 0;   // of the plan when it is synchronized: what the schedule expects, and waits for memory
  /// A search that had other ways to lay out a pipeline leaves the plain one only for this: chunks send more often.
  bool is_clearly_better(const Attempt& other) const {
    constexpr double kClearly = 0.98;
    if (excess_bytes != other.excess_bytes) return excess_bytes < other.excess_bytes;
    return step_seconds < kClearly * other.step_seconds;
  }
};

class BackHalf {
 public:
  BackHalf(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options, const Observed& observed)
      : graphs_(graphs), cluster_(cluster), options_(options), observed_(observed) {}

  /// The plan of the best placement found.
  Attempt run() const {
    Attempt best;
    bool is_first = true;
    for (const ChunkLayout layout : layouts()) {
      Attempt attempt = best_attempt(layout);
      attempt.is_of_parts = layout != ChunkLayout::one;
      observed_.stage("synchronize", 0.9);
      synchronize(attempt.plan);
      attempt.step_seconds = simulate(attempt.plan).step_seconds;
      if (is_first || attempt.is_clearly_better(best)) best = std::move(attempt);
      is_first = false;
    }
    if (best.is_of_parts) judge_placement(graphs_.main, cluster_, place_options(), best.placement);
    return best;
  }

 private:
  // The ways to lay out a pipeline that the schedule wants. Given devices and pins leave one.
  std::vector<ChunkLayout> layouts() const {
    const bool is_given = !options_.assignment.empty() || !options_.pins.empty() || options_.objective != Objective::throughput;
    if (is_given || cluster_.count() < 2) return {ChunkLayout::one};
    if (options_.schedule == ScheduleKind::interleaved) return {ChunkLayout::looped};
    if (options_.schedule == ScheduleKind::zb_v) return {ChunkLayout::vee};
    const bool may_choose = options_.schedule == ScheduleKind::automatic && options_.train && graphs_.microbatches > 1;
    if (may_choose) return {ChunkLayout::one, ChunkLayout::looped, ChunkLayout::vee};
    return {ChunkLayout::one};
  }

  Attempt best_attempt(ChunkLayout layout) const {
    const ChunkedCluster parts = chunk_devices(cluster_, layout, options_.chunks);
    const int64_t share = parts.cluster.count() / cluster_.count();
    PlaceOptions place = place_options();
    place.extra_bytes.assign(parts.device_of.size(), 0);
    // Parts that no one asked for are one of several tries.
    place.is_quick = layout != ChunkLayout::one && options_.schedule == ScheduleKind::automatic;
    std::optional<Attempt> best;
    for (int i = 0; i < kMostAttempts; ++i) {
      observed_.stage("place", 0.3 + 0.05 * i);
      Attempt attempt;
      attempt.placement = choose_devices(parts, place);
      lower_attempt(attempt);
      const std::vector<int64_t> extra = place.extra_bytes;
      for (size_t part = 0; part < parts.device_of.size(); ++part) {
        // What the estimate missed counts against the capacity in the next attempt.
        const size_t d = parts.device_of[part].index();
        const int64_t missed = attempt.plan.devices[d].arena_bytes - attempt.placement.estimated_bytes[d];
        place.extra_bytes[part] = std::max(place.extra_bytes[part], missed / share);
      }
      const bool is_done = attempt.excess_bytes == 0 || place.extra_bytes == extra || !options_.assignment.empty();
      if (!best || attempt.excess_bytes < best->excess_bytes) best = std::move(attempt);
      if (is_done) break;
    }
    if (best->excess_bytes > 0 && options_.train && options_.may_recompute) recompute_to_fit(*best);
    return std::move(*best);
  }

  // Drops activations where they do not fit: the cheapest way that fits, or else the one that leaves least outside.
  void recompute_to_fit(Attempt& best) const {
    const Graph placed = apply_placement(graphs_.main, best.placement.device_of_node);
    std::vector<int64_t> excess;
    std::vector<bool> is_tight;
    for (const PlanDevice& device : best.plan.devices) {
      excess.push_back(device.arena_bytes - device.capacity_bytes);
      is_tight.push_back(excess.back() > 0);
    }
    for (const Recomputation& way : recomputations(placed, cluster_, is_tight)) {
      bool may_fit = true;
      for (size_t d = 0; d < excess.size(); ++d) may_fit = may_fit && (!is_tight[d] || way.saved_bytes[d] * graphs_.microbatches >= excess[d]);
      if (!may_fit) continue;
      Attempt attempt;
      attempt.placement = best.placement;
      attempt.dropped = way.dropped;
      lower_attempt(attempt);
      if (attempt.excess_bytes >= best.excess_bytes) continue;
      add_recompute_note(placed, way, attempt);
      best = std::move(attempt);
      if (best.excess_bytes == 0) return;
    }
  }

  void add_recompute_note(const Graph& placed, const Recomputation& way, Attempt& attempt) const {
    std::string savings;
    for (size_t d = 0; d < way.saved_bytes.size(); ++d) {
      if (way.saved_bytes[d] > 0) savings += fmt::format("{}{} {}", savings.empty() ? "" : ", ", cluster_.devices[d].name, bytes_text(way.saved_bytes[d]));
    }
    const auto count = std::ranges::count_if(recompute(placed, way.dropped).nodes(), is_recomputed);
    attempt.notes.push_back(fmt::format("memory: {} forward nodes are computed again in the backward pass ({} per step on all devices); every micro-batch keeps less: {}", count,
                                        seconds_text(way.seconds * graphs_.microbatches), savings));
  }

  PlaceOptions place_options() const { return {options_.objective, options_.pins, graphs_.microbatches, {}, options_.refusal, false}; }

  Placement choose_devices(const ChunkedCluster& parts, const PlaceOptions& place) const {
    if (!options_.assignment.empty()) return place_as_assigned();
    Placement placement = split(parts, place);
    for (DeviceId& device : placement.device_of_node) device = parts.device_of[device.index()];
    std::vector<int64_t> bytes(cluster_.devices.size(), 0);
    for (size_t part = 0; part < parts.device_of.size(); ++part) bytes[parts.device_of[part].index()] += placement.estimated_bytes[part];
    placement.estimated_bytes = std::move(bytes);
    return placement;
  }

  // The layouts of as many parts of equal devices are one question: only what the parts are called differs.
  Placement split(const ChunkedCluster& parts, const PlaceOptions& place) const {
    const bool is_first = std::ranges::all_of(place.extra_bytes, [](int64_t bytes) { return bytes == 0; });
    const auto is_alike = [&](const Device& device) {
      const Device& first = cluster_.devices.front();
      return device.kind == first.kind && device.memory_bytes == first.memory_bytes && device.threads == first.threads;
    };
    if (!is_first || parts.cluster.count() == cluster_.count() || !std::ranges::all_of(cluster_.devices, is_alike))
      return place_nodes(graphs_.main, parts.cluster, place);
    if (!split_of_parts_ || split_of_parts_->first != parts.cluster.count())
      split_of_parts_.emplace(parts.cluster.count(), place_nodes(graphs_.main, parts.cluster, place));
    return split_of_parts_->second;
  }

  // The given device of every forward node; the rest follows its anchor.
  Placement place_as_assigned() const {
    Placement placement;
    const Graph& graph = graphs_.main;
    placement.device_of_node.assign(static_cast<size_t>(graph.node_count()), DeviceId(0));
    for (int i = 0; i < graph.node_count(); ++i) {
      const Node& node = graph.node(NodeId(i));
      if (node.phase != Phase::forward) {
        placement.device_of_node[static_cast<size_t>(i)] = placement.device_of_node[node.anchor.index()];
        continue;
      }
      const auto given = options_.assignment.find(node.name);
      if (given == options_.assignment.end() || given->second < 0 || given->second >= cluster_.count()) {
        throw Error(ErrorId::M003, "assignment", fmt::format("node '{}' has no device or one that does not exist", node.name));
      }
      placement.device_of_node[static_cast<size_t>(i)] = DeviceId(given->second);
    }
    placement.estimated_bytes.assign(cluster_.devices.size(), 0);
    return placement;
  }

  void lower_attempt(Attempt& attempt) const {
    const Graph main = localize(graphs_.main, attempt);
    std::optional<Graph> tail;
    if (graphs_.tail) {
      tail = localize(*graphs_.tail, attempt);
      MPC_CHECK(have_same_structure(main, *tail), "the last micro-batch has another graph than the others");
    }
    std::vector<const Graph*> variants = {&main};
    if (tail) variants.push_back(&*tail);
    observed_.stage("schedule", 0.6);
    lower_cuts(variants, make_cuts(variants, cluster_), attempt);
  }

  // Schedules and lowers. `auto` has to do with less memory, by as much as the plan that it made exceeds the capacities.
  void lower_cuts(const std::vector<const Graph*>& variants, const Cuts& cuts, Attempt& attempt) const {
    constexpr int kMostSchedules = 4;
    std::vector<int64_t> most_kept;
    add_chunk_note(cuts.whole, attempt);
    for (int i = 0; i < kMostSchedules; ++i) {
      CutSchedule chosen = make_schedule(cuts, graphs_.microbatches, variants.size() > 1, options_.schedule, most_kept);
      observed_.stage("lower", 0.7);
      Plan plan = lower(variants, cuts.of(chosen.cut), chosen.schedule, cluster_, graphs_.microbatches);
      observed_.stage("plan memory", 0.8);
      plan_memory(plan);
      const int64_t excess = excess_bytes(plan);
      most_kept = chosen.schedule.kept_bytes;
      for (size_t d = 0; d < most_kept.size(); ++d) {
        most_kept[d] = std::max<int64_t>(0, most_kept[d] + plan.devices[d].capacity_bytes - plan.devices[d].arena_bytes);
      }
      if (i == 0 || excess < attempt.excess_bytes) {
        attempt.plan = std::move(plan);
        attempt.schedule = std::move(chosen.schedule);
        attempt.excess_bytes = excess;
      }
      if (attempt.excess_bytes == 0 || options_.schedule != ScheduleKind::automatic) break;
    }
  }

  // A schedule for several runs of nodes per device does what 1F1B or ZB-H1 does where there is one.
  void add_chunk_note(const Segments& segments, Attempt& attempt) const {
    if (options_.schedule != ScheduleKind::interleaved && options_.schedule != ScheduleKind::zb_v) return;
    std::vector<int> runs(cluster_.devices.size(), 0);
    for (const Segment& segment : segments.segments) {
      if (segment.phase == SegmentPhase::forward && !segment.per_step) ++runs[segment.device.index()];
    }
    if (std::ranges::max(runs) > 1) return;
    attempt.notes.push_back(fmt::format("schedule {}: no device has more than one run of nodes, so there is nothing to interleave{}", schedule_name(options_.schedule),
                                        options_.pins.empty() && options_.assignment.empty() ? "" : " (pins and annotations decide what runs where)"));
  }

  Graph localize(const Graph& graph, const Attempt& attempt) const {
    const auto place_and_drop = [&](const Graph& unplaced) {
      Graph placed = observed_.after("place", apply_placement(unplaced, attempt.placement.device_of_node));
      return attempt.dropped.empty() ? placed : observed_.after("recompute", recompute(placed, attempt.dropped));
    };
    const Graph placed = place_and_drop(graph);
    // The main graph says what is small, so that both sizes of micro-batch group their transfers alike.
    if (&graph == &graphs_.main) return observed_.after("insert_transfers", insert_transfers(placed));
    return observed_.after("insert_transfers", insert_transfers(placed, place_and_drop(graphs_.main)));
  }

  static int64_t excess_bytes(const Plan& plan) {
    int64_t excess = 0;
    for (const PlanDevice& device : plan.devices) excess += std::max<int64_t>(0, device.arena_bytes - device.capacity_bytes);
    return excess;
  }

  const FrontGraphs& graphs_;
  const Cluster& cluster_;
  const PlanOptions& options_;
  const Observed& observed_;
  mutable std::optional<std::pair<int, Placement>> split_of_parts_;  // by the number of parts
};

// --- The results. ---

void describe_inputs(Plan& plan, const FrontGraphs& graphs) {
  plan.batch = graphs.batch;
  plan.microbatch_rows = graphs.microbatch_rows;
  for (PlanInput& input : plan.inputs) {
    const auto own = graphs.own_inputs.find(input.name);
    if (own != graphs.own_inputs.end()) input.role = own->second;
    const PlanValue& value = plan.values[input.value];
    const auto rows_match = [&](size_t v, int64_t rows) { return value.shapes[v].rank() > 0 && value.shapes[v][0] == rows; };
    input.is_batched = !value.per_step && graphs.batch > 0 && rows_match(0, graphs.microbatch_rows) &&
                       (!plan.has_tail || rows_match(1, plan.rows_of(plan.microbatches - 1)));
    if (input.role != PlanInput::Role::data) continue;
    std::vector<int64_t> shape = value.shapes[0].to_vector();
    if (input.is_batched) shape[0] = graphs.batch;
    plan.model.input_shapes.emplace_back(input.name, std::move(shape));
  }
}

void describe_outputs(Plan& plan, const FrontGraphs& graphs) {
  for (PlanOutput& output : plan.outputs) {
    if (output.combine != PlanOutput::Combine::concatenate || plan.microbatches == 1) continue;
    const PlanValue& value = plan.values[output.value];
    const bool has_rows = value.shapes[0].rank() > 0 && value.shapes[0][0] == graphs.microbatch_rows;
    if (has_rows) continue;
    throw Error(ErrorId::M045, fmt::format("output \"{}\"", output.name),
                fmt::format("has shape {}: it has no batch dimension, so the results of {} micro-batches cannot be put together", to_string(value.shapes[0]), plan.microbatches),
                "use one micro-batch");
  }
}

void add_predictions(Plan& plan, const Attempt& attempt, const PlanOptions& options) {
  const Placement& placement = attempt.placement;
  plan.is_training = options.train;
  plan.precision = std::string(precision_name(options.precision));
  plan.objective = std::string(objective_name(options.objective));
  plan.objective_value = placement.objective_value;
  plan.objective_lower_bound = placement.lower_bound;
  plan.one_device_seconds = placement.one_device_s * plan.microbatches;
  plan.notes = attempt.placement.notes;
  plan.notes.insert(plan.notes.end(), attempt.notes.begin(), attempt.notes.end());
  const Timeline timeline = simulate(plan);
  plan.step_seconds = timeline.step_seconds;
  plan.bubble = timeline.bubble;
  for (const TimelineEntry& entry : timeline.entries) plan.instructions[entry.instruction].start_s = entry.start_s;
}

/// Which device a stream of micro-batches waits for, and the node that it spends most time on.
void add_bottleneck(Plan& plan) {
  size_t slowest = 0;
  size_t busy_devices = 0;
  for (size_t d = 0; d < plan.devices.size(); ++d) {
    busy_devices += plan.devices[d].seconds > 0 ? 1 : 0;
    if (plan.devices[d].seconds > plan.devices[slowest].seconds) slowest = d;
  }
  if (busy_devices < 2) return;
  std::map<std::string, double> seconds_of;  // forward and backward of one ONNX node, per micro-batch
  for (const PlanNode& node : plan.nodes) {
    if (node.device == DeviceId(slowest) && !node.per_step) seconds_of[node.origin] += node.seconds.front();
  }
  if (seconds_of.empty()) return;
  const auto& [node, seconds] = *std::ranges::max_element(seconds_of, {}, [](const auto& entry) { return entry.second; });
  const PlanDevice& device = plan.devices[slowest];
  plan.notes.push_back(fmt::format("{} is the bottleneck: it works {} per step, {} of it on {}", device.name, seconds_text(device.seconds), seconds_text(seconds * plan.microbatches), node));
}

void add_warnings(Plan& plan) {
  double largest = 0;
  double total = 0;
  for (const PlanDevice& device : plan.devices) {
    largest = std::max(largest, device.flops);
    total += device.flops;
  }
  for (const PlanDevice& device : plan.devices) {
    const bool has_work = std::ranges::any_of(plan.nodes, [&](const PlanNode& node) { return plan.devices[node.device.index()].name == device.name; });
    if (!has_work) plan.warnings.push_back(fmt::format("{} is idle: the plan uses fewer devices than it was given", device.name));
  }
  constexpr double kUnbalanced = 1.5;
  if (total > 0 && plan.devices.size() > 1 && largest * static_cast<double>(plan.devices.size()) > kUnbalanced * total) {
    std::string shares;
    for (const PlanDevice& device : plan.devices) shares += fmt::format("{}{:.1f} %", shares.empty() ? "" : " / ", 100 * device.flops / total);
    plan.warnings.push_back("the devices have unequal shares of the FLOPs: " + shares);
  }
  if (plan.devices.size() > 1 && plan.one_device_seconds > 0 && plan.step_seconds > plan.one_device_seconds) {
    plan.warnings.push_back(fmt::format("one device alone would be faster ({} instead of {} predicted), if the model fits it", seconds_text(plan.one_device_seconds), seconds_text(plan.step_seconds)));
  }
}

/// The largest tensors of a device that are in memory at once with everything that never leaves it.
std::vector<std::string> largest_tensors(const Plan& plan, DeviceId device) {
  constexpr size_t kShown = 3;
  std::set<std::pair<int64_t, std::string>, std::greater<>> tensors;
  for (const PlanSlice& slice : plan.slices) {
    if (slice.device == device && slice.value != kNone) tensors.emplace(slice.bytes, plan.values[slice.value].name);
  }
  std::vector<std::string> texts;
  for (const auto& [bytes, name] : tensors) {
    if (texts.size() == kShown) break;
    texts.push_back(fmt::format("{}: {}", name, bytes_text(bytes)));
  }
  return texts;
}

Infeasible explain(const Attempt& attempt, const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options, const Observed& observed) {
  Infeasible result;
  std::string memory;
  for (size_t d = 0; d < attempt.plan.devices.size(); ++d) {
    const PlanDevice& device = attempt.plan.devices[d];
    memory += fmt::format("{}{}", d == 0 ? "" : ",", std::max(device.arena_bytes, device.capacity_bytes));
    if (device.arena_bytes <= device.capacity_bytes) continue;
    result.needs.push_back({static_cast<int>(d), device.arena_bytes, device.capacity_bytes, largest_tensors(attempt.plan, DeviceId(d))});
  }
  result.suggestions.push_back("--memory " + memory);
  // More devices like the last one: tried, up to twice as many.
  const int count = cluster.count();
  for (int more = count + 1; more <= 2 * count && options.assignment.empty(); ++more) {
    Cluster larger = cluster;
    larger.devices.resize(static_cast<size_t>(more), cluster.devices.back());
    link_all(larger);
    if (BackHalf(graphs, larger, options, observed).run().excess_bytes > 0) continue;
    result.suggestions.push_back(fmt::format("{} devices of {}", more, bytes_text(cluster.devices.back().memory_bytes)));
    break;
  }
  return result;
}

}  // namespace

std::variant<Plan, Infeasible> make_plan(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options, const PipelineHooks& hooks) {
  const bool has_gpu = std::ranges::any_of(cluster.devices, [](const Device& device) { return device.backend == "cuda"; });
  if (options.precision == Precision::tf32 && !has_gpu) {
    throw Error(ErrorId::M046, "--precision tf32", "only CUDA devices round the operands of products, and there is none", "use f32 or bf16, or a cuda device");
  }
  const Observed observed(hooks);
  Attempt attempt = BackHalf(graphs, cluster, options, observed).run();
  if (attempt.excess_bytes > 0) return explain(attempt, graphs, cluster, options, observed);
  Plan& plan = attempt.plan;
  describe_inputs(plan, graphs);
  describe_outputs(plan, graphs);
  add_predictions(plan, attempt, options);
  add_bottleneck(plan);
  add_warnings(plan);
  observed.stage("done", 1);
  return std::move(plan);
}

FrontGraphs make_front_graphs(const std::function<Graph(int64_t)>& graph_of, std::optional<int64_t> batch, const PlanOptions& options, const std::string& where, const PipelineHooks& hooks) {
  const Observed observed(hooks);
  observed.stage("import", 0);
  return FrontHalf(graph_of, options, observed).run(divide(batch, options, where), where);
}

FrontGraphs make_front_graphs(const onnx_io::Model& model, const PlanOptions& options, const Evaluator& evaluator, const PipelineHooks& hooks) {
  const std::string& path = model.info().path;
  const std::optional<int64_t> batch = batch_of(model.info(), options);
  const Division division = divide(batch, options, path);
  const auto graph_of = [&](int64_t rows) { return import_at(model, options, evaluator, division, rows); };
  return make_front_graphs(graph_of, batch, options, path, hooks);
}

std::variant<Plan, Infeasible> make_plan(const onnx_io::Model& model, const Cluster& cluster, const PlanOptions& options, const Evaluator& evaluator, const PipelineHooks& hooks) {
  auto result = make_plan(make_front_graphs(model, options, evaluator, hooks), cluster, options, hooks);
  if (Plan* plan = std::get_if<Plan>(&result)) {
    plan->model.path = model.info().path;
    plan->model.sha256 = model.info().sha256;
  }
  return result;
}

Graph import_graph(const onnx_io::Model& model, const PlanOptions& options, const Evaluator& evaluator) {
  const Division division = divide(batch_of(model.info(), options), options, model.info().path);
  return canonicalize(import_at(model, options, evaluator, division, division.rows));
}

}  // namespace mpc
