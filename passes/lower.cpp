#include "passes/lower.h"

#include <algorithm>
#include <map>
#include <set>

#include "compiler/base/error.h"
#include "compiler/cost/estimate.h"
#include "compiler/ops/builder.h"
#include "compiler/plan/host_memory.h"

namespace mpc {
namespace {

PlanValueKind plan_kind(ValueKind kind) {
  switch (kind) {
    case ValueKind::input:
      return PlanValueKind::input;
    case ValueKind::parameter:
      return PlanValueKind::parameter;
    case ValueKind::state:
      return PlanValueKind::state;
    case ValueKind::constant:
      return PlanValueKind::constant;
    case ValueKind::node:
      return PlanValueKind::temporary;
  }
  return PlanValueKind::temporary;
}

class Lowering {
 public:
  Lowering(const std::vector<const Graph*>& graphs, const Segments& segments, const Schedule& schedule,
           const Cluster& cluster, int microbatches)
      : graphs_(graphs), graph_(*graphs[0]), segments_(segments), schedule_(schedule), cluster_(cluster) {
    plan_.microbatches = microbatches;
    plan_.has_tail = graphs.size() > 1;
    plan_.schedule = schedule.name;
  }

  Plan run() {
    add_devices();
    add_values();
    add_nodes_and_transfers();
    add_results();
    send_parameters();
    for (const Task& task : schedule_.order) emit_task(task);
    fetch_what_no_node_makes();
    return std::move(plan_);
  }

 private:
  void add_devices() {
    for (const Device& device : cluster_.devices) {
      PlanDevice row;
      row.name = device.name;
      row.backend = device.backend;
      row.hardware = device.kind;
      row.threads = device.threads;
      row.capacity_bytes = device.memory_bytes;
      plan_.devices.push_back(std::move(row));
      if (is_host_memory(plan_.devices.back())) continue;  // the last one: queues of the others have their numbers
      plan_.queues.push_back({DeviceId(plan_.devices.size() - 1), QueueKind::compute, {}});
    }
    for (const Link& link : cluster_.links) {
      if (link.from != link.to) plan_.links.push_back({link.from, link.to, link.bytes_per_second, link.latency_s});
    }
  }

  void add_values() {
    for (int i = 0; i < graph_.value_count(); ++i) {
      const Value& value = graph_.value(ValueId(i));
      PlanValue row;
      row.name = value.name;
      row.dtype = value.dtype;
      row.kind = plan_kind(value.kind);
      row.per_step = value.rate == Rate::per_step;
      row.source = value.source;
      row.recipe = value.recipe;
      for (const Graph* graph : graphs_) {
        const Value& variant = graph->value(ValueId(i));
        row.shapes.push_back(variant.shape);
        if (value.kind == ValueKind::constant) row.literals.push_back(variant.literal);
      }
      if (row.literals.size() == 2 && row.literals[0] == row.literals[1]) row.literals.pop_back();
      if (value.kind == ValueKind::state) row.literals = {value.literal};
      plan_.values.push_back(std::move(row));
    }
    for (const Update& update : graph_.updates) {
      plan_.updates.push_back({update.persistent.index(), update.next.index()});
    }
    for (const ParameterGradient& g : graph_.gradients) {
      plan_.gradients.push_back({g.parameter.index(), g.gradient.index()});
      plan_.values[g.gradient.index()].is_gradient = true;
    }
    for (const Node& node : graph_.nodes()) {
      if (node.op != OpKind::GradAccumulate) continue;
      for (const ValueId id : {node.inputs[1], node.outputs[0]}) plan_.values[id.index()].is_gradient = true;
    }
  }

  void add_nodes_and_transfers() {
    transfers_after_.resize(static_cast<size_t>(graph_.node_count()));
    fetch_of_.assign(static_cast<size_t>(graph_.value_count()), kNone);
    index_of_node_.assign(static_cast<size_t>(graph_.node_count()), kNone);
    for (int i = 0; i < graph_.node_count(); ++i) {
      if (graph_.node(NodeId(i)).op == OpKind::Transfer) {
        add_transfer(NodeId(i));
      } else {
        add_node(NodeId(i));
      }
    }
  }

  static std::vector<PlanIndex> indices(const std::vector<ValueId>& values) {
    std::vector<PlanIndex> result;
    for (const ValueId id : values) result.push_back(id.is_valid() ? id.index() : kNone);
    return result;
  }

