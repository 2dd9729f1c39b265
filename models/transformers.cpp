// BERT (arXiv:1810.04805), GPT-2 (Radford et al., 2019) and ViT (arXiv:2010.11929). The parts are embed/, blocks.N/
// and head/.

#include "models/families.h"
#include "models/layers.h"

#include <cmath>
#include <string>

namespace mpc::zoo {
namespace {

constexpr double kDeviation = 0.02;  // of all three papers' code
constexpr int64_t kFeedForwardFactor = 4;
constexpr int64_t kDefaultTokens = 128;

/// Linear, Gelu, Linear in scope "mlp". x (batch, sequence, hidden).
Value feed_forward(Builder& g, const Value& x, int64_t hidden, const char* gelu, const Init& last) {
  const auto inside = g.scope("mlp");
  const int64_t inner = kFeedForwardFactor * hidden;
  Value h = dense(g, "up", x, hidden, inner, normal(kDeviation), Bias::Zero);
  h = g.node("Gelu", {h}, {{"approximate", gelu}});
  return dense(g, "down", h, inner, hidden, last, Bias::Zero);
}

/// x + attention(norm(x)), then x + feed_forward(norm(x)).
Value pre_norm_block(Builder& g, const Value& x, const AttentionSize& attention, const char* gelu, double epsilon,
                     const Value& mask) {
  const Value attended = self_attention(g, layer_norm(g, "ln1", x, attention.hidden, epsilon), attention, mask);
  const Value h = g.node("Add", {x, attended});
  const Value normed = layer_norm(g, "ln2", h, attention.hidden, epsilon);
  return g.node("Add", {h, feed_forward(g, normed, attention.hidden, gelu, attention.out)});
}

/// norm(x + attention(x)), then norm(x + feed_forward(x)).
Value post_norm_block(Builder& g, const Value& x, const AttentionSize& attention, double epsilon) {
  const Value attended = g.node("Add", {x, self_attention(g, x, attention, "")});
  const Value h = layer_norm(g, "ln1", attended, attention.hidden, epsilon);
  const Value sum = g.node("Add", {h, feed_forward(g, h, attention.hidden, "none", attention.out)});
  return layer_norm(g, "ln2", sum, attention.hidden, epsilon);
}

/// (batch, 1, hidden): the class token once per image.
Value class_token(Builder& g, const Value& patches, int64_t hidden) {
  const Value token = g.weight("class_token", {1, 1, hidden}, normal(kDeviation));
  const Value batch = g.node("Shape", {patches}, {{"start", int64_t{0}}, {"end", int64_t{1}}});
  const Value shape = g.node("Concat", {batch, g.ints("token_shape", {1, hidden})}, {{"axis", int64_t{0}}});
  return g.node("Expand", {token, shape});
}

}  // namespace

void build_bert(Builder& g) {
  constexpr double kEpsilon = 1e-12;
  constexpr int64_t kTokenTypes = 2;
  const int64_t hidden = g.size("hidden");
  Value h;
  Dim sequence;
  {
    const auto part = g.scope("embed");
    const Tokens tokens = token_input(g, kDefaultTokens);
    sequence = tokens.sequence;
    const Init init = normal(kDeviation);
    const Value words = g.node("Gather", {g.weight("words", {g.size("vocab"), hidden}, init), tokens.ids});
    h = g.node("Add", {words, position_rows(g, "positions", init, tokens)});
    // one segment: every token is of type 0
    const Value types = g.weight("token_types", {kTokenTypes, hidden}, init);
    h = g.node("Add", {h, g.node("Gather", {types, g.integer("token_type", 0)})});
    h = layer_norm(g, "ln", h, hidden, kEpsilon);
  }
  const AttentionSize attention{hidden, g.size("heads"), normal(kDeviation), normal(kDeviation)};
  for (int64_t i = 0; i < g.size("layers"); ++i) {
    const auto part = g.scope("blocks." + std::to_string(i));
    h = post_norm_block(g, h, attention, kEpsilon);
  }
  g.output(h, "y", {g.batch(), sequence, hidden});
}

void build_gpt2(Builder& g) {
  constexpr double kEpsilon = 1e-5;
  constexpr double kPositionDeviation = 0.01;
  const int64_t hidden = g.size("hidden");
  const int64_t layers = g.size("layers");
  Value h;
  Value mask;
  Value table;
  Dim sequence;
  {
    const auto part = g.scope("embed");
    const Tokens tokens = token_input(g, kDefaultTokens);
    sequence = tokens.sequence;
    table = g.weight("wte", {g.size("vocab"), hidden}, normal(kDeviation));
    const Value words = g.node("Gather", {table, tokens.ids});
    h = g.node("Add", {words, position_rows(g, "wpe", normal(kPositionDeviation), tokens)});
    mask = causal_mask(g, tokens);
  }
  // GPT-2 scales what is added to the residual stream by the number of additions
  const Init residual = normal(kDeviation / std::sqrt(2.0 * static_cast<double>(layers)));
  const AttentionSize attention{hidden, g.size("heads"), normal(kDeviation), residual};
  for (int64_t i = 0; i < layers; ++i) {
    const auto part = g.scope("blocks." + std::to_string(i));
    h = pre_norm_block(g, h, attention, "tanh", kEpsilon, mask);
  }
  const auto part = g.scope("head");
  h = layer_norm(g, "ln", h, hidden, kEpsilon);
  const Value transposed = g.node("Transpose", {table}, {{"perm", std::vector<int64_t>{1, 0}}});
  g.output(g.node("MatMul", {h, transposed}), "y", {g.batch(), sequence, g.size("vocab")});
}

void build_vit(Builder& g) {
  constexpr double kEpsilon = 1e-6;
  constexpr int64_t kColours = 3;
  const int64_t hidden = g.size("hidden");
  const int64_t patch = g.size("patch");
  const int64_t pixels = g.size("image");
  const int64_t classes = g.size("classes");
  if (patch > pixels) g.refuse("a patch of " + std::to_string(patch) + " pixels is larger than the image");
  const int64_t patches = (pixels / patch) * (pixels / patch);
  Value h;
  {
    const auto part = g.scope("embed");
    const Value x = g.float_input("x", {g.batch(), kColours, pixels, pixels});
    const ConvSize c{.in = kColours, .out = hidden, .kernel = patch, .stride = patch};
    h = conv(g, "patches", x, c, fan_in_uniform(c.fan_in()), Bias::Drawn);
    h = g.node("Reshape", {h, g.ints("patches_shape", {0, hidden, patches})});
    h = g.node("Transpose", {h}, {{"perm", std::vector<int64_t>{0, 2, 1}}});
    h = g.node("Concat", {class_token(g, h, hidden), h}, {{"axis", int64_t{1}}});
    h = g.node("Add", {h, g.weight("positions", {1, patches + 1, hidden}, normal(kDeviation))});
  }
  const AttentionSize attention{hidden, g.size("heads"), normal(kDeviation), normal(kDeviation)};
  for (int64_t i = 0; i < g.size("layers"); ++i) {
    const auto part = g.scope("blocks." + std::to_string(i));
    h = pre_norm_block(g, h, attention, "none", kEpsilon, "");
  }
  const auto part = g.scope("head");
  h = layer_norm(g, "ln", h, hidden, kEpsilon);
  h = g.node("Gather", {h, g.integer("class_token", 0)}, {{"axis", int64_t{1}}});
  g.output(linear(g, "fc", h, hidden, classes), "y", {g.batch(), classes});
}

}  // namespace mpc::zoo
