#include "executor/device/accelerators.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "compiler/plan/host_memory.h"

namespace mpc::executor {
namespace {

/// A node in the plain data of the plugin's interface, for the duration of a call.
class PlainNode {
 public:
  PlainNode(const NodeSpec& node, const std::string& precision) : op_(op_name(node.op)) {
    attributes_.reserve(node.attributes->items().size());
    for (const auto& [name, value] : node.attributes->items()) add(name, value);
    for (const NodeSpec::Operand& operand : node.inputs) inputs_.push_back(plain(operand));
    for (const NodeSpec::Operand& operand : node.outputs) outputs_.push_back(plain(operand));
    node_ = {op_.c_str(),        precision.c_str(),
             attributes_.data(), static_cast<int32_t>(attributes_.size()),
             inputs_.data(),     static_cast<int32_t>(inputs_.size()),
             outputs_.data(),    static_cast<int32_t>(outputs_.size())};
  }
  const mpc_cuda_node* get() const { return &node_; }

 private:
  void add(const std::string& name, const Attribute& value) {
    mpc_cuda_attribute plain{};
    plain.name = name.c_str();
    plain.kind = static_cast<int32_t>(value.index());
    if (const auto* integer = std::get_if<int64_t>(&value)) plain.integer = *integer;
    if (const auto* number = std::get_if<double>(&value)) plain.number = *number;
    if (const auto* text = std::get_if<std::string>(&value)) plain.text = text->c_str();
    if (const auto* integers = std::get_if<std::vector<int64_t>>(&value)) {
      plain.integers = integers->data();
      plain.count = static_cast<int64_t>(integers->size());
    }
    if (const auto* numbers = std::get_if<std::vector<double>>(&value)) {
      plain.numbers = numbers->data();
      plain.count = static_cast<int64_t>(numbers->size());
    }
    if (const auto* all = std::get_if<std::vector<std::string>>(&value)) {
      auto& pointers = texts_.emplace_back();
      for (const std::string& text : *all) pointers.push_back(text.c_str());
      plain.texts = pointers.data();
      plain.count = static_cast<int64_t>(pointers.size());
    }
    attributes_.push_back(plain);
  }

  static mpc_cuda_operand plain(const NodeSpec::Operand& operand) {
    static_assert(kMaxRank <= MPC_CUDA_MAX_RANK);
    mpc_cuda_operand result{};
    result.is_present = operand.is_present ? 1 : 0;
    result.dtype = static_cast<int32_t>(operand.dtype);
    result.rank = operand.shape.rank();
    std::copy(operand.shape.begin(), operand.shape.end(), result.dims);
    return result;
  }

  std::string op_;
  std::vector<mpc_cuda_attribute> attributes_;
  std::vector<std::vector<const char*>> texts_;
  std::vector<mpc_cuda_operand> inputs_;
  std::vector<mpc_cuda_operand> outputs_;
  mpc_cuda_node node_{};
};

/// A kernel of the plugin. run() enqueues on its queue's stream.
class DeviceKernel final : public Kernel {
 public:
  DeviceKernel(mpc_cuda_kernel* kernel, DeviceStream& stream, const NodeSpec& node)
      : kernel_(kernel),
        stream_(stream),
        inputs_(node.inputs.size()),
        outputs_(node.outputs.size()),
        tag_(static_cast<int32_t>(node.node)),
        name_(stream.plugin->kernel_name(kernel)) {}
  ~DeviceKernel() override { stream_.plugin->destroy_kernel(kernel_); }
  DeviceKernel(const DeviceKernel&) = delete;
  DeviceKernel& operator=(const DeviceKernel&) = delete;

  void run(const KernelCall& call) override {
    for (size_t i = 0; i < inputs_.size(); ++i) inputs_[i] = call.inputs[i].data;
    for (size_t i = 0; i < outputs_.size(); ++i) outputs_[i] = call.outputs[i].data;
    const mpc_cuda_call plain{inputs_.data(), outputs_.data(),      stream_.workspace,
                              stream_.step,   call.step.microbatch, tag_};
    plugin_call(stream_.where, [&](mpc_cuda_error* error) {
      return stream_.plugin->run_kernel(kernel_, stream_.stream, &plain, error);
    });
  }
  std::string_view name() const override { return name_; }