  void add_node(NodeId id) {
    const Node& node = graph_.node(id);
    PlanNode row;
    row.op = node.op;
    row.name = node.name;
    row.origin = node.origin;
    row.phase = static_cast<PlanPhase>(node.phase);
    row.device = node.device;
    row.per_step = node.rate == Rate::per_step;
    row.inputs = indices(node.inputs);
    row.outputs = indices(node.outputs);
    for (const Graph* graph : graphs_) {
      const OpQuantities quantities = quantities_of(*graph, id);
      row.attributes.push_back(graph->node(id).attributes);
      row.flops.push_back(quantities.flops);
      row.seconds.push_back(node_seconds(*graph, id, cluster_.device(node.device)));
      row.workspace_bytes = std::max(row.workspace_bytes, quantities.workspace_bytes);
    }
    index_of_node_[id.index()] = static_cast<PlanIndex>(plan_.nodes.size());
    plan_.nodes.push_back(std::move(row));
  }

  void add_transfer(NodeId id) {
    const Node& node = graph_.node(id);
    PlanTransfer row;
    row.name = node.name;
    row.to = node.device;
    row.phase = static_cast<PlanPhase>(node.phase);
    row.per_step = node.rate == Rate::per_step;
    row.sources = indices(node.inputs);
    row.destinations = indices(node.outputs);
    std::set<NodeId> makers;
    for (const ValueId input : node.inputs) {
      const Value& value = graph_.value(input);
      if (value.kind == ValueKind::node) {
        makers.insert(value.producer);
        row.from = graph_.node(value.producer).device;
      } else {
        row.from = parameter_device(input);
      }
    }
    for (const Graph* graph : graphs_) {
      int64_t bytes = 0;
      for (const ValueId input : node.inputs) bytes += graph->value(input).bytes();
      row.seconds.push_back(transfer_seconds(bytes, cluster_.link(row.from, row.to)));
    }
    const auto index = static_cast<PlanIndex>(plan_.transfers.size());
    index_of_node_[id.index()] = index;
    if (is_host_memory(plan_.devices[row.from.index()])) {
      for (const ValueId output : node.outputs) fetch_of_[output.index()] = index;
      makers.clear();
    } else if (makers.empty()) {
      parameter_transfers_.push_back(index);
    }
    for (const NodeId maker : makers) transfers_after_[maker.index()].push_back(index);
    unmade_.emplace_back(static_cast<size_t>(plan_.microbatches), static_cast<int>(makers.size()));
    node_of_transfer_.push_back(id);
    plan_.transfers.push_back(std::move(row));
  }

  // A parameter lives where a node reads it directly (insert_transfers gives other devices a copy).
  DeviceId parameter_device(ValueId id) {
    if (reader_device_.empty()) {
      reader_device_.resize(static_cast<size_t>(graph_.value_count()));
      for (const Node& node : graph_.nodes()) {
        if (node.op == OpKind::Transfer) continue;
        for (const ValueId input : node.inputs) {
          if (input.is_valid() && !reader_device_[input.index()].is_valid())
            reader_device_[input.index()] = node.device;
        }
      }
    }
    const DeviceId device = reader_device_[id.index()];
    return device.is_valid() ? device : DeviceId(0);
  }

  void add_results() {
    for (const ValueId id : graph_.inputs)
      plan_.inputs.push_back(
          {graph_.value(id).name, id.index(), graph_.value(id).rate == Rate::per_microbatch, PlanInput::Role::data});
    for (const NamedValue& output : graph_.outputs) {
      const bool per_step = graph_.value(output.value).rate == Rate::per_step;
      PlanOutput row{output.name, output.value.index(),
                     per_step ? PlanOutput::Combine::last : PlanOutput::Combine::concatenate};
      if (output.value == graph_.loss && output.name == "loss") {
        row.combine = PlanOutput::Combine::sum;
        plan_.loss = static_cast<PlanIndex>(plan_.outputs.size());
      }
      plan_.outputs.push_back(std::move(row));
    }
    outputs_of_value_.resize(plan_.values.size());
    for (size_t i = 0; i < plan_.outputs.size(); ++i)
      outputs_of_value_[plan_.outputs[i].value].push_back(static_cast<PlanIndex>(i));
  }

  PlanIndex link_queue(DeviceId device, QueueKind kind, DeviceId peer) {
    const auto key = std::tuple(device, kind, peer);
    const auto [it, is_first] = link_queues_.try_emplace(key, static_cast<PlanIndex>(plan_.queues.size()));
    if (is_first) plan_.queues.push_back({device, kind, peer});
    return it->second;
  }

