#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mpc/mpc.h"
#include "tools/command_line.h"

namespace mpc::tools {

class Console;

// Groups of flags that several commands share. Each is a struct that the command line is read into; it must outlive
// reading, so commands hold them behind a shared_ptr that their body owns too.

/// Which devices: --gpus, --gpu-type, --devices, --cluster, --memory, --profile.
struct DeviceFlags {
  std::optional<int> gpus;
  std::string gpu_type;
  std::string devices;
  std::string cluster;
  std::optional<std::string> memory;
  std::string profile;

  void add(CommandLine& line);
  /// For commands that predict times: --profile.
  void add_profile(CommandLine& line);
  bool is_given() const { return gpus || !devices.empty() || !cluster.empty(); }
  /// For planning: no GPU needs to be at hand. @throws Error(M001) when nothing says how many.
  Cluster for_planning(const Console& console) const;
  /// For running: `cpu:1` when nothing is said. @throws Error(M080) for GPUs that are not there.
  Cluster for_running(const Console& console) const;

 private:
  /// The devices with --memory and --profile applied; says what was assumed.
  Cluster finished(Cluster chosen, const Console& console) const;
};

/// How a model is read: --limit, --external-root.
struct ModelFlags {
  std::vector<std::string> limits;
  std::string external_root;

  void add(CommandLine& line);
  /// @throws Error(M002, M003) and those of Model::load.
  Model load(const std::string& path) const;
};

/// Shapes: --dim, --batch.
struct ShapeFlags {
  std::vector<std::string> dims;
  std::vector<std::string> shapes;
  std::vector<std::string> contents;
  std::optional<int64_t> batch;

  void add(CommandLine& line);
  /// @throws Error(M003); Error(M004) for the content of an input that the model has not, or that is no such tensor;
  /// and as load_tensor.
  Bindings bindings(const Model& model) const;
  /// Without a model: no input's content can be given. @throws Error(M003), Error(M001).
  Bindings bindings() const;
};

/// How steps are taken: --transport, --watchdog.
struct StepFlags {
  std::string transport = SessionOptions().transport;
  double watchdog_seconds = SessionOptions().watchdog_seconds;

  void add(CommandLine& line);
  void apply(SessionOptions& options) const;
};

/// How a step is split: --microbatches, --schedule, --chunks, --fuse, --recompute, --offload, --objective, --pin.
struct SplitFlags {
  int microbatches = 1;
  std::string schedule = "auto";
  std::optional<int> chunks;
  std::string fuse = "auto";
  std::string recompute = "auto";
  std::string offload = "auto";
  std::optional<std::string> host_memory;
  std::string objective = "throughput";
  std::string precision = "f32";
  std::vector<std::string> pins;
  bool ignore_annotations = false;

  void add(CommandLine& line);
  /// A model that carries ONNX's annotations keeps the placement that stands in them, unless pins decide or there are
  /// fewer devices; says so.
  void keep_placement(const Model& model, const Cluster& cluster, const Console& console,
                      CompileOptions& options) const;
  /// @throws Error(M003) for a pin without a device or a host memory that is not a size.
  void apply(const Cluster& cluster, CompileOptions& options) const;
};

/// What is trained: --loss, --loss-input, --optimizer, --group, --clip-norm, --freeze.
struct TrainingFlags {
  std::string loss = "cross-entropy";
  std::string loss_input;
  std::optional<int64_t> ignored_label;
  std::string optimizer = "sgd,lr=0.01";
  std::vector<std::string> groups;
  double clip_norm = 0;
  std::string freeze;

  /// @param train  the flag without which these say nothing; none where the command trains anyway
  void add(CommandLine& line, std::optional<Flag> train = std::nullopt);
  /// @throws Error(M003).
  TrainingOptions options() const;
};

/// The flags of a command whose answers a plan holds: those that are added between begin() and end().
class PlanFlags {
 public:
  void begin(const CommandLine& line);
  /// @pre this object outlives reading.
  void end(CommandLine& line);
  /// @throws Error(M001) for the first of them that was given: beside a plan it would say nothing.
  void refuse(const std::string& command) const;

 private:
  size_t first_ = 0;
  std::vector<std::string> given_;
};

/// "NAME=VALUE" split at the first "=". @throws Error(M003) when there is none or the name is empty.
std::pair<std::string, std::string> name_and_value(const std::string& flag, const std::string& text);

/// Compiles with a progress line. A model that fits nowhere is reported (text and JSON) and gives no plan; the command
/// then ends with code 5.
std::optional<Plan> compile_or_report(Console& console, const Model& model, const Cluster& cluster,
                                      CompileOptions options);

/// Before a plan is carried out: what partition says below its table.
void tell_warnings(const Console& console, const Plan& plan);

}  // namespace mpc::tools
