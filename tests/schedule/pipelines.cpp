#include "tests/schedule/pipelines.h"

#include <algorithm>
#include <map>

namespace mpc::test {
namespace {

class Cutter {
 public:
  explicit Cutter(const Pipeline& pipeline) : pipeline_(pipeline) {}

  Segments run(SegmentCut cut) {
    const int n = static_cast<int>(pipeline_.stages.size());
    const bool is_split = cut == SegmentCut::split;
    result_.device_count = pipeline_.device_count();
    std::vector<int> forward;
    std::vector<int> backward(pipeline_.stages.size());
    std::vector<int> last(pipeline_.stages.size());
    for (int s = 0; s < n; ++s) forward.push_back(add(s, SegmentPhase::forward, s, stage(s).forward));
    for (int s = n - 1; s >= 0; --s) {
      const auto at = static_cast<size_t>(s);
      const double seconds = stage(s).backward + (is_split ? 0 : stage(s).weight);
      last[at] = backward[at] = add(s, SegmentPhase::backward, 2 * n - s, seconds);
      if (is_split) last[at] = add(s, SegmentPhase::weight, 2 * n - s, stage(s).weight);
    }
    for (int s = 0; s < n; ++s) {
      const auto at = static_cast<size_t>(s);
      if (s + 1 < n) connect(forward[at], forward[at + 1]);
      connect(forward[at], backward[at]);
      if (s > 0) connect(backward[at], backward[at - 1]);
      if (is_split) connect(backward[at], last[at]);
      result_.kept.push_back({forward[at], {last[at]}, {1}});
    }
    return std::move(result_);
  }

 private:
  const StageSeconds& stage(int s) const { return pipeline_.stages[static_cast<size_t>(s)]; }

  int add(int s, SegmentPhase phase, int level, double seconds) {
    Segment segment;
    segment.device = DeviceId(pipeline_.device_of_stage[static_cast<size_t>(s)]);
    segment.phase = phase;
    segment.level = level;
    segment.seconds = {seconds};
    result_.segments.push_back(std::move(segment));
    return static_cast<int>(result_.segments.size()) - 1;
  }

  void connect(int from, int to) {
    const auto device = [&](int s) { return result_.segments[static_cast<size_t>(s)].device; };
    result_.edges.push_back({from, to, {device(from) == device(to) ? 0 : pipeline_.transfer_s}});
  }

  const Pipeline& pipeline_;
  Segments result_;
};

Pipeline pipeline_on(std::vector<int> device_of_stage, int chunks, StageSeconds seconds) {
  Pipeline pipeline;
  const StageSeconds part{seconds.forward / chunks, seconds.backward / chunks, seconds.weight / chunks};
  pipeline.stages.assign(device_of_stage.size(), part);
  pipeline.device_of_stage = std::move(device_of_stage);
  return pipeline;
}

// Writes a schedule down as a plan's queues.
class PlanWriter {
 public:
  PlanWriter(const Segments& segments, int microbatches, const Schedule& schedule)
      : segments_(segments), microbatches_(microbatches), schedule_(schedule) {}

  Plan run() {
    plan_.microbatches = microbatches_;
    plan_.schedule = schedule_.name;
    for (int d = 0; d < segments_.device_count; ++d) {
      PlanDevice device;
      device.name = "cpu:" + std::to_string(d);
      plan_.devices.push_back(std::move(device));
      plan_.queues.push_back({DeviceId(d), QueueKind::compute, {}});
    }
    for (const Segment& segment : segments_.segments) {
      PlanNode node;
      node.device = segment.device;
      node.per_step = segment.per_step;
      node.seconds = segment.seconds;
      plan_.nodes.push_back(std::move(node));
    }
    for (const Task& task : schedule_.order) add(task);
    return std::move(plan_);
  }

