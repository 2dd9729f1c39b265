#include "executor/host/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <system_error>

#include "executor/host/finite.h"
#include "executor/host/float_environment.h"
#include "executor/host/lane.h"
#include "executor/host/lanes.h"
#include "executor/host/threads.h"

namespace mpc::executor {
namespace {

// Not only equal: a lane that wakes late, after the watchdog gave its step up, may find that the engine has gone on.
bool is_reached(uint32_t seen, uint32_t wanted) {
  return static_cast<int32_t>(seen - wanted) >= 0;
}

}  // namespace

bool Engine::RecordedIn::operator()(PlanIndex event) const {
  return is_reached(engine_.events_[event].load(std::memory_order_acquire), epoch_);
}

Engine::Engine(const Program& program, const HostInputs& inputs, HostOutputs& outputs, DeviceQueues* queues,
               const EngineOptions& options)
    : program_(program),
      plan_(program.plan()),
      inputs_(inputs),
      outputs_(outputs),
      queues_(queues),
      options_(options),
      times_(options.record_timeline ? plan_.instructions.size() : 0),
      events_(plan_.event_count),
      waiting_for_(plan_.event_count) {
  measured_.reserve(times_.size());
  is_all_on_streams_ = queues_ != nullptr && queues_->is_all_on_streams();
  if (!options_.is_threaded || is_all_on_streams_) return;
  make_lanes();
  if (options_.pins_threads) choose_cores();
  try {
    for (auto& lane : lanes_) lane->thread = std::thread([this, &lane = *lane] { serve(lane); });
  } catch (const std::system_error& error) {
    stop();
    throw Error(ErrorId::M080, "session", fmt::format("{} threads cannot be started: {}", lanes_.size(), error.what()));
  }
}

Engine::~Engine() {
  stop();
}

void Engine::stop() {
  is_stopping_.store(true);
  for (auto& lane : lanes_) lane->wake();
  for (auto& lane : lanes_) {
    if (lane->thread.joinable()) lane->thread.join();
  }
}

void Engine::make_lanes() {
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  // Lanes that enqueue on streams do not work themselves: each keeps its thread.
  const LaneRules rules =
      queues_ == nullptr ? LaneRules{true, cores} : LaneRules{false, std::numeric_limits<int>::max()};
  std::vector<LaneQueues> divided = divide_into_lanes(plan_, rules);
  std::vector<std::string> names;
  for (const LaneQueues& lane : divided) names.push_back(lane_name(plan_, lane));
  std::vector<std::vector<Lane*>> lanes_of_queue(plan_.queues.size());
  const std::vector<SharedQueues> shared = take_shared_links(plan_, divided);
  for (size_t i = 0; i < divided.size(); ++i) {
    Lane& lane = *lanes_.emplace_back(std::make_unique<Lane>(plan_, divided[i]));
    lane.name = names[i];
    for (const PlanIndex q : divided[i].queues) {
      const PlanQueue& queue = plan_.queues[q];
      lanes_of_queue[q] = {&lane};
      if (queue.kind == QueueKind::compute) lane.openmp_threads = plan_.devices[queue.device.index()].threads;
      if (queues_ != nullptr && queues_->is_on_stream(q)) lane.stream_queues.push_back(q);
    }
  }
  for (const SharedQueues& of_link : shared) {
    Lane* sender = lanes_[of_link.sender].get();
    Lane* receiver = lanes_[of_link.receiver].get();
    links_.push_back(std::make_unique<SharedLink>(plan_, of_link.queues, sender, receiver));
    for (Lane* end : {sender, receiver}) end->links.push_back(links_.back().get());
    for (const PlanIndex q : of_link.queues.queues) lanes_of_queue[q] = {sender, receiver};
  }
  for (auto& lane : lanes_) lane->begins_steps = lane->has_work([](PlanIndex) { return false; });
  for (const Instruction& instruction : plan_.instructions) {
    if (instruction.action != Action::wait) continue;
    std::vector<Lane*>& waiting = waiting_for_[instruction.index];
    for (Lane* lane : lanes_of_queue[instruction.queue]) {
      if (std::ranges::find(waiting, lane) == waiting.end()) waiting.push_back(lane);
    }
  }
}

// A system that balances load over milliseconds leaves two threads that wake each other on one core, and then devices
// take turns instead of working at the same time. So when there is a core for every thread, each lane gets its own;
// the next session begins where this one ended. A single lane may run anywhere.
void Engine::choose_cores() {
  static std::atomic<size_t> next_core = 0;
  const std::vector<int> cores = usable_cores();
  size_t lane_count = 0;
  size_t thread_count = 0;
  for (const auto& lane : lanes_) {
    lane_count += lane->openmp_threads > 0;
    thread_count += static_cast<size_t>(lane->openmp_threads);
  }
  if (lane_count < 2 || thread_count > cores.size()) return;
  size_t at = next_core.fetch_add(thread_count);
  for (auto& lane : lanes_) {
    for (int i = 0; i < lane->openmp_threads; ++i) lane->cores.push_back(cores[at++ % cores.size()]);
  }
}

double Engine::run(const StepRequest& request) {
  request_ = request;
  std::fill(times_.begin(), times_.end(), MeasuredEntry{});
  start_time_ = std::chrono::steady_clock::now();
  was_replayed_ = false;
  if (queues_ != nullptr) queues_->set_step(request.step, options_.seed);
  if (is_all_on_streams_) {
    run_on_streams();
  } else if (options_.is_threaded) {
    run_threaded();
  } else {
    run_in_order();
  }
  if (queues_ != nullptr) finish_streams();
  const double seconds = now_s();
  collect_measured();
  return seconds;
}

void Engine::run_in_order() {
  const FloatEnvironment environment;
  double free_s = recorded_now_s();
  for (PlanIndex i = 0; i < plan_.instructions.size(); ++i) {
    if (!execute_or_fail(i, 0, free_s)) throw Error(*failure_);
  }
}

void Engine::run_on_streams() {
  for (PlanIndex i = 0; i < plan_.instructions.size(); ++i) {
    if (plan_.instructions[i].action == Action::feed && !is_left_out(i)) queues_->stage_feed(i, inputs_);
  }
  const bool is_whole =
      request_.part == StepRequest::Part::whole &&
      std::all_of(request_.device_updates.begin(), request_.device_updates.end(), [](bool updates) { return updates; });
  const bool is_replayed = options_.captures && is_whole && has_run_whole_ && times_.empty() && !options_.check_finite;
  if (is_replayed) {
    if (!queues_->has_graph()) {
      queues_->begin_capture();
      enqueue_step();
      queues_->end_capture();
    }
    queues_->launch_graph();
  } else {
    enqueue_step();
  }
  queues_->sync_all();
  has_run_whole_ = has_run_whole_ || is_whole;
  was_replayed_ = is_replayed;
}

void Engine::enqueue_step() {
  for (PlanIndex q = 0; q < plan_.queues.size(); ++q) queues_->begin_queue(q);
  double free_s = 0;  // the streams have clocks of their own
  for (PlanIndex i = 0; i < plan_.instructions.size(); ++i) {
    if (!execute_or_fail(i, 0, free_s)) throw Error(*failure_);
  }
  for (PlanIndex q = 0; q < plan_.queues.size(); ++q) queues_->end_queue(q);
}

// What the streams left for the host: outputs, measured times, reports of kernels.
void Engine::finish_streams() {
  queues_->check_faults();
  for (PlanIndex i = 0; i < plan_.instructions.size(); ++i) {
    if (!is_on_stream(i) || is_left_out(i)) continue;
    const Action action = plan_.instructions[i].action;
    if (action == Action::fetch) queues_->collect_fetch(i, outputs_);
    if (times_.empty() || (action != Action::run && action != Action::recv)) continue;
    times_[i] = {i, queues_->start_s(i), queues_->end_s(i)};
    if (action == Action::recv) times_[i - 1] = {i - 1, times_[i].start_s, times_[i].end_s};
  }
}

bool Engine::is_on_stream(PlanIndex instruction) const {
  return queues_ != nullptr && queues_->is_on_stream(plan_.instructions[instruction].queue);
}

void Engine::run_threaded() {
  std::unique_lock lock(mutex_);
  lanes_running_ = lanes_.size();
  const uint32_t epoch = epoch_.load(std::memory_order_relaxed) + 1;
  for (auto& lane : lanes_) lane->order.restart();
  for (auto& link : links_) link->order.restart();
  advance(epoch_, epoch);
  for (auto& lane : lanes_) {
    if (lane->begins_steps || lane->has_own_cores()) lane->wake();
  }
  uint64_t executed_before = executed();
  const std::chrono::duration<double> patience(options_.watchdog_seconds);
  while (!all_done_.wait_for(lock, patience, [this] { return lanes_running_ == 0; })) {
    const uint64_t executed_now = executed();
    if (executed_now == executed_before) {
      const Error error = no_progress();
      lock.unlock();
      fail(kNone, error, epoch);  // lanes that wait end; one that is inside a kernel ends when the kernel does
      throw Error(error);
    }
    executed_before = executed_now;
  }
  if (failure_) throw Error(*failure_);
}

void Engine::serve(Lane& lane) {
  name_this_thread("mpc " + lane.name);
  const FloatEnvironment environment;
  stay_on_cores(lane.cores);
  const OpenMpThreads openmp_threads(lane.openmp_threads);
  for (uint32_t epoch = 1; awaits_step(lane, epoch); ++epoch) {
    run_lane(lane, epoch);
    const std::lock_guard lock(mutex_);
    if (--lanes_running_ == 0) all_done_.notify_one();
  }
}

bool Engine::awaits_step(Lane& lane, uint32_t epoch) {
  for (;;) {
    look();
    const uint32_t seen = lane.wakes.load(std::memory_order_acquire);
    look();
    if (is_stopping_.load()) return false;
    // On cores of its own it begins every step with the others, and is awake when its first input comes.
    if (is_reached(epoch_.load(std::memory_order_acquire), epoch) &&
        (lane.has_own_cores() || lane.has_work(RecordedIn(*this, epoch))))
      return true;
    lane.sleep(seen);
  }
}

void Engine::run_lane(Lane& lane, uint32_t epoch) {
  if (lane.stream_queues.empty()) return execute_lane(lane, epoch);
  const auto on_streams = [&](auto&& f) {
    return attempt(kNone, epoch, [&] {
      for (const PlanIndex queue : lane.stream_queues) f(queue);
    });
  };
  if (!on_streams([this](PlanIndex queue) { queues_->begin_queue(queue); })) return;
  execute_lane(lane, epoch);
  if (!lane.is_done()) return;
  on_streams([this](PlanIndex queue) {
    queues_->end_queue(queue);
    queues_->sync_queue(queue);
  });
}

void Engine::look() const {
  if (options_.before_look) options_.before_look();
}

/// Until the lane's part of the step is done, or the step is given up.
void Engine::execute_lane(Lane& lane, uint32_t epoch) {
  double free_s = recorded_now_s();
  for (;;) {
    // Before anything is looked at: what happens from here on ends the rest, also the other end's last copy on a link.
    look();
    const uint32_t seen = lane.wakes.load(std::memory_order_acquire);
    look();
    if (lane.is_done() || is_aborted_.load(std::memory_order_acquire)) return;
    look();
    const LaneTask task = lane.claim(RecordedIn(*this, epoch));
    if (task.instruction == kNone) {
      lane.rest(seen);
      free_s = recorded_now_s();
      continue;
    }
    if (!execute_or_fail(task.instruction, epoch, free_s)) return;
    // After it was executed: a stream that waits for the event of another must find it recorded.
    const Instruction& instruction = plan_.instructions[task.instruction];
    if (instruction.action == Action::record) record(instruction.index, epoch);
    lane.finish(task);
  }
}

void Engine::record(PlanIndex event, uint32_t epoch) {
  advance(events_[event], epoch);
  for (Lane* lane : waiting_for_[event]) lane->wake();
}

void Engine::advance(std::atomic<uint32_t>& word, uint32_t epoch) {
  // Never back: a lane that was inside a kernel when its step was given up must not undo a later release.
  uint32_t seen = word.load(std::memory_order_relaxed);
  while (!is_reached(seen, epoch)) {
    if (word.compare_exchange_weak(seen, epoch, std::memory_order_release, std::memory_order_relaxed)) break;
  }
}

bool Engine::execute_or_fail(PlanIndex instruction, uint32_t epoch, double& free_s) {
  if (is_left_out(instruction)) return true;
  return attempt(instruction, epoch, [&] { execute(instruction, free_s); });
}

template <class F>
bool Engine::attempt(PlanIndex instruction, uint32_t epoch, F&& f) {
  const auto where = [&] { return instruction == kNone ? std::string("stream") : program_.describe(instruction); };
  try {
    f();
    return true;
  } catch (const Error& error) {
    fail(instruction, error, epoch);
  } catch (const std::bad_alloc&) {
    fail(instruction, Error(ErrorId::M070, where(), "the host has no memory left for its kernel"), epoch);
  } catch (const std::exception& error) {
    fail(instruction, Error(ErrorId::M080, where(), error.what()), epoch);
  }
  return false;
}

void Engine::fail(PlanIndex instruction, const Error& error, uint32_t epoch) {
  {
    // Lanes may fail at the same time: the earliest instruction's error is kept, whichever thread came first.
    const std::lock_guard lock(mutex_);
    if (!failure_ || instruction < failed_instruction_) {
      failure_ = error;
      failed_instruction_ = instruction;
    }
  }
  is_aborted_.store(true, std::memory_order_release);
  release_all(epoch);
}

void Engine::release_all(uint32_t epoch) {
  for (std::atomic<uint32_t>& event : events_) advance(event, epoch);
  for (auto& lane : lanes_) lane->wake();
}

bool Engine::is_left_out(PlanIndex index) const {
  const Instruction& instruction = plan_.instructions[index];
  const Program::Bound& bound = program_.bound(index);
  const bool is_update_only = request_.part == StepRequest::Part::update_phase;
  switch (instruction.action) {
    case Action::run:
      if (bound.is_in_place_update && !request_.device_updates[plan_.nodes[instruction.index].device.index()])
        return true;
      return is_update_only && bound.phase != PlanPhase::update;
    case Action::send:
    case Action::recv:
      return is_update_only && bound.phase != PlanPhase::update;
    case Action::feed: {
      const PlanInput::Role role = plan_.inputs[instruction.index].role;
      return is_update_only && role != PlanInput::Role::step && role != PlanInput::Role::learning_rate_scale;
    }
    case Action::fetch:
      return is_update_only;
    case Action::record:
    case Action::wait:
      return false;
  }
  return false;
}

void Engine::execute_on_stream(PlanIndex index) {
  const Instruction& instruction = plan_.instructions[index];
  const Program::Bound& bound = program_.bound(index);
  queues_->mark_start(index);
  for (const std::span<std::byte> memory : bound.poison_before)
    queues_->enqueue_fill(instruction.queue, memory, kPoison);
  switch (instruction.action) {
    case Action::run:
      run_kernel(index);
      break;
    case Action::recv:
      queues_->enqueue_transfer(index);
      break;
    case Action::feed:
      if (!is_all_on_streams_) queues_->stage_feed(index, inputs_);  // else staged before the step
      queues_->enqueue_feed(index);
      break;
    case Action::fetch:
      queues_->enqueue_fetch(index);
      break;
    case Action::record:
      queues_->record(instruction.index, instruction.queue);
      break;
    case Action::wait:
      queues_->wait(instruction.index, instruction.queue);
      break;
    case Action::send:  // its recv comes next on the same stream and moves the bytes
      break;
  }
  for (const std::span<std::byte> memory : bound.poison_after)
    queues_->enqueue_fill(instruction.queue, memory, kPoison);
  queues_->mark_end(index);
}

void Engine::execute(PlanIndex index, double& free_s) {
  if (is_on_stream(index)) {
    execute_on_stream(index);
    free_s = recorded_now_s();
    return;
  }
  const Instruction& instruction = plan_.instructions[index];
  const Program::Bound& bound = program_.bound(index);
  for (const std::span<std::byte> memory : bound.poison_before) poison(memory);
  switch (instruction.action) {
    case Action::run:
      run_kernel(index);
      break;
    case Action::recv:
      for (const Program::Copy& copy : bound.copies) {
        if (copy.bytes > 0) std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
      }
      break;
    case Action::feed: {
      const TensorView& to = bound.outputs.front();
      inputs_.feed(instruction.index, instruction.microbatch, {to.data, static_cast<size_t>(to.bytes())});
      break;
    }
    case Action::fetch: {
      const TensorView& from = bound.inputs.front();
      outputs_.fetch(instruction.index, instruction.microbatch, {from.data, static_cast<size_t>(from.bytes())});
      break;
    }
    case Action::wait:
      if (queues_ != nullptr) queues_->wait_on_host(instruction.index);
      break;
    case Action::send:  // its recv comes next on the same lane and moves the bytes
    case Action::record:
      break;
  }
  for (const std::span<std::byte> memory : bound.poison_after) poison(memory);
  if (times_.empty()) return;
  // What the thread did since its last instruction was for this one: to find it, and to make it ready.
  times_[index] = {index, free_s, now_s()};
  if (instruction.action == Action::recv) times_[index - 1] = {index - 1, free_s, times_[index].end_s};
  free_s = times_[index].end_s;
}

void Engine::run_kernel(PlanIndex index) {
  const Instruction& instruction = plan_.instructions[index];
  const Program::Bound& bound = program_.bound(index);
  const StepContext context{request_.step, std::max(instruction.microbatch, 0), options_.seed};
  const KernelCall call{*bound.attributes, bound.inputs, bound.outputs, context, bound.workspace};
  try {
    bound.kernel->run(call);
  } catch (const Error& error) {
    throw error.with_prefix(program_.describe(index));
  }
  if (options_.check_finite) check_outputs(index);
}

void Engine::check_outputs(PlanIndex index) const {
  const Program::Bound& bound = program_.bound(index);
  for (size_t i = 0; i < bound.outputs.size(); ++i) {
    if (bound.outputs[i].data == nullptr) continue;
    if (!is_on_stream(index)) {
      check_output(index, i, bound.outputs[i]);
      continue;
    }
    std::vector<std::byte> content = queues_->download(plan_.instructions[index].queue, bound.outputs[i]);
    TensorView copy = bound.outputs[i];
    copy.data = content.data();
    check_output(index, i, copy);
  }
}

void Engine::check_output(PlanIndex index, size_t i, const TensorView& output) const {
  const std::optional<int64_t> position = first_not_finite(output);
  if (!position) return;
  const Instruction& instruction = plan_.instructions[index];
  const double value = read_number(output.dtype, output.data + *position * dtype_bytes(output.dtype));
  throw Error(
      ErrorId::M091, program_.describe(index),
      fmt::format("element {} of its output \"{}\" {} is {} (step {}, micro-batch {}, device \"{}\")", *position,
                  plan_.values[plan_.slices[instruction.writes[i]].value].name, type_text(output.dtype, output.shape),
                  value, request_.step + 1, std::max(instruction.microbatch, 0),
                  plan_.devices[plan_.nodes[instruction.index].device.index()].name),
      "a smaller learning rate or gradient clipping may help");
}

Error Engine::no_progress() const {
  std::string state;
  for (const auto& lane : lanes_) {
    for (const PlanIndex at : lane->heads()) {
      state += fmt::format("{}{} is at {} {}", state.empty() ? "" : ", ", lane->name,
                           action_name(plan_.instructions[at].action), program_.describe(at));
    }
  }
  return Error(ErrorId::M081, fmt::format("step {}", request_.step + 1),
               fmt::format("nothing moved for {} s: {}", options_.watchdog_seconds, state),
               "allow more time with --watchdog SECONDS when a kernel is that slow");
}

uint64_t Engine::executed() const {
  uint64_t sum = 0;
  for (const auto& lane : lanes_) sum += lane->executed.load(std::memory_order_relaxed);
  return sum;
}

double Engine::now_s() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_time_).count();
}

void Engine::collect_measured() {
  measured_.clear();
  for (PlanIndex i = 0; i < times_.size(); ++i) {
    const Action action = plan_.instructions[i].action;
    if (action != Action::run && action != Action::send && action != Action::recv) continue;
    if (!is_left_out(i)) measured_.push_back(times_[i]);
  }
}

}  // namespace mpc::executor
