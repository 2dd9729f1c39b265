#include "compiler/base/npy.h"

#include <algorithm>
#include <array>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "compiler/base/checked.h"
#include "compiler/base/error.h"
#include "compiler/base/text.h"

namespace mpc {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr int64_t kAlignment = 64;

struct DescrRow {
  std::string_view descr;
  DType dtype;
};
// The first row of a dtype is the one that is written. "=" and a missing "|" do not come from numpy.save.
constexpr DescrRow kDescrs[] = {
    {"<f4", DType::f32},     {"<f8", DType::f64},     {"<f2", DType::f16}, {"<V2", DType::bf16}, {"|V2", DType::bf16},
    {"|i1", DType::i8},      {"<i1", DType::i8},      {"<i2", DType::i16}, {"<i4", DType::i32},  {"<i8", DType::i64},
    {"|u1", DType::u8},      {"<u1", DType::u8},      {"<u2", DType::u16}, {"<u4", DType::u32},  {"<u8", DType::u64},
    {"|b1", DType::boolean}, {"<b1", DType::boolean},
};

// The header is the text of a Python dictionary with three keys: a language of its own, small enough to read by hand.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  void parse() {
    expect('{');
    while (!accept('}')) {
      const std::string_view key = string();
      expect(':');
      if (key == "descr" && !descr) {
        if (!at('\'') && !at('"')) fail("'descr' describes a structured array, which has no tensor type");
        descr = string();
      } else if (key == "fortran_order" && !is_column_major) {
        is_column_major = boolean();
      } else if (key == "shape" && !dims) {
        dims = tuple();
      } else {
        fail(fmt::format("the header has the key '{}' twice, or it is none of the three", escaped(key, 60)));
      }
      if (!accept(',') && !at('}')) fail("the header is malformed: ',' or '}' is expected");
    }
    skip();
    if (position_ != text_.size()) fail("bytes follow the header's dictionary");
    if (!descr || !is_column_major || !dims) fail("the header lacks one of 'descr', 'fortran_order', 'shape'");
  }

  std::optional<std::string_view> descr;
  std::optional<bool> is_column_major;
  std::optional<std::vector<int64_t>> dims;

 private:
  [[noreturn]] void fail(const std::string& message) const { throw Error(ErrorId::M065, where_, message); }

  void skip() {
    while (position_ < text_.size() &&
           (text_[position_] == ' ' || text_[position_] == '\n' || text_[position_] == '\t'))
      ++position_;
  }
  bool at(char c) {
    skip();
    return position_ < text_.size() && text_[position_] == c;
  }
  bool accept(char c) {
    if (!at(c)) return false;
    ++position_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail(fmt::format("the header is malformed: '{}' is expected", c));
  }
  std::string_view string() {
    const char quote = at('"') ? '"' : '\'';
    expect(quote);
    const size_t end = text_.find(quote, position_);
    if (end == std::string_view::npos) fail("the header is malformed: a string has no end");
    const std::string_view content = text_.substr(position_, end - position_);
    position_ = end + 1;
    return content;
  }
  bool boolean() {
    skip();
    for (const std::string_view word : {"True", "False"}) {
      if (!text_.substr(position_).starts_with(word)) continue;
      position_ += word.size();
      return word == "True";
    }
    fail("'fortran_order' is neither True nor False");
  }
  std::vector<int64_t> tuple() {
    std::vector<int64_t> items;
    expect('(');
    while (!accept(')')) {
      skip();
      const size_t end = std::min(text_.find_first_not_of("0123456789", position_), text_.size());
      const auto dim = parse_integer(text_.substr(position_, end - position_));
      if (!dim) fail("a dimension of 'shape' is not a number from 0 to 2^63 - 1");
      items.push_back(*dim);
      position_ = end;
      if (!accept(',') && !at(')')) fail("'shape' is not a tuple of numbers");
    }
    return items;
  }

  std::string_view text_;
  const std::string& where_;
  size_t position_ = 0;
};

DType dtype_of(std::string_view descr, const std::string& where) {
  for (const DescrRow& row : kDescrs) {
    if (row.descr == descr) return row.dtype;
  }
  if (descr.starts_with('>')) {
    throw Error(ErrorId::M065, where, fmt::format("the data is big-endian ('{}')", escaped(descr, 40)),
                "save it as little-endian");
  }
  if (descr.find('O') != std::string_view::npos) {
    throw Error(ErrorId::M065, where, "holds Python objects, which mpc never unpickles", "save an array of numbers");
  }
  throw Error(ErrorId::M065, where,
              fmt::format("has the element type '{}', which is no tensor type", escaped(descr, 40)));
}

// Row-major copy of column-major data: the last index runs slowest there.
std::vector<std::byte> to_row_major(std::span<const std::byte> data, DType dtype, const Shape& shape) {
  const size_t element_bytes = static_cast<size_t>(dtype_bytes(dtype));
  std::array<int64_t, kMaxRank> stride{};
  int64_t product = 1;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    stride[static_cast<size_t>(axis)] = product;
    product *= shape[axis];
  }
  std::vector<std::byte> out(data.size());
  std::array<int64_t, kMaxRank> index{};
  int64_t from = 0;
  for (size_t to = 0; to < out.size(); to += element_bytes) {
    std::copy_n(data.begin() + from * static_cast<int64_t>(element_bytes), element_bytes,
                out.begin() + static_cast<int64_t>(to));
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      const auto i = static_cast<size_t>(axis);
      from += stride[i];
      if (++index[i] < shape[axis]) break;
      from -= stride[i] * shape[axis];
      index[i] = 0;
    }
  }
  return out;
}

