#include "compiler/ir/name_table.h"

#include <functional>

namespace mpc {

std::string NameTable::claim(std::string base) {
  const auto [first, is_free] = take(base);
  if (is_free) return base;
  const uint64_t hash = first->hash;  // taking other names moves slots
  for (;;) {
    std::string name = base + "." + std::to_string(find(hash).next_suffix++);
    if (take(name).second) return name;
  }
}

void NameTable::reserve(size_t names) {
  constexpr size_t kLeast = 16;
  size_t count = slots_.empty() ? kLeast : slots_.size();
  while (count < 2 * names) count *= 2;
  if (count == slots_.size()) return;
  std::vector<Slot> old(count);
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (slot.next_suffix != 0) find(slot.hash) = slot;
  }
}

NameTable::Slot& NameTable::find(uint64_t hash) {
  const size_t mask = slots_.size() - 1;
  size_t at = static_cast<size_t>(hash) & mask;
  while (slots_[at].next_suffix != 0 && slots_[at].hash != hash) at = (at + 1) & mask;
  return slots_[at];
}

std::pair<NameTable::Slot*, bool> NameTable::take(std::string_view name) {
  reserve(used_ + 1);
  const uint64_t hash = std::hash<std::string_view>()(name);
  Slot& slot = find(hash);
  const bool is_free = slot.next_suffix == 0;
  if (is_free) {
    slot = {hash, 1};
    ++used_;
  }
  return {&slot, is_free};
}

}  // namespace mpc
