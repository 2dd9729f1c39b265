#include "passes/pack_projections.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "compiler/base/attention_parts.h"
#include "compiler/ir/rewriter.h"
#include "compiler/ops/builder.h"
#include "passes/fusion_places.h"

namespace mpc {
namespace {

/// x weight + row, with its heads apart. Ids are of the graph that is packed.
struct Projection {
  ValueId x;
  ValueId weight;  // (inner, columns)
  ValueId row;     // (columns); invalid: none
  NodeId product;
  NodeId sum;  // invalid: no row
  NodeId reshape;
};

using Projections = std::array<Projection, kAttentionParts>;

class Packer {
 public:
  Packer(const Graph& graph, const FusionLimits& limits)
      : source_(graph), places_(graph, limits), users_(users_of(graph)), rewriter_(graph) {
    is_result_.assign(static_cast<size_t>(graph.value_count()), false);
    for (const NamedValue& output : graph.outputs) is_result_[output.value.index()] = true;
    if (graph.loss.is_valid()) is_result_[graph.loss.index()] = true;
  }

  Graph run() {
    std::vector<std::optional<Projections>> found;
    std::vector<bool> is_packed(static_cast<size_t>(source_.node_count()), false);
    for (int i = 0; i < source_.node_count(); ++i) {
      found.push_back(projections_at(source_.node(NodeId(i))));
      if (!found.back()) continue;
      for (const Projection& part : *found.back()) {
        for (const NodeId id : {part.product, part.sum, part.reshape}) {
          if (id.is_valid()) is_packed[id.index()] = true;
        }
      }
    }
    for (int i = 0; i < source_.node_count(); ++i) {
      if (const auto& projections = found[static_cast<size_t>(i)]) {
        pack(NodeId(i), *projections);
      } else if (!is_packed[static_cast<size_t>(i)]) {
        rewriter_.copy(NodeId(i));
      }
    }
    return rewriter_.finish(source_.stage);
  }

 private:
  bool is_weight(ValueId id, int rank) const {
    const Value& value = source_.value(id);
    const bool is_made = value.kind == ValueKind::node && value.rate == Rate::per_step;
    return (value.kind == ValueKind::parameter || is_made) && value.dtype == DType::f32 && value.shape.rank() == rank;
  }

  // The node of that operator that makes `id`, if nothing else reads it.
  NodeId maker(ValueId id, OpKind op) const {
    const Value& value = source_.value(id);
    const bool is_own = value.kind == ValueKind::node && users_[id.index()].size() == 1 && !is_result_[id.index()];
    return is_own && source_.node(value.producer).op == op ? value.producer : NodeId{};
  }

  std::optional<Projection> projection(ValueId operand) const {
    Projection part;
    part.reshape = maker(operand, OpKind::Reshape);
    if (!part.reshape.is_valid()) return std::nullopt;
    ValueId flat = source_.node(part.reshape).inputs[0];
    const Shape& heads = source_.value(operand).shape;  // (batch, sequence, heads, width)
    if (source_.value(flat).shape != Shape{heads[0], heads[1], heads[2] * heads[3]}) return std::nullopt;
    part.sum = maker(flat, OpKind::Add);
    if (part.sum.is_valid()) {
      const std::vector<ValueId>& inputs = source_.node(part.sum).inputs;
      const size_t row = is_weight(inputs[0], 1) ? 0 : 1;
      if (!is_weight(inputs[row], 1)) return std::nullopt;
      part.row = inputs[row];
      if (source_.value(part.row).shape != Shape{heads[2] * heads[3]}) return std::nullopt;
      flat = inputs[1 - row];
    }
    part.product = maker(flat, OpKind::MatMul);
    if (!part.product.is_valid()) return std::nullopt;
    const Node& product = source_.node(part.product);
    if (product.inputs.size() != 2 || product.attributes.has("activation") || product.attributes.has("transA") ||
        product.attributes.has("transB") || !is_weight(product.inputs[1], 2) || is_weight(product.inputs[0], 3))
      return std::nullopt;
    part.x = product.inputs[0];
    part.weight = product.inputs[1];
    return part;
  }