  PlanIndex slice(PlanIndex value, int32_t microbatch, DeviceId device) {
    if (value == kNone) return kNone;
    if (plan_.values[value].per_step) microbatch = kPerStep;
    // The same constant serves every micro-batch, except that the last one may have its own.
    const bool has_own_tail = plan_.values[value].literals.size() == 2;
    const auto [it, is_first] =
        slices_.try_emplace({value, has_own_tail ? variant_slot(microbatch_) : microbatch, device},
                            static_cast<PlanIndex>(plan_.slices.size()));
    if (is_first) {
      PlanSlice row;
      row.value = value;
      row.microbatch = has_own_tail ? variant_slot(microbatch_) : microbatch;
      row.device = device;
      row.bytes = plan_.value_bytes(value, microbatch_ == kPerStep ? 0 : plan_.variant_of(microbatch_));
      plan_.slices.push_back(row);
    }
    return it->second;
  }

  // A constant whose content differs in the last micro-batch has one slice for it and one (of micro-batch 0) for all
  // others.
  int32_t variant_slot(int32_t microbatch) const {
    return microbatch != kPerStep && plan_.variant_of(microbatch) == 1 ? microbatch : 0;
  }

  Instruction& emit(Action action, PlanIndex queue, PlanIndex index, int32_t microbatch) {
    Instruction instruction;
    instruction.action = action;
    instruction.queue = queue;
    instruction.index = index;
    instruction.microbatch = microbatch;
    plan_.instructions.push_back(std::move(instruction));
    return plan_.instructions.back();
  }

  void send_parameters() {
    microbatch_ = kPerStep;
    for (const PlanIndex index : parameter_transfers_) emit_transfer(index, kPerStep);
  }

  void emit_task(const Task& task) {
    microbatch_ = task.microbatch;
    const Segment& segment = segments_.segments[static_cast<size_t>(task.segment)];
    double now_s = task.start_s;
    for (const NodeId id : segment.nodes) {
      feed_inputs(graph_.node(id), task.microbatch);
      fetch_from_host(graph_.node(id), task.microbatch);
      Instruction& run = emit_run(id, task.microbatch);
      run.start_s = now_s;
      const size_t variant = task.microbatch == kPerStep ? 0 : static_cast<size_t>(plan_.variant_of(task.microbatch));
      now_s += plan_.nodes[run.index].seconds[variant];
      for (const PlanIndex output : plan_.nodes[index_of_node_[id.index()]].outputs) {
        if (output != kNone) fetch_outputs(output, task.microbatch, segment.device);
      }
      emit_transfers_after(id, task.microbatch);
    }
  }

  void emit_transfers_after(NodeId id, int32_t microbatch) {
    for (const PlanIndex transfer : transfers_after_[id.index()]) {
      const bool per_step = plan_.transfers[transfer].per_step;
      if (!is_final(per_step, microbatch)) continue;
      const auto instance = static_cast<size_t>(per_step ? 0 : microbatch);
      if (--unmade_[transfer][instance] == 0) emit_transfer(transfer, microbatch);
    }
  }

  // What waits in host memory comes back right before its first reader (overlap_offload may find an earlier moment).
  void fetch_from_host(const Node& node, int32_t microbatch) {
    for (const ValueId input : node.inputs) {
      if (!input.is_valid() || fetch_of_[input.index()] == kNone) continue;
      if (!slices_.contains({input.index(), microbatch, node.device}))
        emit_transfer(fetch_of_[input.index()], microbatch);
    }
  }

  void feed_inputs(const Node& node, int32_t microbatch) {
    for (const ValueId input : node.inputs) {
      if (input.is_valid() && graph_.value(input).kind == ValueKind::input) feed(input, microbatch, node.device);
    }
  }

  void feed(ValueId input, int32_t microbatch, DeviceId device) {
    const size_t known = plan_.slices.size();
    const PlanIndex written = slice(input.index(), microbatch, device);
    if (plan_.slices.size() == known) return;
    const auto position = std::ranges::find(graph_.inputs, input) - graph_.inputs.begin();
    const bool per_step = graph_.value(input).rate == Rate::per_step;
    emit(Action::feed, device.index(), static_cast<PlanIndex>(position), per_step ? kPerStep : microbatch).writes = {
        written};
  }

