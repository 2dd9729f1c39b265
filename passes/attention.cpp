#include "passes/attention.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "compiler/base/attention_parts.h"
#include "compiler/ir/rewriter.h"
#include "compiler/ops/builder.h"

namespace mpc {
namespace {

using Permutation = std::vector<int64_t>;

// (batch, heads, sequence, width) to (batch, sequence, heads, width), and back.
const Permutation kHeadsInside = {0, 2, 1, 3};
// (batch, heads, width, sequence) to (batch, sequence, heads, width).
const Permutation kKeysInside = {0, 3, 1, 2};

// From here on a score is as good as minus infinity: e^-10000 is 0 in every float type.
constexpr double kMasked = -1e4;

struct Match {
  ValueId q;     // (batch, heads, queries, width)
  ValueId k;     // (batch, heads, width, keys)
  ValueId v;     // (batch, heads, keys, value width)
  ValueId mask;  // added to the scores, (batch or 1, heads or 1, queries or 1, keys); invalid: none
  double scale = 1;
  bool is_causal = false;
};

class AttentionRaiser {
 public:
  explicit AttentionRaiser(const Graph& graph) : source_(graph), rewriter_(graph), users_(users_of(graph)) {
    for (const NamedValue& output : graph.outputs) given_back_.insert(output.value);
    if (graph.loss.is_valid()) given_back_.insert(graph.loss);
    if (graph.loss.is_valid()) find_learned();
  }

  Graph run() {
    for (int i = 0; i < source_.node_count(); ++i) {
      const NodeId id(i);
      if (const std::optional<Match> match = match_at(id)) {
        raise(id, *match);
      } else if (const auto joined = joined_heads(source_.node(id))) {
        rewriter_.map(source_.node(id).outputs[0], *joined);
      } else {
        rewriter_.copy(id);
      }
    }
    return remove_dead_nodes(rewriter_.finish(source_.stage));
  }

 private:
  const Node* maker(ValueId id) const {
    const Value& value = source_.value(id);
    return value.kind == ValueKind::node ? &source_.node(value.producer) : nullptr;
  }
  const Node* maker(ValueId id, OpKind op) const {
    const Node* node = maker(id);
    return node != nullptr && node->op == op ? node : nullptr;
  }
  // In training: what a trained parameter leads to, so that it may need a gradient.
  void find_learned() {
    for (int i = 0; i < source_.value_count(); ++i) {
      const Value& value = source_.value(ValueId(i));
      if (value.kind == ValueKind::parameter && value.trainable) learned_.insert(ValueId(i));
    }
    for (const Node& node : source_.nodes()) {
      const auto is_learned = [&](ValueId input) { return learned_.contains(input); };
      if (std::ranges::any_of(node.inputs, is_learned)) learned_.insert(node.outputs.begin(), node.outputs.end());
    }
  }
  bool is_read_once(ValueId id) const { return users_[id.index()].size() == 1 && !given_back_.contains(id); }

  std::optional<double> scalar(ValueId id) const {
    const Value& value = source_.value(id);
    if (value.kind != ValueKind::constant || value.shape.elements() != 1 || !is_float(value.dtype)) return std::nullopt;
    return value.literal.number(0);
  }

  // What `id` is a multiple of; `scale` is multiplied by the factor.
  ValueId unscaled(ValueId id, double& scale) const {
    for (const Node* node = maker(id); node != nullptr; node = maker(id)) {
      const bool is_product = node->op == OpKind::Mul;
      if (!is_product && node->op != OpKind::Div) break;
      const auto right = scalar(node->inputs[1]);
      const auto left = is_product ? scalar(node->inputs[0]) : std::nullopt;
      if (!right && !left) break;
      const ValueId operand = node->inputs[right ? 0 : 1];
      if (source_.value(operand).shape != source_.value(id).shape) break;
      const double factor = right ? *right : *left;
      scale = is_product ? scale * factor : scale / factor;
      id = operand;
    }
    return id;
  }

