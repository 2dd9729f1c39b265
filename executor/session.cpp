#include "executor/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "compiler/plan/check.h"
#include "compiler/plan/host_memory.h"
#include "executor/cpu/cpu_kernels.h"
#include "executor/device/accelerators.h"
#include "executor/device/device_queues.h"
#include "executor/host/arena.h"
#include "executor/host/engine.h"
#include "executor/host/exchange.h"
#include "executor/host/names.h"
#include "executor/host/program.h"
#include "executor/kernel.h"
#include "executor/made_weights.h"
#include "executor/rounded_weights.h"

namespace mpc::executor {
namespace {

class PlainKernel final : public Kernel {
 public:
  explicit PlainKernel(ReferenceKernel function) : function_(function) {}
  void run(const KernelCall& call) override { function_(call); }
  std::string_view name() const override { return "reference"; }

 private:
  ReferenceKernel function_;
};

KernelOrReason choose_kernel(const NodeSpec& spec, const SessionOptions& options) {
  std::string reason;
  if (options.kernel_override) {
    KernelOrReason found = options.kernel_override(spec);
    if (found.kernel != nullptr) return found;
  }
  if (options.interpreter == Interpreter::threads && options.kernels == KernelSet::best) {
    KernelOrReason found = cpu::find_kernel(spec);
    if (found.kernel != nullptr) return found;
    reason = std::move(found.reason);
  }
  return {std::make_unique<PlainKernel>(reference_kernel(spec.op)), std::move(reason)};
}

Plan checked(Plan plan) {
  check_plan(plan);
  return plan;
}

/// "its largest tensor is ..." for the message when the arena of a device cannot be had.
std::string arena_use_text(const Plan& plan, DeviceId device) {
  const PlanSlice* largest = nullptr;
  for (const PlanSlice& slice : plan.slices) {
    if (slice.device == device && (largest == nullptr || slice.bytes > largest->bytes)) largest = &slice;
  }
  if (largest == nullptr) return "its arena";
  const std::string name =
      largest->value == kNone ? "a workspace" : fmt::format("\"{}\"", plan.values[largest->value].name);
  return fmt::format("its arena, of which {} takes {} bytes ({})", name, largest->bytes, bytes_text(largest->bytes));
}

std::vector<Arena> make_arenas(const Plan& plan, const Accelerators& accelerators, bool with_poison) {
  std::vector<Arena> arenas;
  arenas.reserve(plan.devices.size());
  for (size_t d = 0; d < plan.devices.size(); ++d) {
    const PlanDevice& device = plan.devices[d];
    const DeviceId id(d);
    if (is_host_memory(device) && !accelerators.is_empty() && device.arena_bytes > 0) {
      std::byte* memory = accelerators.allocate_pinned(device.arena_bytes, arena_use_text(plan, id));
      std::memset(memory, with_poison ? static_cast<int>(kPoison) : 0, static_cast<size_t>(device.arena_bytes));
      arenas.emplace_back(memory, device.arena_bytes,
                          [&accelerators](std::byte* old) { accelerators.release_pinned(old); });
      continue;
    }
    if (!accelerators.has(id) || device.arena_bytes == 0) {
      arenas.emplace_back(device.name, device.arena_bytes);
      if (with_poison) arenas.back().poison();
      continue;
    }
    std::byte* memory = accelerators.allocate(id, device.arena_bytes, arena_use_text(plan, id));
    arenas.emplace_back(memory, device.arena_bytes,
                        [&accelerators, id](std::byte* old) { accelerators.release(id, old); });
    // Device memory is what the last owner left; the host's is zero.
    accelerators.fill(id, {memory, static_cast<size_t>(device.arena_bytes)}, with_poison ? kPoison : std::byte{0});
  }
  return arenas;
}

/// @throws Error(M061) when the literal's bytes are not those of its slice.
void write_literal(const Literal& literal, std::span<std::byte> to, const std::string& value_name) {
  if (byte_size(literal.shape(), literal.dtype()) != static_cast<int64_t>(to.size())) {
    throw Error(ErrorId::M061, fmt::format("value \"{}\"", value_name),
                fmt::format("its content is {}, which is not {} bytes", type_text(literal.dtype(), literal.shape()),
                            to.size()));
  }
  const std::span<const std::byte> stored = literal.stored();
  if (to.empty()) return;
  for (size_t at = 0; at < to.size(); at += stored.size()) std::memcpy(to.data() + at, stored.data(), stored.size());
}

}  // namespace

struct Session::Impl {
  Impl(Plan plan_in, const WeightSource& weights, const SessionOptions& options_in);

