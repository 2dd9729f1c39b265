#include "passes/batch_casts.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "passes/batch.h"

namespace mpc {
namespace {

/// What is held for longer than one by one without a thought: a thousandth of what a layer of any size has.
constexpr int64_t kSmallBytes = int64_t{1} << 16;

/// What casts of one batch have in common: device, phase, rate, from and to.
using Kind = std::tuple<DeviceId, Phase, Rate, DType, DType>;

class Finder {
 public:
  explicit Finder(const Graph& graph) : graph_(graph), users_(users_of(graph)) {
    for (const NamedValue& output : graph.outputs) results_.push_back(output.value);
  }

  std::vector<Batch> run() const {
    std::map<Kind, Batch> batches;
    std::vector<Batch> alone;  // of one Cast and its Concat
    for (int i = 0; i < graph_.node_count(); ++i) {
      const NodeId id(i);
      const Node& node = graph_.node(id);
      if (node.op != OpKind::Cast || node.phase != Phase::forward || node.outputs.size() != 1) continue;
      const Value& from = graph_.value(node.inputs[0]);
      const Value& to = graph_.value(node.outputs[0]);
      if (!is_float(from.dtype) || !is_float(to.dtype)) continue;
      const NodeId concat = concat_of(node);
      if (from.kind != ValueKind::parameter && !concat.is_valid()) continue;
      const bool may_wait = is_read_backward(node.outputs[0]) || to.bytes() <= kSmallBytes;
      if (!may_wait && !concat.is_valid()) continue;
      Batch& batch =
          may_wait ? batches[{node.device, node.phase, node.rate, from.dtype, to.dtype}] : alone.emplace_back();
      if (concat.is_valid()) batch.members.push_back(concat);
      batch.members.push_back(id);
    }
    for (auto& [kind, batch] : batches) alone.push_back(std::move(batch));
    std::erase_if(alone, [](const Batch& batch) { return batch.members.size() < 2; });
    for (Batch& batch : alone) {
      std::ranges::sort(batch.members);
      batch.place = batch.members.front();
    }
    return alone;
  }

 private:
  // By itself, or in another order (passes/channels_last.h).
  bool is_read_backward(ValueId value) const {
    return std::ranges::any_of(users_[value.index()], [&](NodeId id) {
      const Node& user = graph_.node(id);
      const bool is_moved = user.rate == Rate::per_step && (user.op == OpKind::Transpose || user.op == OpKind::Reshape);
      return user.phase != Phase::forward || (is_moved && is_read_backward(user.outputs[0]));
    });
  }

  // The node that puts parameters side by side for the Cast alone.
  NodeId concat_of(const Node& cast) const {
    const ValueId whole = cast.inputs[0];
    if (graph_.value(whole).kind != ValueKind::node || users_[whole.index()].size() != 1) return {};
    const NodeId id = graph_.value(whole).producer;
    const Node& node = graph_.node(id);
    const bool is_alike = node.op == OpKind::Concat && node.device == cast.device && node.phase == cast.phase &&
                          node.rate == cast.rate &&
                          node.attributes.integer("axis") == graph_.value(whole).shape.rank() - 1;
    const auto is_parameter = [&](ValueId input) { return graph_.value(input).kind == ValueKind::parameter; };
    const bool is_result = std::ranges::find(results_, whole) != results_.end();
    return is_alike && !is_result && std::ranges::all_of(node.inputs, is_parameter) ? id : NodeId{};
  }

  const Graph& graph_;
  std::vector<std::vector<NodeId>> users_;
  std::vector<ValueId> results_;
};

void write_batch(Rewriter& rewriter, const Batch& batch) {
  const Graph& source = rewriter.source();
  std::vector<ValueId> inputs, outputs;
  std::vector<int64_t> joined;
  NodeId like;  // the first Cast
  for (const NodeId id : batch.members) {
    const Node& cast = source.node(id);
    if (cast.op == OpKind::Concat) continue;  // stands in its Cast
    const Value& from = source.value(cast.inputs[0]);
    const std::vector<ValueId> parts = from.kind == ValueKind::node ? source.node(from.producer).inputs : cast.inputs;
    for (const ValueId part : parts) inputs.push_back(rewriter.at(part));
    joined.push_back(static_cast<int64_t>(parts.size()));
    outputs.push_back(cast.outputs[0]);
    if (!like.is_valid()) like = id;
  }
  Attributes attributes = source.node(like).attributes;
  if (inputs.size() > outputs.size()) attributes.set("joined", joined);
  append_joint(rewriter, batch, like, std::move(inputs), std::move(attributes), outputs);
}

}  // namespace

Graph batch_casts(Graph graph) {
  const std::vector<Batch> batches = Finder(graph).run();
  return write_batches(std::move(graph), batches, write_batch);
}

}  // namespace mpc
