#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

namespace mpc {

/// A typed 32-bit index. Ids of different tags do not mix; a default-constructed id is "none".
template <class Tag>
class Id {
 public:
  constexpr Id() = default;
  constexpr explicit Id(uint32_t index) : index_(index) {}
  constexpr explicit Id(size_t index) : index_(static_cast<uint32_t>(index)) {}
  constexpr explicit Id(int index) : index_(static_cast<uint32_t>(index)) {}

  constexpr uint32_t index() const { return index_; }
  constexpr bool is_valid() const { return index_ != kNone; }
  constexpr auto operator<=>(const Id&) const = default;

 private:
  static constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
  uint32_t index_ = kNone;
};

using NodeId = Id<struct NodeTag>;
using ValueId = Id<struct ValueTag>;
using DeviceId = Id<struct DeviceTag>;

/// A side table with one T per id; grows on write, and reading past the end gives the default value.
template <class IdType, class T>
class IdMap {
 public:
  IdMap() = default;
  explicit IdMap(size_t count, T default_value = T{}) : default_(default_value), items_(count, default_) {}

  T& operator[](IdType id) {
    if (id.index() >= items_.size()) items_.resize(size_t{id.index()} + 1, default_);
    return items_[id.index()];
  }
  const T& operator[](IdType id) const { return id.index() < items_.size() ? items_[id.index()] : default_; }
  size_t count() const { return items_.size(); }

 private:
  T default_{};
  std::vector<T> items_;
};

}  // namespace mpc

template <class Tag>
struct std::hash<mpc::Id<Tag>> {
  size_t operator()(const mpc::Id<Tag>& id) const { return id.index(); }
};
