// A Llama-style decoder (arXiv:2302.13971, grouped queries as in arXiv:2307.09288) and a mixture of experts.

#include "models/families.h"
#include "models/layers.h"

#include <cmath>
#include <string>
#include <vector>

namespace mpc::zoo {
namespace {

constexpr double kDeviation = 0.02;
constexpr double kEpsilon = 1e-5;
constexpr int64_t kDefaultTokens = 128;

/// The rotary tables, (sequence, head_width / 2) each.
struct Rotary {
  Value cosine;
  Value sine;
};

Rotary rotary_tables(Builder& g, const Tokens& tokens, int64_t head_width) {
  constexpr double kBase = 10000.0;
  if (head_width % 2 != 0) g.refuse("a head is " + std::to_string(head_width) + " wide; rotary positions need pairs");
  const auto inside = g.scope("rotary");
  std::vector<float> frequencies;
  for (int64_t i = 0; i < head_width / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(head_width);
    frequencies.push_back(static_cast<float>(std::pow(kBase, exponent)));
  }
  constexpr int64_t kFloat = 1;  // TensorProto::FLOAT
  const Value positions = g.node("Cast", {token_positions(g, tokens)}, {{"to", kFloat}});
  const Value column = g.node("Unsqueeze", {positions, g.ints("column", {1})});
  const Value angles = g.node("Mul", {column, g.floats(frequencies)});
  return {g.node("Cos", {angles}), g.node("Sin", {angles})};
}

/// Turns the pairs (x[i], x[i + half]) by their angles. x (batch, heads, sequence, head_width).
Value rotated(Builder& g, const Value& x, const Rotary& rotary) {
  const auto halves = g.nodes("Split", {x}, {{"axis", int64_t{-1}}, {"num_outputs", int64_t{2}}}, 2);
  const Value first =
      g.node("Sub", {g.node("Mul", {halves[0], rotary.cosine}), g.node("Mul", {halves[1], rotary.sine})});
  const Value second =
      g.node("Add", {g.node("Mul", {halves[1], rotary.cosine}), g.node("Mul", {halves[0], rotary.sine})});
  return g.node("Concat", {first, second}, {{"axis", int64_t{-1}}});
}

/// Each key head once per query head of its group: (batch, kv, s, w) -> (batch, kv * group, s, w).
Value repeated_heads(Builder& g, const Value& x, int64_t kv_heads, int64_t group, int64_t head_width) {
  if (group == 1) return x;
  const Value apart = g.node("Unsqueeze", {x, g.ints("group_axis", {2})});
  const Value wide = g.node("Expand", {apart, g.ints("group_shape", {1, 1, group, 1, 1})});
  return g.node("Reshape", {wide, g.ints("grouped_shape", {0, kv_heads * group, -1, head_width})});
}

Value grouped_attention(Builder& g, const Value& x, const Rotary& rotary, const Value& mask, const Init& last) {
  const auto inside = g.scope("attn");
  const int64_t hidden = g.size("hidden");
  const int64_t heads = g.size("heads");
  const int64_t kv_heads = g.size("kv_heads");
  const int64_t width = head_width(g);
  if (heads % kv_heads != 0) {
    g.refuse(std::to_string(heads) + " heads cannot share " + std::to_string(kv_heads) + " kv_heads evenly");
  }
  const Init init = normal(kDeviation);
  const Value q = split_heads(g, dense(g, "q", x, hidden, heads * width, init, Bias::None), heads, width);
  const Value k = split_heads(g, dense(g, "k", x, hidden, kv_heads * width, init, Bias::None), kv_heads, width);
  const Value v = split_heads(g, dense(g, "v", x, hidden, kv_heads * width, init, Bias::None), kv_heads, width);
  const Value all_k = repeated_heads(g, rotated(g, k, rotary), kv_heads, heads / kv_heads, width);
  const Value all_v = repeated_heads(g, v, kv_heads, heads / kv_heads, width);
  const Value mixed = attend(g, rotated(g, q, rotary), all_k, all_v, heads, width, mask);
  return dense(g, "out", mixed, hidden, hidden, last, Bias::None);
}

/// down(silu(gate(x)) * up(x)). x (batch, sequence, hidden).
Value swiglu(Builder& g, const Value& x, int64_t hidden, int64_t inner, const Init& last) {
  const Value gate = dense(g, "gate", x, hidden, inner, normal(kDeviation), Bias::None);
  const Value up = dense(g, "up", x, hidden, inner, normal(kDeviation), Bias::None);
  const Value silu = g.node("Mul", {gate, g.node("Sigmoid", {gate})});
  return dense(g, "down", g.node("Mul", {silu, up}), inner, hidden, last, Bias::None);
}

/// The experts' outputs added, each times its share of a softmax over all of them: every expert sees every token.
/// The experts are parts of their own, "expert_0/blocks.N/...", and may run at the same time.
Value mixture(Builder& g, const std::string& block, const Value& x, const Init& last) {
  const int64_t hidden = g.size("hidden");
  const int64_t experts = g.size("experts");
  std::vector<Value> shares;
  {
    const auto part = g.scope(block);
    const Value logits = dense(g, "router", x, hidden, experts, normal(kDeviation), Bias::None);
    const Value probabilities = g.node("Softmax", {logits}, {{"axis", int64_t{-1}}});
    shares = experts == 1 ? std::vector{probabilities}
                          : g.nodes("Split", {probabilities}, {{"axis", int64_t{-1}}, {"num_outputs", experts}},
                                    static_cast<int>(experts));
  }
  std::vector<Value> weighted;
  for (int64_t i = 0; i < experts; ++i) {
    const auto expert = g.scope("expert_" + std::to_string(i));
    const auto inside = g.scope(block);
    const Value y = swiglu(g, x, hidden, g.size("ffn"), last);
    weighted.push_back(g.node("Mul", {y, shares[static_cast<size_t>(i)]}));
  }
  const auto part = g.scope(block);
  return g.node("Sum", weighted);
}

/// 0.02 over the root of the number of additions to the residual stream.
Init residual_init(int64_t layers) {
  return normal(kDeviation / std::sqrt(2.0 * static_cast<double>(layers)));
}

}  // namespace

void build_llama(Builder& g) {
  const int64_t hidden = g.size("hidden");
  const Init last = residual_init(g.size("layers"));
  Value h;
  Value mask;
  Rotary rotary;
  Dim sequence;
  {
    const auto part = g.scope("embed");
    const Tokens tokens = token_input(g, kDefaultTokens);
    sequence = tokens.sequence;
    h = g.node("Gather", {g.weight("weight", {g.size("vocab"), hidden}, normal(kDeviation)), tokens.ids});
    mask = causal_mask(g, tokens);
    rotary = rotary_tables(g, tokens, head_width(g));
  }
  for (int64_t i = 0; i < g.size("layers"); ++i) {
    const auto part = g.scope("blocks." + std::to_string(i));
    const Value attended = grouped_attention(g, rms_norm(g, "norm1", h, hidden, kEpsilon), rotary, mask, last);
    h = g.node("Add", {h, attended});
    const Value normed = rms_norm(g, "norm2", h, hidden, kEpsilon);
    const auto inside = g.scope("mlp");
    h = g.node("Add", {h, swiglu(g, normed, hidden, g.size("ffn"), last)});
  }
  const auto part = g.scope("head");
  h = rms_norm(g, "norm", h, hidden, kEpsilon);
  h = dense(g, "lm", h, hidden, g.size("vocab"), normal(kDeviation), Bias::None);
  g.output(h, "y", {g.batch(), sequence, g.size("vocab")});
}

void build_moe(Builder& g) {
  const int64_t hidden = g.size("hidden");
  const Init last = residual_init(g.size("layers"));
  const AttentionSize attention{hidden, g.size("heads"), normal(kDeviation), last};
  Value h;
  Value mask;
  Dim sequence;
  {
    const auto part = g.scope("embed");
    const Tokens tokens = token_input(g, kDefaultTokens);
    sequence = tokens.sequence;
    const Value words =
        g.node("Gather", {g.weight("words", {g.size("vocab"), hidden}, normal(kDeviation)), tokens.ids});
    h = g.node("Add", {words, position_rows(g, "positions", normal(kDeviation), tokens)});
    mask = causal_mask(g, tokens);
  }
  for (int64_t i = 0; i < g.size("layers"); ++i) {
    const std::string block = "blocks." + std::to_string(i);
    Value normed;
    {
      const auto part = g.scope(block);
      h = g.node("Add", {h, self_attention(g, layer_norm(g, "ln1", h, hidden, kEpsilon), attention, mask)});
      normed = layer_norm(g, "ln2", h, hidden, kEpsilon);
    }
    const Value mixed = mixture(g, block, normed, last);
    const auto part = g.scope(block);
    h = g.node("Add", {h, mixed});
  }
  const auto part = g.scope("head");
  h = layer_norm(g, "ln", h, hidden, kEpsilon);
  h = dense(g, "lm", h, hidden, g.size("vocab"), normal(kDeviation), Bias::None);
  g.output(h, "y", {g.batch(), sequence, g.size("vocab")});
}

}  // namespace mpc::zoo
