#include "compiler/base/idx.h"

#include <doctest/doctest.h>

#include "tests/unit/helpers.h"

namespace mpc {
namespace {

using test::bytes_of;

std::string idx(int type, std::initializer_list<uint32_t> dims, std::string_view data) {
  std::string out = {'\0', '\0', static_cast<char>(type), static_cast<char>(dims.size())};
  for (const uint32_t dim : dims) {
    for (int shift : {24, 16, 8, 0}) out += static_cast<char>(dim >> shift);
  }
  return out + std::string(data);
}

std::string id_of(std::string_view file) {
  return test::error_id([&] { (void)parse_idx(bytes_of(file), "x.idx"); });
}

TEST_CASE("idx: images are bytes") {
  const Literal literal = parse_idx(bytes_of(idx(0x08, {2, 1, 3}, "abcdef")), "x");
  CHECK(literal.dtype() == DType::u8);
  CHECK(literal.shape() == Shape{2, 1, 3});
  CHECK(literal.to_integers() == std::vector<int64_t>{'a', 'b', 'c', 'd', 'e', 'f'});
}

TEST_CASE("idx: wider elements are big-endian") {
  CHECK(parse_idx(bytes_of(idx(0x0B, {2}, std::string("\x01\x02\xff\xfe", 4))), "x").to_integers() ==
        std::vector<int64_t>{258, -2});
  CHECK(parse_idx(bytes_of(idx(0x0C, {1}, std::string("\x00\x01\x00\x00", 4))), "x").integer(0) == 65536);
  CHECK(parse_idx(bytes_of(idx(0x0D, {1}, std::string("\x3f\xc0\x00\x00", 4))), "x").number(0) == 1.5);
  CHECK(parse_idx(bytes_of(idx(0x0E, {1}, std::string("\xbf\xf8\0\0\0\0\0\0", 8))), "x").number(0) == -1.5);
  CHECK(parse_idx(bytes_of(idx(0x09, {1}, "\xff")), "x").integer(0) == -1);
}

TEST_CASE("idx: malformed files are refused") {
  const std::string whole = idx(0x08, {2, 3}, "abcdef");
  for (size_t length = 0; length < whole.size(); ++length) REQUIRE(id_of(whole.substr(0, length)) == "M065");
  CHECK(id_of(whole) == "none");
  CHECK(id_of(whole + "g") == "M065");
  CHECK(id_of(idx(0x0A, {1}, "a")) == "M065");
  CHECK(id_of("\x01" + whole.substr(1)) == "M065");
  CHECK(id_of(idx(0x08, {0xffffffffu, 0xffffffffu, 0xffffffffu}, "a")) == "M065");
  CHECK(id_of(idx(0x08, {1, 1, 1, 1, 1, 1, 1, 1}, "a")) == "none");
  CHECK(id_of(idx(0x08, {1, 1, 1, 1, 1, 1, 1, 1, 1}, "a")) == "M046");
}

TEST_CASE("idx: a compressed file is named as one") {
  const auto error = test::error_of([] { (void)parse_idx(bytes_of("\x1f\x8b\x08"), "train.gz"); });
  REQUIRE(error);
  CHECK(std::string(error->what()) == "train.gz: is compressed with gzip; unpack it with gunzip first");
}

TEST_CASE("idx: a file on disk") {
  const test::TemporaryFolder folder;
  write_file_atomic(folder / "labels", idx(0x08, {3}, "\x01\x02\x03"));
  CHECK(read_idx(folder / "labels").to_integers() == std::vector<int64_t>{1, 2, 3});
  write_file_atomic(folder / "short", idx(0x08, {4}, "\x01\x02\x03"));
  CHECK(test::error_id([&] { (void)read_idx(folder / "short"); }) == "M065");
}

}  // namespace
}  // namespace mpc
