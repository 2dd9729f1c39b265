#include "compiler/base/safetensors.h"

#include <doctest/doctest.h>

#include "tests/unit/helpers.h"

namespace mpc {
namespace {

using test::bytes_of;
using test::error_id;
using test::TemporaryFolder;

std::string header_id(std::string_view json, int64_t data_bytes) {
  return error_id([&] { (void)parse_safetensors_header(json, data_bytes, "x.safetensors"); });
}

std::string length_text(uint64_t length) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>((length >> (8 * i)) & 255);
  return out;
}

std::string file_id(const TemporaryFolder& folder, std::string_view content) {
  write_file_atomic(folder / "x", content);
  return error_id([&] { SafetensorsFile file(folder / "x"); });
}

TEST_CASE("safetensors: tensors of every dtype survive a file") {
  const TemporaryFolder folder;
  std::vector<SafetensorsEntry> entries;
  std::vector<std::byte> data;
  for (int i = 0; i < kDTypeCount; ++i) {
    entries.push_back({"t" + std::to_string(i), static_cast<DType>(i), Shape{i, 3}, 0});
    for (int64_t b = 0; b < entries.back().bytes(); ++b) data.push_back(static_cast<std::byte>(i * 16 + b));
  }
  entries.push_back({"scalar \"\\ \xc3\xa9", DType::f64, Shape{}, 0});
  for (int i = 0; i < 8; ++i) data.push_back(std::byte{0x5a});
  SafetensorsWriter writer(folder / "a", entries, {{"step", "17"}});
  writer.append(std::span(data).first(50));
  writer.append(std::span(data).subspan(50));
  writer.commit();

  const SafetensorsFile file(folder / "a");
  CHECK(file.metadata() == std::map<std::string, std::string>{{"step", "17"}});
  CHECK(file.entries().size() == entries.size());
  size_t offset = 0;
  for (const SafetensorsEntry& entry : entries) {
    const SafetensorsEntry* found = file.find(entry.name);
    REQUIRE(found != nullptr);
    CHECK(found->dtype == entry.dtype);
    CHECK(found->shape == entry.shape);
    std::vector<std::byte> bytes(static_cast<size_t>(entry.bytes()));
    file.read(*found, 0, bytes);
    CHECK(std::equal(bytes.begin(), bytes.end(), data.begin() + static_cast<std::ptrdiff_t>(offset)));
    offset += bytes.size();
  }
  std::vector<std::byte> part(2);
  file.read(*file.find("t1"), 8, part);  // t1: f64 of shape (1, 3)
  CHECK(part == std::vector<std::byte>{std::byte{24}, std::byte{25}});
  CHECK(file.find("t99") == nullptr);
}

TEST_CASE("safetensors: the data begins at a multiple of eight bytes") {
  const TemporaryFolder folder;
  for (const std::string name : {"a", "ab", "abc", "abcd", "abcde", "abcdef", "abcdefg", "abcdefgh"}) {
    SafetensorsWriter(folder / "x", {{name, DType::u8, Shape{0}, 0}}).commit();
    CHECK(InputFile(folder / "x").bytes() % 8 == 0);
  }
}

TEST_CASE("safetensors: the writer refuses names it cannot write") {
  const TemporaryFolder folder;
  const auto write = [&](std::vector<SafetensorsEntry> entries, std::map<std::string, std::string> metadata = {}) {
    return error_id([&] { SafetensorsWriter writer(folder / "x", std::move(entries), metadata); });
  };
  CHECK(write({{"a", DType::u8, Shape{0}, 0}, {"a", DType::u8, Shape{0}, 0}}) == "M065");
  CHECK(write({{"__metadata__", DType::u8, Shape{0}, 0}}) == "M065");
  CHECK(write({{"\xff", DType::u8, Shape{0}, 0}}) == "M065");
  CHECK(write({}, {{"k", "\xff"}}) == "M065");
  CHECK(folder.entries().empty());
}

TEST_CASE("safetensors: a file without all its bytes cannot be committed") {
  const TemporaryFolder folder;
  SafetensorsWriter writer(folder / "x", {{"a", DType::u8, Shape{2}, 0}});
  CHECK(error_id([&] { writer.commit(); }) == "M700");
  CHECK(error_id([&] { writer.append(bytes_of("abc")); }) == "M700");
  writer.append(bytes_of("ab"));
  writer.commit();
}

TEST_CASE("safetensors: offsets are contiguous from 0 and cover the data") {
  const auto two = [](int a, int b, int c, int d) {
    return R"({"a":{"dtype":"U8","shape":[)" + std::to_string(b - a) + R"(],"data_offsets":[)" + std::to_string(a) +
           "," + std::to_string(b) + R"(]},"b":{"dtype":"U8","shape":[)" + std::to_string(d - c) +
           R"(],"data_offsets":[)" + std::to_string(c) + "," + std::to_string(d) + "]}}";
  };
  CHECK(header_id(two(0, 4, 4, 8), 8) == "none");
  CHECK(header_id(two(4, 8, 0, 4), 8) == "none");  // keys in any order
  CHECK(header_id(two(0, 4, 4, 8), 9) == "M065");  // a tail
  CHECK(header_id(two(0, 4, 4, 8), 7) == "M065");  // past the end
  CHECK(header_id(two(0, 4, 5, 9), 9) == "M065");  // a hole
  CHECK(header_id(two(0, 4, 3, 7), 7) == "M065");  // an overlap
  CHECK(header_id(two(1, 4, 4, 8), 8) == "M065");  // not from 0
  CHECK(header_id(two(0, 0, 0, 4), 4) == "none");  // an empty tensor
  CHECK(header_id(two(4, 4, 0, 4), 4) == "none");
  CHECK(header_id("{}", 0) == "none");
  CHECK(header_id("{}", 1) == "M065");
  CHECK(header_id("{}    ", 0) == "none");  // padding
}

TEST_CASE("safetensors: hostile headers are refused") {
  const auto tensor = [](std::string_view body) { return R"({"a":{)" + std::string(body) + "}}"; };
  CHECK(header_id(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), 4) == "none");
  for (const std::string_view body :
       {R"("dtype":"F32","shape":[1],"data_offsets":[4,0])", R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])",
        R"("dtype":"F32","shape":[2],"data_offsets":[0,4])", R"("dtype":"F32","shape":[1])",
        R"("dtype":"F32","data_offsets":[0,4])", R"("shape":[1],"data_offsets":[0,4])",
        R"("dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4])", R"("dtype":3,"shape":[1],"data_offsets":[0,4])",
        R"("dtype":"F32","shape":1,"data_offsets":[0,4])", R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])",
        R"("dtype":"F32","shape":[1],"data_offsets":[0,4,8])", R"("dtype":"F32","shape":[1],"data_offsets":[0])",
        R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1)",
        R"("dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615])",
        R"("dtype":"F32","shape":[4294967297,4294967297,4294967297],"data_offsets":[0,4])",
        R"("dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4])",
        R"("dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0])"}) {
    CAPTURE(body);
    CHECK(header_id(tensor(body), 4) == "M065");
  }
  CHECK(header_id(tensor(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])"), 4) == "M046");
  CHECK(header_id("", 0) == "M065");
  CHECK(header_id(" {}", 0) == "M065");
  CHECK(header_id("[]", 0) == "M065");
  CHECK(header_id("{} x", 0) == "M065");
  CHECK(header_id(R"({"a":1})", 0) == "M065");
  CHECK(header_id(R"({"__metadata__":{"a":1}})", 0) == "M065");
  CHECK(header_id(R"({"__metadata__":"a"})", 0) == "M065");
  CHECK(header_id("{\"a\":" + std::string(50000, '['), 0) == "M051");
}

TEST_CASE("safetensors: the length of the header is not trusted") {
  const TemporaryFolder folder;
  CHECK(file_id(folder, "") == "M065");
  CHECK(file_id(folder, length_text(2).substr(0, 7)) == "M065");
  CHECK(file_id(folder, length_text(0)) == "M065");
  CHECK(file_id(folder, length_text(2) + "{}") == "none");
  CHECK(file_id(folder, length_text(3) + "{}") == "M065");
  CHECK(file_id(folder, length_text(kMaxSafetensorsHeaderBytes) + "{}") == "M065");
  CHECK(file_id(folder, length_text(kMaxSafetensorsHeaderBytes + 1) + "{}") == "M051");
  CHECK(file_id(folder, length_text(~uint64_t{0}) + "{}") == "M051");
}

}  // namespace
}  // namespace mpc
