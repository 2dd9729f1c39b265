#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "mpc/model.h"
#include "mpc/namespace.h"
#include "mpc/plan.h"
#include "mpc/tensor.h"

namespace mpc::v1 {

struct SessionOptions {
  /// One thread and plain kernels that accumulate in double: slow, the oracle of everything else.
  bool use_reference = false;
  uint64_t seed = 0;              // of dropout
  bool record_trace = false;      // measured times of the last step
  bool check_finite = false;      // the first NaN or infinity ends the step and names its node (M091)
  double watchdog_seconds = 300;  // a step without progress for this long has failed (M081)
  bool pin_threads = true;        // several CPU devices, a core for every thread: each keeps to its cores, and waits
                                  // awake for up to a millisecond; false: the system chooses, and waiting threads sleep
  /// How tensors move between CUDA devices: auto (the best that a link can do, probed), device (copies within one GPU),
  /// peer (from GPU to GPU), host (through pinned memory).
  std::string transport = "auto";
};

struct StepOptions {
  bool update = true;                    // training: apply the optimizer
  std::vector<int> update_devices = {};  // only the parts on these devices; empty: all
  double learning_rate_scale = 1;
};

struct StepResult {
  double seconds = 0;  // measured
  double loss = 0;     // training: of the whole batch
};

/// A parameter and the device it lives on.
struct ParameterInfo {
  std::string name;  // as the model names it
  int device = 0;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  bool is_trained = false;
};

/// Gradients of the parameters on one device.
struct PartGradient {
  int device = 0;
  double norm = 0;        // square root of the sum of squares
  bool is_finite = true;  // no NaN or infinity in any of them
};

/// Bytes of a device's arena that were touched so far, and its size. Beside it, as far as the device's capacity leaves
/// room, weights that no step changes are kept in the layouts of kernels (CPU devices).
struct ArenaInfo {
  int64_t used_bytes = 0;
  int64_t arena_bytes = 0;
  int64_t kept_bytes = 0;
};

/// Which kernel carries out a node, and why faster ones declined.
struct KernelInfo {
  std::string node;
  std::string op;
  int device = 0;
  std::string kernel;
  std::string declined;
};

/// Measured time of the nodes of one kind within the last step (record_trace), beside what the plan predicted.
struct OpTime {
  std::string op;
  int64_t calls = 0;
  double seconds = 0;
  double predicted_seconds = 0;
};

/// Executes a plan, step by step. All memory is taken when it is made; a step allocates none. A session owns its
/// threads; use it from one thread at a time. After an error within a step every later call throws the same error.
class Session {
 public:
  /// @throws Error(M061, M062) for a plan that does not fit the model, Error(M070) when an arena cannot be had,
  /// Error(M080) when a device is not there, Error(M023, M024) for weights.
  Session(const Plan& plan, const Model& model, const SessionOptions& options = {});
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  const Plan& plan() const;
  /// Gives an input its content for the steps to come, for the whole batch. The session keeps the tensor.
  /// @throws Error(M004) for another type or shape, or an unknown name.
  void bind(const std::string& input, Tensor content);
  /// Runs one step. @throws Error(M004) when an input has no content.
  StepResult step(const StepOptions& options = {});
  /// Applies the gradients of the last step(update = false) on some devices; several calls belong to one optimizer
  /// step.
  void update(const StepOptions& options = {});

  /// A model output of the last step, micro-batches joined. @throws Error(M002).
  Tensor output(const std::string& name) const;
  std::vector<ParameterInfo> parameters() const;
  /// A parameter as it is at this moment, by the model's name. @throws Error(M002).
  Tensor parameter(const std::string& name) const;
  /// @throws Error(M002, M004).
  void set_parameter(const std::string& name, const Tensor& content);
  /// The gradient of a parameter, accumulated over the micro-batches of the last step. @throws Error(M002).
  Tensor gradient(const std::string& parameter) const;
  /// Per device that has trained parameters.
  std::vector<PartGradient> part_gradients() const;
  /// Norm of all gradients together.
  double gradient_norm() const;
  /// Optimizer steps done so far.
  int64_t steps_done() const;

  /// The measured last step as a Chrome trace (record_trace). @throws Error(M046) when nothing was recorded.
  std::string trace_json() const;
  /// The plan's page (Plan::report_html) with the measured last step under the predicted one (record_trace).
  /// @throws Error(M046) when nothing was recorded.
  std::string report_html() const;
  std::vector<OpTime> op_times() const;
  std::vector<ArenaInfo> memory() const;
  std::vector<KernelInfo> kernels() const;
  /// Writes the model with the parameters as they are at this moment; the file appears whole or not at all.
  /// @throws Error(M011, M012).
  void save_model(const std::string& path) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mpc::v1
