#include "mpc/compile.h"

#include <fmt/format.h>

#include "api/check_types.h"
#include "api/dot.h"
#include "api/impl.h"
#include "api/kernel_gaps.h"
#include "api/reference_evaluator.h"
#include "api/report.h"
#include "compiler/base/error.h"
#include "compiler/base/file.h"
#include "compiler/base/text.h"
#include "compiler/ir/print.h"
#include "compiler/plan/check.h"
#include "compiler/plan/text.h"

namespace mpc {
namespace api {

void require_budget(double seconds) {
  constexpr double kLeast = 1e-3;
  constexpr double kMost = 86'400;
  if (!(seconds >= kLeast && seconds <= kMost))
    throw Error(ErrorId::M003, "budget", fmt::format("is {} s, must be in [{}, {}]", seconds, kLeast, kMost));
}

void unknown_name(const std::string& what, const std::string& name, const std::vector<std::string>& known) {
  std::string all;
  for (const std::string& candidate : known) all += (all.empty() ? "" : ", ") + candidate;
  const std::optional<std::string> near = nearest(name, known);
  throw Error(ErrorId::M002, what, fmt::format("'{}' is not known", name),
              near ? fmt::format("did you mean {}? (one of {})", *near, all) : "use one of " + all);
}

}  // namespace api

namespace {

using api::unknown_name;

/// The regular expression that finds `name` and nothing else.
std::string exact_pattern(const std::string& name) {
  std::string pattern = "^";
  for (const char c : name) {
    if (std::string_view("^$\\.*+?()[]{}|/").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern + "$";
}

void set_training(const v1::TrainingOptions& training, PlanOptions& options) {
  options.train = true;
  const std::optional<LossKind> loss = parse_loss(training.loss);
  if (!loss) unknown_name("loss", training.loss, loss_names());
  options.loss = *loss;
  options.loss_output = training.loss_output;
  options.ignored_label = training.ignored_label;
  options.optimizer.optimizer = parse_optimizer(training.optimizer);
  for (const auto& [pattern, optimizer] : training.groups) {
    options.optimizer.groups.push_back({pattern, parse_optimizer(optimizer)});
  }
  options.optimizer.clip_norm = training.clip_norm;
  options.frozen = training.frozen;
  options.keep_outputs = training.keep_outputs;
}

void set_offload(const v1::CompileOptions& from, PlanOptions& options) {
  options.may_offload = from.may_offload;
  if (!from.host_memory_bytes) return;
  const std::string where = fmt::format("host memory of {}", bytes_text(*from.host_memory_bytes));
  if (*from.host_memory_bytes < 1) throw Error(ErrorId::M003, where, "must be at least 1 byte");
  if (!from.may_offload) throw Error(ErrorId::M003, where, "is for activations that wait there, and none may");
  if (!from.training) {
    throw Error(ErrorId::M003, where, "is for activations that wait for the backward pass, and nothing is trained");
  }
  options.host_memory_bytes = *from.host_memory_bytes;
}

/// The checker shares no code with the passes: a plan it refuses is a bug of theirs, not the user's.
void require_sound(const Plan& plan) {
  try {
    check_plan(plan);
    api::check_node_types(plan);
  } catch (const Error& error) {
    throw Error(ErrorId::M700, error.where(), "the plan that was made failed the checker: " + error.what_happened(),
                "this is a bug in mpc, please report it");
  }
}

/// Writes what the passes make into a folder, in the order in which they make it.
class Dump {
 public:
  explicit Dump(std::string folder) : folder_(std::move(folder)) {}
  bool is_wanted() const { return !folder_.empty(); }

  void graph(std::string_view pass, const Graph& graph) {
    write_file_atomic(fmt::format("{}/{:02}-{}.mpc", folder_, count_++, pass), print(graph));
  }
  void plan(const Plan& plan) const {
    write_file_atomic(folder_ + "/plan.json", print_plan(plan));
    write_file_atomic(folder_ + "/plan.dot", api::plan_dot(plan, {}));
  }

 private:
  std::string folder_;
  int count_ = 0;
};

v1::NoPlan make_public(const Infeasible& infeasible, const Cluster& cluster) {
  v1::NoPlan reasons;
  for (const Infeasible::Need& need : infeasible.needs) {
    const bool is_host = need.device >= cluster.count();
    reasons.needs.push_back({need.device, is_host ? "host" : cluster.device(DeviceId(need.device)).name, need.bytes,
                             need.capacity_bytes, need.largest});
  }
  reasons.suggestions = infeasible.suggestions;
  return reasons;
}

/// @throws Error(M003) for a budget that no search has, or of no length.
void set_budget(const v1::CompileOptions& from, PlanOptions& options) {
  if (!from.budget_seconds) return;
  const bool is_for_latency = options.objective == Objective::latency;
  if (!is_for_latency && options.objective != Objective::throughput) {
    throw Error(ErrorId::M003, "budget", fmt::format("does not go with objective {}", from.objective),
                "only the searches for latency and throughput go on for as long as they may");
  }
  api::require_budget(*from.budget_seconds);
  (is_for_latency ? options.budget_s : options.search_s) = *from.budget_seconds;
}

}  // namespace

PlanOptions api::plan_options(const v1::CompileOptions& public_options) {
  PlanOptions options = api::plan_options(public_options.bindings);
  options.refusal = api::known_kernel_gaps();
  options.microbatches = public_options.microbatches;
  options.microbatch_rows = public_options.microbatch_rows;
  const std::optional<ScheduleKind> schedule = parse_schedule(public_options.schedule);
  if (!schedule) unknown_name("schedule", public_options.schedule, schedule_names());
  options.schedule = *schedule;
  if (public_options.chunks < 1) throw Error(ErrorId::M003, "chunks", "must be at least 1");
  options.chunks = public_options.chunks;
  options.may_fuse = public_options.may_fuse;
  options.may_recompute = public_options.may_recompute;
  set_offload(public_options, options);
  const std::optional<Objective> objective = parse_objective(public_options.objective);
  if (!objective) unknown_name("objective", public_options.objective, {"throughput", "latency", "devices", "memory"});
  options.objective = *objective;
  set_budget(public_options, options);
  const std::optional<Precision> precision = parse_precision(public_options.precision);
  if (!precision) unknown_name("precision", public_options.precision, precision_names());
  options.precision = *precision;
  for (const v1::DevicePin& pin : public_options.pins) options.pins.push_back({pin.pattern, pin.device});
  for (const auto& [node, device] : public_options.kept) options.pins.push_back({exact_pattern(node), device});
  options.assignment = public_options.assignment;
  if (public_options.training) set_training(*public_options.training, options);
  return options;
}

namespace v1 {

const Plan& CompileResult::value() const {
  if (plan) return *plan;
  std::string needs;
  for (const DeviceNeed& need : reasons.needs) {
    needs += fmt::format("{}{} needs {} and may use {}", needs.empty() ? "" : ", ", need.name, bytes_text(need.bytes),
                         bytes_text(need.capacity_bytes));
  }
  throw Error(ErrorId::M050, "plan", needs.empty() ? "no plan fits" : "no plan fits: " + needs,
              reasons.suggestions.empty() ? "" : reasons.suggestions.front());
}

std::string CompileResult::report_json() const {
  return plan ? plan->report_json() : api::report_json(reasons);
}
std::string CompileResult::report_text() const {
  return plan ? plan->report_text() : api::report_text(reasons);
}

CompileResult compile(const Model& model, const Cluster& cluster, const CompileOptions& options) {
  const PlanOptions plan_options = api::plan_options(options);
  const ReferenceEvaluator evaluator;
  PipelineHooks hooks;
  hooks.progress = options.progress;
  hooks.verifies = options.verify_passes;
  Dump dump(options.dump_folder);
  if (dump.is_wanted()) hooks.graph = [&](std::string_view pass, const Graph& graph) { dump.graph(pass, graph); };
  std::variant<mpc::Plan, Infeasible> outcome =
      make_plan(model.impl().model, cluster.impl().cluster, plan_options, evaluator, hooks);
  CompileResult result;
  if (mpc::Plan* plan = std::get_if<mpc::Plan>(&outcome)) {
    if (dump.is_wanted()) dump.plan(*plan);
    require_sound(*plan);
    result.plan = api::make_public(std::move(*plan));
  } else {
    result.reasons = make_public(std::get<Infeasible>(outcome), cluster.impl().cluster);
  }
  return result;
}

}  // namespace v1
}  // namespace mpc
