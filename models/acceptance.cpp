// The models of the acceptance rows, with exactly the sizes and the parts (name prefixes) that the rows give.

#include "models/families.h"
#include "models/layers.h"

#include <string>
#include <vector>

namespace mpc::zoo {
namespace {

constexpr int64_t kClasses = 10;
constexpr int64_t kMnistPixels = 28;

/// Flatten of the images, as the first node of part `scope`.
Value flattened_images(Builder& g, std::string_view scope) {
  const Value x = g.float_input("x", {g.batch(), int64_t{1}, kMnistPixels, kMnistPixels});
  const auto inside = g.scope(scope);
  return g.node("Flatten", {x}, {{"axis", int64_t{1}}});
}

Value in_part(Builder& g, std::string_view scope, std::string_view op, const std::vector<Value>& inputs,
              const Attributes& attributes = {}) {
  const auto inside = g.scope(scope);
  return g.node(op, inputs, attributes);
}

/// Conv 3->16, ReLU, MaxPool 2 | Flatten, Linear `features`->10.
void build_cnn(Builder& g, int64_t pixels, int64_t features) {
  constexpr ConvSize kConv{.in = 3, .out = 16, .kernel = 3, .pad = 1};
  const Value x = g.float_input("x", {g.batch(), kConv.in, pixels, pixels});
  Value h;
  {
    const auto part = g.scope("features");
    h = conv(g, "conv", x, kConv, fan_in_uniform(kConv.fan_in()), Bias::Drawn);
    h = max_pool(g, g.node("Relu", {h}), 2, 2, 0);
  }
  const auto part = g.scope("classifier");
  h = g.node("Flatten", {h}, {{"axis", int64_t{1}}});
  g.output(linear(g, "fc", h, features, kClasses), "y", {g.batch(), kClasses});
}

/// A batch-first LSTM with zero initial states, in scope "lstm". The op is run with the sequence first, the layout that
/// every runtime has. The last hidden and cell states are outputs that nobody uses.
Value lstm(Builder& g, const Value& x, int64_t in, int64_t hidden) {
  const auto inside = g.scope("lstm");
  constexpr int64_t kGates = 4;  // in ONNX's order: input, output, forget, cell
  const Init init = fan_in_uniform(hidden);
  const Value w = g.weight("weight_ih", {1, kGates * hidden, in}, init);
  const Value r = g.weight("weight_hh", {1, kGates * hidden, hidden}, init);
  const Value b = g.weight("bias", {1, 2 * kGates * hidden}, init);
  const Value sequence_first = g.node("Transpose", {x}, {{"perm", std::vector<int64_t>{1, 0, 2}}});
  const Value y = g.nodes("LSTM", {sequence_first, w, r, b}, {{"hidden_size", hidden}}, 3).front();
  const Value squeezed = g.node("Squeeze", {y, g.ints("direction_axis", {1})});
  return g.node("Transpose", {squeezed}, {{"perm", std::vector<int64_t>{1, 0, 2}}});
}

}  // namespace

void build_two_linear(Builder& g) {
  const Value x = g.float_input("x", {g.batch(), int64_t{1000}});
  const Value h = linear(g, "layer1", x, 1000, 500);
  g.output(linear(g, "layer2", h, 500, 100), "y", {g.batch(), int64_t{100}});
}

void build_seqnet(Builder& g) {
  Value h = linear(g, "lin1", flattened_images(g, "lin1"), 784, 200);
  h = in_part(g, "lin1", "LogSoftmax", {h}, {{"axis", int64_t{1}}});
  g.output(linear(g, "lin2", h, 200, kClasses), "y", {g.batch(), kClasses});
}

void build_seqnet_ddp(Builder& g) {
  Value h = linear(g, "lin1", flattened_images(g, "lin1"), 784, 200);
  h = in_part(g, "lin1", "Sigmoid", {h});
  h = linear(g, "lin2", h, 200, 200);
  h = in_part(g, "lin2", "LogSoftmax", {h}, {{"axis", int64_t{1}}});
  g.output(linear(g, "lin3", h, 200, kClasses), "y", {g.batch(), kClasses});
}

void build_tiny_linear(Builder& g) {
  const Value x = g.float_input("x", {g.batch(), int64_t{10}});
  g.output(linear(g, "linear", x, 10, 1), "y", {g.batch(), int64_t{1}});
}

// 64x64 images leave 16x32x32 = 16384 features, and the layer expects 4096: the defect is the point of this model.
void build_cnn_classifier_broken(Builder& g) {
  build_cnn(g, 64, 4096);
}
void build_cnn_classifier(Builder& g) {
  build_cnn(g, 64, 16384);
}
void build_cnn_classifier_32(Builder& g) {
  build_cnn(g, 32, 4096);
}

void build_encoder_decoder(Builder& g) {
  constexpr int64_t kVocabulary = 100;
  constexpr int64_t kEmbedding = 32;
  constexpr int64_t kHidden = 64;
  constexpr int64_t kDefaultSequence = 20;
  Dim sequence = g.size("sequence");
  if (g.size("sequence") == 0) {
    sequence = "sequence";
    g.metadata("mpc.default_sequence", std::to_string(kDefaultSequence));
  }
  const Value ids = g.int_input("ids", {g.batch(), sequence});
  Value h;
  {
    const auto part = g.scope("encoder");
    {
      const auto inside = g.scope("embedding");
      h = g.node("Gather", {g.weight("weight", {kVocabulary, kEmbedding}, normal(1.0)), ids});
    }
    h = lstm(g, h, kEmbedding, kHidden);
  }
  {
    const auto part = g.scope("decoder");
    h = lstm(g, h, kHidden, kHidden);
    h = dense(g, "linear", h, kHidden, kEmbedding, fan_in_uniform(kHidden), Bias::Drawn);
  }
  const auto part = g.scope("classifier");
  h = g.node("ReduceMean", {h, g.ints("sequence_axis", {1})}, {{"keepdims", int64_t{0}}});
  g.output(linear(g, "fc", h, kEmbedding, kClasses), "y", {g.batch(), kClasses});
}

void build_hybrid(Builder& g) {
  constexpr int64_t kFloat = 1;  // TensorProto::FLOAT
  const Value x = g.float_input("x", {g.batch(), int64_t{10}});
  Value h;
  {
    const auto part = g.scope("preprocess");
    h = g.node("Cast", {x}, {{"to", kFloat}});
    h = g.node("Div", {h, g.number(2.0F)});
  }
  g.output(linear(g, "model", h, 10, 10), "y", {g.batch(), int64_t{10}});
}

void build_hybrid_trainable(Builder& g) {
  const Value x = g.float_input("x", {g.batch(), int64_t{10}});
  const Value h = in_part(g, "preprocess", "Relu", {linear(g, "preprocess", x, 10, 10)});
  g.output(linear(g, "model", h, 10, 10), "y", {g.batch(), int64_t{10}});
}

void build_branches(Builder& g) {
  constexpr int64_t kWidth = 256;
  const Value x = g.float_input("x", {g.batch(), kWidth});
  std::vector<Value> ends;
  for (const char* branch : {"branch_a", "branch_b"}) {
    const auto part = g.scope(branch);
    Value h = x;
    for (const char* layer : {"lin1", "lin2", "lin3"}) h = linear(g, layer, h, kWidth, kWidth);
    ends.push_back(h);
  }
  const auto part = g.scope("join");
  const Value joined = g.node("Concat", ends, {{"axis", int64_t{1}}});
  g.output(linear(g, "fc", joined, 2 * kWidth, kClasses), "y", {g.batch(), kClasses});
}

void build_many_small(Builder& g) {
  constexpr int64_t kWidth = 64;
  constexpr int64_t kSmall = 8;
  const Value x = g.float_input("x", {g.batch(), kWidth});
  std::vector<Value> small;  // the eight values that cross from front/ to back/, 8 wide each
  {
    const auto part = g.scope("front");
    const Value h = g.node("Relu", {linear(g, "lin", x, kWidth, kWidth)});
    for (int i = 0; i < 7; ++i) small.push_back(linear(g, "small_" + std::to_string(i), h, kWidth, kSmall));
    small.push_back(g.node("Relu", {small.back()}));  // cheap: back/ may compute it again from small[6]
  }
  const auto part = g.scope("back");
  std::vector<Value> parts;
  for (const char* op : {"Relu", "Tanh", "Sigmoid", "Abs", "Neg"}) parts.push_back(g.node(op, {small.front()}));
  parts.insert(parts.end(), small.begin() + 1, small.end());
  const Value joined = g.node("Concat", parts, {{"axis", int64_t{1}}});
  const auto width = kSmall * static_cast<int64_t>(parts.size());
  g.output(linear(g, "fc", joined, width, kClasses), "y", {g.batch(), kClasses});
}

void build_residual_cut(Builder& g) {
  constexpr int64_t kWidth = 64;
  const Value x = g.float_input("x", {g.batch(), kWidth});
  const Value stem = in_part(g, "stage0", "Relu", {linear(g, "stage0", x, kWidth, kWidth)});
  // the residual block begins in stage1 and is added in stage2: a cut between them crosses block and skip
  Value h = in_part(g, "stage1", "Relu", {linear(g, "stage1", stem, kWidth, kWidth)});
  h = in_part(g, "stage2", "Add", {linear(g, "stage2", h, kWidth, kWidth), stem});
  // stem skips stage1 and stage2 on its way here
  {
    const auto part = g.scope("stage3");
    h = g.node("Relu", {linear(g, "lin", h, kWidth, kWidth)});
    h = linear(g, "head", g.node("Add", {h, stem}), kWidth, kClasses);
  }
  g.output(h, "y", {g.batch(), kClasses});
}

void build_tied_embedding(Builder& g) {
  const int64_t vocabulary = g.size("vocab");
  const int64_t hidden = g.size("hidden");
  const int64_t sequence = g.size("sequence");
  const Value ids = g.int_input("ids", {g.batch(), sequence});
  Value table;
  Value h;
  {
    const auto part = g.scope("embed");
    table = g.weight("weight", {vocabulary, hidden}, fan_in_uniform(hidden));
    h = g.node("Gather", {table, ids});
  }
  h = dense(g, "body", h, hidden, hidden, fan_in_uniform(hidden), Bias::Drawn);
  const auto part = g.scope("head");
  const Value transposed = g.node("Transpose", {table}, {{"perm", std::vector<int64_t>{1, 0}}});
  g.output(g.node("MatMul", {h, transposed}), "y", {g.batch(), sequence, vocabulary});
}

}  // namespace mpc::zoo