Literal make_literal(const NpyHeader& header, std::vector<std::byte> data, const std::string& where) {
  const bool is_bool = header.dtype == DType::boolean;
  if (is_bool && std::ranges::any_of(data, [](std::byte b) { return b > std::byte{1}; })) {
    throw Error(ErrorId::M065, where, "holds a bool that is neither 0 nor 1");
  }
  if (header.is_column_major && header.shape.rank() > 1) data = to_row_major(data, header.dtype, header.shape);
  return Literal(header.dtype, header.shape, std::move(data));
}

}  // namespace

NpyHeader parse_npy_header(std::span<const std::byte> front, int64_t file_bytes, const std::string& where) {
  const std::string_view text(reinterpret_cast<const char*>(front.data()), front.size());
  constexpr size_t kLengthOffset = 8;  // after the magic and two bytes of version
  if (!text.starts_with(kMagic) || text.size() < kLengthOffset + 2)
    throw Error(ErrorId::M065, where, "is not a .npy file");
  const int major = static_cast<unsigned char>(text[6]);
  const int minor = static_cast<unsigned char>(text[7]);
  if (major < 1 || major > 3 || minor != 0)
    throw Error(ErrorId::M065, where, fmt::format("is a .npy file of version {}.{}, not 1.0 to 3.0", major, minor));
  const size_t length_bytes = major == 1 ? 2 : 4;
  if (text.size() < kLengthOffset + length_bytes) throw Error(ErrorId::M065, where, "ends within the header");
  int64_t length = 0;
  for (size_t i = length_bytes; i-- > 0;) length = length * 256 + static_cast<unsigned char>(text[kLengthOffset + i]);
  if (length > kMaxNpyHeaderBytes)
    throw Error(ErrorId::M051, where,
                fmt::format("has a header of {} bytes, the limit is {}", length, kMaxNpyHeaderBytes));
  NpyHeader header;
  header.data_offset = static_cast<int64_t>(kLengthOffset + length_bytes) + length;
  if (header.data_offset > static_cast<int64_t>(text.size()))
    throw Error(ErrorId::M065, where, "ends within the header");

  HeaderParser parser(text.substr(kLengthOffset + length_bytes, static_cast<size_t>(length)), where);
  parser.parse();
  header.dtype = dtype_of(*parser.descr, where);
  header.is_column_major = *parser.is_column_major;
  if (parser.dims->size() > kMaxRank)
    throw Error(ErrorId::M046, where, fmt::format("has rank {}, mpc supports up to {}", parser.dims->size(), kMaxRank));
  const auto shape = checked_shape(*parser.dims, header.dtype);
  if (!shape)
    throw Error(ErrorId::M065, where,
                fmt::format("has the shape ({}), which is too large", fmt::join(*parser.dims, ", ")));
  header.shape = *shape;
  const int64_t data_bytes = file_bytes - header.data_offset;
  if (data_bytes != byte_size(header.shape, header.dtype)) {
    throw Error(ErrorId::M065, where,
                fmt::format("has {} bytes of data, {} needs {}", data_bytes, type_text(header.dtype, header.shape),
                            byte_size(header.shape, header.dtype)));
  }
  return header;
}

NpyHeader read_npy_header(const InputFile& file) {
  constexpr int64_t kFixedBytes = 12;
  std::vector<std::byte> front(static_cast<size_t>(std::min(file.bytes(), kMaxNpyHeaderBytes + kFixedBytes)));
  file.read(0, front);
  return parse_npy_header(front, file.bytes(), file.path());
}

Literal parse_npy(std::span<const std::byte> bytes, const std::string& where) {
  const NpyHeader header = parse_npy_header(bytes, static_cast<int64_t>(bytes.size()), where);
  const auto data = bytes.subspan(static_cast<size_t>(header.data_offset));
  return make_literal(header, {data.begin(), data.end()}, where);
}

Literal read_npy(const std::string& path) {
  const InputFile file(path);
  const NpyHeader header = read_npy_header(file);
  std::vector<std::byte> data(static_cast<size_t>(byte_size(header.shape, header.dtype)));
  file.read(header.data_offset, data);
  return make_literal(header, std::move(data), path);
}

std::string npy_header(DType dtype, const Shape& shape) {
  const auto* row = std::ranges::find(kDescrs, dtype, &DescrRow::dtype);
  const std::string dims = fmt::format("({}{})", fmt::join(shape.dims(), ", "), shape.rank() == 1 ? "," : "");
  std::string text = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}", row->descr, dims);
  constexpr int64_t kFixedBytes = 10;
  const int64_t end = align_up(kFixedBytes + static_cast<int64_t>(text.size()) + 1, kAlignment);
  text.append(static_cast<size_t>(end - kFixedBytes - 1) - text.size(), ' ');
  text += '\n';
  std::string out(kMagic);
  out += {'\x01', '\x00', static_cast<char>(text.size() & 255), static_cast<char>(text.size() >> 8)};
  return out + text;
}

void write_npy(const std::string& path, DType dtype, const Shape& shape, std::span<const std::byte> data) {
  MPC_CHECK(static_cast<int64_t>(data.size()) == byte_size(shape, dtype),
            "the data of a .npy file has the bytes of its shape");
  AtomicFile file(path);
  file.append(npy_header(dtype, shape));
  file.append(data);
  file.commit();
}

void write_npy(const std::string& path, const Literal& literal) {
  if (literal.is_splat()) return write_npy(path, literal.dtype(), literal.shape(), literal.dense());
  write_npy(path, literal.dtype(), literal.shape(), literal.stored());
}

}  // namespace mpc