  Instruction& emit_run(NodeId id, int32_t microbatch) {
    const PlanIndex index = index_of_node_[id.index()];
    const PlanNode& node = plan_.nodes[index];
    std::vector<PlanIndex> reads;
    std::vector<PlanIndex> writes;
    for (const PlanIndex value : node.inputs) reads.push_back(slice(value, microbatch, node.device));
    for (const PlanIndex value : node.outputs) writes.push_back(slice(value, microbatch, node.device));
    if (node.op == OpKind::GradAccumulate && microbatch == 0) reads[1] = kNone;
    PlanIndex workspace = kNone;
    if (node.workspace_bytes > 0) {
      workspace = static_cast<PlanIndex>(plan_.slices.size());
      plan_.slices.push_back({kNone, microbatch, node.device, 0, node.workspace_bytes});
    }
    Instruction& run = emit(Action::run, node.device.index(), index, microbatch);
    run.reads = std::move(reads);
    run.writes = std::move(writes);
    run.workspace = workspace;
    const size_t variant = microbatch == kPerStep ? 0 : static_cast<size_t>(plan_.variant_of(microbatch));
    plan_.devices[node.device.index()].flops += node.flops[variant];
    plan_.devices[node.device.index()].seconds += node.seconds[variant];
    return run;
  }

  // A per-step value that micro-batches update in place is final after the last one.
  bool is_final(bool per_step, int32_t microbatch) const {
    return !per_step || microbatch == kPerStep || microbatch == plan_.microbatches - 1;
  }

  void fetch_outputs(PlanIndex value, int32_t microbatch, DeviceId device) {
    for (const PlanIndex output : outputs_of_value_[value]) {
      const int32_t instance = plan_.values[value].per_step ? kPerStep : microbatch;
      if (!is_final(plan_.values[value].per_step, microbatch)) continue;
      const PlanIndex read = slice(value, microbatch, device);
      emit(Action::fetch, device.index(), output, instance).reads = {read};
    }
  }

  void emit_transfer(PlanIndex index, int32_t microbatch) {
    const PlanTransfer& transfer = plan_.transfers[index];
    const int32_t instance = transfer.per_step ? kPerStep : microbatch;
    std::vector<PlanIndex> reads;
    std::vector<PlanIndex> writes;
    for (const PlanIndex value : transfer.sources) reads.push_back(slice(value, microbatch, transfer.from));
    for (const PlanIndex value : transfer.destinations) writes.push_back(slice(value, microbatch, transfer.to));
    emit(Action::send, link_queue(transfer.from, QueueKind::send, transfer.to), index, instance).reads =
        std::move(reads);
    emit(Action::recv, link_queue(transfer.to, QueueKind::recv, transfer.from), index, instance).writes =
        std::move(writes);
    // What arrived may go on at once, to host memory.
    emit_transfers_after(node_of_transfer_[index], microbatch);
  }

  // Outputs that are an input, a parameter or a constant of the model itself.
  void fetch_what_no_node_makes() {
    for (PlanIndex i = 0; i < plan_.outputs.size(); ++i) {
      const ValueId id(plan_.outputs[i].value);
      const Value& value = graph_.value(id);
      if (value.kind == ValueKind::node) continue;
      const DeviceId device = parameter_device(id);
      const bool per_step = value.rate == Rate::per_step;
      for (int32_t m = 0; m < (per_step ? 1 : plan_.microbatches); ++m) {
        microbatch_ = per_step ? kPerStep : m;
        if (value.kind == ValueKind::input) feed(id, microbatch_, device);
        const PlanIndex read = slice(id.index(), microbatch_, device);
        emit(Action::fetch, device.index(), i, microbatch_).reads = {read};
      }
    }
  }

  const std::vector<const Graph*>& graphs_;
  const Graph& graph_;
  const Segments& segments_;
  const Schedule& schedule_;
  const Cluster& cluster_;
  Plan plan_;
  int32_t microbatch_ = kPerStep;                        // of the task being lowered
  std::vector<PlanIndex> index_of_node_;                 // in the plan's nodes or transfers
  std::vector<std::vector<PlanIndex>> transfers_after_;  // [node]: that wait for it
  std::vector<std::vector<int>> unmade_;                 // [transfer][micro-batch]: nodes that it still waits for
  std::vector<NodeId> node_of_transfer_;
  std::vector<PlanIndex> fetch_of_;  // [value] the transfer from host memory that brings it
  std::vector<PlanIndex> parameter_transfers_;
  std::vector<std::vector<PlanIndex>> outputs_of_value_;
  std::vector<DeviceId> reader_device_;
  std::map<std::tuple<DeviceId, QueueKind, DeviceId>, PlanIndex> link_queues_;
  std::map<std::tuple<PlanIndex, int32_t, DeviceId>, PlanIndex> slices_;
};

}  // namespace

Plan lower(const std::vector<const Graph*>& graphs, const Segments& segments, const Schedule& schedule,
           const Cluster& cluster, int microbatches) {
  return Lowering(graphs, segments, schedule, cluster, microbatches).run();
}

}  // namespace mpc
