#include "mpc/session.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include <fmt/format.h>

#include "api/html_report.h"
#include "api/impl.h"
#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "compiler/plan/simulate.h"
#include "executor/session.h"

namespace mpc {
namespace {

executor::SessionOptions internal_options(const v1::SessionOptions& options) {
  executor::SessionOptions result;
  result.interpreter = options.use_reference ? executor::Interpreter::reference : executor::Interpreter::threads;
  result.seed = options.seed;
  result.record_timeline = options.record_trace;
  result.check_finite = options.check_finite;
  result.watchdog_seconds = options.watchdog_seconds;
  result.pins_threads = options.pin_threads;
  if (options.transport == "alias") {
    throw Error(ErrorId::M046, "transport alias",
                "the devices of a plan have an arena each, with offsets of their own, so a transfer always moves bytes",
                "device is a copy within a GPU; auto takes it between logical devices of one");
  }
  const std::optional<executor::Transport> transport = executor::parse_transport(options.transport);
  if (!transport) api::unknown_name("transport", options.transport, executor::transport_names());
  result.transport = *transport;
  return result;
}

executor::StepOptions internal_options(const v1::StepOptions& options) {
  executor::StepOptions result;
  result.update = options.update;
  for (const int device : options.update_devices) {
    if (device < 0) throw Error(ErrorId::M003, "update_devices", fmt::format("device {} does not exist", device));
    result.update_devices.push_back(DeviceId(device));
  }
  result.learning_rate_scale = options.learning_rate_scale;
  return result;
}

/// Parameters of a running session under the names of the model's initializers.
class SessionWeights : public WeightSource {
 public:
  void add(const std::string& name, Literal content) { contents_.emplace(name, std::move(content)); }

  void read(const std::string& name, int64_t offset, std::span<std::byte> out) const override {
    const std::span<const std::byte> bytes = known(name).stored();
    if (offset < 0 || offset > static_cast<int64_t>(bytes.size()) ||
        static_cast<int64_t>(out.size()) > static_cast<int64_t>(bytes.size()) - offset) {
      throw Error(ErrorId::M023, fmt::format("initializer \"{}\"", name), "is shorter than what is read");
    }
    std::ranges::copy(bytes.subspan(static_cast<size_t>(offset), out.size()), out.begin());
  }

  DType dtype(const std::string& name) const override { return known(name).dtype(); }

 private:
  const Literal& known(const std::string& name) const {
    const auto found = contents_.find(name);
    if (found == contents_.end()) throw Error(ErrorId::M023, fmt::format("initializer \"{}\"", name), "is not there");
    return found->second;
  }

  std::map<std::string, Literal> contents_;
};

}  // namespace

namespace v1 {

struct Session::Impl {
  Impl(const Plan& plan_in, const Model& model_in, const SessionOptions& options)
      : plan(plan_in),
        model(model_in),
        records_trace(options.record_trace),
        session(checked(plan_in, model_in).impl().plan, model_in.impl().model.weights(), internal_options(options)) {
    index_parameters();
  }

  static const Plan& checked(const Plan& plan, const Model& model) {
    plan.require_model(model);
    return plan;
  }

  void index_parameters() {
    const mpc::Plan& tables = session.plan();
    std::set<PlanIndex> trained;
    for (const PlanGradient& gradient : tables.gradients) trained.insert(gradient.parameter);
    for (const PlanSlice& slice : tables.slices) {
      if (slice.value == kNone || slice.microbatch != kPerStep) continue;
      const PlanValue& value = tables.values[slice.value];
      if (value.kind != PlanValueKind::parameter) continue;
      const int device = static_cast<int>(slice.device.index());
      const bool is_trained = trained.contains(slice.value);
      if (value.recipe.is_empty())
        add_place(value.source, {value.name, {}}, device, value.shapes.front(), value, is_trained);
      for (size_t i = 0; i < value.recipe.parts.size(); ++i) {
        const WeightPart& part = value.recipe.parts[i];
        add_place(part.source, {value.name, i}, device, part.shape, value, false);
      }
    }
  }

  /// Where a parameter of the model is: in a value of the plan, or in a part of one that has a recipe.
  struct Place {
    std::string value;
    std::optional<size_t> part;
    bool operator==(const Place&) const = default;
  };

