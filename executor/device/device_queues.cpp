#include "executor/device/device_queues.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "compiler/base/error.h"

namespace mpc::executor {
namespace {

constexpr double kSecondsPerMillisecond = 1e-3;
constexpr int64_t kMostProbeBytes = int64_t{1} << 20;
constexpr size_t kNoRoute = static_cast<size_t>(-1);
constexpr std::array<std::string_view, 5> kTransports = {"auto", "device", "peer", "host", "nccl"};

std::byte probe_byte(int64_t i) {
  // Neither constant nor of a short period, so that a wrong offset shows.
  return static_cast<std::byte>((static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15u) >> 56);
}

std::string fault_text(const mpc_cuda_step& fault) {
  switch (fault.fault) {
    case MPC_CUDA_FAULT_DIVISION:
      return "an integer is divided by 0";
    case MPC_CUDA_FAULT_POWER:
      return fmt::format("0 is raised to the power {}", fault.fault_value);
    case MPC_CUDA_FAULT_LENGTH:
      return fmt::format("a sequence length is {}, there are {} steps", fault.fault_value, fault.fault_bound);
    default:
      return fmt::format("index or label {} is out of range for {} of them", fault.fault_value, fault.fault_bound);
  }
}

}  // namespace

std::string_view transport_name(Transport transport) {
  return kTransports[static_cast<size_t>(transport)];
}

std::optional<Transport> parse_transport(std::string_view name) {
  for (size_t i = 0; i < kTransports.size(); ++i) {
    if (kTransports[i] == name) return static_cast<Transport>(i);
  }
  return std::nullopt;
}

std::vector<std::string> transport_names() {
  return {kTransports.begin(), kTransports.end()};
}

DeviceQueues::DeviceQueues(const Program& program, Accelerators& accelerators, const DeviceQueueOptions& options)
    : program_(program),
      plan_(program.plan()),
      accelerators_(accelerators),
      plugin_(accelerators.plugin()),
      options_(options),
      events_(plan_.event_count, nullptr),
      staging_(plan_.instructions.size()),
      route_of_recv_(plan_.instructions.size(), kNoRoute) {
  for (PlanIndex q = 0; q < plan_.queues.size(); ++q) is_all_on_streams_ = is_all_on_streams_ && is_on_stream(q);
  try {
    make_events();
    make_buffers();
    make_routes();
  } catch (...) {
    free_all();
    throw;
  }
}

DeviceQueues::~DeviceQueues() {
  free_all();
}

void DeviceQueues::free_all() noexcept {
  if (graph_ != nullptr) plugin_.destroy_graph(graph_);
  for (mpc_cuda_event* event : owned_events_) plugin_.destroy_event(event);
  for (const Buffer& buffer : owned_buffers_) plugin_.release_host(buffer.device, buffer.data);
  graph_ = nullptr;
  owned_events_.clear();
  owned_buffers_.clear();
}

DeviceStream& DeviceQueues::stream_of(PlanIndex instruction) const {
  return *accelerators_.stream(plan_.instructions[instruction].queue);
}

mpc_cuda_event* DeviceQueues::make_event(const DeviceStream& stream, bool is_timed) {
  mpc_cuda_event* event = nullptr;
  plugin_call(stream.where, [&](mpc_cuda_error* error) {
    return plugin_.make_event(stream.device, is_timed ? 1 : 0, &event, error);
  });
  owned_events_.push_back(event);
  return event;
}

DeviceQueues::Buffer DeviceQueues::make_buffer(const DeviceStream& stream, int64_t bytes) {
  Buffer buffer{nullptr, bytes, stream.device};
  if (bytes == 0) return buffer;
  plugin_call(stream.where + ": pinned host memory", [&](mpc_cuda_error* error) {
    void* memory = nullptr;
    const int32_t code = plugin_.allocate_host(stream.device, bytes, &memory, error);
    buffer.data = static_cast<std::byte*>(memory);
    return code;
  });
  owned_buffers_.push_back(buffer);
  return buffer;
}

void DeviceQueues::make_events() {
  for (PlanIndex i = 0; i < plan_.instructions.size(); ++i) {
    const Instruction& instruction = plan_.instructions[i];
    if (instruction.action != Action::record || !is_on_stream(instruction.queue)) continue;
    events_[instruction.index] = make_event(stream_of(i), false);
  }
  for (const auto& stream : accelerators_.streams()) joins_.push_back(make_event(*stream, false));
  if (!options_.is_timed) return;
  bases_.assign(plan_.queues.size(), nullptr);
  starts_.assign(plan_.instructions.size(), nullptr);
  ends_.assign(plan_.instructions.size(), nullptr);
  for (PlanIndex q = 0; q < plan_.queues.size(); ++q) {
    if (is_on_stream(q)) bases_[q] = make_event(*accelerators_.stream(q), true);
  }
  for (PlanIndex i = 0; i < plan_.instructions.size(); ++i) {
    const Action action = plan_.instructions[i].action;
    if ((action != Action::run && action != Action::recv) || !is_on_stream(plan_.instructions[i].queue)) continue;
    starts_[i] = make_event(stream_of(i), true);
    ends_[i] = make_event(stream_of(i), true);
  }
}

void DeviceQueues::make_buffers() {
  for (PlanIndex i = 0; i < plan_.instructions.size(); ++i) {
    const Instruction& instruction = plan_.instructions[i];
    if (!is_on_stream(instruction.queue)) continue;
    const Program::Bound& bound = program_.bound(i);
    if (instruction.action == Action::feed) staging_[i] = make_buffer(stream_of(i), bound.outputs.front().bytes());
    if (instruction.action == Action::fetch) staging_[i] = make_buffer(stream_of(i), bound.inputs.front().bytes());
  }
}

Transport DeviceQueues::best_transport(DeviceId from, DeviceId to) const {
  // Between the host and a device there is one way, whatever is asked for.
  if (!accelerators_.has(from) || !accelerators_.has(to)) return Transport::device_copy;
  const std::string& from_name = plan_.devices[from.index()].name;
  const std::string& to_name = plan_.devices[to.index()].name;
  const bool is_one_gpu = gpu_of(from_name) == gpu_of(to_name);
  if (options_.transport == Transport::staged || options_.transport == Transport::nccl) return options_.transport;
  if (is_one_gpu) return options_.transport == Transport::peer ? Transport::peer : Transport::device_copy;
  const std::string link = fmt::format("link \"{}\" to \"{}\"", from_name, to_name);
  if (options_.transport == Transport::device_copy) {
    throw Error(ErrorId::M081, link, "a copy within one GPU is asked for, and these are two");
  }
  int32_t is_enabled = 0;
  plugin_call(link, [&](mpc_cuda_error* error) {
    return plugin_.enable_peer(accelerators_.device(from), accelerators_.device(to), &is_enabled, error);
  });
  if (is_enabled == 0 && options_.transport == Transport::peer) {
    throw Error(ErrorId::M081, link, "the GPUs cannot reach each other's memory",
                "--transport auto takes what the link can do");
  }
  return is_enabled != 0 ? Transport::peer : Transport::staged;
}

size_t DeviceQueues::route_of(DeviceId from, DeviceId to, DeviceStream& stream) {
  for (size_t r = 0; r < routes_.size(); ++r) {
    if (routes_[r].from == from && routes_[r].to == to) return r;
  }
  int64_t most_bytes = kMostProbeBytes;
  for (const PlanTransfer& transfer : plan_.transfers) {
    if (transfer.from != from || transfer.to != to) continue;
    for (const PlanIndex value : transfer.sources) {
      for (int variant = 0; variant < plan_.variant_count(); ++variant) {
        most_bytes = std::max(most_bytes, plan_.value_bytes(value, variant));
      }
    }
  }
  Route route{from, to, best_transport(from, to)};
  const auto staging_for = [&] {
    return route.transport == Transport::staged ? make_buffer(stream, most_bytes) : Buffer{};
  };
  Buffer staging = staging_for();
  bool is_good = delivers(route, staging, stream);
  if (!is_good && options_.transport == Transport::automatic && route.transport == Transport::peer) {
    route.transport = Transport::staged;
    staging = staging_for();
    is_good = delivers(route, staging, stream);
  }
  if (!is_good) {
    throw Error(ErrorId::M081,
                fmt::format("link \"{}\" to \"{}\"", plan_.devices[from.index()].name, plan_.devices[to.index()].name),
                fmt::format("what was sent by transport \"{}\" did not arrive as it was sent",
                            transport_name(route.transport)));
  }
  routes_.push_back(route);
  route_staging_.push_back(staging);
  return routes_.size() - 1;
}

void DeviceQueues::make_routes() {
  for (PlanIndex i = 0; i < plan_.instructions.size(); ++i) {
    const Instruction& instruction = plan_.instructions[i];
    if (instruction.action != Action::recv || !is_on_stream(instruction.queue)) continue;
    const PlanTransfer& transfer = plan_.transfers[instruction.index];
    route_of_recv_[i] = route_of(transfer.from, transfer.to, stream_of(i));
  }
}

void DeviceQueues::move(const Route& route, const Buffer& staging, const DeviceStream& stream, const std::byte* from,
                        std::byte* to, int64_t bytes) const {
  if (bytes == 0) return;
  plugin_call(stream.where, [&](mpc_cuda_error* error) {
    if (!accelerators_.has(route.from) || !accelerators_.has(route.to)) {
      return plugin_.copy(stream.stream, to, from, bytes, error);
    }
    if (route.transport == Transport::staged) {
      const int32_t code = plugin_.copy(stream.stream, staging.data, from, bytes, error);
      return code != MPC_CUDA_OK ? code : plugin_.copy(stream.stream, to, staging.data, bytes, error);
    }
    const auto copy = route.transport == Transport::nccl ? plugin_.copy_nccl : plugin_.copy_peer;
    return copy(stream.stream, accelerators_.device(route.to), to, accelerators_.device(route.from), from, bytes,
                error);
  });
}

bool DeviceQueues::delivers(const Route& route, const Buffer& staging, const DeviceStream& stream) const {
  // What links the host to a device is used by every upload and download already.
  if (!accelerators_.has(route.from) || !accelerators_.has(route.to)) return true;
  const std::span<std::byte> source = program_.arena(route.from);
  const std::span<std::byte> target = program_.arena(route.to);
  const int64_t bytes =
      std::min({static_cast<int64_t>(source.size()), static_cast<int64_t>(target.size()), kMostProbeBytes});
  std::vector<std::byte> pattern(static_cast<size_t>(bytes));
  for (int64_t i = 0; i < bytes; ++i) pattern[static_cast<size_t>(i)] = probe_byte(i);
  const std::span<std::byte> sent = source.first(pattern.size());
  const std::span<std::byte> received = target.first(pattern.size());
  std::vector<std::byte> old_source(pattern.size());
  std::vector<std::byte> old_target(pattern.size());
  accelerators_.download(route.from, old_source, sent.data());
  accelerators_.download(route.to, old_target, received.data());
  accelerators_.upload(route.from, sent.data(), pattern);
  move(route, staging, stream, sent.data(), received.data(), bytes);
  plugin_call(stream.where, [&](mpc_cuda_error* error) { return plugin_.sync_stream(stream.stream, error); });
  std::vector<std::byte> back(pattern.size());
  accelerators_.download(route.to, back, received.data());
  accelerators_.upload(route.from, sent.data(), old_source);
  accelerators_.upload(route.to, received.data(), old_target);
  return back == pattern;
}

void DeviceQueues::set_step(int64_t step, uint64_t seed) {
  for (const auto& stream : accelerators_.streams()) {
    if (stream->step_in == nullptr) continue;
    *stream->step_in = {};
    stream->step_in->step = step;
    stream->step_in->seed = seed;
  }
}

void DeviceQueues::stage_feed(PlanIndex instruction, const HostInputs& inputs) {
  const Instruction& feed = plan_.instructions[instruction];
  const Buffer& buffer = staging_[instruction];
  if (buffer.bytes == 0) return;
  inputs.feed(feed.index, feed.microbatch, {buffer.data, static_cast<size_t>(buffer.bytes)});
}

void DeviceQueues::collect_fetch(PlanIndex instruction, HostOutputs& outputs) const {
  const Instruction& fetch = plan_.instructions[instruction];
  const Buffer& buffer = staging_[instruction];
  outputs.fetch(fetch.index, fetch.microbatch, {buffer.data, static_cast<size_t>(buffer.bytes)});
}

void DeviceQueues::check_faults() const {
  for (const auto& stream : accelerators_.streams()) {
    if (stream->step_out == nullptr || stream->step_out->fault == MPC_CUDA_FAULT_NONE) continue;
    const mpc_cuda_step& fault = *stream->step_out;
    const PlanNode& node = plan_.nodes[static_cast<size_t>(fault.fault_tag)];
    throw Error(ErrorId::M033, node.origin.empty() ? node.name : node.origin, fault_text(fault));
  }
}

void DeviceQueues::begin_queue(PlanIndex queue) {
  DeviceStream& stream = *accelerators_.stream(queue);
  plugin_call(stream.where, [&](mpc_cuda_error* error) {
    int32_t code = MPC_CUDA_OK;
    if (options_.is_timed) code = plugin_.record(stream.stream, bases_[queue], error);
    if (code != MPC_CUDA_OK || stream.step == nullptr) return code;
    return plugin_.copy(stream.stream, stream.step, stream.step_in, sizeof(mpc_cuda_step), error);
  });
}

void DeviceQueues::end_queue(PlanIndex queue) {
  DeviceStream& stream = *accelerators_.stream(queue);
  if (stream.step == nullptr) return;
  plugin_call(stream.where, [&](mpc_cuda_error* error) {
    return plugin_.copy(stream.stream, stream.step_out, stream.step, sizeof(mpc_cuda_step), error);
  });
}

void DeviceQueues::enqueue_feed(PlanIndex instruction) {
  const DeviceStream& stream = stream_of(instruction);
  const Buffer& buffer = staging_[instruction];
  if (buffer.bytes == 0) return;
  plugin_call(stream.where, [&](mpc_cuda_error* error) {
    return plugin_.copy(stream.stream, program_.bound(instruction).outputs.front().data, buffer.data, buffer.bytes,
                        error);
  });
}

void DeviceQueues::enqueue_fetch(PlanIndex instruction) {
  const DeviceStream& stream = stream_of(instruction);
  const Buffer& buffer = staging_[instruction];
  if (buffer.bytes == 0) return;
  plugin_call(stream.where, [&](mpc_cuda_error* error) {
    return plugin_.copy(stream.stream, buffer.data, program_.bound(instruction).inputs.front().data, buffer.bytes,
                        error);
  });
}

void DeviceQueues::enqueue_transfer(PlanIndex recv) {
  const size_t route = route_of_recv_[recv];
  const DeviceStream& stream = stream_of(recv);
  for (const Program::Copy& copy : program_.bound(recv).copies) {
    move(routes_[route], route_staging_[route], stream, copy.from, copy.to, copy.bytes);
  }
}

void DeviceQueues::enqueue_fill(PlanIndex queue, std::span<std::byte> memory, std::byte value) {
  if (memory.empty()) return;
  const DeviceStream& stream = *accelerators_.stream(queue);
  plugin_call(stream.where, [&](mpc_cuda_error* error) {
    return plugin_.fill(stream.stream, memory.data(), static_cast<int32_t>(value), static_cast<int64_t>(memory.size()),
                        error);
  });
}

void DeviceQueues::record(PlanIndex event, PlanIndex queue) {
  const DeviceStream& stream = *accelerators_.stream(queue);
  plugin_call(stream.where,
              [&](mpc_cuda_error* error) { return plugin_.record(stream.stream, events_[event], error); });
}

void DeviceQueues::wait(PlanIndex event, PlanIndex queue) {
  if (events_[event] == nullptr) return;
  const DeviceStream& stream = *accelerators_.stream(queue);
  plugin_call(stream.where, [&](mpc_cuda_error* error) { return plugin_.wait(stream.stream, events_[event], error); });
}

void DeviceQueues::wait_on_host(PlanIndex event) {
  if (events_[event] == nullptr) return;
  plugin_call("event", [&](mpc_cuda_error* error) { return plugin_.sync_event(events_[event], error); });
}

void DeviceQueues::sync_queue(PlanIndex queue) {
  const DeviceStream& stream = *accelerators_.stream(queue);
  plugin_call(stream.where, [&](mpc_cuda_error* error) { return plugin_.sync_stream(stream.stream, error); });
}

void DeviceQueues::sync_all() {
  for (const auto& stream : accelerators_.streams()) {
    plugin_call(stream->where, [&](mpc_cuda_error* error) { return plugin_.sync_stream(stream->stream, error); });
  }
}

std::vector<std::byte> DeviceQueues::download(PlanIndex queue, const TensorView& tensor) {
  sync_queue(queue);
  std::vector<std::byte> content(static_cast<size_t>(tensor.bytes()));
  accelerators_.download(plan_.queues[queue].device, content, tensor.data);
  return content;
}

void DeviceQueues::begin_capture() {
  const auto streams = accelerators_.streams();
  const DeviceStream& origin = *streams.front();
  plugin_call(origin.where, [&](mpc_cuda_error* error) {
    const int32_t code = plugin_.begin_capture(origin.stream, error);
    return code != MPC_CUDA_OK ? code : plugin_.record(origin.stream, joins_.front(), error);
  });
  // Every other stream joins the capture by waiting for the first one.
  for (const auto& stream : streams.subspan(1)) {
    plugin_call(stream->where,
                [&](mpc_cuda_error* error) { return plugin_.wait(stream->stream, joins_.front(), error); });
  }
}

void DeviceQueues::end_capture() {
  const auto streams = accelerators_.streams();
  const DeviceStream& origin = *streams.front();
  for (size_t i = 1; i < streams.size(); ++i) {
    plugin_call(streams[i]->where, [&](mpc_cuda_error* error) {
      const int32_t code = plugin_.record(streams[i]->stream, joins_[i], error);
      return code != MPC_CUDA_OK ? code : plugin_.wait(origin.stream, joins_[i], error);
    });
  }
  plugin_call(origin.where, [&](mpc_cuda_error* error) { return plugin_.end_capture(origin.stream, &graph_, error); });
}

void DeviceQueues::launch_graph() {
  const DeviceStream& origin = *accelerators_.streams().front();
  plugin_call(origin.where, [&](mpc_cuda_error* error) { return plugin_.launch_graph(graph_, origin.stream, error); });
}

void DeviceQueues::mark_start(PlanIndex instruction) {
  if (!options_.is_timed || starts_[instruction] == nullptr) return;
  const DeviceStream& stream = stream_of(instruction);
  plugin_call(stream.where,
              [&](mpc_cuda_error* error) { return plugin_.record(stream.stream, starts_[instruction], error); });
}

void DeviceQueues::mark_end(PlanIndex instruction) {
  if (!options_.is_timed || ends_[instruction] == nullptr) return;
  const DeviceStream& stream = stream_of(instruction);
  plugin_call(stream.where,
              [&](mpc_cuda_error* error) { return plugin_.record(stream.stream, ends_[instruction], error); });
}

double DeviceQueues::seconds_between(mpc_cuda_event* from, mpc_cuda_event* to, const std::string& where) const {
  float milliseconds = 0;
  plugin_call(where, [&](mpc_cuda_error* error) { return plugin_.elapsed_ms(from, to, &milliseconds, error); });
  return static_cast<double>(milliseconds) * kSecondsPerMillisecond;
}

double DeviceQueues::start_s(PlanIndex instruction) const {
  const PlanIndex queue = plan_.instructions[instruction].queue;
  return seconds_between(bases_[queue], starts_[instruction], stream_of(instruction).where);
}

double DeviceQueues::end_s(PlanIndex instruction) const {
  const PlanIndex queue = plan_.instructions[instruction].queue;
  return seconds_between(bases_[queue], ends_[instruction], stream_of(instruction).where);
}

}  // namespace mpc::executor
