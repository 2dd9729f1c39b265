#include "models/layers.h"

#include <cmath>

namespace mpc::zoo {
namespace {

// Large against any score, and finite: a row that is masked whole gives an even distribution and not NaN.
constexpr float kMaskedScore = -1e9F;

Init bias_init(Bias bias, int64_t fan_in) {
  return bias == Bias::Drawn ? fan_in_uniform(fan_in) : splat(0.0);
}

}  // namespace

Value linear(Builder& g, std::string_view scope, const Value& x, int64_t in, int64_t out) {
  const auto inside = g.scope(scope);
  const Value weight = g.weight("weight", {out, in}, fan_in_uniform(in));
  const Value bias = g.weight("bias", {out}, fan_in_uniform(in));
  return g.node("Gemm", {x, weight, bias}, {{"transB", int64_t{1}}});
}

Value dense(Builder& g, std::string_view scope, const Value& x, int64_t in, int64_t out, const Init& init, Bias bias) {
  const auto inside = g.scope(scope);
  const Value product = g.node("MatMul", {x, g.weight("weight", {in, out}, init)});
  return bias == Bias::None ? product : g.node("Add", {product, g.weight("bias", {out}, bias_init(bias, in))});
}

Value conv(Builder& g, std::string_view scope, const Value& x, const ConvSize& c, const Init& init, Bias bias) {
  const auto inside = g.scope(scope);
  std::vector<Value> inputs = {x, g.weight("weight", {c.out, c.in, c.kernel, c.kernel}, init)};
  if (bias != Bias::None) inputs.push_back(g.weight("bias", {c.out}, bias_init(bias, c.fan_in())));
  return g.node("Conv", inputs,
                {{"kernel_shape", std::vector<int64_t>{c.kernel, c.kernel}},
                 {"strides", std::vector<int64_t>{c.stride, c.stride}},
                 {"pads", std::vector<int64_t>{c.pad, c.pad, c.pad, c.pad}}});
}

Value conv_relu(Builder& g, std::string_view scope, const Value& x, const ConvSize& c) {
  const Value convolved = conv(g, scope, x, c, he_uniform(c.fan_in()), Bias::Drawn);
  const auto inside = g.scope(scope);
  return g.node("Relu", {convolved});
}

Value batch_norm(Builder& g, std::string_view scope, const Value& x, int64_t channels, double scale) {
  const auto inside = g.scope(scope);
  const Value weight = g.weight("weight", {channels}, splat(scale));
  const Value bias = g.weight("bias", {channels}, splat(0.0));
  const Value mean = g.weight("running_mean", {channels}, splat(0.0));
  const Value variance = g.weight("running_var", {channels}, splat(1.0));
  return g.node("BatchNormalization", {x, weight, bias, mean, variance}, {{"epsilon", 1e-5}});
}

Value max_pool(Builder& g, const Value& x, int64_t kernel, int64_t stride, int64_t pad) {
  return g.node("MaxPool", {x},
                {{"kernel_shape", std::vector<int64_t>{kernel, kernel}},
                 {"strides", std::vector<int64_t>{stride, stride}},
                 {"pads", std::vector<int64_t>{pad, pad, pad, pad}}});
}

Value layer_norm(Builder& g, std::string_view scope, const Value& x, int64_t width, double epsilon) {
  const auto inside = g.scope(scope);
  const Value weight = g.weight("weight", {width}, splat(1.0));
  const Value bias = g.weight("bias", {width}, splat(0.0));
  return g.node("LayerNormalization", {x, weight, bias}, {{"axis", int64_t{-1}}, {"epsilon", epsilon}});
}

Value rms_norm(Builder& g, std::string_view scope, const Value& x, int64_t width, double epsilon) {
  const auto inside = g.scope(scope);
  const Value weight = g.weight("weight", {width}, splat(1.0));
  return g.node("RMSNormalization", {x, weight}, {{"axis", int64_t{-1}}, {"epsilon", epsilon}});
}

int64_t head_width(const Builder& g) {
  const int64_t hidden = g.size("hidden");
  const int64_t heads = g.size("heads");
  if (hidden % heads != 0) {
    g.refuse("hidden " + std::to_string(hidden) + " cannot be shared by " + std::to_string(heads) + " heads");
  }
  return hidden / heads;
}

Value split_heads(Builder& g, const Value& x, int64_t heads, int64_t head_width) {
  const Value apart = g.node("Reshape", {x, g.ints("heads_shape", {0, 0, heads, head_width})});
  return g.node("Transpose", {apart}, {{"perm", std::vector<int64_t>{0, 2, 1, 3}}});
}

Value attend(Builder& g, const Value& q, const Value& k, const Value& v, int64_t heads, int64_t head_width,
             const Value& mask) {
  const Value scale = g.number(static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_width))));
  const Value k_transposed = g.node("Transpose", {k}, {{"perm", std::vector<int64_t>{0, 1, 3, 2}}});
  Value scores = g.node("MatMul", {g.node("Mul", {q, scale}), k_transposed});  // (batch, heads, sequence, sequence)
  if (!mask.empty()) scores = g.node("Where", {mask, scores, g.number(kMaskedScore)});
  const Value weights = g.node("Softmax", {scores}, {{"axis", int64_t{-1}}});
  const Value mixed = g.node("MatMul", {weights, v});
  const Value together = g.node("Transpose", {mixed}, {{"perm", std::vector<int64_t>{0, 2, 1, 3}}});
  return g.node("Reshape", {together, g.ints("joined_shape", {0, 0, heads * head_width})});
}