  KernelOrReason kernel_for(const NodeSpec& spec);
  void require_kernels() const;
  std::unique_ptr<DeviceQueues> make_queues();
  /// Calls fill(memory) with host memory of a slice's size, and puts it where the slice is.
  template <class Fill>
  void write_slice(PlanIndex slice, Fill&& fill);

  void load(const WeightSource& weights);
  void note_arena_use();
  void require_usable() const;
  double run(const StepRequest& request);
  /// The slices of a persistent value or accumulated gradient. @throws Error(M002).
  std::vector<PlanIndex> slices_of(const std::string& value_name, bool must_be_writable) const;
  Literal content(PlanIndex slice) const;
  std::vector<bool> device_updates(const StepOptions& step_options) const;

  const Plan plan;
  const SessionOptions options;
  Accelerators accelerators;
  std::vector<std::string> missing_kernels;
  std::vector<Arena> arenas;
  Program program;
  HostInputs inputs;
  HostOutputs outputs;
  std::vector<ArenaUse> loaded_use;   // by parameters, states and constants
  std::vector<ArenaUse> stepped_use;  // by everything
  bool has_stepped = false;
  int64_t steps = 0;
  bool has_separate_update = false;  // update() ran after the last step()
  std::optional<Error> failure;
  std::unique_ptr<DeviceQueues> queues;  // null: every device is the host's
  Engine engine;                         // last: its threads use the rest
};

Session::Impl::Impl(Plan plan_in, const WeightSource& weights, const SessionOptions& options_in)
    : plan(checked(std::move(plan_in))),
      options(options_in),
      accelerators(plan, options.cuda_plugin),
      arenas(make_arenas(plan, accelerators, options.poison)),
      program(
          plan, arenas, [this](const NodeSpec& spec) { return kernel_for(spec); }, options.poison),
      inputs(plan),
      outputs(plan),
      queues(make_queues()),
      engine(program, inputs, outputs, queues.get(),
             {options.interpreter == Interpreter::threads, options.seed, options.record_timeline, options.check_finite,
              options.watchdog_seconds, options.captures, options.pins_threads, options.before_look}) {
  load(weights);
  note_arena_use();
}

KernelOrReason Session::Impl::kernel_for(const NodeSpec& spec) {
  if (!accelerators.has(spec.device)) return choose_kernel(spec, options);
  KernelOrReason found = accelerators.make_kernel(spec);
  if (found.kernel != nullptr) return found;
  const PlanNode& node = plan.nodes[spec.node];
  missing_kernels.push_back(
      fmt::format("{} ({}): {}", node.origin.empty() ? node.name : node.origin, op_name(node.op), found.reason));
  return {std::make_unique<PlainKernel>(reference_kernel(spec.op)), {}};  // never run: require_kernels() comes first
}

void Session::Impl::require_kernels() const {
  const bool is_reference = options.interpreter == Interpreter::reference || options.kernels == KernelSet::reference;
  if (is_reference && !accelerators.is_empty()) {
    throw Error(ErrorId::M046, "session", "reference kernels run on the host only", "plan for CPU devices");
  }
  if (missing_kernels.empty()) return;
  constexpr size_t kMostNamed = 8;
  std::string text;
  for (size_t i = 0; i < std::min(missing_kernels.size(), kMostNamed); ++i) {
    text += (i == 0 ? "" : "; ") + missing_kernels[i];
  }
  if (missing_kernels.size() > kMostNamed) text += fmt::format("; and {} more", missing_kernels.size() - kMostNamed);
  throw Error(ErrorId::M046, fmt::format("{} nodes", missing_kernels.size()),
              "their device has no kernel for them: " + text,
              "--devices cpu,cuda:0 --pin NAME=cpu:0 puts a node on the CPU");
}

std::unique_ptr<DeviceQueues> Session::Impl::make_queues() {
  require_kernels();
  if (accelerators.is_empty()) return nullptr;
  accelerators.allocate_workspaces();
  return std::make_unique<DeviceQueues>(program, accelerators,
                                        DeviceQueueOptions{options.transport, options.record_timeline});
}

template <class Fill>
void Session::Impl::write_slice(PlanIndex slice, Fill&& fill) {
  const DeviceId device = plan.slices[slice].device;
  const std::span<std::byte> memory = program.memory(slice);
  if (!accelerators.has(device)) return fill(memory);
  std::vector<std::byte> content(memory.size());
  fill(std::span<std::byte>(content));
  accelerators.upload(device, memory.data(), content);
}

void Session::Impl::load(const WeightSource& weights) {
  for (PlanIndex i = 0; i < plan.slices.size(); ++i) {
    const PlanSlice& slice = plan.slices[i];
    if (slice.value == kNone) continue;
    const PlanValue& value = plan.values[slice.value];
    switch (value.kind) {
      case PlanValueKind::parameter:
        write_slice(i, [&](std::span<std::byte> to) { read_parameter(weights, value, to); });
        break;
      case PlanValueKind::state:
        write_slice(i, [&](std::span<std::byte> to) { write_literal(value.literals.front(), to, value.name); });
        break;
      case PlanValueKind::constant: {
        const int variant = slice.microbatch == kPerStep ? 0 : plan.variant_of(slice.microbatch);
        const Literal& literal = value.literals[value.literals.size() > 1 ? static_cast<size_t>(variant) : 0];
        write_slice(i, [&](std::span<std::byte> to) { write_literal(literal, to, value.name); });
        break;
      }
      case PlanValueKind::input:
      case PlanValueKind::temporary:
        break;
    }
  }
}

void Session::Impl::note_arena_use() {
  for (size_t d = 0; d < plan.devices.size(); ++d)
    loaded_use.push_back({0, plan.devices[d].arena_bytes, program.kept_bytes(DeviceId(static_cast<int>(d)))});
  stepped_use = loaded_use;
  const auto touch = [&](std::vector<ArenaUse>& use, PlanIndex index) {
    const PlanSlice& slice = plan.slices[index];
    int64_t& used = use[slice.device.index()].used_bytes;
    used = std::max(used, slice.offset + static_cast<int64_t>(program.memory(index).size()));
  };
  for (PlanIndex i = 0; i < plan.slices.size(); ++i) {
    if (plan.slices[i].value == kNone) continue;
    const PlanValueKind kind = plan.values[plan.slices[i].value].kind;
    if (kind == PlanValueKind::input || kind == PlanValueKind::temporary) continue;
    touch(loaded_use, i);
    touch(stepped_use, i);
  }
  for (const Instruction& instruction : plan.instructions) {
    for (const PlanIndex slice : instruction.reads) {
      if (slice != kNone) touch(stepped_use, slice);
    }
    for (const PlanIndex slice : instruction.writes) {
      if (slice != kNone) touch(stepped_use, slice);
    }
    if (instruction.workspace != kNone) touch(stepped_use, instruction.workspace);
  }
}

void Session::Impl::require_usable() const {
  if (failure) throw Error(*failure);
}

double Session::Impl::run(const StepRequest& request) {
  try {
    return engine.run(request);
  } catch (const Error& error) {
    failure = error;
    throw;
  }
}

std::vector<PlanIndex> Session::Impl::slices_of(const std::string& value_name, bool must_be_writable) const {
  std::vector<std::string> known;
  for (PlanIndex v = 0; v < plan.values.size(); ++v) {
    const PlanValue& value = plan.values[v];
    const bool is_persistent = value.kind == PlanValueKind::parameter || value.kind == PlanValueKind::state;
    if (!is_persistent && (must_be_writable || !value.is_gradient)) continue;
    if (value.name != value_name) {
      known.push_back(value.name);
      continue;
    }
    std::vector<PlanIndex> slices;
    for (PlanIndex i = 0; i < plan.slices.size(); ++i) {
      if (plan.slices[i].value == v) slices.push_back(i);
    }
    if (!slices.empty()) return slices;
  }
  throw unknown_name(ErrorId::M002, "persistent value", value_name, known);
}

Literal Session::Impl::content(PlanIndex slice) const {
  const PlanValue& value = plan.values[plan.slices[slice].value];
  const std::span<const std::byte> memory = program.memory(slice);
  std::vector<std::byte> content(memory.size());
  const DeviceId device = plan.slices[slice].device;
  if (accelerators.has(device)) {
    accelerators.download(device, content, memory.data());
  } else {
    std::copy(memory.begin(), memory.end(), content.begin());
  }
  return Literal(value.dtype, value.shapes.front(), std::move(content));
}

std::vector<bool> Session::Impl::device_updates(const StepOptions& step_options) const {
  if (!step_options.update) return std::vector<bool>(plan.devices.size(), false);
  if (step_options.update_devices.empty()) return std::vector<bool>(plan.devices.size(), true);
  std::vector<bool> updates(plan.devices.size(), false);
  for (const DeviceId device : step_options.update_devices) {
    if (device.index() >= updates.size()) {
      throw Error(ErrorId::M003, "update_devices",
                  fmt::format("device {} does not exist, the plan has {}", device.index(), updates.size()));
    }
    updates[device.index()] = true;
  }
  return updates;
}

Session::Session(Plan plan, const WeightSource& weights, const SessionOptions& options)
    : impl_(std::make_unique<Impl>(std::move(plan), weights, options)) {}

Session::~Session() = default;

const Plan& Session::plan() const {
  return impl_->plan;
}

void Session::bind(const std::string& input, DType dtype, const Shape& shape, std::span<const std::byte> data) {
  impl_->require_usable();
  impl_->inputs.bind(input, dtype, shape, data);
}

StepResult Session::step(const StepOptions& options) {
  impl_->require_usable();
  impl_->inputs.require_all();
  StepRequest request{StepRequest::Part::whole, steps_done(), impl_->device_updates(options)};
  impl_->steps = request.step;
  impl_->has_separate_update = false;
  impl_->inputs.set_step(request.step + 1, options.learning_rate_scale);
  StepResult result;
  result.seconds = impl_->run(request);
  impl_->outputs.finish();
  impl_->has_stepped = true;
  if (impl_->plan.is_training && options.update) ++impl_->steps;
  if (impl_->plan.loss != kNone) result.loss = impl_->outputs.number(impl_->plan.loss);
  return result;
}

void Session::update(const StepOptions& options) {
  impl_->require_usable();
  if (!impl_->has_stepped) throw Error(ErrorId::M002, "update", "there are no gradients before the first step");
  StepRequest request{StepRequest::Part::update_phase, impl_->steps, impl_->device_updates(options)};
  impl_->inputs.set_step(request.step + 1, options.learning_rate_scale);
  impl_->run(request);
  impl_->has_separate_update = true;
}

Literal Session::output(const std::string& name) const {
  impl_->require_usable();
  return impl_->outputs.output(name);
}

Literal Session::read(const std::string& value_name) const {
  impl_->require_usable();
  return impl_->content(impl_->slices_of(value_name, false).front());
}

Literal Session::gradient(const std::string& parameter) const {
  impl_->require_usable();
  const Plan& plan = impl_->plan;
  std::vector<std::string> known;
  for (const PlanGradient& gradient : plan.gradients) {
    const PlanValue& value = plan.values[gradient.parameter];
    known.push_back(value.name);
    if (value.name == parameter || value.source == parameter) return read(plan.values[gradient.gradient].name);
  }
  throw unknown_name(ErrorId::M002, "trained parameter", parameter, known);
}

namespace {

/// The bytes of what is written over a value, rounded where the value has fewer bits. @throws Error(M004) for another
/// type.
std::vector<std::byte> written_bytes(const PlanValue& value, const Shape& shape, const Literal& content) {
  const bool is_rounded = value.kind == PlanValueKind::parameter && content.dtype() != value.dtype;
  if ((is_rounded ? !is_kept_from(content.dtype(), value.dtype) : content.dtype() != value.dtype) ||
      content.shape() != shape) {
    throw Error(ErrorId::M004, fmt::format("value \"{}\"", value.name),
                fmt::format("is written as {}, expected {}", type_text(content.dtype(), content.shape()),
                            type_text(value.dtype, shape)));
  }
  std::vector<std::byte> bytes(static_cast<size_t>(byte_size(shape, content.dtype())));
  write_literal(content, bytes, value.name);
  if (!is_rounded) return bytes;
  std::vector<std::byte> rounded(static_cast<size_t>(byte_size(shape, value.dtype)));
  round_numbers(bytes, value.dtype, rounded);
  return rounded;
}

}  // namespace

void Session::write(const std::string& value_name, const Literal& content) {
  impl_->require_usable();
  for (const PlanIndex slice : impl_->slices_of(value_name, true)) {
    const PlanValue& value = impl_->plan.values[impl_->plan.slices[slice].value];
    const std::vector<std::byte> bytes = written_bytes(value, value.shapes.front(), content);
    impl_->write_slice(slice, [&](std::span<std::byte> to) { std::ranges::copy(bytes, to.begin()); });
  }
  impl_->program.forget_constants();
}

Literal Session::read_part(const std::string& value_name, size_t part) const {
  const Literal whole = read(value_name);
  const PlanValue& value = impl_->plan.values[impl_->plan.slices[impl_->slices_of(value_name, false).front()].value];
  return Literal(value.dtype, value.recipe.parts.at(part).shape,
                 part_of(value.recipe, part, value.dtype, whole.stored()));
}

void Session::write_part(const std::string& value_name, size_t part, const Literal& content) {
  impl_->require_usable();
  for (const PlanIndex slice : impl_->slices_of(value_name, true)) {
    const PlanValue& value = impl_->plan.values[impl_->plan.slices[slice].value];
    const std::vector<std::byte> bytes = written_bytes(value, value.recipe.parts.at(part).shape, content);
    const Literal whole = impl_->content(slice);
    impl_->write_slice(slice, [&](std::span<std::byte> to) {
      std::ranges::copy(whole.stored(), to.begin());
      replace_part(value.recipe, part, value.dtype, bytes, to);
    });
  }
  impl_->program.forget_constants();
}

int64_t Session::steps_done() const {
  return impl_->steps + (impl_->has_separate_update ? 1 : 0);
}

void Session::set_steps_done(int64_t steps) {
  if (steps < 0) throw Error(ErrorId::M003, "steps", fmt::format("{} steps done are not possible", steps));
  impl_->steps = steps;
  impl_->has_separate_update = false;
}

const std::vector<MeasuredEntry>& Session::measured() const {
  return impl_->engine.measured();
}

std::vector<Session::ArenaUse> Session::arena_use() const {
  return impl_->has_stepped ? impl_->stepped_use : impl_->loaded_use;
}

std::vector<DeviceQueues::Route> Session::routes() const {
  return impl_->queues == nullptr ? std::vector<DeviceQueues::Route>{} : impl_->queues->routes();
}

bool Session::was_replayed() const {
  return impl_->engine.was_replayed();
}

std::vector<Session::KernelChoice> Session::kernel_choices() const {
  std::vector<KernelChoice> choices;
  for (const Program::Choice& choice : impl_->program.choices()) {
    choices.push_back({choice.node, choice.kernel, choice.declined});
  }
  return choices;
}

}  // namespace mpc::executor
