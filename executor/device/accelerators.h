#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/plan/plan.h"
#include "executor/backend.h"
#include "executor/cuda/abi.h"
#include "executor/device/plugin.h"

// The devices of a plan that are not the host, with what each owns: streams, memory, workspaces, kernels.

namespace mpc::executor {

/// Calls a function of the plugin; a failure is thrown as Error(M070) or Error(M080) naming `where`.
template <class F>
void plugin_call(const std::string& where, F&& f) {
  mpc_cuda_error error{};
  if (f(&error) != MPC_CUDA_OK) throw_plugin_error(error, where);
}

/// What one queue of a plan runs on. Kernels keep pointers to it.
struct DeviceStream {
  const mpc_cuda_plugin* plugin = nullptr;
  mpc_cuda_device* device = nullptr;
  mpc_cuda_stream* stream = nullptr;
  std::string where;                  // device "cuda:0"
  void* workspace = nullptr;          // compute queues: what the hungriest kernel asks for
  int64_t workspace_bytes = 0;        // asked for
  int64_t workspace_there = 0;        // allocated
  mpc_cuda_step* step = nullptr;      // compute queues: in device memory
  mpc_cuda_step* step_in = nullptr;   // pinned: what a step starts with
  mpc_cuda_step* step_out = nullptr;  // pinned: what it left
};

class Accelerators {
 public:
  /// Opens every device of the plan that is not the host's (a CPU or host memory), and makes a stream for every queue
  /// and every link that has one at an end. With no such device nothing is loaded.
  /// @param plugin  null: that of the process (cuda_plugin()), looked for only when the plan needs it
  /// @throws Error(M080) when the plugin or a GPU is not there, naming what is.
  Accelerators(const Plan& plan, const mpc_cuda_plugin* plugin);
  ~Accelerators();
  Accelerators(const Accelerators&) = delete;
  Accelerators& operator=(const Accelerators&) = delete;

  bool is_empty() const { return owned_streams_.empty(); }
  bool has(DeviceId device) const { return devices_[device.index()] != nullptr; }
  /// The stream of a queue, or null when the host carries it out.
  DeviceStream* stream(PlanIndex queue) const { return streams_[queue]; }
  /// Every stream once.
  std::span<const std::unique_ptr<DeviceStream>> streams() const { return owned_streams_; }
  const mpc_cuda_plugin& plugin() const { return *plugin_; }
  mpc_cuda_device* device(DeviceId device) const { return devices_[device.index()]; }

  /// Memory of a device, released with release(). @throws Error(M070) with bytes asked and free, and `what` it is for.
  std::byte* allocate(DeviceId device, int64_t bytes, const std::string& what) const;
  void release(DeviceId device, std::byte* memory) const noexcept;
  /// Host memory that streams copy from and to beside their work, released with release_pinned(). @throws Error(M070).
  /// @pre not is_empty().
  std::byte* allocate_pinned(int64_t bytes, const std::string& what) const;
  void release_pinned(std::byte* memory) const noexcept;
  /// The kernel of a node on its device and queue, or why there is none.
  KernelOrReason make_kernel(const NodeSpec& node) const;
  /// Gives every compute queue the workspace its kernels ask for. To be called when all kernels are made; again when
  /// more were made. @pre no kernel is at work.
  void allocate_workspaces();

  /// Copies between host and device memory; done when they return. @pre no step is running.
  void upload(DeviceId device, std::byte* to, std::span<const std::byte> from) const;
  void download(DeviceId device, std::span<std::byte> to, const std::byte* from) const;
  void fill(DeviceId device, std::span<std::byte> memory, std::byte value) const;

 private:
  void open_devices();
  void make_streams();
  std::unique_ptr<DeviceStream> make_stream(DeviceId device) const;
  void close() noexcept;
  DeviceStream& any_stream(DeviceId device) const;
  std::string where(DeviceId device) const;

  const Plan& plan_;
  const mpc_cuda_plugin* plugin_;
  std::vector<mpc_cuda_device*> devices_;  // null: the host
  std::vector<std::unique_ptr<DeviceStream>> owned_streams_;
  std::vector<DeviceStream*> streams_;          // per queue
  std::vector<DeviceStream*> service_streams_;  // per device: for upload and download
};

/// The GPU that a device's name stands for: 1 for "cuda:1" and "cuda:1.0". @throws Error(M080) for another name.
int32_t gpu_of(const std::string& device_name);

}  // namespace mpc::executor
