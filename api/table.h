#pragma once

#include <string>
#include <vector>

namespace mpc::api {

/// Text in columns: the first column is flush left, the others flush right unless `left` names them.
class Table {
 public:
  explicit Table(std::vector<std::string> header, std::vector<size_t> left = {});
  void add(std::vector<std::string> row);
  /// Lines without trailing blanks, each ended by a newline, each after `indent` blanks.
  std::string text(size_t indent = 0) const;
  bool empty() const { return rows_.size() < 2; }

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<bool> is_left_;
};

}  // namespace mpc::api
