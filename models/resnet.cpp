// ResNet (He et al., arXiv:1512.03385; the stride on the 3x3 as torchvision has it), with BatchNormalization nodes in
// their inference form.

#include "models/families.h"
#include "models/layers.h"

#include <array>
#include <string>

namespace mpc::zoo {
namespace {

// The running statistics are those of no data, so no norm brings a block's sum back to scale. A small scale of the
// last norm of each block keeps the sums of sixteen blocks near the scale of the first.
constexpr double kLastScaleOfBlock = 0.25;

enum class BlockKind : uint8_t { Basic, Bottleneck };

Value conv_norm(Builder& g, const std::string& index, const Value& x, const ConvSize& c, double scale) {
  const Value h = conv(g, "conv" + index, x, c, he_uniform(c.fan_in()), Bias::None);
  return batch_norm(g, "bn" + index, h, c.out, scale);
}

Value basic_body(Builder& g, const Value& x, int64_t in, int64_t width, int64_t stride) {
  const ConvSize first{.in = in, .out = width, .kernel = 3, .stride = stride, .pad = 1};
  const ConvSize second{.in = width, .out = width, .kernel = 3, .pad = 1};
  const Value h = g.node("Relu", {conv_norm(g, "1", x, first, 1.0)});
  return conv_norm(g, "2", h, second, kLastScaleOfBlock);
}

Value bottleneck_body(Builder& g, const Value& x, int64_t in, int64_t width, int64_t stride) {
  const ConvSize second{.in = width, .out = width, .kernel = 3, .stride = stride, .pad = 1};
  Value h = g.node("Relu", {conv_norm(g, "1", x, {.in = in, .out = width, .kernel = 1}, 1.0)});
  h = g.node("Relu", {conv_norm(g, "2", h, second, 1.0)});
  return conv_norm(g, "3", h, {.in = width, .out = 4 * width, .kernel = 1}, kLastScaleOfBlock);
}

Value block(Builder& g, BlockKind kind, const Value& x, int64_t in, int64_t width, int64_t stride) {
  const bool basic = kind == BlockKind::Basic;
  const int64_t out = basic ? width : 4 * width;
  const Value body = basic ? basic_body(g, x, in, width, stride) : bottleneck_body(g, x, in, width, stride);
  Value skip = x;
  if (stride != 1 || in != out) {
    const auto downsample = g.scope("downsample");
    skip = conv_norm(g, "", x, {.in = in, .out = out, .kernel = 1, .stride = stride}, 1.0);
  }
  return g.node("Relu", {g.node("Add", {body, skip})});
}

void build_resnet(Builder& g, BlockKind kind, const std::array<int, 4>& blocks_per_layer) {
  constexpr int64_t kColours = 3;
  const int64_t pixels = g.size("image");
  const int64_t classes = g.size("classes");
  int64_t width = g.size("width");
  Value h = g.float_input("x", {g.batch(), kColours, pixels, pixels});
  {
    const auto stem = g.scope("stem");
    const ConvSize first{.in = kColours, .out = width, .kernel = 7, .stride = 2, .pad = 3};
    h = max_pool(g, g.node("Relu", {conv_norm(g, "1", h, first, 1.0)}), 3, 2, 1);
  }
  int64_t channels = width;
  for (size_t layer = 0; layer < blocks_per_layer.size(); ++layer) {
    for (int i = 0; i < blocks_per_layer[layer]; ++i) {
      const auto part = g.scope("layer" + std::to_string(layer + 1) + "." + std::to_string(i));
      h = block(g, kind, h, channels, width, layer > 0 && i == 0 ? 2 : 1);
      channels = kind == BlockKind::Basic ? width : 4 * width;
    }
    width *= 2;
  }
  const auto head = g.scope("head");
  h = g.node("Flatten", {g.node("GlobalAveragePool", {h})}, {{"axis", int64_t{1}}});
  g.output(linear(g, "fc", h, channels, classes), "y", {g.batch(), classes});
}

}  // namespace

void build_resnet18(Builder& g) {
  build_resnet(g, BlockKind::Basic, {2, 2, 2, 2});
}
void build_resnet50(Builder& g) {
  build_resnet(g, BlockKind::Bottleneck, {3, 4, 6, 3});
}

}  // namespace mpc::zoo
