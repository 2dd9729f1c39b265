#include "mpc/plan.h"

#include <algorithm>

#include <fmt/format.h>

#include "api/check_types.h"
#include "api/dot.h"
#include "api/facts.h"
#include "api/html_report.h"
#include "api/impl.h"
#include "api/report.h"
#include "compiler/base/error.h"
#include "compiler/base/file.h"
#include "compiler/base/json.h"
#include "compiler/plan/check.h"
#include "compiler/plan/host_memory.h"
#include "compiler/plan/simulate.h"
#include "compiler/plan/text.h"

namespace mpc {

v1::Plan api::make_public(Plan plan) {
  return v1::Plan(std::make_shared<v1::Plan::Impl>(v1::Plan::Impl{std::move(plan)}));
}

namespace v1 {

std::map<std::string, int> changed_devices(const std::string& path, const Model& model, int device_count) {
  const mpc::Plan plan = parse_plan(read_text_file(path, kMaxJsonBytes), path);
  Plan(std::make_shared<Plan::Impl>(Plan::Impl{plan})).require_model(model);
  if (static_cast<int>(computing_device_count(plan)) != device_count) {
    throw Error(ErrorId::M062, path,
                fmt::format("is a plan for {} devices, not for {}", computing_device_count(plan), device_count));
  }
  std::map<std::string, int> changed;
  for (const Instruction& instruction : plan.instructions) {
    if (instruction.action != Action::run || instruction.index >= plan.nodes.size() ||
        instruction.queue >= plan.queues.size())
      continue;
    const PlanNode& node = plan.nodes[instruction.index];
    if (node.device == plan.queues[instruction.queue].device) continue;
    if (node.phase != PlanPhase::forward) {
      throw Error(ErrorId::M004, fmt::format("{}: node \"{}\"", path, node.name),
                  "is a gradient or an update, which runs where its forward node does",
                  fmt::format("change the device of {}", node.origin));
    }
    changed[node.name] = static_cast<int>(node.device.index());
  }
  return changed;
}

Plan Plan::load(const std::string& path) {
  return parse(read_text_file(path, kMaxJsonBytes), path);
}

Plan Plan::parse(const std::string& json, const std::string& where) {
  mpc::Plan plan = parse_plan(json, where);
  try {
    check_plan(plan);
    api::check_node_types(plan);
  } catch (const Error& error) {
    throw error.with_prefix(where);
  }
  return api::make_public(std::move(plan));
}

void Plan::save(const std::string& path) const {
  write_file_atomic(path, json());
}
std::string Plan::json() const {
  return print_plan(impl().plan);
}

const std::string& Plan::model_path() const {
  return impl().plan.model.path;
}
bool Plan::is_training() const {
  return impl().plan.is_training;
}
int Plan::microbatches() const {
  return impl().plan.microbatches;
}
int64_t Plan::batch() const {
  return impl().plan.batch;
}
const std::string& Plan::schedule() const {
  return impl().plan.schedule;
}
const std::string& Plan::objective() const {
  return impl().plan.objective;
}
double Plan::step_seconds() const {
  return impl().plan.step_seconds;
}
double Plan::bubble() const {
  return impl().plan.bubble;
}
double Plan::objective_value() const {
  return impl().plan.objective_value;
}
double Plan::objective_lower_bound() const {
  return impl().plan.objective_lower_bound;
}
double Plan::one_device_seconds() const {
  return impl().plan.one_device_seconds;
}
std::vector<std::string> Plan::warnings() const {
  return impl().plan.warnings;
}
std::vector<std::string> Plan::notes() const {
  return impl().plan.notes;
}
std::vector<DevicePlan> Plan::devices() const {
  return api::device_plans(impl().plan);
}
std::vector<TransferPlan> Plan::transfers() const {
  return api::transfer_plans(impl().plan);
}
std::map<std::string, int> Plan::assignment() const {
  return api::assignment_of(impl().plan);
}

std::vector<TensorInfo> Plan::inputs() const {
  const mpc::Plan& plan = impl().plan;
  std::vector<TensorInfo> result;
  for (const PlanInput& input : plan.inputs) {
    if (!input.is_supplied_by_caller()) continue;
    result.push_back({input.name, api::public_dtype(plan.values[input.value].dtype),
                      api::batch_shape(plan, input.value, input.is_batched), input.is_batched,
                      api::value_bound(plan, input.value), input.role == PlanInput::Role::labels});
  }
  return result;
}

std::vector<TensorInfo> Plan::outputs() const {
  const mpc::Plan& plan = impl().plan;
  std::vector<TensorInfo> result;
  for (const PlanOutput& output : plan.outputs) {
    const bool is_batched = output.combine == PlanOutput::Combine::concatenate;
    result.push_back({output.name, api::public_dtype(plan.values[output.value].dtype),
                      api::batch_shape(plan, output.value, is_batched), is_batched, 0, false});
  }
  return result;
}

void Plan::check() const {
  check_plan(impl().plan);
  api::check_node_types(impl().plan);
}

void Plan::require_model(const Model& model) const {
  const onnx_io::ModelInfo& info = model.impl().model.info();
  if (info.sha256 == impl().plan.model.sha256) return;
  throw Error(ErrorId::M062, info.path,
              fmt::format("the plan was made for another model ({}, SHA-256 {:.12}...; this one has {:.12}...)",
                          impl().plan.model.path, impl().plan.model.sha256, info.sha256),
              "partition this model again");
}

Simulation Plan::simulate() const {
  const mpc::Plan& plan = impl().plan;
  const Timeline timeline = mpc::simulate(plan);
  Simulation result{timeline.step_seconds, timeline.bubble, timeline.device_busy_s, {}};
  for (const std::vector<MemoryPoint>& points : memory_over_time(plan, timeline)) {
    int64_t peak = 0;
    for (const MemoryPoint& point : points) peak = std::max(peak, point.bytes);
    result.peak_live_bytes.push_back(peak);
  }
  return result;
}

std::string Plan::trace_json() const {
  return mpc::trace_json(impl().plan, mpc::simulate(impl().plan), "predicted");
}
std::string Plan::report_text() const {
  return api::report_text(impl().plan);
}
std::string Plan::report_html() const {
  return api::html_report(impl().plan, nullptr);
}

std::string Plan::report_json() const {
  return api::report_json(impl().plan);
}
std::string Plan::dot(const DotOptions& options) const {
  return api::plan_dot(impl().plan, options);
}

void Plan::save_annotated(const Model& model, const std::string& path) const {
  require_model(model);
  onnx_io::Model::Annotation annotation;
  for (const PlanDevice& device : impl().plan.devices) {
    if (!is_host_memory(device)) annotation.device_names.push_back(device.name);
  }
  annotation.configuration_name = fmt::format("mpc-{}", annotation.device_names.size());
  annotation.stage_of_node = assignment();
  model.impl().model.save_annotated(path, annotation);
}

}  // namespace v1
}  // namespace mpc
