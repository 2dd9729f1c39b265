#include "compiler/base/npy.h"

#include <numeric>

#include <doctest/doctest.h>

#include "tests/unit/helpers.h"

namespace mpc {
namespace {

using test::bytes_of;
using test::error_id;
using test::TemporaryFolder;

// A version 1.0 file with the given dictionary.
std::string npy(std::string_view dictionary, std::string_view data) {
  std::string header(dictionary);
  header += '\n';
  std::string out = "\x93NUMPY";
  out += {'\x01', '\x00', static_cast<char>(header.size() & 255), static_cast<char>(header.size() >> 8)};
  return out + header + std::string(data);
}

std::string id_of(std::string_view file) {
  return error_id([&] { (void)parse_npy(bytes_of(file), "x.npy"); });
}

template <class T>
std::string raw(std::initializer_list<T> values) {
  return {reinterpret_cast<const char*>(values.begin()), values.size() * sizeof(T)};
}

TEST_CASE("npy: every dtype and rank survives a file") {
  const TemporaryFolder folder;
  for (int i = 0; i < kDTypeCount; ++i) {
    const DType dtype = static_cast<DType>(i);
    for (const Shape& shape : {Shape{}, Shape{5}, Shape{2, 3}, Shape{0, 4}, Shape{1, 2, 1, 2, 1, 2, 1, 1}}) {
      std::vector<std::byte> bytes(static_cast<size_t>(byte_size(shape, dtype)));
      for (size_t b = 0; b < bytes.size(); ++b)
        bytes[b] = static_cast<std::byte>(dtype == DType::boolean ? b % 2 : b * 37);
      const Literal literal(dtype, shape, bytes);
      write_npy(folder / "a.npy", literal);
      CHECK(read_npy(folder / "a.npy") == literal);
    }
  }
  write_npy(folder / "splat.npy", Literal::splat_number(DType::f32, {3}, 2.5));
  CHECK(read_npy(folder / "splat.npy").number(2) == 2.5);
}

TEST_CASE("npy: the header is the one NumPy writes") {
  const std::string header = npy_header(DType::f32, {2, 3});
  CHECK(header.size() % 64 == 0);
  CHECK(header.substr(0, 10) == std::string("\x93NUMPY\x01\x00\x76\x00", 10));
  CHECK(header.substr(10, 59) == "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
  CHECK(header.back() == '\n');
  CHECK(npy_header(DType::i64, {7}).find("'shape': (7,), }") != std::string::npos);
  CHECK(npy_header(DType::u8, {}).find("'descr': '|u1', 'fortran_order': False, 'shape': (), }") != std::string::npos);
}

TEST_CASE("npy: column-major data is transposed") {
  // [[1, 2, 3], [4, 5, 6]] stored by columns: 1 4 2 5 3 6.
  const Literal literal = parse_npy(
      bytes_of(npy("{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3)}", raw<int32_t>({1, 4, 2, 5, 3, 6}))),
      "x.npy");
  CHECK(literal.to_integers() == std::vector<int64_t>{1, 2, 3, 4, 5, 6});
  const Literal cube = parse_npy(bytes_of(npy("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 2, 2)}",
                                              raw<uint8_t>({0, 4, 2, 6, 1, 5, 3, 7}))),
                                 "x.npy");
  CHECK(cube.to_integers() == std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(id_of(npy("{'descr': '<i4', 'fortran_order': True, 'shape': (0, 3)}", "")) == "none");
}

TEST_CASE("npy: versions 2 and 3 have a long header length, others do not exist") {
  const std::string dictionary = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}\n";
  const auto file = [&](char major, char minor) {
    std::string out = "\x93NUMPY";
    out += {major, minor, static_cast<char>(dictionary.size()), '\0', '\0', '\0'};
    return out + dictionary + raw<float>({1.5f});
  };
  CHECK(parse_npy(bytes_of(file(2, 0)), "x").number(0) == 1.5);
  CHECK(parse_npy(bytes_of(file(3, 0)), "x").number(0) == 1.5);
  CHECK(id_of(file(4, 0)) == "M065");
  CHECK(id_of(file(9, 0)) == "M065");
  CHECK(id_of(file(2, 1)) == "M065");
}

TEST_CASE("npy: what the shape needs must be there, and nothing else") {
  const std::string_view header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
  CHECK(id_of(npy(header, raw<float>({1, 2}))) == "none");
  CHECK(id_of(npy(header, raw<float>({1}))) == "M065");
  CHECK(id_of(npy(header, raw<float>({1, 2, 3}))) == "M065");
  CHECK(id_of(npy(header, "1234567")) == "M065");
}

TEST_CASE("npy: hostile headers are refused before anything is allocated") {
  const auto with_shape = [](std::string_view shape) {
    return npy("{'descr': '<f4', 'fortran_order': False, 'shape': " + std::string(shape) + "}", "1234");
  };
  for (const std::string_view shape :
       {"(-1,)", "(1", "1", "(1.0,)", "(99999999999999999999,)", "(4294967296, 4294967296)", "(0, 9223372036854775807)",
        "(1,,)", "(1 1)", "()()", "[1]", "(True,)"}) {
    CAPTURE(shape);
    CHECK(id_of(with_shape(shape)) == "M065");
  }
  CHECK(id_of(with_shape("(" + std::string(500, '9') + ",)")) == "M065");
  CHECK(id_of(with_shape("(1, 1, 1, 1, 1, 1, 1, 1)")) == "none");
  CHECK(id_of(with_shape("(1, 1, 1, 1, 1, 1, 1, 1, 1)")) == "M046");
  for (const std::string_view header :
       {"", "{}", "{'descr': '<f4', 'shape': (1,)}", "{'descr': '<f4', 'fortran_order': False}",
        "{'fortran_order': False, 'shape': (1,)}", "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr: '<f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x",
        "{'descr': '<f4' 'fortran_order': False, 'shape': (1,)}", "{'descr': '<f4"}) {
    CAPTURE(header);
    CHECK(id_of(npy(header, "1234")) == "M065");
  }
}

TEST_CASE("npy: types that are no tensor types are refused by name") {
  const auto message = [](std::string_view descr) {
    const auto error = test::error_of([&] {
      (void)parse_npy(
          bytes_of(npy("{'descr': '" + std::string(descr) + "', 'fortran_order': False, 'shape': (1,)}", "12345678")),
          "x.npy");
    });
    return error ? std::string(error->what()) : "none";
  };
  CHECK(message("|O") == "x.npy: holds Python objects, which mpc never unpickles; save an array of numbers");
  CHECK(message(">f8") == "x.npy: the data is big-endian ('>f8'); save it as little-endian");
  CHECK(message("<c8") == "x.npy: has the element type '<c8', which is no tensor type");
  CHECK(message("<U2").find("'<U2'") != std::string::npos);
  CHECK(id_of(npy("{'descr': '|b1', 'fortran_order': False, 'shape': (1,)}", "\x02")) == "M065");
}

TEST_CASE("npy: a header of 64 KiB is read, a longer one is a limit, a cut one is malformed") {
  const auto with_length = [](size_t length) {
    std::string dictionary = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}";
    dictionary.resize(length, ' ');
    std::string out = "\x93NUMPY";
    out += {'\x02',
            '\0',
            static_cast<char>(length & 255),
            static_cast<char>((length >> 8) & 255),
            static_cast<char>(length >> 16),
            '\0'};
    return out + dictionary + "1234";
  };
  CHECK(id_of(with_length(kMaxNpyHeaderBytes)) == "none");
  CHECK(id_of(with_length(kMaxNpyHeaderBytes + 1)) == "M051");
  CHECK(id_of(std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff", 12)) == "M051");
  const std::string whole = with_length(100);
  for (size_t length = 0; length < whole.size(); ++length) REQUIRE(id_of(whole.substr(0, length)) == "M065");
  const TemporaryFolder folder;
  write_file_atomic(folder / "long.npy", with_length(kMaxNpyHeaderBytes));
  CHECK(read_npy(folder / "long.npy").shape() == Shape{1});
}

}  // namespace
}  // namespace mpc