  // Is `id` a comparison of constants, so large that importing left it, that holds where the key is not after the
  // query?
  bool is_causal_comparison(ValueId id, int64_t queries, int64_t keys) const {
    const Node* node = maker(id);
    if (node == nullptr || (node->op != OpKind::LessOrEqual && node->op != OpKind::GreaterOrEqual)) return false;
    const bool is_less = node->op == OpKind::LessOrEqual;
    const Value& key = source_.value(node->inputs[is_less ? 0 : 1]);
    const Value& query = source_.value(node->inputs[is_less ? 1 : 0]);
    const auto is_along = [](const Value& value, int from_end, int64_t length) {
      const int axis = value.shape.rank() - from_end;
      return value.kind == ValueKind::constant && axis >= 0 && value.shape[axis] == length &&
             value.shape.elements() == length;
    };
    if (queries != keys || !is_along(key, 1, keys) || !is_along(query, 2, queries)) return false;
    for (int64_t i = 0; i < queries; ++i) {
      for (int64_t j = 0; j < keys; ++j) {
        if ((key.literal.number(j) <= query.literal.number(i)) != (j <= i)) return false;
      }
    }
    return true;
  }

  // A constant whose last two dimensions say which keys a query may look at, alike for all batches and heads.
  template <class MayLook>
  bool is_causal_mask(ValueId id, int64_t queries, int64_t keys, MayLook&& may_look) const {
    const Value& mask = source_.value(id);
    const int rank = mask.shape.rank();
    if (mask.kind != ValueKind::constant || queries != keys || mask.shape.elements() != queries * keys || rank < 2 ||
        mask.shape[rank - 1] != keys || mask.shape[rank - 2] != queries)
      return false;
    for (int64_t i = 0; i < queries; ++i) {
      for (int64_t j = 0; j < keys; ++j) {
        if (!may_look(mask.literal, i * keys + j, j <= i)) return false;
      }
    }
    return true;
  }

  // May `id` be added to scores of the shape `scores` as an operand of attention?
  bool is_mask(ValueId id, const Shape& scores) const {
    const Value& mask = source_.value(id);
    if (mask.dtype != DType::f32 || mask.shape.rank() != scores.rank() || learned_.contains(id)) return false;
    for (int axis = 0; axis + 1 < scores.rank(); ++axis) {
      if (mask.shape[axis] != scores[axis] && mask.shape[axis] != 1) return false;
    }
    return mask.shape[scores.rank() - 1] == scores[scores.rank() - 1];
  }

  // The scores that a mask is laid over, which is causal or an operand of attention. @return nothing when there is a
  // mask of another kind.
  std::optional<ValueId> unmasked(ValueId id, Match& match) const {
    bool& is_causal = match.is_causal;
    const Shape& shape = source_.value(id).shape;
    const int64_t queries = shape[2];
    const int64_t keys = shape[3];
    if (const Node* where = maker(id, OpKind::Where)) {
      const auto other = scalar(where->inputs[2]);
      const auto says = [](const Literal& mask, int64_t at, bool expected) {
        return (mask.number(at) != 0) == expected;
      };
      is_causal = other && *other <= kMasked &&
                  (is_causal_mask(where->inputs[0], queries, keys, says) ||
                   is_causal_comparison(where->inputs[0], queries, keys));
      if (!is_causal || !is_read_once(where->inputs[1])) return std::nullopt;
      return where->inputs[1];
    }
    if (const Node* add = maker(id, OpKind::Add)) {
      const auto says = [](const Literal& mask, int64_t at, bool expected) {
        return expected ? mask.number(at) == 0 : mask.number(at) <= kMasked;
      };
      for (const size_t scores : {size_t{0}, size_t{1}}) {
        if (!is_causal_mask(add->inputs[1 - scores], queries, keys, says) || !is_read_once(add->inputs[scores]))
          continue;
        is_causal = true;
        return add->inputs[scores];
      }
      for (const size_t scores : {size_t{0}, size_t{1}}) {
        const ValueId mask = add->inputs[1 - scores];
        const bool is_of_scores =
            source_.value(add->inputs[scores]).shape == shape && is_read_once(add->inputs[scores]);
        double scale = 1;
        if (!is_of_scores || maker(unscaled(add->inputs[scores], scale), OpKind::MatMul) == nullptr ||
            !is_mask(mask, shape))
          continue;
        match.mask = mask;
        return add->inputs[scores];
      }
      return std::nullopt;
    }
    return id;
  }

