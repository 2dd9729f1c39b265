#include "compiler/base/json.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/file.h"
#include "compiler/base/json_rows.h"
#include "compiler/base/text.h"

namespace mpc {
namespace {

// Builds a Json from the parser's events; every event may end the parse with an error. The parser itself keeps its
// state in a vector, so that no depth of nesting can exhaust the stack.
class Builder {
 public:
  /// Rows that are not kept: elements of the root's arrays under `keys`.
  struct Rows {
    const std::vector<std::string_view>& keys;
    const TakeJsonRow& take;
  };
  Builder(ErrorId id, const std::string& where, const JsonLimits& limits, const Rows* rows)
      : id_(id), where_(where), limits_(limits), rows_(rows) {}

  Json take() { return std::move(root_); }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(int64_t value) { return add(value); }
  bool number_unsigned(uint64_t value) { return add(value); }
  bool number_float(double value, const std::string& text) {
    const bool is_integer = text.find_first_of(".eE") == std::string::npos;  // the lexer's form of one that did not fit
    if (is_integer || !std::isfinite(value)) fail(fmt::format("the number {} does not fit", escaped(text, 40)));
    return add(value);
  }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(Json::binary_t&) { fail("binary values are not JSON"); }
  bool key(std::string& name) {
    Json::object_t& object = open_.back()->get_ref<Json::object_t&>();
    const auto [it, is_first] = object.try_emplace(std::move(name));
    if (!is_first) fail(fmt::format("the key \"{}\" stands twice", escaped(it->first, 200)));
    member_ = &it->second;
    if (rows_ != nullptr && open_.size() == kRootDepth) {
      const auto key = std::find(rows_->keys.begin(), rows_->keys.end(), it->first);
      row_key_ = key == rows_->keys.end() ? nullptr : &*key;
      row_index_ = 0;
    }
    return true;
  }
  bool start_object(size_t) { return open(Json::value_t::object); }
  bool start_array(size_t) { return open(Json::value_t::array); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) {
    std::string_view message = error.what();  // `[json.exception.parse_error.101] parse error at line 1, column 2: ...`
    const size_t bracket = message.find("] ");
    if (message.starts_with('[') && bracket != std::string_view::npos) message.remove_prefix(bracket + 2);
    fail(std::string(message));
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    throw Error(id_, where_, "is not valid JSON: " + message);
  }

  Json& place(Json value) {
    if (++values_ > limits_.values) {
      throw Error(ErrorId::M051, where_, fmt::format("has more than {} JSON values", limits_.values));
    }
    if (open_.empty()) return root_ = std::move(value);
    if (open_.back()->is_array()) return open_.back()->get_ref<Json::array_t&>().emplace_back(std::move(value));
    return *member_ = std::move(value);
  }
  template <class T>
  bool add(T&& value) {
    place(Json(std::forward<T>(value)));
    take_row();
    return true;
  }
  bool open(Json::value_t type) {
    if (static_cast<int>(open_.size()) >= limits_.depth) {
      throw Error(ErrorId::M051, where_, fmt::format("nests JSON deeper than {} levels", limits_.depth));
    }
    open_.push_back(&place(Json(type)));
    return true;
  }
  bool close() {
    open_.pop_back();
    take_row();
    return true;
  }
  /// Hands on what is complete now, when it is a row.
  void take_row() {
    if (row_key_ == nullptr || open_.size() != kRootDepth + 1 || !open_.back()->is_array()) return;
    Json::array_t& array = open_.back()->get_ref<Json::array_t&>();
    rows_->take(*row_key_, row_index_++, array.back());
    array.pop_back();
  }

  static constexpr size_t kRootDepth = 1;  // containers that are open where the root's members stand

