#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace mpc::zoo {

/// How the elements of a weight are drawn.
struct Init {
  enum class Kind : uint8_t { Splat, Uniform, Normal };
  Kind kind;
  double
      scale;  // Splat: the value. Uniform: the bound, elements are in [-scale, scale). Normal: the standard deviation.
};

/// Every element is `value`.
constexpr Init splat(double value) {
  return {Init::Kind::Splat, value};
}
/// Uniform in [-bound, bound).
constexpr Init uniform(double bound) {
  return {Init::Kind::Uniform, bound};
}
/// Near normal with mean 0 (a sum of twelve uniforms), within six deviations.
constexpr Init normal(double deviation) {
  return {Init::Kind::Normal, deviation};
}
/// The default of PyTorch's Linear and Conv2d: uniform in +-1/sqrt(fan_in).
Init fan_in_uniform(int64_t fan_in);
/// He's initialization, uniform in +-sqrt(6/fan_in): keeps the scale through a convolution and a ReLU.
Init he_uniform(int64_t fan_in);

/// The key of a tensor's random stream.
uint64_t stream_key(uint64_t seed, std::string_view tensor_name);

/// Elements [first, first + out.size()) of the stream `key`. Element i depends on (init, key, i) alone, and only
/// integer arithmetic and single IEEE operations are used, so that every machine draws the same bits.
void fill(const Init& init, uint64_t key, int64_t first, std::span<float> out);

/// The one value that stands for all elements when weights are left out; chosen to keep activations finite.
float representative(const Init& init);

}  // namespace mpc::zoo
