#include "passes/fuse.h"

#include <algorithm>
#include <optional>

#include "compiler/base/elementwise_program.h"
#include "compiler/ir/rewriter.h"
#include "compiler/ops/builder.h"
#include "passes/fusion_places.h"

namespace mpc {
namespace {

class Grouping {
 public:
  Grouping(const std::vector<const Graph*>& graphs, const FusionLimits& limits)
      : graphs_(graphs),
        graph_(*graphs.front()),
        places_(graph_, limits),
        users_(users_of(graph_)),
        is_result_(static_cast<size_t>(graph_.value_count()), false) {
    for (const NamedValue& output : graph_.outputs) is_result_[output.value.index()] = true;
    if (graph_.loss.is_valid()) is_result_[graph_.loss.index()] = true;
    for (const Update& update : graph_.updates) is_result_[update.next.index()] = true;
    for (const ParameterGradient& gradient : graph_.gradients) is_result_[gradient.gradient.index()] = true;
    for (int i = 0; i < graph_.node_count(); ++i) group_of_[NodeId(i)] = NodeId(i);
  }

  FusionGroups run() {
    // Forward nodes first: which gradients belong together depends on which of their forward nodes do.
    for (const bool is_forward : {true, false}) {
      for (int i = graph_.node_count() - 1; i >= 0; --i) {
        if ((graph_.node(NodeId(i)).phase == Phase::forward) == is_forward) try_to_join(NodeId(i));
      }
    }
    return std::move(group_of_);
  }

 private:
  void try_to_join(NodeId id) {
    if (!is_step(id)) return;
    members_[id] = {id};
    const std::optional<NodeId> last = group_of_readers(id);
    if (!last || !is_alike(id, *last) || !places_.follows(id, *last)) return;
    std::vector<NodeId> members = members_[*last];
    members.insert(members.begin(), id);
    if (!is_small(members) || keeps_more(members)) return;
    group_of_[id] = *last;
    members_[*last] = std::move(members);
  }

  // The one group that reads the node's result, if there is one and nobody else reads it.
  std::optional<NodeId> group_of_readers(NodeId id) const {
    const ValueId result = graph_.node(id).outputs[0];
    const auto& users = users_[result.index()];
    if (is_result_[result.index()] || users.empty()) return std::nullopt;
    const NodeId last = group_of_[users.front()];
    const bool is_one = std::ranges::all_of(users, [&](NodeId user) { return group_of_[user] == last; });
    if (!is_one || !is_step(last)) return std::nullopt;
    return last;
  }

  bool is_step(NodeId id) const {
    const Node& node = graph_.node(id);
    if (!can_be_step(node.op) || node.outputs.size() != 1 || !node.outputs[0].is_valid()) return false;
    const auto has_type = [&](ValueId value) {
      return !value.is_valid() || can_be_step_type(graph_.value(value).dtype);
    };
    return std::ranges::all_of(node.inputs, has_type) && has_type(node.outputs[0]);
  }

  bool is_alike(NodeId id, NodeId last) const {
    const Node& a = graph_.node(id);
    const Node& b = graph_.node(last);
    if (a.phase != b.phase || a.rate != b.rate || group_of(a.anchor) != group_of(b.anchor)) return false;
    return std::ranges::all_of(graphs_, [&](const Graph* graph) {
      return graph->value(a.outputs[0]).shape == graph->value(b.outputs[0]).shape;
    });
  }

  NodeId group_of(NodeId id) const { return id.is_valid() ? group_of_[id] : id; }

  bool is_small(const std::vector<NodeId>& members) const {
    return members.size() <= kMostElementwiseSteps && operands_of(members).size() <= kMostElementwiseInputs;
  }

  bool is_made_by(ValueId value, const std::vector<NodeId>& members) const {
    return graph_.value(value).kind == ValueKind::node &&
           std::ranges::binary_search(members, graph_.value(value).producer);
  }

  // What the group reads and does not make.
  std::vector<ValueId> operands_of(const std::vector<NodeId>& members) const {
    std::vector<ValueId> operands;
    for (const NodeId member : members) {
      for (const ValueId input : graph_.node(member).inputs) {
        if (!input.is_valid() || is_made_by(input, members)) continue;
        if (std::ranges::find(operands, input) == operands.end()) operands.push_back(input);
      }
    }
    return operands;
  }

