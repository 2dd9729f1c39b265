#include "models/weights.h"

#include "compiler/base/random.h"

#include <cmath>

namespace mpc::zoo {
namespace {

// SplitMix64 as a counter-based generator: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
uint64_t draw(uint64_t key, uint64_t counter) {
  constexpr uint64_t kGolden = 0x9E3779B97F4A7C15ULL;
  return mix_bits(key + kGolden * counter);
}

/// The sum of the four 16-bit parts of `bits`.
int64_t sum_of_parts(uint64_t bits) {
  return static_cast<int64_t>((bits & 0xFFFF) + ((bits >> 16) & 0xFFFF) + ((bits >> 32) & 0xFFFF) + (bits >> 48));
}

double uniform_unit(uint64_t key, uint64_t i) {
  const auto bits = static_cast<int64_t>(draw(key, i) >> 11);         // 53 bits
  return static_cast<double>(bits - (int64_t{1} << 52)) * 0x1.0p-52;  // [-1, 1), exact
}

double normal_unit(uint64_t key, uint64_t i) {
  constexpr int64_t kMean = int64_t{6} * 65535;  // twelve parts, each uniform in 0..65535
  int64_t sum = 0;
  for (uint64_t part = 0; part < 3; ++part) sum += sum_of_parts(draw(key, 3 * i + part));
  // the variance of the sum is 12 * (65536^2 - 1) / 12: its deviation is 65536 to ten digits
  return static_cast<double>(sum - kMean) * 0x1.0p-16;
}

}  // namespace

Init fan_in_uniform(int64_t fan_in) {
  return uniform(1.0 / std::sqrt(static_cast<double>(fan_in)));
}

Init he_uniform(int64_t fan_in) {
  return uniform(std::sqrt(6.0 / static_cast<double>(fan_in)));
}

uint64_t stream_key(uint64_t seed, std::string_view tensor_name) {
  uint64_t hash = 0xCBF29CE484222325ULL;  // FNV-1a
  for (const char c : tensor_name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  return mix_bits(hash + mix_bits(seed));
}

void fill(const Init& init, uint64_t key, int64_t first, std::span<float> out) {
  auto i = static_cast<uint64_t>(first);
  switch (init.kind) {
    case Init::Kind::Splat:
      for (float& element : out) element = static_cast<float>(init.scale);
      return;
    case Init::Kind::Uniform:
      for (float& element : out) element = static_cast<float>(init.scale * uniform_unit(key, i++));
      return;
    case Init::Kind::Normal:
      for (float& element : out) element = static_cast<float>(init.scale * normal_unit(key, i++));
      return;
  }
}

float representative(const Init& init) {
  // He's bound squared is 6/fan_in. A sixth of the square then is at most 1/fan_in for every initialization in use: a
  // layer averages its input, and no depth of layers overflows.
  constexpr double kPart = 1.0 / 6.0;
  return static_cast<float>(init.kind == Init::Kind::Splat ? init.scale : kPart * init.scale * init.scale);
}

}  // namespace mpc::zoo
