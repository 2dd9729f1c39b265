#include "compiler/base/idx.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <zlib.h>

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

/// What gzip makes of `bytes`, by zlib.
std::string packed(const std::string& bytes) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, Z_BEST_COMPRESSION, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, bytes.size()) + 64, '\0');
  std::string in = bytes;
  stream.next_in = reinterpret_cast<Bytef*>(in.data());
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(out.size() - stream.avail_out);
  deflateEnd(&stream);
  return out;
}

TEST_CASE("idx: a compressed file gives the elements of what was compressed") {
  const test::TemporaryFolder folder;
  std::string elements(100'000, 'x');  // several chunks, packed and unpacked
  for (size_t i = 0; i < elements.size(); ++i) elements[i] = static_cast<char>(i * i * 31 + i / 7);
  const std::string whole = idx(0x0B, {50, 1000}, elements);
  write_file_atomic(folder / "plain", whole);
  write_file_atomic(folder / "packed.gz", packed(whole));
  CHECK(read_idx(folder / "packed.gz") == read_idx(folder / "plain"));
}

TEST_CASE("idx: a compressed file that is damaged, cut, too long or a bomb is refused") {
  const test::TemporaryFolder folder;
  const auto refusal = [&](const std::string& content) {
    write_file_atomic(folder / "x.gz", content);
    const auto error = test::error_of([&] { (void)read_idx(folder / "x.gz"); });
    return error ? fmt::format("{}: {}", error_name(error->id()), error->what_happened()) : std::string("none");
  };
  const std::string whole = packed(idx(0x08, {2, 3}, "abcdef"));
  REQUIRE(refusal(whole) == "none");
  for (size_t length = 2; length < whole.size(); ++length) {
    CAPTURE(length);
    CHECK(refusal(whole.substr(0, length)).starts_with("M065: "));
  }
  std::string wrong_sum = whole;
  wrong_sum[whole.size() - 5] ^= 1;  // the length; the checksum stands before it
  CHECK(refusal(wrong_sum).find("is damaged") != std::string::npos);
  CHECK(refusal(whole + "g") == "M065: has bytes behind its gzip stream");
  CHECK(refusal(packed(idx(0x08, {2, 3}, "abcdefg"))) == "M065: unpacks to more than its header says");
  CHECK(refusal(packed(idx(0x08, {2, 3}, "abcde"))) == "M065: unpacks to 1 bytes fewer than its header says");
  CHECK(refusal(packed("PK not idx")) == "M065: is not an IDX file");
  CHECK(refusal(packed(idx(0x08, {1, 1, 1, 1, 1, 1, 1, 1, 1}, "a"))).starts_with("M046: "));
  // 16 MiB of zeros behind a header that promises six bytes: a few bytes of them are unpacked, then it is over.
  CHECK(refusal(packed(idx(0x08, {2, 3}, std::string(size_t{1} << 24, '\0')))) ==
        "M065: unpacks to more than its header says");
  // A header that promises terabytes, in a file that cannot hold them: refused before memory is asked for.
  CHECK(refusal(packed(idx(0x08, {1U << 20, 1U << 20, 4}, "a"))).find("can hold") != std::string::npos);
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
