#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "mpc/model.h"
#include "mpc/namespace.h"
#include "mpc/tensor.h"

namespace mpc::v1 {

/// What a plan says about one device. Bytes are those of its arena at the fullest moment; times and FLOPs are per step.
struct DevicePlan {
  int id = 0;
  std::string name;
  std::string hardware;
  std::string backend;     // "cpu", "cuda"
  int stage = 0;           // how many device changes lie before its first work, at least
  int64_t nodes = 0;       // of the forward pass
  int64_t parameters = 0;  // elements
  int64_t parameter_bytes = 0;
  int64_t gradient_bytes = 0;
  int64_t optimizer_bytes = 0;
  int64_t activation_bytes = 0;
  int64_t workspace_bytes = 0;
  int64_t staging_bytes = 0;
  int64_t peak_bytes = 0;  // the arena
  int64_t live_bytes = 0;  // the most that holds something at one moment: no arena for this order is smaller
  int64_t capacity_bytes = 0;
  double flops = 0;
  double seconds = 0;
};

/// One value that travels from one device to another; bytes per step.
struct TransferPlan {
  std::string value;
  int from = 0;
  int to = 0;
  int64_t bytes = 0;
  std::string phase;  // "forward", "backward", "update"; to and from host memory "offload", "fetch"
  double seconds = 0;
};

/// An input or output of a step, for the whole batch.
struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  bool is_batched = true;  // is dimension 0 the batch?
  int64_t bound = 2;       // integers: values must be below this, as far as the nodes that read it tell
  bool is_labels = false;  // what the loss reads: mpc's own input, "labels" unless the model has one of that name
};

/// What replaying a plan with predicted times shows.
struct Simulation {
  double step_seconds = 0;
  double bubble = 0;                     // idle share of the devices that compute
  std::vector<double> busy_seconds;      // per device
  std::vector<int64_t> peak_live_bytes;  // per device: the most that is live at once
};

/// How a plan is drawn.
struct DotOptions {
  enum class Level : uint8_t { op, block, device };
  Level level = Level::block;
  bool with_backward = false;  // training plans: also gradients and updates
  int most_blocks = 14;        // level block: names are folded, and neighbours joined, until about so many are left
};

/// What a person changed in a plan file: the forward nodes whose "device" is no longer that of the queue which runs
/// them, by name. The file must otherwise be a plan; it need not pass the check. O(nodes + instructions).
/// @param device_count  of the devices to plan for: as many as the plan has.
/// @throws Error(M010, M060) for the file, Error(M062) when it is of another model or number of devices, Error(M004)
/// for a change that cannot be kept (a gradient or an update runs where its forward node does).
std::map<std::string, int> changed_devices(const std::string& path, const Model& model, int device_count);

/// A model split over devices: where every node runs, what is sent, in which order, at which address. Immutable, cheap
/// to copy (shared_ptr: sessions keep the plan they run). Safe to use from several threads.
class Plan {
 public:
  /// Reads a plan file and proves that it can be executed safely. @throws Error(M010, M060, M061, M062).
  static Plan load(const std::string& path);
  static Plan parse(const std::string& json, const std::string& where);
  /// Writes the plan file; it appears whole or not at all. @throws Error(M011, M012).
  void save(const std::string& path) const;
  std::string json() const;

  const std::string& model_path() const;
  bool is_training() const;
  int microbatches() const;
  /// Rows of a step; 0 when the model has no batch dimension.
  int64_t batch() const;
  const std::string& schedule() const;
  const std::string& objective() const;
  double step_seconds() const;
  double bubble() const;
  double objective_value() const;
  double objective_lower_bound() const;
  double one_device_seconds() const;
  std::vector<DevicePlan> devices() const;
  std::vector<TransferPlan> transfers() const;
  /// The device of every ONNX node, by its name.
  std::map<std::string, int> assignment() const;
  /// Inputs the caller binds (labels among them), and outputs.
  std::vector<TensorInfo> inputs() const;
  std::vector<TensorInfo> outputs() const;
  std::vector<std::string> warnings() const;
  std::vector<std::string> notes() const;

  /// Proves again that the plan can be executed safely (done by compile() and load()). @throws Error(M061).
  void check() const;
  /// @throws Error(M062) when the plan was made for another model.
  void require_model(const Model& model) const;
  Simulation simulate() const;
  /// The predicted step as a Chrome trace (opens in Perfetto).
  std::string trace_json() const;
  /// The table that `mpc partition` prints.
  std::string report_text() const;
  /// The plan as one HTML page that loads nothing: split graph, timeline, memory over time, transfers.
  std::string report_html() const;
  /// The JSON that `mpc partition --json` writes.
  std::string report_json() const;
  /// The graph in the DOT language.
  std::string dot(const DotOptions& options = {}) const;
  /// Writes the model with the standard multi-device annotations of ONNX. @throws Error(M011, M062).
  void save_annotated(const Model& model, const std::string& path) const;

  /// Of mpc's own sources.
  struct Impl;
  explicit Plan(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  const Impl& impl() const { return *impl_; }

 private:
  std::shared_ptr<const Impl> impl_;
};

}  // namespace mpc::v1