  ErrorId id_;
  const std::string& where_;
  const JsonLimits& limits_;
  const Rows* rows_;                           // or none
  const std::string_view* row_key_ = nullptr;  // of the root's array that is open, when its rows are not kept
  int64_t row_index_ = 0;
  Json root_;
  std::vector<Json*>
      open_;                // containers being filled, outermost first; only the last one grows, so the others stay put
  Json* member_ = nullptr;  // where the value of the last key goes
  int64_t values_ = 0;
};

Json build(std::string_view text, ErrorId id, const std::string& where, const JsonLimits& limits,
           const Builder::Rows* rows) {
  if (static_cast<int64_t>(text.size()) > limits.bytes) {
    throw Error(ErrorId::M051, where, fmt::format("has {} bytes of JSON, the limit is {}", text.size(), limits.bytes));
  }
  // The parser takes a NUL for the end of the text and would accept anything behind it.
  const size_t nul = text.find('\0');
  if (nul != std::string_view::npos) throw Error(id, where, fmt::format("is not valid JSON: byte {} is NUL", nul));
  Builder builder(id, where, limits, rows);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

}  // namespace

Json parse_json(std::string_view text, ErrorId id, const std::string& where, const JsonLimits& limits) {
  return build(text, id, where, limits, nullptr);
}

Json parse_json_rows(std::string_view text, ErrorId id, const std::string& where,
                     const std::vector<std::string_view>& keys, const TakeJsonRow& take, const JsonLimits& limits) {
  const Builder::Rows rows{keys, take};
  return build(text, id, where, limits, &rows);
}

Json read_json_file(const std::string& path, ErrorId id, const JsonLimits& limits) {
  return parse_json(read_text_file(path, limits.bytes), id, path, limits);
}

std::string json_text(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

JsonView JsonView::child(const Json& json, std::string path) const {
  JsonView view(json, id_, where_);
  view.path_ = std::move(path);
  return view;
}

void JsonView::fail(const std::string& message, const std::string& hint) const {
  throw Error(id_, place(), message, hint);
}

void JsonView::fail_type(std::string_view expected) const {
  const bool is_short = json_->is_primitive();
  fail(fmt::format("is {}, must be {}",
                   is_short ? escaped(json_text(*json_), 80) : std::string("an ") + json_->type_name(), expected));
}

bool JsonView::is_null() const {
  return json_->is_null();
}

std::optional<JsonView> JsonView::find(std::string_view key) const {
  if (!json_->is_object()) fail_type("an object");
  const auto it = json_->find(key);
  if (it == json_->end()) return std::nullopt;
  return child(*it, path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key));
}

JsonView JsonView::at(std::string_view key) const {
  auto found = find(key);
  if (!found) fail(fmt::format("has no \"{}\"", key));
  return *std::move(found);
}

void JsonView::for_each_member(const std::function<void(const std::string&, const JsonView&)>& visit) const {
  if (!json_->is_object()) fail_type("an object");
  for (const auto& [key, value] : json_->items()) visit(key, child(value, path_.empty() ? key : path_ + "." + key));
}

void JsonView::require_keys(std::initializer_list<std::string_view> keys) const {
  if (!json_->is_object()) fail_type("an object");
  for (const auto& item : json_->items()) {
    if (std::find(keys.begin(), keys.end(), item.key()) != keys.end()) continue;
    const std::vector<std::string> known(keys.begin(), keys.end());
    const auto close = nearest(item.key(), known);
    fail(fmt::format("has the unknown key \"{}\"", escaped(item.key(), 200)),
         close ? fmt::format("did you mean \"{}\"?", *close) : std::string());
  }
}

int64_t JsonView::count() const {
  if (!json_->is_array()) fail_type("an array");
  return static_cast<int64_t>(json_->size());
}

JsonView JsonView::element(int64_t index) const {
  if (index < 0 || index >= count()) fail(fmt::format("has {} elements, number {} is needed", count(), index));
  return child((*json_)[static_cast<size_t>(index)], fmt::format("{}[{}]", path_, index));
}

int64_t JsonView::integer(int64_t least, int64_t most) const {
  if (!json_->is_number_integer()) fail_type("an integer");
  const bool is_too_large = json_->is_number_unsigned() && json_->get<uint64_t>() > uint64_t{INT64_MAX};
  const int64_t value = is_too_large ? INT64_MAX : json_->get<int64_t>();
  if (is_too_large || value < least || value > most) fail_type(fmt::format("in [{}, {}]", least, most));
  return value;
}

double JsonView::number(double least, double most) const {
  if (!json_->is_number()) fail_type("a number");
  const double value = json_->get<double>();
  if (!(value >= least && value <= most)) fail_type(fmt::format("in [{}, {}]", least, most));
  return value;
}

bool JsonView::flag() const {
  if (!json_->is_boolean()) fail_type("true or false");
  return json_->get<bool>();
}

const std::string& JsonView::text() const {
  if (!json_->is_string()) fail_type("a string");
  return json_->get_ref<const std::string&>();
}

}  // namespace mpc
