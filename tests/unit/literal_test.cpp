#include "compiler/base/literal.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include <doctest/doctest.h>

#include "compiler/base/half.h"
#include "tests/unit/helpers.h"

namespace mpc {
namespace {

TEST_CASE("half: every f16 survives the way to float and back") {
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const f16 half{static_cast<uint16_t>(bits)};
    const float value = to_float(half);
    const f16 again = to_f16(value);
    if (std::isnan(value)) {
      REQUIRE((again.bits & 0x7FFFu) > 0x7C00u);  // still a NaN, of the same sign
      REQUIRE((again.bits & 0x8000u) == (bits & 0x8000u));
    } else {
      REQUIRE(again.bits == bits);
    }
  }
}

TEST_CASE("half: every bf16 survives the way to float and back") {
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const float value = to_float(bf16{static_cast<uint16_t>(bits)});
    const bf16 again = to_bf16(value);
    if (std::isnan(value)) {
      REQUIRE((again.bits & 0x7FFFu) > 0x7F80u);
    } else {
      REQUIRE(again.bits == bits);
    }
  }
}

// Between two neighbours a float goes to the nearer one, and exactly halfway to the even one.
template <class Half, class Convert>
void check_rounding(uint32_t largest_finite, Convert convert) {
  for (uint32_t bits = 0; bits < largest_finite; ++bits) {
    const float low = to_float(Half{static_cast<uint16_t>(bits)});
    const float high = to_float(Half{static_cast<uint16_t>(bits + 1)});
    const float middle = static_cast<float>((static_cast<double>(low) + high) / 2);  // exact: one bit more than low
    REQUIRE(convert(middle).bits == (bits % 2 == 0 ? bits : bits + 1));
    REQUIRE(convert(std::nextafter(middle, 0.0f)).bits == bits);
    REQUIRE(convert(std::nextafter(middle, INFINITY)).bits == bits + 1);
    REQUIRE(convert(-middle).bits == (0x8000u | (bits % 2 == 0 ? bits : bits + 1)));
  }
}

TEST_CASE("half: f16 rounds to nearest even between all neighbours") {
  check_rounding<f16>(0x7BFF, [](float v) { return to_f16(v); });
  CHECK(to_f16(65519.996f).bits == 0x7BFF);
  CHECK(to_f16(65520.0f).bits == 0x7C00);  // halfway to the next power of two: infinity
  CHECK(to_f16(INFINITY).bits == 0x7C00);
  CHECK(to_f16(1e-30f).bits == 0);
}

TEST_CASE("half: bf16 rounds to nearest even between all neighbours") {
  check_rounding<bf16>(0x7F7F, [](float v) { return to_bf16(v); });
  CHECK(to_bf16(std::numeric_limits<float>::max()).bits == 0x7F80);
  CHECK(to_bf16(INFINITY).bits == 0x7F80);
}

double through(DType dtype, double value) {
  std::array<std::byte, 8> element{};
  write_number(dtype, element.data(), value);
  return read_number(dtype, element.data());
}

TEST_CASE("literal: numbers are rounded once, not twice") {
  // 1 + 2^-11 is halfway between two f16; what is left of it by 2^-30 must not be lost on the way through f32.
  CHECK(through(DType::f16, 1 + 0x1p-11 + 0x1p-30) == 1 + 0x1p-10);
  CHECK(through(DType::f16, 1 + 0x1p-11) == 1.0);
  CHECK(through(DType::f16, 1 + 0x3p-11 - 0x1p-30) == 1 + 0x1p-10);
  CHECK(through(DType::bf16, 1 + 0x1p-8 + 0x1p-40) == 1 + 0x1p-7);
  CHECK(through(DType::f16, -1e300) == -INFINITY);
  CHECK(through(DType::f16, 1e-300) == 0.0);
  CHECK(std::isnan(through(DType::f16, NAN)));
  CHECK(through(DType::f32, 0.1) == static_cast<double>(0.1f));
}

TEST_CASE("literal: a float outside an integer's range becomes the nearest end of it") {
  CHECK(through(DType::i8, 300) == 127);
  CHECK(through(DType::i8, -300) == -128);
  CHECK(through(DType::u8, -1) == 0);
  CHECK(through(DType::u8, 1e30) == 255);
  CHECK(through(DType::i16, 40000) == 32767);
  CHECK(through(DType::u16, 65536) == 65535);
  CHECK(through(DType::i32, 3e9) == 2147483647);
  CHECK(through(DType::u32, 5e9) == 4294967295.0);
  CHECK(through(DType::i32, NAN) == 0);
  CHECK(through(DType::i32, -2.9) == -2);  // toward zero, as a cast
  CHECK(through(DType::boolean, 0.5) == 1);
  std::array<std::byte, 8> element{};
  write_number(DType::i64, element.data(), 1e19);
  CHECK(read_integer(DType::i64, element.data()) == std::numeric_limits<int64_t>::max());
  write_number(DType::u64, element.data(), 1e20);
  CHECK(static_cast<uint64_t>(read_integer(DType::u64, element.data())) == std::numeric_limits<uint64_t>::max());
}

TEST_CASE("literal: integers keep all 64 bits") {
  std::array<std::byte, 8> element{};
  for (const int64_t value :
       {std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(), (int64_t{1} << 53) + 1}) {
    write_integer(DType::i64, element.data(), value);
    CHECK(read_integer(DType::i64, element.data()) == value);
  }
  write_integer(DType::u64, element.data(), -1);
  CHECK(read_number(DType::u64, element.data()) == 0x1p64);
}

TEST_CASE("literal: a splat is one element that stands for all") {
  const Literal splat = Literal::splat_number(DType::i32, {1000, 1000}, 7);
  CHECK(splat.stored().size() == 4);
  CHECK(splat.number(999999) == 7);
  CHECK(splat.dense().size() == 4000000);
  CHECK(splat !=
        Literal(DType::i32, {1000, 1000}, splat.dense()));  // the form is part of it: a graph prints as it was built
  const Literal empty = Literal::splat_number(DType::f64, {0}, 1);
  CHECK(empty.dense().empty());
  CHECK(Literal::integers({3, -4}).to_integers() == std::vector<int64_t>{3, -4});
  CHECK(Literal::scalar(DType::f32, 2).shape() == Shape{});
}

TEST_CASE("literal: bytes that do not fit the shape are a bug") {
  CHECK(test::error_id([] { Literal(DType::f32, {2}, std::vector<std::byte>(7)); }) == "M700");
  CHECK(test::error_id([] { (void)Literal::splat(DType::f32, {2}, std::vector<std::byte>(8)); }) == "M700");
}

}  // namespace
}  // namespace mpc