  bool is_heads(ValueId id) const {
    const Value& value = source_.value(id);
    return value.dtype == DType::f32 && value.shape.rank() == 4 && value.shape.elements() > 0;
  }

  std::optional<Match> match_at(NodeId id) const {
    const Node& mix = source_.node(id);
    if (mix.op != OpKind::MatMul || mix.phase != Phase::forward || !is_heads(mix.outputs[0])) return std::nullopt;
    const Node* softmax = maker(mix.inputs[0], OpKind::Softmax);
    if (softmax == nullptr || !is_heads(mix.inputs[0]) || softmax->attributes.integer("axis") != 3 ||
        !is_read_once(mix.inputs[0]) || !is_read_once(softmax->inputs[0]))
      return std::nullopt;
    Match match;
    const std::optional<ValueId> scores = unmasked(softmax->inputs[0], match);
    if (!scores) return std::nullopt;
    const Node* product = maker(unscaled(*scores, match.scale), OpKind::MatMul);
    if (product == nullptr || !is_read_once(product->outputs[0])) return std::nullopt;
    match.q = product->inputs[0];
    match.k = product->inputs[1];
    match.v = mix.inputs[1];
    for (const ValueId operand : {match.q, match.k, match.v}) {
      if (!is_heads(operand)) return std::nullopt;
    }
    const Shape& q = source_.value(match.q).shape;
    const Shape& k = source_.value(match.k).shape;
    const Shape& v = source_.value(match.v).shape;
    if (q[0] != k[0] || q[1] != k[1] || q[0] != v[0] || q[1] != v[1]) return std::nullopt;  // broadcast heads
    return match;
  }

  /// A value whose dimensions are read in another order.
  struct Arranged {
    ValueId id;
    Permutation order;
  };

  // `id` with its dimensions in another order; transposes that it comes from are looked through, and with a scale to
  // collect them in also its factors.
  Arranged rearranged(ValueId id, Permutation order, double* scale) const {
    for (;;) {
      if (scale != nullptr) id = unscaled(id, *scale);
      const Node* transpose = maker(id, OpKind::Transpose);
      if (transpose == nullptr) return {id, std::move(order)};
      const std::vector<int64_t>& perm = transpose->attributes.integers("perm");
      for (int64_t& dim : order) dim = perm[static_cast<size_t>(dim)];
      id = transpose->inputs[0];
    }
  }

  // What the three are thirds of, one after another in its last dimension, each with its heads apart.
  std::optional<ValueId> packed(const std::array<Arranged, kAttentionParts>& parts) const {
    std::optional<ValueId> whole;
    for (size_t i = 0; i < parts.size(); ++i) {
      const Value& part = source_.value(parts[i].id);
      const Node* reshape = maker(parts[i].id, OpKind::Reshape);
      if (reshape == nullptr || !std::ranges::is_sorted(parts[i].order)) return std::nullopt;
      const Node* split = maker(reshape->inputs[0], OpKind::Split);
      if (split == nullptr || split->outputs.size() != parts.size() || split->outputs[i] != reshape->inputs[0])
        return std::nullopt;
      const Shape third = source_.value(reshape->inputs[0]).shape;
      if (third != Shape{part.shape[0], part.shape[1], part.shape[2] * part.shape[3]} ||
          split->attributes.integer("axis") != 2 || part.shape != source_.value(parts[0].id).shape)
        return std::nullopt;
      if (whole && *whole != split->inputs[0]) return std::nullopt;
      whole = split->inputs[0];
    }
    return whole;
  }

