#include "executor/device/kernel_timer.h"

#include <algorithm>
#include <span>
#include <utility>

namespace mpc::executor {
namespace {

constexpr DeviceId kDevice{0};

Plan plan_of_one(const std::string& name, const std::string& precision) {
  Plan plan;
  plan.precision = precision;
  PlanDevice device;
  device.name = name;
  device.backend = "cuda";
  plan.devices.push_back(device);
  plan.queues.push_back({kDevice, QueueKind::compute, DeviceId{}});
  return plan;
}

/// Work that was captured on a stream.
class Replay {
 public:
  template <class Work>
  Replay(const DeviceStream& stream, Work work) : stream_(stream) {
    plugin_call(stream.where, [&](mpc_cuda_error* error) { return plugin().begin_capture(stream.stream, error); });
    work();
    plugin_call(stream.where,
                [&](mpc_cuda_error* error) { return plugin().end_capture(stream.stream, &graph_, error); });
  }
  ~Replay() { plugin().destroy_graph(graph_); }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  void launch() const {
    plugin_call(stream_.where,
                [&](mpc_cuda_error* error) { return plugin().launch_graph(graph_, stream_.stream, error); });
  }

 private:
  const mpc_cuda_plugin& plugin() const { return *stream_.plugin; }
  const DeviceStream& stream_;
  mpc_cuda_graph* graph_ = nullptr;
};

}  // namespace

/// Two events around what is enqueued on a stream.
class KernelTimer::Stopwatch {
 public:
  explicit Stopwatch(const DeviceStream& stream) : stream_(stream), start_(stream), end_(stream) {}

  template <class Work>
  double seconds(Work work) const {
    float milliseconds = 0;
    call(plugin().record, stream_.stream, start_.event);
    work();
    call(plugin().record, stream_.stream, end_.event);
    call(plugin().sync_event, end_.event);
    call(plugin().elapsed_ms, start_.event, end_.event, &milliseconds);
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  struct Event {
    explicit Event(const DeviceStream& stream) : plugin(*stream.plugin) {
      constexpr int32_t kTimed = 1;
      plugin_call(stream.where,
                  [&](mpc_cuda_error* error) { return plugin.make_event(stream.device, kTimed, &event, error); });
    }
    ~Event() { plugin.destroy_event(event); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    const mpc_cuda_plugin& plugin;
    mpc_cuda_event* event = nullptr;
  };

  const mpc_cuda_plugin& plugin() const { return *stream_.plugin; }
  template <class Function, class... Arguments>
  void call(Function function, Arguments... arguments) const {
    plugin_call(stream_.where, [&](mpc_cuda_error* error) { return function(arguments..., error); });
  }

  const DeviceStream& stream_;
  Event start_;
  Event end_;
};

KernelTimer::KernelTimer(const std::string& device, const std::string& precision)
    : plan_(plan_of_one(device, precision)),
      accelerators_(std::make_unique<Accelerators>(plan_, nullptr)),
      stopwatch_(std::make_unique<Stopwatch>(stream())) {}

KernelTimer::~KernelTimer() = default;

Arena KernelTimer::allocate(int64_t bytes) {
  std::byte* memory = accelerators_->allocate(kDevice, bytes, "the operands of a node that is timed");
  return {memory, bytes, [this](std::byte* data) { accelerators_->release(kDevice, data); }};
}

std::optional<double> KernelTimer::seconds_of(const NodeSpec& spec, const MeasureOptions& options) {
  const KernelOrReason found = accelerators_->make_kernel(spec);
  if (found.kernel == nullptr) return std::nullopt;
  accelerators_->allocate_workspaces();
  MeasuredOperands operands(spec, 0, options);
  const Arena memory = allocate(static_cast<int64_t>(operands.content().size()));
  accelerators_->upload(kDevice, memory.data(), operands.content());
  operands.move_to(memory.data());
  // The second micro-batch of step 1: an accumulation adds, as it does in all but the first.
  mpc_cuda_step step{};
  step.step = 1;
  accelerators_->upload(kDevice, reinterpret_cast<std::byte*>(stream().step), std::as_bytes(std::span(&step, 1)));
  const KernelCall call{*spec.attributes, operands.inputs, operands.outputs, {0, 1, 0}, {}};
  const auto once = [&] { found.kernel->run(call); };
  once();  // libraries load what they need now, and not while the work is captured
  const double first = stopwatch_->seconds(once);
  // Enough calls that the events' own time, about a microsecond, is nothing beside them.
  constexpr double kBusySeconds = 2e-4;
  constexpr double kMostCalls = 64;
  const int calls = static_cast<int>(std::clamp(kBusySeconds / std::max(first, 1e-9), 1.0, kMostCalls));
  const Replay replay(stream(), [&] {
    for (int i = 0; i < calls; ++i) once();
  });
  return median_seconds(options, [&] { return stopwatch_->seconds([&] { replay.launch(); }); }) / calls;
}

HostCopy KernelTimer::host_copy(bool is_to_device) {
  constexpr int64_t kMany = int64_t{64} << 20;
  constexpr int64_t kFew = 256;
  const Arena pinned(accelerators_->allocate_pinned(kMany, "a copy that is timed"), kMany,
                     [this](std::byte* data) { accelerators_->release_pinned(data); });
  std::fill_n(pinned.data(), kMany, std::byte{1});
  const Arena memory = allocate(kMany);
  accelerators_->fill(kDevice, {memory.data(), static_cast<size_t>(kMany)}, std::byte{1});
  const auto seconds = [&](int64_t bytes) {
    return median_seconds({}, [&] {
      return stopwatch_->seconds([&] {
        plugin_call(stream().where, [&](mpc_cuda_error* error) {
          std::byte* to = is_to_device ? memory.data() : pinned.data();
          const std::byte* from = is_to_device ? pinned.data() : memory.data();
          return stream().plugin->copy(stream().stream, to, from, bytes, error);
        });
      });
    });
  };
  return {static_cast<double>(kMany) / seconds(kMany), seconds(kFew)};
}

HostCopy KernelTimer::copy_to_device() {
  return host_copy(true);
}

HostCopy KernelTimer::copy_from_device() {
  return host_copy(false);
}

}  // namespace mpc::executor
