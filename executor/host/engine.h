#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "compiler/base/error.h"
#include "executor/device/device_queues.h"
#include "executor/host/exchange.h"
#include "executor/host/lane.h"
#include "executor/host/program.h"
#include "executor/session.h"

// Carries out a program: in one thread, or in one thread per lane. A lane (lanes.h) is a compute queue, a link, or
// several of them that could never work at the same time. A queue is a projection of the plan's total order, and a lane
// goes on with whichever of its queues can (lane_order.h); every wait comes after its record in that order; hence the
// queue whose next instruction is the earliest of all can always go on, and no interleaving of lanes can deadlock.
//
// Lanes of other devices than the host enqueue on streams (executor/device) and go on: what their instructions take
// from other lanes, streams wait for. The host's lanes wait for streams where they need them. When no lane is the
// host's, one thread enqueues the whole step in the total order, and from the second whole step on a captured graph
// replays it.
//
// Events are numbers that only rise: `record` writes the number of the step, `wait` waits for it, so that nothing is
// reset between steps. A lane that can do nothing waits for its own number, `wakes`, which rises whenever an event that
// it waits for somewhere was recorded; so a step wakes a lane when there is work. The first failure ends the step: all
// lanes are woken and stop.

namespace mpc::executor {

/// What one run of the program does.
struct StepRequest {
  enum class Part : uint8_t { whole, update_phase };
  Part part = Part::whole;
  int64_t step = 0;                  // optimizer steps done before
  std::vector<bool> device_updates;  // per device: are its in-place updates done?
};

struct EngineOptions {
  bool is_threaded = true;
  uint64_t seed = 0;
  bool record_timeline = false;
  bool check_finite = false;
  double watchdog_seconds = 300;
  bool captures = true;  // replay whole steps as a graph, where all queues are on streams
  bool pins_threads = true;
  std::function<void()> before_look;  // may be empty; as SessionOptions::before_look
};

class Engine {
 public:
  /// Starts the threads. The arguments outlive the engine. @param queues  null: every device is the host's
  Engine(const Program& program, const HostInputs& inputs, HostOutputs& outputs, DeviceQueues* queues,
         const EngineOptions& options);
  /// Waits for kernels that are still running, then ends the threads.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Runs the program once. @return seconds. @throws the failure of the earliest instruction that failed, Error(M081)
  /// when nothing moved for watchdog_seconds; the engine is unusable afterwards.
  double run(const StepRequest& request);
  const std::vector<MeasuredEntry>& measured() const { return measured_; }
  /// Was the last run the replay of a graph?
  bool was_replayed() const { return was_replayed_; }

 private:
  /// Was an event recorded in step `epoch`?
  class RecordedIn {
   public:
    RecordedIn(const Engine& engine, uint32_t epoch) : engine_(engine), epoch_(epoch) {}
    bool operator()(PlanIndex event) const;

   private:
    const Engine& engine_;
    uint32_t epoch_;
  };

  void make_lanes();
  void choose_cores();
  void stop();
  void serve(Lane& lane);
  void run_lane(Lane& lane, uint32_t epoch);
  void execute_lane(Lane& lane, uint32_t epoch);
  void look() const;
  /// Sleeps until there is something to do in step `epoch`; false when there never will be.
  bool awaits_step(Lane& lane, uint32_t epoch);
  void run_in_order();
  void run_on_streams();
  void enqueue_step();
  void finish_streams();
  void run_threaded();
  /// @param free_s  since when the thread has had nothing else to do; set to the end of the instruction
  bool execute_or_fail(PlanIndex instruction, uint32_t epoch, double& free_s);
  template <class F>
  bool attempt(PlanIndex instruction, uint32_t epoch, F&& f);
  void execute(PlanIndex instruction, double& free_s);
  void execute_on_stream(PlanIndex instruction);
  bool is_on_stream(PlanIndex instruction) const;
  void run_kernel(PlanIndex instruction);
  bool is_left_out(PlanIndex instruction) const;
  void check_outputs(PlanIndex instruction) const;
  /// Raises `word` to `epoch`, if it is lower.
  static void advance(std::atomic<uint32_t>& word, uint32_t epoch);
  void check_output(PlanIndex instruction, size_t position, const TensorView& output) const;
  void record(PlanIndex event, uint32_t epoch);
  void fail(PlanIndex instruction, const Error& error, uint32_t epoch);
  void release_all(uint32_t epoch);
  Error no_progress() const;
  uint64_t executed() const;
  double now_s() const;
  /// The same when a timeline is recorded, else 0.
  double recorded_now_s() const { return times_.empty() ? 0 : now_s(); }
  void collect_measured();

  const Program& program_;
  const Plan& plan_;
  const HostInputs& inputs_;
  HostOutputs& outputs_;
  DeviceQueues* queues_;
  EngineOptions options_;
  bool is_all_on_streams_ = false;
  bool has_run_whole_ = false;  // a whole step was enqueued before: everything is loaded, a capture may begin
  bool was_replayed_ = false;

  StepRequest request_;
  std::chrono::steady_clock::time_point start_time_;
  std::vector<MeasuredEntry> times_;  // per instruction; each written by one lane
  std::vector<MeasuredEntry> measured_;

  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<std::unique_ptr<SharedLink>> links_;
  std::vector<std::atomic<uint32_t>> events_;
  std::vector<std::vector<Lane*>> waiting_for_;  // by event: the lanes that wait for it somewhere
  std::atomic<uint32_t> epoch_{0};               // number of the step that lanes are to run
  std::atomic<bool> is_stopping_{false};
  std::atomic<bool> is_aborted_{false};

  std::mutex mutex_;  // guards what follows
  std::condition_variable all_done_;
  size_t lanes_running_ = 0;
  std::optional<Error> failure_;
  PlanIndex failed_instruction_ = kNone;
};

}  // namespace mpc::executor