  std::optional<Projections> projections_at(const Node& node) const {
    if (node.op != OpKind::ScaledDotProductAttention || is_packed_attention(source_.value(node.inputs[0]).shape))
      return std::nullopt;
    Projections parts;
    for (size_t i = 0; i < parts.size(); ++i) {
      const std::optional<Projection> part = projection(node.inputs[i]);
      if (!part) return std::nullopt;
      parts[i] = *part;
      const bool is_alike = part->x == parts[0].x && part->row.is_valid() == parts[0].row.is_valid() &&
                            source_.value(node.inputs[i]).shape == source_.value(node.inputs[0]).shape;
      if (!is_alike) return std::nullopt;
    }
    const bool may = std::ranges::all_of(parts, [&](const Projection& part) {
      const auto follows = [&](NodeId Projection::*id) {
        return !(part.*id).is_valid() || places_.follows(part.*id, last(parts, id));
      };
      return follows(&Projection::product) && follows(&Projection::sum) && follows(&Projection::reshape);
    });
    return may ? std::optional(parts) : std::nullopt;
  }

  // The packed node takes the place, name and origin of the last of the three.
  static NodeId last(const Projections& parts, NodeId Projection::*id) {
    return std::max({parts[0].*id, parts[1].*id, parts[2].*id});
  }

  ValueId add(NodeId like, OpKind op, std::vector<ValueId> inputs, Attributes attributes,
              const std::string& suffix = "") {
    Graph& graph = rewriter_.graph();
    const Node& node = source_.node(like);
    NodeInfo info;
    info.name = suffix.empty() ? node.name : graph.unique_node_name(node.name + suffix);
    info.origin = node.origin;
    const std::string& value = source_.value(node.outputs[0]).name;
    info.output_names = {suffix.empty() ? value : graph.unique_value_name(value + suffix)};
    return graph.node(append(graph, op, std::move(inputs), std::move(attributes), std::move(info))).outputs[0];
  }

  void pack(NodeId id, const Projections& parts) {
    const NodeId product = last(parts, &Projection::product);
    const NodeId reshape = last(parts, &Projection::reshape);
    std::vector<ValueId> weights, rows;
    std::vector<std::string> origins;
    for (const Projection& part : parts) {
      weights.push_back(rewriter_.at(part.weight));
      if (part.row.is_valid()) rows.push_back(rewriter_.at(part.row));
      origins.push_back(source_.node(part.product).origin);
    }
    const ValueId weight = add(product, OpKind::Concat, weights, {{"axis", int64_t{1}}}, "/weights");
    ValueId all = add(product, OpKind::MatMul, {rewriter_.at(parts[0].x), weight}, {{"origins", std::move(origins)}});
    if (!rows.empty()) {
      const NodeId sum = last(parts, &Projection::sum);
      const ValueId row = add(sum, OpKind::Concat, rows, {{"axis", int64_t{0}}}, "/rows");
      all = add(sum, OpKind::Add, {all, row}, {});
    }
    const Node& attention = source_.node(id);
    const Shape& heads = source_.value(attention.inputs[0]).shape;
    const std::vector<int64_t> shape = {heads[0], heads[1], kAttentionParts, heads[2], heads[3]};
    all = add(reshape, OpKind::Reshape, {all}, {{"shape", shape}, {"allowzero", int64_t{1}}});
    for (const Projection& part : parts) {
      for (const NodeId old : {part.product, part.sum, part.reshape}) {
        if (old.is_valid()) rewriter_.map_node(old, rewriter_.graph().value(all).producer);
      }
    }
    NodeInfo info;
    info.name = attention.name;
    info.origin = attention.origin;
    for (const ValueId output : attention.outputs)
      info.output_names.push_back(output.is_valid() ? source_.value(output).name : "");
    std::vector<ValueId> operands = {all};
    if (attention.inputs.size() > kAttentionParts) operands.push_back(rewriter_.at(attention.inputs[kAttentionParts]));
    const NodeId made =
        append(rewriter_.graph(), attention.op, std::move(operands), attention.attributes, std::move(info));
    rewriter_.map_node(id, made);
    for (size_t i = 0; i < attention.outputs.size(); ++i) {
      if (attention.outputs[i].is_valid()) rewriter_.map(attention.outputs[i], rewriter_.graph().node(made).outputs[i]);
    }
  }

  const Graph& source_;
  FusionPlaces places_;
  std::vector<std::vector<NodeId>> users_;
  std::vector<bool> is_result_;
  Rewriter rewriter_;
};

}  // namespace

Graph pack_projections(const Graph& graph, const FusionLimits& limits) {
  return Packer(graph, limits).run();
}

}  // namespace mpc
