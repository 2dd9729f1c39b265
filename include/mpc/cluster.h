#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mpc/namespace.h"

namespace mpc::v1 {

/// The kind of GPU that planning assumes when none is at hand and none is named.
std::string_view assumed_gpu_kind();

/// A row of the table of hardware that mpc knows. Rates are what a good library reaches, not peaks.
struct HardwareKind {
  std::string name;     // "h100-80g"
  std::string backend;  // "cuda", "cpu"
  int64_t memory_bytes = 0;
  double flops_f32 = 0;         // per second
  double bytes_per_second = 0;  // of its memory
  std::string source;           // where the figures come from
};
std::vector<HardwareKind> known_hardware();

/// A GPU of this machine.
struct LocalGpu {
  std::string name;        // "cuda:0"
  std::string model;       // "NVIDIA H200"
  std::string capability;  // "9.0"
  std::string kind;        // the row of known_hardware() it is, or empty
  int64_t memory_bytes = 0;
  int64_t free_bytes = 0;
};

/// A library that the CUDA backend opens at run time.
struct GpuLibrary {
  std::string name;
  bool is_there = false;
  int version = 0;
  std::string path;   // or where it was looked for
  std::string costs;  // what cannot be done without it
};

/// What this machine offers to the CUDA backend. Loads its plugin when it is first called.
struct LocalGpus {
  std::vector<LocalGpu> gpus;
  std::vector<GpuLibrary> libraries;
  std::string plugin;  // the file
  std::string reason;  // why there are no GPUs; empty when there are
};
LocalGpus local_gpus();

/// Does the CUDA backend have a kernel for this operator (docs/cuda.md)?
bool has_cuda_kernel(const std::string& op);

class Profile;  // mpc/profile.h

/// The devices a model is planned for and the links between them. Immutable, cheap to copy.
class Cluster {
 public:
  /// `count` GPUs of a kind of the table, or of a kind described in a JSON file. @throws Error(M002, M003, M063).
  static Cluster gpus(int count, const std::string& kind_or_file);
  /// "cpu:2", "cuda:0,cuda:1", "cuda:0*2" (two logical devices on one GPU), "cpu,cuda:0". @throws Error(M003).
  static Cluster devices(const std::string& text, const std::string& gpu_kind);
  static Cluster devices(const std::string& text) { return devices(text, std::string(assumed_gpu_kind())); }
  /// Reads a cluster file. @throws Error(M010, M063).
  static Cluster load(const std::string& path);

  /// The same cluster where each device may use no more: "16GiB", or "20GiB,10GiB" for one size per device.
  /// @throws Error(M003).
  Cluster with_memory(const std::string& text) const;
  /// The same cluster where device i may use at most bytes[i].
  Cluster with_memory(const std::vector<int64_t>& bytes) const;

  /// The same cluster with every `devices_per_node` devices, in their order, in a node of machines: links between nodes
  /// carry `bytes_per_second`, links within a node stay. @throws Error(M003).
  Cluster in_nodes(int devices_per_node, double bytes_per_second) const;

  /// The same cluster with the measured rates of its devices and links; notes() names what keeps its own.
  /// @throws Error(M004) when the profile is of none of the devices.
  Cluster with_profile(const Profile& profile) const;

  int device_count() const;
  /// "cpu:0".
  std::string device_name(int device) const;
  /// "cpu", "cuda".
  std::string backend(int device) const;
  int64_t memory_bytes(int device) const;
  /// Assumptions that were made.
  std::vector<std::string> notes() const;

  /// Of mpc's own sources.
  struct Impl;
  explicit Cluster(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  const Impl& impl() const { return *impl_; }

 private:
  std::shared_ptr<const Impl> impl_;  // shared: immutable, so that copies cost nothing
};

}  // namespace mpc::v1