  void add_place(const std::string& source, Place place, int device, const Shape& shape, const PlanValue& value,
                 bool is_trained) {
    std::vector<Place>& places = places_of[source];
    if (places.empty())
      parameters.push_back({source, device, api::public_dtype(value.dtype), shape.to_vector(), is_trained});
    if (std::ranges::find(places, place) == places.end()) places.push_back(std::move(place));
  }

  Timeline measured_timeline() const;

  const std::vector<Place>& places(const std::string& parameter) const {
    const auto found = places_of.find(parameter);
    if (found != places_of.end()) return found->second;
    std::vector<std::string> names;
    for (const ParameterInfo& info : parameters) names.push_back(info.name);
    const std::optional<std::string> near = nearest(parameter, names);
    throw Error(ErrorId::M002, fmt::format("parameter \"{}\"", parameter), "the plan has no such parameter",
                near ? fmt::format("did you mean {}?", *near) : "");
  }

  const Plan plan;
  const Model model;
  const bool records_trace;
  std::map<std::string, Tensor> bound;  // the executor reads from here
  executor::Session session;
  std::vector<ParameterInfo> parameters;
  std::map<std::string, std::vector<Place>> places_of;  // by initializer; that of its ParameterInfo first
};

Session::Session(const Plan& plan, const Model& model, const SessionOptions& options)
    : impl_(std::make_unique<Impl>(plan, model, options)) {}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

const Plan& Session::plan() const {
  return impl_->plan;
}

void Session::bind(const std::string& input, Tensor content) {
  const std::optional<Shape> shape = checked_shape(content.shape, api::internal_dtype(content.dtype));
  if (!shape || byte_size(*shape, api::internal_dtype(content.dtype)) != static_cast<int64_t>(content.bytes.size())) {
    throw Error(ErrorId::M004, fmt::format("input \"{}\"", input),
                "its bytes do not fit its shape " + shape_text(content.shape));
  }
  // The new content is known to be good before the old one is let go: bind() throws for a type that does not fit.
  impl_->session.bind(input, api::internal_dtype(content.dtype), *shape, content.bytes);
  Tensor& kept = impl_->bound[input];
  kept = std::move(content);
  impl_->session.bind(input, api::internal_dtype(kept.dtype), *shape, kept.bytes);
}

StepResult Session::step(const StepOptions& options) {
  const executor::StepResult result = impl_->session.step(internal_options(options));
  return {result.seconds, result.loss};
}

void Session::update(const StepOptions& options) {
  impl_->session.update(internal_options(options));
}
Tensor Session::output(const std::string& name) const {
  return api::to_tensor(impl_->session.output(name));
}
std::vector<ParameterInfo> Session::parameters() const {
  return impl_->parameters;
}

Tensor Session::parameter(const std::string& name) const {
  const Impl::Place& place = impl_->places(name).front();
  return api::to_tensor(place.part ? impl_->session.read_part(place.value, *place.part)
                                   : impl_->session.read(place.value));
}

void Session::set_parameter(const std::string& name, const Tensor& content) {
  const Literal literal = api::to_literal(content, fmt::format("parameter \"{}\"", name));
  for (const Impl::Place& place : impl_->places(name)) {
    if (place.part) {
      impl_->session.write_part(place.value, *place.part, literal);
    } else {
      impl_->session.write(place.value, literal);
    }
  }
}

Tensor Session::gradient(const std::string& parameter) const {
  return api::to_tensor(impl_->session.gradient(impl_->places(parameter).front().value));
}

std::vector<PartGradient> Session::part_gradients() const {
  std::map<int, PartGradient> parts;
  for (const ParameterInfo& info : impl_->parameters) {
    if (!info.is_trained) continue;
    PartGradient& part = parts[info.device];
    part.device = info.device;
    const Tensor values = gradient(info.name);
    for (int64_t i = 0; i < values.elements(); ++i) {
      const double value = values.number(i);
      part.norm += value * value;
      part.is_finite = part.is_finite && std::isfinite(value);
    }
  }
  std::vector<PartGradient> result;
  for (auto& [device, part] : parts) {
    part.norm = std::sqrt(part.norm);
    result.push_back(part);
  }
  return result;
}

double Session::gradient_norm() const {
  double sum = 0;
  for (const PartGradient& part : part_gradients()) sum += part.norm * part.norm;
  return std::sqrt(sum);
}

int64_t Session::steps_done() const {
  return impl_->session.steps_done();
}

/// The measured last step. @throws Error(M046) when nothing was recorded.
Timeline Session::Impl::measured_timeline() const {
  if (!records_trace || session.measured().empty()) {
    throw Error(ErrorId::M046, "trace", "no step was recorded", "set record_trace and run a step");
  }
  const mpc::Plan& tables = session.plan();
  Timeline timeline;
  timeline.device_busy_s.assign(tables.devices.size(), 0);
  for (const executor::MeasuredEntry& entry : session.measured()) {
    const Instruction& instruction = tables.instructions[entry.instruction];
    const Action action = instruction.action;
    if (action != Action::run && action != Action::send && action != Action::recv) continue;
    timeline.entries.push_back({entry.instruction, entry.start_s, entry.end_s});
    timeline.step_seconds = std::max(timeline.step_seconds, entry.end_s);
    if (action == Action::run) {
      timeline.device_busy_s[tables.queues[instruction.queue].device.index()] += entry.end_s - entry.start_s;
    }
  }
  std::ranges::stable_sort(timeline.entries, {}, &TimelineEntry::instruction);
  double busy = 0;
  int devices = 0;
  for (const double seconds : timeline.device_busy_s) {
    busy += seconds;
    devices += seconds > 0 ? 1 : 0;
  }
  if (devices > 0 && timeline.step_seconds > 0) timeline.bubble = 1 - busy / (devices * timeline.step_seconds);
  return timeline;
}

std::string Session::trace_json() const {
  return mpc::trace_json(impl_->session.plan(), impl_->measured_timeline(), "measured");
}

std::string Session::report_html() const {
  const Timeline measured = impl_->measured_timeline();
  return api::html_report(impl_->session.plan(), &measured);
}

std::vector<OpTime> Session::op_times() const {
  const mpc::Plan& plan = impl_->session.plan();
  std::map<std::string, OpTime> times;
  for (const executor::MeasuredEntry& entry : impl_->session.measured()) {
    const Instruction& instruction = plan.instructions[entry.instruction];
    if (instruction.action != Action::run) continue;
    const std::string op(op_name(plan.nodes[instruction.index].op));
    OpTime& time = times[op];
    time.op = op;
    time.calls += 1;
    time.seconds += entry.end_s - entry.start_s;
    const std::vector<double>& predicted = plan.nodes[instruction.index].seconds;
    const size_t variant =
        instruction.microbatch == kPerStep ? 0 : static_cast<size_t>(plan.variant_of(instruction.microbatch));
    time.predicted_seconds += predicted[predicted.size() > 1 ? variant : 0];
  }
  std::vector<OpTime> result;
  for (const auto& [op, time] : times) result.push_back(time);
  std::ranges::stable_sort(result, [](const OpTime& a, const OpTime& b) { return a.seconds > b.seconds; });
  return result;
}

std::vector<ArenaInfo> Session::memory() const {
  std::vector<ArenaInfo> result;
  for (const auto& use : impl_->session.arena_use())
    result.push_back({use.used_bytes, use.arena_bytes, use.kept_bytes});
  return result;
}

std::vector<KernelInfo> Session::kernels() const {
  const mpc::Plan& plan = impl_->session.plan();
  std::vector<KernelInfo> result;
  for (const auto& choice : impl_->session.kernel_choices()) {
    const PlanNode& node = plan.nodes[choice.node];
    result.push_back({node.name, std::string(op_name(node.op)), static_cast<int>(node.device.index()), choice.kernel,
                      choice.declined});
  }
  return result;
}

void Session::save_model(const std::string& path) const {
  const mpc::Plan& plan = impl_->session.plan();
  SessionWeights weights;
  std::vector<std::string> replaced;
  for (const PlanUpdate& update : plan.updates) {
    const PlanValue& value = plan.values[update.persistent];
    if (value.kind != PlanValueKind::parameter) continue;
    weights.add(value.source, impl_->session.read(value.name));
    replaced.push_back(value.source);
  }
  impl_->model.impl().model.save(path, replaced, weights);
}

}  // namespace v1
}  // namespace mpc