Value self_attention(Builder& g, const Value& x, const AttentionSize& a, const Value& mask) {
  const auto inside = g.scope("attn");
  const int64_t width = head_width(g);
  const Value q = split_heads(g, dense(g, "q", x, a.hidden, a.hidden, a.in, Bias::Zero), a.heads, width);
  const Value k = split_heads(g, dense(g, "k", x, a.hidden, a.hidden, a.in, Bias::Zero), a.heads, width);
  const Value v = split_heads(g, dense(g, "v", x, a.hidden, a.hidden, a.in, Bias::Zero), a.heads, width);
  const Value mixed = attend(g, q, k, v, a.heads, width, mask);
  return dense(g, "out", mixed, a.hidden, a.hidden, a.out, Bias::Zero);
}

Tokens token_input(Builder& g, int64_t default_sequence) {
  Tokens tokens;
  if (g.size("sequence") > 0) {
    tokens.sequence = g.size("sequence");
    tokens.ids = g.int_input("ids", {g.batch(), tokens.sequence});
    tokens.length = g.ints("sequence_length", {g.size("sequence")});
  } else {
    tokens.sequence = "sequence";
    g.metadata("mpc.default_sequence", std::to_string(default_sequence));
    tokens.ids = g.int_input("ids", {g.batch(), tokens.sequence});
    tokens.length = g.node("Shape", {tokens.ids}, {{"start", int64_t{1}}, {"end", int64_t{2}}});
  }
  return tokens;
}

Value token_positions(Builder& g, const Tokens& tokens) {
  const Value limit = g.node("Squeeze", {tokens.length, g.ints("axes", {0})});
  return g.node("Range", {g.integer("start", 0), limit, g.integer("delta", 1)});
}

Value causal_mask(Builder& g, const Tokens& tokens) {
  const auto inside = g.scope("mask");
  const Value positions = token_positions(g, tokens);
  const Value keys = g.node("Unsqueeze", {positions, g.ints("row", {0})});
  const Value queries = g.node("Unsqueeze", {positions, g.ints("column", {1})});
  return g.node("LessOrEqual", {keys, queries});
}

Value position_rows(Builder& g, std::string_view name, const Init& init, const Tokens& tokens) {
  const int64_t rows = g.size("positions");
  if (g.size("sequence") > rows) {
    g.refuse("sequence " + std::to_string(g.size("sequence")) + " is longer than the " + std::to_string(rows) +
             " positions");
  }
  Value table = g.weight(name, {rows, g.size("hidden")}, init);
  if (g.size("sequence") == rows) return table;
  return g.node("Slice", {table, g.ints("starts", {0}), tokens.length, g.ints("axes", {0})});
}

}  // namespace mpc::zoo
