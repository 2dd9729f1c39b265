#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mpc/cluster.h"
#include "mpc/model.h"
#include "mpc/namespace.h"
#include "mpc/plan.h"

namespace mpc::v1 {

/// Keeps the nodes whose name the pattern is found in (ECMAScript regular expression) on a device.
struct DevicePin {
  std::string pattern;
  int device = 0;
};

/// What is trained, and how.
struct TrainingOptions {
  /// "cross-entropy", "nll", "mse", "l1", "bce-with-logits", or "none" when the model's output is the loss.
  std::string loss = "cross-entropy";
  /// The output the loss is taken of; empty: the only one.
  std::string loss_output = {};
  /// Of class losses: labels of this value count nothing, and the mean is over the others of the batch. Often -100.
  std::optional<int64_t> ignored_label = {};
  /// "sgd", "momentum", "adam", "adamw", with settings: "adam,lr=0.001,beta1=0.9".
  std::string optimizer = "sgd,lr=0.01";
  /// Parameters whose name matches the pattern (whole name) use their own optimizer; the first that matches counts.
  std::vector<std::pair<std::string, std::string>> groups = {};
  /// Gradients are scaled so that their norm over all parameters is at most this; 0: off.
  double clip_norm = 0;
  /// Parameters that match (whole name) are not trained.
  std::string frozen = {};
  /// Fetch the model's outputs of every step too, not only the loss.
  bool keep_outputs = false;
};

/// Everything that decides what plan comes out, beside the model and the cluster.
struct CompileOptions {
  Bindings bindings = {};
  int microbatches = 1;
  /// Instead of microbatches: the rows of each but the last.
  std::optional<int64_t> microbatch_rows = {};
  /// "sequential", "gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "list", "auto".
  std::string schedule = "auto";
  /// "interleaved": runs of layers per device.
  int chunks = 2;
  /// May elementwise operators in a row run as one kernel, and the optimizer's updates of a device? No bit depends on
  /// it.
  bool may_fuse = true;
  /// May activations be computed again in the backward pass where a device cannot keep them?
  bool may_recompute = true;
  /// May activations wait in host memory, from the forward to the backward pass, where a device cannot keep them?
  bool may_offload = true;
  /// The host memory they may take. Empty: 64 GiB.
  std::optional<int64_t> host_memory_bytes = {};
  std::string objective = "throughput";  // "throughput", "latency", "devices", "memory"
  /// How long to search, in seconds of a current core, counted in steps so that plans are the same on every machine.
  /// Objective "latency": a placement; empty: some tenths of a second. Objective "throughput": whole plans whose cuts
  /// lie elsewhere, for one with a shorter step; empty: not at all. The programs of the other objectives run to their
  /// end.
  std::optional<double> budget_seconds = {};
  /// "f32"; "tf32": GPUs may round the operands of products; "bf16": products and what lies between them in bf16, with
  /// f32 parameters, sums and optimizer state; "f16": the same in f16, and training scales the loss.
  std::string precision = "f32";
  std::vector<DevicePin> pins = {};
  /// The device of some nodes by name (as plans name them); the rest is searched around them.
  std::map<std::string, int> kept = {};
  /// When not empty: the device of every node by name, instead of a search.
  std::map<std::string, int> assignment = {};
  std::optional<TrainingOptions> training = {};
  /// When not empty: a folder that gets the graph after every pass (`NN-pass.mpc`), the plan and its picture. For
  /// finding out what the compiler does.
  std::string dump_folder = {};
  /// Checks the graph after every pass. Costs time and changes nothing else.
  bool verify_passes = true;
  /// Told before each stage of the compiler, with its name and the share of the work done. Called by the compiling
  /// thread.
  std::function<void(std::string_view stage, double share)> progress = {};
};

/// What one device would need.
struct DeviceNeed {
  int device = 0;
  std::string name;
  int64_t bytes = 0;
  int64_t capacity_bytes = 0;
  std::vector<std::string> largest;  // "layer1.weight: 1.91 MiB"
};

/// Why no plan fits, and what would help.
struct NoPlan {
  std::vector<DeviceNeed> needs;
  std::vector<std::string> suggestions;
};

/// The plan, or why none fits.
struct CompileResult {
  std::optional<Plan> plan;
  NoPlan reasons;  // when there is no plan

  explicit operator bool() const { return plan.has_value(); }
  /// The plan. @throws Error(M050) with the reasons when there is none.
  const Plan& value() const;
  /// The JSON that `mpc partition --json` writes, feasible or not.
  std::string report_json() const;
  /// The same for people.
  std::string report_text() const;
};

/// Splits a model over a cluster: import, differentiate, place, insert transfers, schedule, plan memory.
/// @throws Error for a model or options that are wrong (M002..M004, M030..M046); that nothing fits is a result.
CompileResult compile(const Model& model, const Cluster& cluster, const CompileOptions& options = {});

}  // namespace mpc::v1
