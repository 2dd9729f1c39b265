#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace mpc {

/// An attribute's value. Floats are kept as double (ONNX stores f32: every f32 is exact here).
using Attribute =
    std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>, std::vector<std::string>>;

/// A node's attributes, sorted by name. Copies share them until one is changed: passes copy graphs all the time, and
/// seldom change an attribute. After type inference every attribute of the op's schema is present
/// and canonical (defaults filled in, negative axes made positive), so that kernels read them without checks.
class Attributes {
 public:
  Attributes() = default;
  Attributes(std::initializer_list<std::pair<std::string, Attribute>> items);

  const Attribute* find(std::string_view name) const;
  bool has(std::string_view name) const { return find(name) != nullptr; }
  void set(std::string_view name, Attribute value);
  void erase(std::string_view name);

  /// Typed reads. @throws Error(M700) when the attribute is absent or of another type: the schema has checked that.
  int64_t integer(std::string_view name) const;
  double number(std::string_view name) const;
  const std::string& text(std::string_view name) const;
  const std::vector<int64_t>& integers(std::string_view name) const;
  const std::vector<double>& numbers(std::string_view name) const;
  const std::vector<std::string>& texts(std::string_view name) const;
  bool flag(std::string_view name) const { return integer(name) != 0; }

  using Items = std::vector<std::pair<std::string, Attribute>>;
  const Items& items() const;
  bool empty() const { return items().empty(); }
  /// The same names with the same values. A NaN equals a NaN: an attribute that holds one is still the same attribute.
  bool operator==(const Attributes& other) const;

 private:
  /// To change them: from here on they are this object's alone.
  Items& own_items();

  std::shared_ptr<Items> items_;  // null: none
};

}  // namespace mpc
