// Small vision models: a plain MLP, inception-style branches, and a U-Net.

#include "models/families.h"
#include "models/layers.h"

#include <string>
#include <vector>

namespace mpc::zoo {
namespace {

constexpr int64_t kColours = 3;

/// One inception block: 1x1 | 1x1, 3x3 | 1x1, 3x3, 3x3 | pool, 1x1, each `width` wide; 4 * width channels.
Value inception_block(Builder& g, const Value& x, int64_t in, int64_t width) {
  const ConvSize reduce{.in = in, .out = width, .kernel = 1};
  const ConvSize square{.in = width, .out = width, .kernel = 3, .pad = 1};
  std::vector<Value> ends;
  {
    const auto branch = g.scope("branch_1x1");
    ends.push_back(conv_relu(g, "conv1", x, reduce));
  }
  {
    const auto branch = g.scope("branch_3x3");
    ends.push_back(conv_relu(g, "conv2", conv_relu(g, "conv1", x, reduce), square));
  }
  {
    const auto branch = g.scope("branch_5x5");  // two 3x3 see what one 5x5 sees
    const Value h = conv_relu(g, "conv2", conv_relu(g, "conv1", x, reduce), square);
    ends.push_back(conv_relu(g, "conv3", h, square));
  }
  {
    const auto branch = g.scope("branch_pool");
    ends.push_back(conv_relu(g, "conv1", max_pool(g, x, 3, 1, 1), reduce));
  }
  return g.node("Concat", ends, {{"axis", int64_t{1}}});
}

/// Two 3x3 convolutions with ReLU.
Value double_conv(Builder& g, const Value& x, int64_t in, int64_t out) {
  const Value h = conv_relu(g, "conv1", x, {.in = in, .out = out, .kernel = 3, .pad = 1});
  return conv_relu(g, "conv2", h, {.in = out, .out = out, .kernel = 3, .pad = 1});
}

}  // namespace

void build_mlp(Builder& g) {
  constexpr int64_t kPixels = 784;
  constexpr int64_t kClasses = 10;
  const int64_t hidden = g.size("hidden");
  Value h = g.float_input("x", {g.batch(), kPixels});
  int64_t width = kPixels;
  for (const char* layer : {"fc1", "fc2"}) {
    const Value sum = linear(g, layer, h, width, hidden);
    const auto inside = g.scope(layer);
    h = g.node("Relu", {sum});
    width = hidden;
  }
  g.output(linear(g, "fc3", h, hidden, kClasses), "y", {g.batch(), kClasses});
}

void build_inception(Builder& g) {
  const int64_t pixels = g.size("image");
  const int64_t width = g.size("width");
  const int64_t classes = g.size("classes");
  Value h = g.float_input("x", {g.batch(), kColours, pixels, pixels});
  {
    const auto stem = g.scope("stem");
    h = conv_relu(g, "conv1", h, {.in = kColours, .out = width, .kernel = 3, .stride = 2, .pad = 1});
    h = max_pool(g, h, 3, 2, 1);
  }
  int64_t channels = width;
  for (int64_t i = 0; i < g.size("blocks"); ++i) {
    const auto block = g.scope("blocks." + std::to_string(i));
    h = inception_block(g, h, channels, width);
    channels = 4 * width;
  }
  const auto head = g.scope("head");
  h = g.node("Flatten", {g.node("GlobalAveragePool", {h})}, {{"axis", int64_t{1}}});
  g.output(linear(g, "fc", h, channels, classes), "y", {g.batch(), classes});
}

void build_unet(Builder& g) {
  const int64_t pixels = g.size("image");
  const int64_t levels = g.size("levels");
  const int64_t classes = g.size("classes");
  int64_t width = g.size("width");
  if (pixels % (int64_t{1} << levels) != 0) {
    g.refuse("image " + std::to_string(pixels) + " cannot be halved " + std::to_string(levels) + " times");
  }
  Value h = g.float_input("x", {g.batch(), kColours, pixels, pixels});
  std::vector<Value> skips;
  int64_t channels = kColours;
  for (int64_t i = 0; i < levels; ++i) {
    const auto part = g.scope("down." + std::to_string(i));
    skips.push_back(double_conv(g, h, channels, width));
    h = max_pool(g, skips.back(), 2, 2, 0);
    channels = width;
    width *= 2;
  }
  {
    const auto part = g.scope("middle");
    h = double_conv(g, h, channels, width);
  }
  for (int64_t i = levels - 1; i >= 0; --i) {
    const auto part = g.scope("up." + std::to_string(i));
    const Value larger =
        g.node("Resize", {h, "", g.floats({1, 1, 2, 2})},
               {{"mode", "nearest"}, {"coordinate_transformation_mode", "asymmetric"}, {"nearest_mode", "floor"}});
    const Value joined = g.node("Concat", {larger, skips[static_cast<size_t>(i)]}, {{"axis", int64_t{1}}});
    h = double_conv(g, joined, width + width / 2, width / 2);
    width /= 2;
  }
  const auto head = g.scope("head");
  const ConvSize last{.in = width, .out = classes, .kernel = 1};
  h = conv(g, "conv", h, last, fan_in_uniform(last.fan_in()), Bias::Drawn);
  g.output(h, "y", {g.batch(), classes, pixels, pixels});
}

}  // namespace mpc::zoo
