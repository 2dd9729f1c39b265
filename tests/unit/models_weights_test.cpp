#include "models/weights.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

using namespace mpc::zoo;

std::vector<float> drawn(const Init& init, size_t count, uint64_t seed = 0) {
  std::vector<float> out(count);
  fill(init, stream_key(seed, "layer1/weight"), 0, out);
  return out;
}

struct Moments {
  double mean = 0;
  double deviation = 0;
};

Moments moments(const std::vector<float>& values) {
  Moments m;
  for (const float v : values) m.mean += v;
  m.mean /= static_cast<double>(values.size());
  for (const float v : values) m.deviation += (v - m.mean) * (v - m.mean);
  m.deviation = std::sqrt(m.deviation / static_cast<double>(values.size()));
  return m;
}

}  // namespace

TEST_CASE("weights: the stream has the same bits on every machine") {
  // computed by a separate program in arbitrary precision
  std::vector<uint32_t> bits;
  for (const float v : drawn(uniform(1.0), 3)) bits.push_back(std::bit_cast<uint32_t>(v));
  for (const float v : drawn(normal(0.02), 3)) bits.push_back(std::bit_cast<uint32_t>(v));
  CHECK(bits == std::vector<uint32_t>{0x3e2dfa68, 0xbf0ae7f1, 0x3edf59b0, 0xbce861ec, 0xbd290dc3, 0x3bd8570a});
}

TEST_CASE("weights: any part of a stream can be drawn alone") {
  for (const Init& init : {uniform(0.5), normal(0.5), splat(3.0)}) {
    const std::vector<float> whole = drawn(init, 1000);
    std::vector<float> part(100);
    fill(init, stream_key(0, "layer1/weight"), 450, part);
    CHECK(part == std::vector<float>(whole.begin() + 450, whole.begin() + 550));
  }
}

TEST_CASE("weights: streams of other seeds and other names are others") {
  CHECK(drawn(uniform(1.0), 8, 0) != drawn(uniform(1.0), 8, 1));
  CHECK(stream_key(0, "a") != stream_key(0, "b"));
  CHECK(stream_key(0, "a") != stream_key(1, "a"));
}

TEST_CASE("weights: the uniform and the normal have their moments") {
  constexpr size_t kCount = 200'000;
  // the mean of n draws strays by deviation / sqrt(n) = 0.0013 and 0.0022, the deviation by less: five of those
  const Moments u = moments(drawn(uniform(1.0), kCount));
  CHECK(std::abs(u.mean) < 0.0065);
  CHECK(std::abs(u.deviation - 1.0 / std::sqrt(3.0)) < 0.005);
  const Moments n = moments(drawn(normal(1.0), kCount));
  CHECK(std::abs(n.mean) < 0.011);
  CHECK(std::abs(n.deviation - 1.0) < 0.01);
  for (const float v : drawn(uniform(0.25), kCount)) REQUIRE((v >= -0.25F && v < 0.25F));
}

TEST_CASE("weights: the bounds follow the fan-in") {
  CHECK(fan_in_uniform(100).scale == doctest::Approx(0.1).epsilon(1e-15));
  CHECK(he_uniform(6).scale == doctest::Approx(1.0).epsilon(1e-15));
  CHECK(representative(splat(1.0)) == 1.0F);
  // He's: 1/fan_in to the rounding of the square root
  CHECK(representative(he_uniform(4)) == doctest::Approx(0.25).epsilon(1e-7));
}
