#include "api/table.h"

#include <algorithm>

namespace mpc::api {
namespace {

/// Characters, not bytes: UTF-8 continuation bytes take no column.
size_t columns_of(const std::string& text) {
  return static_cast<size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

}  // namespace

Table::Table(std::vector<std::string> header, std::vector<size_t> left) : is_left_(header.size(), false) {
  is_left_[0] = true;
  for (const size_t column : left) is_left_[column] = true;
  rows_.push_back(std::move(header));
}

void Table::add(std::vector<std::string> row) {
  row.resize(is_left_.size());
  rows_.push_back(std::move(row));
}

std::string Table::text(size_t indent) const {
  std::vector<size_t> widths(is_left_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], columns_of(row[c]));
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line(indent, ' ');
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string padding(widths[c] - columns_of(row[c]), ' ');
      if (c > 0) line += "  ";
      line += is_left_[c] ? row[c] + padding : padding + row[c];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

}  // namespace mpc::api
