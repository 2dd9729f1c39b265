#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "compiler/base/error.h"

namespace mpc {

using Json = nlohmann::json;

inline constexpr int64_t kMaxJsonBytes = int64_t{256} << 20;

/// Bounds on what a JSON text may ask for.
struct JsonLimits {
  int depth = 64;
  int64_t bytes = kMaxJsonBytes;
  /// Values in one text: keeps memory within a few GiB whatever the 256 MiB are made of.
  int64_t values = int64_t{1} << 24;
};

/// Parses hostile JSON. Refused beside what the grammar refuses: duplicate keys, NUL bytes, invalid UTF-8, numbers that
/// do not fit (integers beyond 64 bits, floats that overflow). `where` names the file in messages. No recursion.
/// @throws Error(id) with line and column when malformed; Error(M051) beyond a limit.
Json parse_json(std::string_view text, ErrorId id, const std::string& where, const JsonLimits& limits = {});
/// The same for a file. @throws also as read_file.
Json read_json_file(const std::string& path, ErrorId id, const JsonLimits& limits = {});
/// The text of `json`; floats are written so that they read back as the same bits, invalid UTF-8 as U+FFFD. `indent` <
/// 0: one line.
std::string json_text(const Json& json, int indent = -1);

/// A place in a parsed JSON text from which typed values are read; a value of another type or out of range ends in an
/// Error that names the place: `plan.json: devices[3].memory_bytes: is -1, must be in [0, ...]`. The Json must outlive
/// the view.
class JsonView {
 public:
  JsonView(const Json& json, ErrorId id, std::string where) : json_(&json), id_(id), where_(std::move(where)) {}

  const Json& json() const { return *json_; }
  bool is_null() const;
  /// The member `key`. @throws when this is not an object or has no such member.
  JsonView at(std::string_view key) const;
  std::optional<JsonView> find(std::string_view key) const;
  /// Calls `visit(key, view)` for every member, in order of keys. @throws when this is not an object.
  void for_each_member(const std::function<void(const std::string&, const JsonView&)>& visit) const;
  /// @throws when a member is not among `keys`.
  void require_keys(std::initializer_list<std::string_view> keys) const;
  /// Elements of an array. @throws when this is not an array; element() also when there is no such element.
  int64_t count() const;
  JsonView element(int64_t index) const;
  /// An integer within [least, most]; 3.0 is not an integer.
  int64_t integer(int64_t least = std::numeric_limits<int64_t>::min(),
                  int64_t most = std::numeric_limits<int64_t>::max()) const;
  /// A finite number within [least, most].
  double number(double least = -std::numeric_limits<double>::max(),
                double most = std::numeric_limits<double>::max()) const;
  bool flag() const;
  const std::string& text() const;

  /// `plan.json: devices[3].name`: how messages name this place.
  std::string place() const { return path_.empty() ? where_ : where_ + ": " + path_; }
  /// The place and a message as an Error of the view's id.
  [[noreturn]] void fail(const std::string& message, const std::string& hint = {}) const;

 private:
  JsonView child(const Json& json, std::string path) const;
  [[noreturn]] void fail_type(std::string_view expected) const;

  const Json* json_;
  ErrorId id_;
  std::string where_;
  std::string path_;
};

}  // namespace mpc
