#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compiler/base/literal.h"
#include "compiler/base/weights.h"
#include "compiler/plan/plan.h"
#include "executor/backend.h"
#include "executor/cuda/abi.h"
#include "executor/device/device_queues.h"

namespace mpc::executor {

/// How instructions are carried out.
enum class Interpreter : uint8_t {
  reference,  // one thread, the total order, reference kernels
  threads,    // a thread per lane (host/lanes.h), the fastest kernels the devices' backends have
};

/// Which kernels Interpreter::threads uses.
enum class KernelSet : uint8_t {
  best,       // the fastest that each device's backend has
  reference,  // the reference kernels; with them both interpreters give the same bits
};

struct SessionOptions {
  Interpreter interpreter = Interpreter::threads;
  KernelSet kernels = KernelSet::best;
  uint64_t seed = 0;
  bool record_timeline = false;   // measured times of every instruction of the last step
  bool check_finite = false;      // after each node: first NaN or infinity is an error that names it (M091)
  bool poison = false;            // fill arenas and freed slices with a pattern; for tests
  double watchdog_seconds = 300;  // a step in which no queue ends an instruction for this long has failed (M081)
  bool pins_threads = true;       // several lanes, a core for every thread: each keeps to its cores
  Transport transport = Transport::automatic;  // between devices that are not the host
  bool captures = true;  // replay whole steps as one graph where all devices can; same bits either way
  /// The CUDA plugin; null: that of the process, looked for when a plan has CUDA devices. For tests.
  const mpc_cuda_plugin* cuda_plugin = nullptr;
  /// Asked first for the kernel of a node on the host; null kernels fall through. For tests that inject faults.
  std::function<KernelOrReason(const NodeSpec&)> kernel_override;
  /// Interpreter::threads: called by every lane before each look at what other lanes change. For tests that let those
  /// change it in between.
  std::function<void()> before_look;
};

/// What a step may leave out.
struct StepOptions {
  bool update = true;
  /// Devices whose update nodes run (empty: all).
  std::vector<DeviceId> update_devices;
  double learning_rate_scale = 1;
};

/// Measured start and end of an instruction of the last step, in seconds from its start.
struct MeasuredEntry {
  PlanIndex instruction = 0;
  double start_s = 0;
  double end_s = 0;
};

struct StepResult {
  double seconds = 0;
  double loss = 0;  // training: of the whole batch
};

/// Executes a plan, step by step. The constructor allocates one arena per device, loads parameters and builds kernels;
/// a step allocates nothing. Not thread-safe; a session owns its threads. After an error within a step the session is
/// unusable: every later call throws the same error.
class Session {
 public:
  /// Checks the plan (check_plan), allocates arenas, loads parameters from `weights`, initializes states and constants.
  /// @throws Error(M061), Error(M070) naming device, bytes asked; Error(M080) for a backend that is not there;
  /// Error(M046) listing nodes that their devices have no kernel for; weight errors.
  Session(Plan plan, const WeightSource& weights, const SessionOptions& options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const Plan& plan() const;
  /// Binds the data of a whole batch to an input by name; the memory must stay valid until the next bind of it. @throws
  /// Error(M004).
  void bind(const std::string& input, DType dtype, const Shape& shape, std::span<const std::byte> data);
  /// Runs one step. @throws Error(M004) when an input is not bound; errors of kernels and transfers.
  StepResult step(const StepOptions& options = {});
  /// Runs only the update phase, with the gradients of the last step (in-place updates of the given devices; empty:
  /// all). Updates of several device sets after one step(update = false) belong to the same optimizer step.
  void update(const StepOptions& options);

  /// A model output of the last step, micro-batches combined. @throws Error(M002).
  Literal output(const std::string& name) const;
  /// A persistent value (parameter or state) or accumulated gradient as it is now, by value name.
  Literal read(const std::string& value_name) const;
  /// Accumulated gradient of a parameter, by the parameter's value name or its initializer's. @throws Error(M002).
  Literal gradient(const std::string& parameter) const;
  /// Replaces the content of a parameter or state. @throws Error(M002), Error(M004) for another type.
  void write(const std::string& value_name, const Literal& content);
  /// The same of one part of a parameter with a recipe (compiler/base/weight_recipe.h), as the model has it.
  Literal read_part(const std::string& value_name, size_t part) const;
  void write_part(const std::string& value_name, size_t part, const Literal& content);
  /// Optimizer steps done so far; settable when resuming.
  int64_t steps_done() const;
  void set_steps_done(int64_t steps);

  const std::vector<MeasuredEntry>& measured() const;  // record_timeline
  /// End of the highest slice of each device's arena that was written or read so far, the arena's size, and what
  /// kernels keep beside it.
  struct ArenaUse {
    int64_t used_bytes = 0;
    int64_t arena_bytes = 0;
    int64_t kept_bytes = 0;
  };
  std::vector<ArenaUse> arena_use() const;
  /// Which kernel carries out each plan node: "reference", "cpu:onednn", "cpu:functor"..., and why faster ones
  /// declined.
  struct KernelChoice {
    PlanIndex node = 0;
    std::string kernel;
    std::string declined;
  };
  std::vector<KernelChoice> kernel_choices() const;
  /// How transfers between devices that are not the host are made.
  std::vector<DeviceQueues::Route> routes() const;
  /// Was the last step the replay of a captured graph?
  bool was_replayed() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mpc::executor