 private:
  mpc_cuda_kernel* kernel_;
  DeviceStream& stream_;
  std::vector<void*> inputs_;
  std::vector<void*> outputs_;
  int32_t tag_;
  std::string name_;
};

constexpr int64_t kWorkspaceAlignment = 256;

}  // namespace

int32_t gpu_of(const std::string& device_name) {
  const std::string_view name = device_name;
  if (name.starts_with("cuda:")) {
    const std::string_view rest = name.substr(5);
    const auto ordinal = parse_integer(rest.substr(0, rest.find('.')));
    if (ordinal && *ordinal >= 0 && *ordinal < 4096) return static_cast<int32_t>(*ordinal);
  }
  throw Error(ErrorId::M080, fmt::format("device \"{}\"", device_name), "its name does not say which GPU it is",
              "name it cuda:0, or cuda:0.0 and cuda:0.1 for two logical devices on one GPU");
}

Accelerators::Accelerators(const Plan& plan, const mpc_cuda_plugin* plugin)
    : plan_(plan),
      plugin_(plugin),
      devices_(plan.devices.size(), nullptr),
      streams_(plan.queues.size(), nullptr),
      service_streams_(plan.devices.size(), nullptr) {
  try {
    open_devices();
    make_streams();
  } catch (...) {
    close();
    throw;
  }
}

Accelerators::~Accelerators() {
  close();
}

void Accelerators::close() noexcept {
  for (const auto& stream : owned_streams_) {
    if (stream->workspace != nullptr) plugin_->release(stream->device, stream->workspace);
    if (stream->step != nullptr) plugin_->release(stream->device, stream->step);
    if (stream->step_in != nullptr) plugin_->release_host(stream->device, stream->step_in);
    if (stream->step_out != nullptr) plugin_->release_host(stream->device, stream->step_out);
    plugin_->destroy_stream(stream->stream);
  }
  owned_streams_.clear();
  for (mpc_cuda_device* device : devices_) {
    if (device != nullptr) plugin_->close(device);
  }
  devices_.assign(devices_.size(), nullptr);
}

std::string Accelerators::where(DeviceId device) const {
  return fmt::format("device \"{}\"", plan_.devices[device.index()].name);
}

void Accelerators::open_devices() {
  for (size_t d = 0; d < plan_.devices.size(); ++d) {
    const PlanDevice& device = plan_.devices[d];
    if (device.backend == "cpu" || is_host_memory(device)) continue;
    const std::string place = where(DeviceId(d));
    if (device.backend != "cuda") {
      throw Error(ErrorId::M080, place, fmt::format("its backend \"{}\" is not available here", device.backend));
    }
    if (plugin_ == nullptr) {
      const PluginOrReason& found = cuda_plugin();
      if (found.plugin == nullptr) {
        throw Error(ErrorId::M080, place, "there is no CUDA plugin: " + found.reason, "plan for CPU devices");
      }
      plugin_ = found.plugin;
    }
    int32_t count = 0;
    plugin_call(place, [&](mpc_cuda_error* error) { return plugin_->device_count(&count, error); });
    const int32_t ordinal = gpu_of(device.name);
    if (ordinal >= count) {
      throw Error(ErrorId::M080, place, fmt::format("this machine has {} GPUs", count),
                  fmt::format("--devices cuda:0*{0} puts {0} logical devices on one GPU", plan_.devices.size()));
    }
    plugin_call(place, [&](mpc_cuda_error* error) { return plugin_->open(ordinal, &devices_[d], error); });
  }
}

std::unique_ptr<DeviceStream> Accelerators::make_stream(DeviceId device) const {
  auto made = std::make_unique<DeviceStream>();
  made->plugin = plugin_;
  made->device = devices_[device.index()];
  made->where = where(device);
  plugin_call(made->where,
              [&](mpc_cuda_error* error) { return plugin_->make_stream(made->device, &made->stream, error); });
  return made;
}

void Accelerators::make_streams() {
  for (size_t d = 0; d < devices_.size(); ++d) {
    if (devices_[d] == nullptr) continue;
    owned_streams_.push_back(make_stream(DeviceId(d)));
    service_streams_[d] = owned_streams_.back().get();
  }
  std::map<std::pair<DeviceId, DeviceId>, DeviceStream*> links;
  for (size_t q = 0; q < plan_.queues.size(); ++q) {
    const PlanQueue& queue = plan_.queues[q];
    if (queue.kind == QueueKind::compute) {
      if (!has(queue.device)) continue;
      owned_streams_.push_back(make_stream(queue.device));
      DeviceStream& stream = *owned_streams_.back();
      streams_[q] = &stream;
      plugin_call(stream.where, [&](mpc_cuda_error* error) {
        void* memory = nullptr;
        const int32_t code = plugin_->allocate(stream.device, sizeof(mpc_cuda_step), &memory, error);
        stream.step = static_cast<mpc_cuda_step*>(memory);
        return code;
      });
      for (mpc_cuda_step** pinned : {&stream.step_in, &stream.step_out}) {
        plugin_call(stream.where, [&](mpc_cuda_error* error) {
          void* memory = nullptr;
          const int32_t code = plugin_->allocate_host(stream.device, sizeof(mpc_cuda_step), &memory, error);
          *pinned = static_cast<mpc_cuda_step*>(memory);
          return code;
        });
      }
      continue;
    }
    // Both ends of a link are one stream: its send and its recv then meet by themselves.
    const bool is_send = queue.kind == QueueKind::send;
    const std::pair ends(is_send ? queue.device : queue.peer, is_send ? queue.peer : queue.device);
    if (!has(ends.first) && !has(ends.second)) continue;
    DeviceStream*& stream = links[ends];
    if (stream == nullptr) {
      owned_streams_.push_back(make_stream(has(ends.second) ? ends.second : ends.first));
      stream = owned_streams_.back().get();
    }
    streams_[q] = stream;
  }
}

DeviceStream& Accelerators::any_stream(DeviceId device) const {
  return *service_streams_[device.index()];
}

std::byte* Accelerators::allocate(DeviceId device, int64_t bytes, const std::string& what) const {
  void* memory = nullptr;
  plugin_call(
      fmt::format("{}: {} bytes ({}) for {}", where(device), bytes, bytes_text(bytes), what),
      [&](mpc_cuda_error* error) { return plugin_->allocate(devices_[device.index()], bytes, &memory, error); });
  return static_cast<std::byte*>(memory);
}

void Accelerators::release(DeviceId device, std::byte* memory) const noexcept {
  plugin_->release(devices_[device.index()], memory);
}

std::byte* Accelerators::allocate_pinned(int64_t bytes, const std::string& what) const {
  void* memory = nullptr;
  plugin_call(fmt::format("{} bytes ({}) of pinned host memory for {}", bytes, bytes_text(bytes), what),
              [&](mpc_cuda_error* error) {
                return plugin_->allocate_host(owned_streams_.front()->device, bytes, &memory, error);
              });
  return static_cast<std::byte*>(memory);
}

void Accelerators::release_pinned(std::byte* memory) const noexcept {
  plugin_->release_host(owned_streams_.front()->device, memory);
}

KernelOrReason Accelerators::make_kernel(const NodeSpec& node) const {
  DeviceStream* stream = streams_[node.queue];
  MPC_CHECK(stream != nullptr, "a node of a device runs on a stream");
  const PlainNode plain(node, plan_.precision);
  mpc_cuda_kernel* made = nullptr;
  mpc_cuda_error error{};
  const int32_t code = plugin_->make_kernel(stream->device, plain.get(), &made, &error);
  if (code == MPC_CUDA_UNSUPPORTED) return {nullptr, error.text};
  if (code != MPC_CUDA_OK) throw_plugin_error(error, stream->where);
  stream->workspace_bytes = std::max(stream->workspace_bytes, plugin_->kernel_workspace(made));
  std::string declined = plugin_->kernel_declined(made);
  return {std::make_unique<DeviceKernel>(made, *stream, node), std::move(declined)};
}

void Accelerators::allocate_workspaces() {
  for (const auto& stream : owned_streams_) {
    if (stream->workspace_bytes <= stream->workspace_there) continue;
    if (stream->workspace != nullptr) plugin_->release(stream->device, std::exchange(stream->workspace, nullptr));
    stream->workspace_there = 0;
    const int64_t bytes =
        (stream->workspace_bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
    plugin_call(
        fmt::format("{}: {} bytes ({}) for the workspace of its kernels", stream->where, bytes, bytes_text(bytes)),
        [&](mpc_cuda_error* error) { return plugin_->allocate(stream->device, bytes, &stream->workspace, error); });
    stream->workspace_there = bytes;
  }
}

void Accelerators::upload(DeviceId device, std::byte* to, std::span<const std::byte> from) const {
  if (from.empty()) return;
  const DeviceStream& stream = any_stream(device);
  plugin_call(stream.where, [&](mpc_cuda_error* error) {
    const int32_t code = plugin_->copy(stream.stream, to, from.data(), static_cast<int64_t>(from.size()), error);
    return code != MPC_CUDA_OK ? code : plugin_->sync_stream(stream.stream, error);
  });
}

void Accelerators::download(DeviceId device, std::span<std::byte> to, const std::byte* from) const {
  if (to.empty()) return;
  const DeviceStream& stream = any_stream(device);
  plugin_call(stream.where, [&](mpc_cuda_error* error) {
    const int32_t code = plugin_->copy(stream.stream, to.data(), from, static_cast<int64_t>(to.size()), error);
    return code != MPC_CUDA_OK ? code : plugin_->sync_stream(stream.stream, error);
  });
}

void Accelerators::fill(DeviceId device, std::span<std::byte> memory, std::byte value) const {
  if (memory.empty()) return;
  const DeviceStream& stream = any_stream(device);
  plugin_call(stream.where, [&](mpc_cuda_error* error) {
    const int32_t code = plugin_->fill(stream.stream, memory.data(), static_cast<int32_t>(value),
                                       static_cast<int64_t>(memory.size()), error);
    return code != MPC_CUDA_OK ? code : plugin_->sync_stream(stream.stream, error);
  });
}

}  // namespace mpc::executor
