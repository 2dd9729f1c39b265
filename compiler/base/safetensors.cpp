#include "compiler/base/safetensors.h"

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/checked.h"
#include "compiler/base/json.h"
#include "compiler/base/text.h"

namespace mpc {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr std::string_view kMetadata = "__metadata__";

struct TypeRow {
  std::string_view name;
  DType dtype;
};
constexpr TypeRow kTypes[] = {{"F32", DType::f32},     {"F64", DType::f64}, {"F16", DType::f16}, {"BF16", DType::bf16},
                              {"I8", DType::i8},       {"I16", DType::i16}, {"I32", DType::i32}, {"I64", DType::i64},
                              {"U8", DType::u8},       {"U16", DType::u16}, {"U32", DType::u32}, {"U64", DType::u64},
                              {"BOOL", DType::boolean}};

DType dtype_of(const JsonView& view) {
  const auto* row = std::ranges::find(kTypes, view.text(), &TypeRow::name);
  if (row == std::end(kTypes)) view.fail(fmt::format("\"{}\" is not an element type of mpc", escaped(view.text(), 40)));
  return row->dtype;
}

Shape shape_of(const JsonView& view, DType dtype) {
  if (view.count() > kMaxRank)
    throw Error(ErrorId::M046, view.place(), fmt::format("has rank {}, mpc supports up to {}", view.count(), kMaxRank));
  std::vector<int64_t> dims;
  for (int64_t i = 0; i < view.count(); ++i) dims.push_back(view.element(i).integer(0));
  const auto shape = checked_shape(dims, dtype);
  if (!shape) view.fail("is too large");
  return *shape;
}

SafetensorsEntry entry_of(const std::string& name, const JsonView& view) {
  view.require_keys({"dtype", "shape", "data_offsets"});
  SafetensorsEntry entry;
  entry.name = name;
  entry.dtype = dtype_of(view.at("dtype"));
  entry.shape = shape_of(view.at("shape"), entry.dtype);
  const JsonView offsets = view.at("data_offsets");
  if (offsets.count() != 2) offsets.fail("is not a pair");
  entry.offset = offsets.element(0).integer(0);
  const int64_t end = offsets.element(1).integer(entry.offset);
  if (end - entry.offset != entry.bytes()) {
    offsets.fail(fmt::format("spans {} bytes, {} needs {}", end - entry.offset, type_text(entry.dtype, entry.shape),
                             entry.bytes()));
  }
  return entry;
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, int64_t data_bytes, const std::string& where) {
  if (!json.starts_with('{')) throw Error(ErrorId::M065, where, "the safetensors header does not begin with '{'");
  const Json parsed = parse_json(json, ErrorId::M065, where);
  SafetensorsHeader header;
  JsonView(parsed, ErrorId::M065, where).for_each_member([&](const std::string& name, const JsonView& view) {
    if (name == kMetadata) {
      view.for_each_member([&](const std::string& key, const JsonView& value) { header.metadata[key] = value.text(); });
    } else {
      header.entries.push_back(entry_of(name, view));
    }
  });
  // Empty tensors stand before the one that begins at the same byte.
  std::ranges::sort(header.entries, {}, [](const SafetensorsEntry& e) {
    return std::tuple(e.offset, e.bytes(), std::string_view(e.name));
  });
  int64_t end = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    if (entry.offset != end) {
      throw Error(ErrorId::M065, where,
                  fmt::format("tensor {} begins at byte {} of the data, the one before ends at {}",
                              in_quotes(entry.name), entry.offset, end));
    }
    if (entry.bytes() > data_bytes - end) {
      throw Error(ErrorId::M065, where,
                  fmt::format("tensor {} has {} bytes from {} on, the data has {}", in_quotes(entry.name),
                              entry.bytes(), end, data_bytes));
    }
    end += entry.bytes();
  }
  if (end != data_bytes)
    throw Error(ErrorId::M065, where, fmt::format("{} bytes of data belong to no tensor", data_bytes - end));
  return header;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  std::array<std::byte, kLengthBytes> length_bytes{};
  if (file_.bytes() < kLengthBytes)
    throw Error(ErrorId::M065, path, "is not a safetensors file: it has less than 8 bytes");
  file_.read(0, length_bytes);
  uint64_t length = 0;
  for (size_t i = kLengthBytes; i-- > 0;) length = (length << 8) | static_cast<uint64_t>(length_bytes[i]);
  if (length > uint64_t{kMaxSafetensorsHeaderBytes}) {
    throw Error(
        ErrorId::M051, path,
        fmt::format("states a safetensors header of {} bytes, the limit is {}", length, kMaxSafetensorsHeaderBytes));
  }
  data_offset_ = kLengthBytes + static_cast<int64_t>(length);
  if (data_offset_ > file_.bytes())
    throw Error(ErrorId::M065, path, fmt::format("ends within its header of {} bytes", length));
  std::string json(static_cast<size_t>(length), '\0');
  file_.read(kLengthBytes, std::as_writable_bytes(std::span(json)));
  header_ = parse_safetensors_header(json, file_.bytes() - data_offset_, path);
  for (size_t i = 0; i < header_.entries.size(); ++i) index_.emplace(header_.entries[i].name, i);
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &header_.entries[it->second];
}

void SafetensorsFile::read(const SafetensorsEntry& entry, int64_t offset, std::span<std::byte> out) const {
  const bool is_within =
      offset >= 0 && offset <= entry.bytes() && static_cast<int64_t>(out.size()) <= entry.bytes() - offset;
  MPC_CHECK(is_within, fmt::format("bytes {} to {} of tensor {}", offset, offset + static_cast<int64_t>(out.size()),
                                   in_quotes(entry.name)));
  file_.read(data_offset_ + entry.offset + offset, out);
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<SafetensorsEntry> entries,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path) {
  Json header = Json::object();
  const auto require = [&](bool condition, const std::string& text) {
    if (!condition)
      throw Error(ErrorId::M065, path,
                  fmt::format("{} cannot be a name or text of a safetensors file", in_quotes(text)));
  };
  for (const auto& [key, value] : metadata) {
    require(is_utf8(key) && is_utf8(value), key);
    header[std::string(kMetadata)][key] = value;
  }
  for (const SafetensorsEntry& entry : entries) {
    require(entry.name != kMetadata && is_utf8(entry.name) && !header.contains(entry.name), entry.name);
    const auto* row = std::ranges::find(kTypes, entry.dtype, &TypeRow::dtype);
    header[entry.name] = {{"dtype", row->name},
                          {"shape", entry.shape.to_vector()},
                          {"data_offsets", {missing_bytes_, missing_bytes_ + entry.bytes()}}};
    missing_bytes_ += entry.bytes();
  }
  std::string json = json_text(header);
  json.resize(static_cast<size_t>(align_up(static_cast<int64_t>(json.size()), kLengthBytes)), ' ');
  std::string length;
  for (int i = 0; i < kLengthBytes; ++i) length += static_cast<char>((json.size() >> (8 * i)) & 255);
  file_.append(length);
  file_.append(json);
}

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  MPC_CHECK(static_cast<int64_t>(bytes.size()) <= missing_bytes_, "more bytes than the tensors of the file have");
  file_.append(bytes);
  missing_bytes_ -= static_cast<int64_t>(bytes.size());
}

void SafetensorsWriter::commit() {
  MPC_CHECK(missing_bytes_ == 0, fmt::format("{} bytes of tensors were not written", missing_bytes_));
  file_.commit();
}

}  // namespace mpc