  // (batch, sequence, 3 heads width) to (batch, sequence, 3, heads, width).
  ValueId parts_apart(ValueId whole, const Shape& part, const std::string& origin) {
    Graph& graph = rewriter_.graph();
    const ValueId id = rewriter_.at(whole);
    NodeInfo info;
    info.name = graph.unique_node_name(graph.value(id).name + "/parts");
    info.origin = origin;
    info.output_names = {graph.unique_value_name(graph.value(id).name + "/parts")};
    const std::vector<int64_t> shape = {part[0], part[1], kAttentionParts, part[2], part[3]};
    const Attributes attributes = {{"shape", shape}, {"allowzero", int64_t{1}}};
    return graph.node(append(graph, OpKind::Reshape, {id}, attributes, std::move(info))).outputs[0];
  }

  ValueId transposed(ValueId id, const Permutation& order, const std::string& origin) {
    if (std::ranges::is_sorted(order)) return id;
    Graph& graph = rewriter_.graph();
    NodeInfo info;
    info.name = graph.unique_node_name(graph.value(id).name + "/heads");
    info.origin = origin;
    info.output_names = {graph.unique_value_name(graph.value(id).name + "/heads")};
    return graph.node(append(graph, OpKind::Transpose, {id}, {{"perm", order}}, std::move(info))).outputs[0];
  }

  void raise(NodeId id, const Match& match) {
    const Node& old = source_.node(id);
    double scale = match.scale;
    const std::array<Arranged, kAttentionParts> parts = {rearranged(match.q, kHeadsInside, &scale),
                                                         rearranged(match.k, kKeysInside, &scale),
                                                         rearranged(match.v, kHeadsInside, nullptr)};
    std::vector<ValueId> operands;
    if (const std::optional<ValueId> whole = packed(parts)) {
      operands = {parts_apart(*whole, source_.value(parts[0].id).shape, old.origin)};
    } else {
      for (const Arranged& part : parts) operands.push_back(transposed(rewriter_.at(part.id), part.order, old.origin));
    }
    if (match.mask.is_valid()) operands.push_back(rewriter_.at(match.mask));
    Graph& graph = rewriter_.graph();
    NodeInfo info;
    info.name = old.name;
    info.origin = old.origin;
    const std::string name = source_.value(old.outputs[0]).name;
    info.output_names = {graph.unique_value_name(name + "/heads"), graph.unique_value_name(name + "/log_sum")};
    const Attributes attributes = {{"scale", scale}, {"is_causal", int64_t{match.is_causal}}};
    const NodeId made =
        append(graph, OpKind::ScaledDotProductAttention, std::move(operands), attributes, std::move(info));
    rewriter_.map_node(id, made);
    const ValueId y = graph.node(made).outputs[0];
    joined_.emplace_back(old.outputs[0], y);
    rewriter_.map(old.outputs[0], transposed(y, kHeadsInside, old.origin));
  }

  // A Transpose that only joins the heads of an attention.
  std::optional<ValueId> joined_heads(const Node& node) const {
    if (node.op != OpKind::Transpose || node.attributes.integers("perm") != kHeadsInside) return std::nullopt;
    for (const auto& [old, joined] : joined_) {
      if (old == node.inputs[0]) return joined;
    }
    return std::nullopt;
  }

  const Graph& source_;
  Rewriter rewriter_;
  std::vector<std::vector<NodeId>> users_;
  std::set<ValueId> given_back_;
  std::set<ValueId> learned_;
  std::vector<std::pair<ValueId, ValueId>> joined_;  // what attention gave, and the same with its heads inside
};

}  // namespace

Graph raise_attention(const Graph& graph) {
  return AttentionRaiser(graph).run();
}

}  // namespace mpc