 private:
  void add(const Task& task) {
    const auto id = static_cast<PlanIndex>(task.segment);
    const PlanIndex queue = segments_.segments[id].device.index();
    for (const auto& [event, waiting] : std::exchange(arrivals_[{task.segment, task.microbatch}], {})) {
      emit(Action::wait, waiting, event, task.microbatch);
    }
    emit(Action::run, queue, id, task.microbatch);
    for (const SegmentEdge& edge : segments_.edges) {
      if (edge.from != task.segment ||
          segments_.segments[static_cast<size_t>(edge.to)].device == segments_.segments[id].device)
        continue;
      send(edge, queue, task.microbatch);
    }
  }

  void send(const SegmentEdge& edge, PlanIndex queue, int32_t microbatch) {
    const DeviceId from = segments_.segments[static_cast<size_t>(edge.from)].device;
    const DeviceId to = segments_.segments[static_cast<size_t>(edge.to)].device;
    const PlanIndex sender = link_queue(from, QueueKind::send, to);
    const PlanIndex receiver = link_queue(to, QueueKind::recv, from);
    PlanTransfer transfer;
    transfer.from = from;
    transfer.to = to;
    transfer.seconds = edge.seconds;
    const auto index = static_cast<PlanIndex>(plan_.transfers.size());
    plan_.transfers.push_back(std::move(transfer));
    const PlanIndex made = plan_.event_count++;
    const PlanIndex arrived = plan_.event_count++;
    emit(Action::record, queue, made, microbatch);
    emit(Action::wait, sender, made, microbatch);
    emit(Action::send, sender, index, microbatch);
    emit(Action::recv, receiver, index, microbatch);
    emit(Action::record, receiver, arrived, microbatch);
    arrivals_[{edge.to, microbatch}].emplace_back(arrived, to.index());
  }

  PlanIndex link_queue(DeviceId device, QueueKind kind, DeviceId peer) {
    const auto [it, is_new] = queues_.try_emplace({device, kind, peer}, static_cast<PlanIndex>(plan_.queues.size()));
    if (is_new) plan_.queues.push_back({device, kind, peer});
    return it->second;
  }

  void emit(Action action, PlanIndex queue, PlanIndex index, int32_t microbatch) {
    Instruction instruction;
    instruction.action = action;
    instruction.queue = queue;
    instruction.index = index;
    instruction.microbatch = microbatch;
    plan_.instructions.push_back(std::move(instruction));
  }

  const Segments& segments_;
  int microbatches_;
  const Schedule& schedule_;
  Plan plan_;
  std::map<std::tuple<DeviceId, QueueKind, DeviceId>, PlanIndex> queues_;
  std::map<std::pair<int, int32_t>, std::vector<std::pair<PlanIndex, PlanIndex>>> arrivals_;  // (event, queue) by task
};

}  // namespace

int Pipeline::device_count() const {
  return 1 + *std::ranges::max_element(device_of_stage);
}

Cuts Pipeline::cuts() const {
  return {Cutter(*this).run(SegmentCut::whole), Cutter(*this).run(SegmentCut::split), {}};
}

Pipeline uniform_pipeline(int devices, StageSeconds seconds) {
  return looped_pipeline(devices, 1, seconds);
}

Pipeline looped_pipeline(int devices, int chunks, StageSeconds seconds) {
  std::vector<int> device_of_stage;
  for (int s = 0; s < devices * chunks; ++s) device_of_stage.push_back(s % devices);
  return pipeline_on(std::move(device_of_stage), chunks, seconds);
}

Pipeline v_pipeline(int devices, StageSeconds seconds) {
  std::vector<int> device_of_stage;
  for (int d = 0; d < devices; ++d) device_of_stage.push_back(d);
  for (int d = devices - 1; d >= 0; --d) device_of_stage.push_back(d);
  return pipeline_on(std::move(device_of_stage), 2, seconds);
}

Plan plan_of(const Segments& segments, int microbatches, const Schedule& schedule) {
  return PlanWriter(segments, microbatches, schedule).run();
}

}  // namespace mpc::test
