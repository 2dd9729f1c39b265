#include "compiler/base/shape.h"

#include <limits>

#include <doctest/doctest.h>

#include "compiler/base/checked.h"
#include "tests/unit/helpers.h"

namespace mpc {
namespace {

TEST_CASE("shape: elements, strides and texts") {
  const Shape shape{2, 3, 4};
  CHECK(shape.elements() == 24);
  CHECK(shape.elements(1, 3) == 12);
  CHECK(Shape{}.elements() == 1);
  CHECK(Shape{3, 0}.elements() == 0);
  CHECK(byte_size(shape, DType::f64) == 192);
  CHECK(strides(shape)[0] == 12);
  CHECK(strides(shape)[1] == 4);
  CHECK(strides(shape)[2] == 1);
  CHECK(to_string(shape) == "(2, 3, 4)");
  CHECK(to_string(Shape{}) == "()");
  CHECK(type_text(DType::bf16, shape) == "bf16[2,3,4]");
  CHECK(type_text(DType::boolean, {}) == "bool[]");
  CHECK(Shape{2, 3} != Shape{2, 3, 1});
}

TEST_CASE("shape: dtype names are read back") {
  for (int i = 0; i < kDTypeCount; ++i) CHECK(parse_dtype(dtype_name(static_cast<DType>(i))) == static_cast<DType>(i));
  CHECK(!parse_dtype("f8"));
  CHECK(!parse_dtype(""));
}

TEST_CASE("shape: untrusted dimensions are checked at the exact limits") {
  const auto is_legal = [](std::vector<int64_t> dims, DType dtype) { return checked_shape(dims, dtype).has_value(); };
  CHECK(is_legal({}, DType::f32));
  CHECK(is_legal({1, 1, 1, 1, 1, 1, 1, 1}, DType::f32));
  CHECK(!is_legal({1, 1, 1, 1, 1, 1, 1, 1, 1}, DType::f32));
  CHECK(!is_legal({-1}, DType::f32));
  CHECK(is_legal({(int64_t{1} << 47) - 1}, DType::u8));
  CHECK(!is_legal({int64_t{1} << 47}, DType::u8));
  CHECK(is_legal({(int64_t{1} << 45) - 1}, DType::f32));
  CHECK(!is_legal({int64_t{1} << 45}, DType::f32));
  CHECK(!is_legal({int64_t{1} << 32, int64_t{1} << 32}, DType::u8));      // wraps to 0
  CHECK(!is_legal({4294967297, 4294967297, 4294967297}, DType::u8));      // wraps to a small number
  CHECK(!is_legal({0, std::numeric_limits<int64_t>::max()}, DType::u8));  // a zero hides nothing
  CHECK(is_legal({0, 5}, DType::u8));
}

TEST_CASE("shape: a Shape of our own is never illegal") {
  CHECK(test::error_id([] { (void)Shape{-1}; }) == "M700");
  CHECK(test::error_id([] { (void)Shape(std::vector<int64_t>(9, 1)); }) == "M700");
}

TEST_CASE("shape: broadcasting is numpy's") {
  CHECK(broadcast({2, 3}, {3}) == Shape{2, 3});
  CHECK(broadcast({2, 1}, {1, 3}) == Shape{2, 3});
  CHECK(broadcast({}, {4}) == Shape{4});
  CHECK(broadcast({1}, {0}) == Shape{0});
  CHECK(broadcast({0, 1}, {1, 5}) == Shape{0, 5});
  CHECK(!broadcast({2}, {3}));
  CHECK(!broadcast({0}, {2}));
}

TEST_CASE("shape: axes count from either end") {
  CHECK(normalize_axis(0, 3) == 0);
  CHECK(normalize_axis(-1, 3) == 2);
  CHECK(normalize_axis(-3, 3) == 0);
  CHECK(!normalize_axis(3, 3));
  CHECK(!normalize_axis(-4, 3));
  CHECK(!normalize_axis(0, 0));
  CHECK(!normalize_axis(std::numeric_limits<int64_t>::min(), 3));
}

TEST_CASE("checked: overflow is nothing, not a wrong number") {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  CHECK(checked_add(kMost - 1, 1) == kMost);
  CHECK(!checked_add(kMost, 1));
  CHECK(checked_sub(-kMost, 1) == std::numeric_limits<int64_t>::min());
  CHECK(!checked_sub(-kMost, 2));
  CHECK(checked_mul(kMost / 2, 2) == kMost - 1);
  CHECK(!checked_mul(kMost / 2 + 1, 2));
  CHECK(align_up(0, 64) == 0);
  CHECK(align_up(1, 64) == 64);
  CHECK(align_up(64, 64) == 64);
}

}  // namespace
}  // namespace mpc
