#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "compiler/cost/cluster.h"
#include "compiler/onnx/model.h"
#include "compiler/ops/evaluate.h"
#include "compiler/plan/plan.h"
#include "passes/add_loss.h"
#include "passes/add_optimizer.h"
#include "passes/lower_precision.h"
#include "passes/offload.h"
#include "passes/place/place.h"
#include "passes/schedule/schedule.h"

namespace mpc {

/// Everything that decides what plan comes out, beside the model and the cluster.
struct PlanOptions {
  // The shapes.
  std::map<std::string, int64_t> dims;                       // symbolic dimensions
  std::map<std::string, std::vector<int64_t>> input_shapes;  // of the whole batch, when given at run time
  std::map<std::string, Literal> known_inputs;               // content of inputs on which shapes depend
  std::optional<int64_t> batch;  // rows of a step; empty: what dims, shapes or the model say
  int microbatches = 1;
  std::optional<int64_t> microbatch_rows;  // instead of microbatches: the rows of each but the last
  // The split.
  ScheduleKind schedule = ScheduleKind::automatic;
  int chunks = 2;  // interleaved: runs of nodes per device
  /// May elementwise operators in a row become one node, and the optimizer's nodes of a device? No bit depends on it.
  bool may_fuse = true;
  /// May activations be computed again where they do not fit?
  bool may_recompute = true;
  /// May activations wait in host memory where they do not fit, and in how much of it?
  bool may_offload = true;
  int64_t host_memory_bytes = kAssumedHostBytes;
  Objective objective = Objective::throughput;
  double budget_s = kLatencyBudget;  // objective latency: how long a placement is annealed
  double search_s = 0;               // objective throughput: how long whole plans are made to find a shorter one
  /// Whether some plan fits is the question: the first that does is the answer, and fewer are tried.
  bool only_fits = false;
  std::vector<Pin> pins;
  /// When not empty: the device of every forward node by name, instead of a search (tests, edited plans).
  std::map<std::string, int> assignment;
  KernelRefusal refusal;  // what backends have no kernels for
  Precision precision = Precision::f32;
  // Training.
  bool train = false;
  LossKind loss = LossKind::cross_entropy;
  std::string loss_output;
  std::optional<int64_t> ignored_label;
  OptimizerOptions optimizer;
  LossScaleOptions loss_scale;  // of f16
  std::string frozen;           // regex of parameters that are not trained
  /// Training: fetch the model's outputs of every step too, not only the loss.
  bool keep_outputs = false;
};

/// Why no plan fits, in exact bytes of the best attempt.
struct Infeasible {
  struct Need {
    int device = 0;
    int64_t bytes = 0;
    int64_t capacity_bytes = 0;
    std::vector<std::string> largest;  // "layer1.weight: 1.91 MiB", the largest tensors at the fullest moment
  };
  std::vector<Need> needs;
  /// Changes of the request that were tried and found to fit, as command-line flags.
  std::vector<std::string> suggestions;
};

/// Told before each stage, with its name and the share of the work done so far; for progress display and dumps.
using Progress = std::function<void(std::string_view stage, double share)>;
/// Given the graph after each pass, when somebody wants to see it.
using GraphObserver = std::function<void(std::string_view pass, const Graph& graph)>;

struct PipelineHooks {
  Progress progress;
  GraphObserver graph;
  bool verifies = true;  // the graph after every pass
};

/// The whole compiler: model -> graph -> placed -> local -> scheduled -> plan.
/// @return the plan, or why none fits. @throws Error for a model or options that are wrong (see the passes).
std::variant<Plan, Infeasible> make_plan(const onnx_io::Model& model, const Cluster& cluster,
                                         const PlanOptions& options, const Evaluator& evaluator,
                                         const PipelineHooks& hooks = {});

/// The front half's result: the graph of a micro-batch, trained and canonical, and the same graph with
/// the shapes of the last micro-batch when that is smaller.
struct FrontGraphs {
  Graph main;
  std::optional<Graph> tail;
  int64_t batch = 0;  // rows of a step; 0: the model has no batch dimension
  int64_t microbatch_rows = 0;
  int microbatches = 1;
  /// The inputs that mpc added to those of the model, by name. A model may use the same words for its own.
  std::map<std::string, PlanInput::Role> own_inputs = {};
  std::vector<std::string> warnings = {};
  std::vector<std::string> notes = {};
};

/// The front half for any source of graphs: `graph_of(rows)` gives the graph, in stage imported, for that many rows
/// (text graphs, random graphs in tests). `where` names the source in errors.
FrontGraphs make_front_graphs(const std::function<Graph(int64_t rows)>& graph_of, std::optional<int64_t> batch,
                              const PlanOptions& options, const std::string& where, const PipelineHooks& hooks = {});
/// The same for a model, with the batch that its shapes and the options say.
FrontGraphs make_front_graphs(const onnx_io::Model& model, const PlanOptions& options, const Evaluator& evaluator,
                              const PipelineHooks& hooks = {});
/// The cluster at the rates that products have in `precision`. @throws Error(M046) when tf32 is asked for and there is
/// no CUDA device.
Cluster in_precision(Cluster cluster, Precision precision);
/// The back half: place, insert transfers, schedule, lower, plan memory, synchronize.
std::variant<Plan, Infeasible> make_plan(const FrontGraphs& graphs, const Cluster& cluster, const PlanOptions& options,
                                         const PipelineHooks& hooks = {});

/// The model's graph as the passes after import see it, for one micro-batch of the options' batch (for inspect and
/// opt).
Graph import_graph(const onnx_io::Model& model, const PlanOptions& options, const Evaluator& evaluator);

}  // namespace mpc
