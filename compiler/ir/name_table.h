#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mpc {

/// The names in use in a graph. It keeps their hashes alone: passes copy graphs, and a table of strings would be most
/// of what they copy. Two names of one hash would give the second a suffix that it did not need, and no other harm.
class NameTable {
 public:
  /// `base` if it is free, otherwise `base` with the first suffix of .1, .2, ... that is. O(1) amortized.
  std::string claim(std::string base);
  /// Makes room for `names` in all.
  void reserve(size_t names);

 private:
  struct Slot {
    uint64_t hash = 0;
    uint32_t next_suffix = 0;  // to try; 0: the slot is empty
  };

  /// The slot of a hash, or the empty one where it would go. @pre some slot is empty.
  Slot& find(uint64_t hash);
  /// @return the slot of the name and whether it was free.
  std::pair<Slot*, bool> take(std::string_view name);

  std::vector<Slot> slots_;  // open addressing, a power of two of them, at most half of them in use
  size_t used_ = 0;
};

}  // namespace mpc
