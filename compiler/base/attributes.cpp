#include "compiler/base/attributes.h"

#include <algorithm>
#include <cmath>

#include "compiler/base/error.h"

namespace mpc {
namespace {

template <class T>
const T& typed(const Attributes& attributes, std::string_view name) {
  const Attribute* value = attributes.find(name);
  MPC_CHECK(value != nullptr, "attribute '" + std::string(name) + "' is absent");
  const T* typed = std::get_if<T>(value);
  MPC_CHECK(typed != nullptr, "attribute '" + std::string(name) + "' has another type");
  return *typed;
}

auto lower_bound(auto& items, std::string_view name) {
  return std::lower_bound(items.begin(), items.end(), name,
                          [](const auto& item, std::string_view key) { return item.first < key; });
}

bool is_same(double a, double b) {
  return a == b || (std::isnan(a) && std::isnan(b));
}

bool is_same(const Attribute& a, const Attribute& b) {
  if (a.index() != b.index()) return false;
  if (const auto* number = std::get_if<double>(&a)) return is_same(*number, std::get<double>(b));
  if (const auto* numbers = std::get_if<std::vector<double>>(&a)) {
    return std::ranges::equal(*numbers, std::get<std::vector<double>>(b),
                              [](double x, double y) { return is_same(x, y); });
  }
  return a == b;
}

}  // namespace

Attributes::Attributes(std::initializer_list<std::pair<std::string, Attribute>> items) {
  for (const auto& [name, value] : items) set(name, value);
}

const Attributes::Items& Attributes::items() const {
  static const Items none;
  return items_ ? *items_ : none;
}

Attributes::Items& Attributes::own_items() {
  if (!items_) {
    items_ = std::make_shared<Items>();
  } else if (items_.use_count() > 1) {
    items_ = std::make_shared<Items>(*items_);
  }
  return *items_;
}

const Attribute* Attributes::find(std::string_view name) const {
  const auto it = lower_bound(items(), name);
  return it != items().end() && it->first == name ? &it->second : nullptr;
}

void Attributes::set(std::string_view name, Attribute value) {
  Items& items = own_items();
  const auto it = lower_bound(items, name);
  if (it != items.end() && it->first == name) {
    it->second = std::move(value);
  } else {
    items.emplace(it, std::string(name), std::move(value));
  }
}

void Attributes::erase(std::string_view name) {
  if (!has(name)) return;
  Items& items = own_items();
  items.erase(lower_bound(items, name));
}

bool Attributes::operator==(const Attributes& other) const {
  return items_ == other.items_ || std::ranges::equal(items(), other.items(), [](const auto& a, const auto& b) {
           return a.first == b.first && is_same(a.second, b.second);
         });
}

int64_t Attributes::integer(std::string_view name) const {
  return typed<int64_t>(*this, name);
}
double Attributes::number(std::string_view name) const {
  return typed<double>(*this, name);
}
const std::string& Attributes::text(std::string_view name) const {
  return typed<std::string>(*this, name);
}
const std::vector<int64_t>& Attributes::integers(std::string_view name) const {
  return typed<std::vector<int64_t>>(*this, name);
}
const std::vector<double>& Attributes::numbers(std::string_view name) const {
  return typed<std::vector<double>>(*this, name);
}
const std::vector<std::string>& Attributes::texts(std::string_view name) const {
  return typed<std::vector<std::string>>(*this, name);
}

}  // namespace mpc