  // Wherever other nodes stand between two members: does the group hold more bytes there than its nodes one by one?
  bool keeps_more(const std::vector<NodeId>& members) const {
    const std::vector<ValueId> operands = operands_of(members);
    for (size_t m = 0; m + 1 < members.size(); ++m) {
      if (members[m].index() + 1 == members[m + 1].index()) continue;
      int64_t change = 0;
      for (const ValueId operand : operands) {
        const Value& value = graph_.value(operand);
        const bool is_always_there =
            value.kind == ValueKind::parameter || value.kind == ValueKind::state || value.kind == ValueKind::constant;
        if (!is_always_there && last_reader(operand, members) <= members[m]) change += value.bytes();
      }
      for (size_t k = 0; k <= m; ++k) {
        const ValueId result = graph_.node(members[k]).outputs[0];
        if (last_reader(result, members) > members[m]) change -= graph_.value(result).bytes();
      }
      if (change > 0) return true;
    }
    return false;
  }

  NodeId last_reader(ValueId value, const std::vector<NodeId>& members) const {
    NodeId last = members.front();
    for (const NodeId member : members) {
      if (std::ranges::find(graph_.node(member).inputs, value) != graph_.node(member).inputs.end())
        last = std::max(last, member);
    }
    return last;
  }

  const std::vector<const Graph*>& graphs_;
  const Graph& graph_;
  FusionPlaces places_;
  std::vector<std::vector<NodeId>> users_;
  std::vector<bool> is_result_;
  IdMap<NodeId, NodeId> group_of_;
  IdMap<NodeId, std::vector<NodeId>> members_;  // of the group that the node is the last of, ascending
};

/// Writes one group as an Elementwise node.
class GroupWriter {
 public:
  GroupWriter(Rewriter& rewriter, const std::vector<NodeId>& members)
      : source_(rewriter.source()), rewriter_(rewriter), members_(members) {}

  void write() {
    for (const NodeId member : members_) {
      for (const ValueId input : source_.node(member).inputs) add_input(input);
    }
    const size_t input_count = inputs_.size();
    std::vector<ElementwiseStep> steps;
    std::vector<std::string> origins;
    for (const NodeId member : members_) {
      const Node& node = source_.node(member);
      ElementwiseStep step{node.op, source_.value(node.outputs[0]).dtype, {}, node.attributes};
      for (const ValueId input : node.inputs)
        step.operands.push_back(input.is_valid() ? position_[input] : ElementwiseStep::kAbsent);
      position_[node.outputs[0]] = static_cast<int>(input_count + steps.size());
      steps.push_back(std::move(step));
      origins.push_back(node.origin);
    }
    const Node& last = source_.node(members_.back());
    NodeInfo info;
    info.name = last.name;
    info.origin = last.origin;
    info.phase = last.phase;
    info.anchor = last.anchor.is_valid() ? rewriter_.node_at(last.anchor) : last.anchor;
    info.output_names = {source_.value(last.outputs[0]).name};
    Graph& graph = rewriter_.graph();
    const NodeId made = append(graph, OpKind::Elementwise, inputs_,
                               {{"origins", std::move(origins)}, {"steps", print_steps(steps)}}, std::move(info));
    const ValueId result = graph.node(made).outputs[0];
    graph.node(made).rate = last.rate;
    graph.value(result).rate = source_.value(last.outputs[0]).rate;
    rewriter_.map(last.outputs[0], result);
    for (const NodeId member : members_) rewriter_.map_node(member, made);
  }

 private:
  void add_input(ValueId input) {
    if (!input.is_valid() || is_inside(input)) return;
    const ValueId mapped = rewriter_.at(input);
    const auto found = std::ranges::find(inputs_, mapped);
    position_[input] = static_cast<int>(found - inputs_.begin());
    if (found == inputs_.end()) inputs_.push_back(mapped);
  }

  bool is_inside(ValueId value) const {
    return source_.value(value).kind == ValueKind::node &&
           std::ranges::binary_search(members_, source_.value(value).producer);
  }

  const Graph& source_;
  Rewriter& rewriter_;
  const std::vector<NodeId>& members_;
  std::vector<ValueId> inputs_;
  std::map<ValueId, int> position_;  // among inputs and steps
};

}  // namespace

FusionGroups fusion_groups(const std::vector<const Graph*>& graphs, const FusionLimits& limits) {
  return Grouping(graphs, limits).run();
}

Graph fuse(const Graph& graph, const FusionGroups& groups) {
  std::map<NodeId, std::vector<NodeId>> members;
  for (int i = 0; i < graph.node_count(); ++i) members[groups[NodeId(i)]].push_back(NodeId(i));
  Rewriter rewriter(graph);
  for (int i = 0; i < graph.node_count(); ++i) {
    const NodeId id(i);
    if (groups[id] != id) continue;  // stands in the group of a later node
    if (members[id].size() == 1) {
      rewriter.copy(id);
    } else {
      GroupWriter(rewriter, members[id]).write();
    }
  }
  return rewriter.finish(graph.stage);
}

}  // namespace mpc
