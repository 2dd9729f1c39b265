#include "compiler/base/op_kind.h"

#include <algorithm>
#include <charconv>
#include <unordered_map>

namespace mpc {
namespace {

struct Row {
  std::string_view name;
  Share share;
  std::string_view aliases;
};

constexpr Row kRows[] = {
#define MPC_OP(name, share, aliases) {#name, Share::share, aliases},
#include "compiler/base/ops.def"
#undef MPC_OP
};

}  // namespace

std::string_view op_name(OpKind op) {
  return kRows[static_cast<size_t>(op)].name;
}
Share op_share(OpKind op) {
  return kRows[static_cast<size_t>(op)].share;
}

std::optional<OpKind> find_op(std::string_view name) {
  static const auto* const index = [] {
    auto* map = new std::unordered_map<std::string_view, OpKind>;
    for (int i = 0; i < kOpCount; ++i) map->emplace(kRows[i].name, static_cast<OpKind>(i));
    return map;
  }();
  const auto it = index->find(name);
  if (it == index->end()) return std::nullopt;
  return it->second;
}

std::optional<int> aliased_input(OpKind op, int output) {
  constexpr std::string_view kOf = " of ";
  std::string_view list = kRows[static_cast<size_t>(op)].aliases;
  int first_input = 0;
  if (const size_t of = list.find(kOf); of != std::string_view::npos) {
    const std::string_view inputs = list.substr(of + kOf.size());
    list = list.substr(0, of);
    const int entries = 1 + static_cast<int>(std::ranges::count(list, ','));
    std::from_chars(inputs.data(), inputs.data() + inputs.size(), first_input);
    first_input *= output / entries;
    output %= entries;
  }
  for (int i = 0; !list.empty(); ++i) {
    const size_t comma = list.find(',');
    const std::string_view entry = list.substr(0, comma);
    if (i == output) {
      int input = -1;
      std::from_chars(entry.data(), entry.data() + entry.size(), input);
      return input < 0 ? std::nullopt : std::optional<int>(first_input + input);
    }
    list = comma == std::string_view::npos ? std::string_view{} : list.substr(comma + 1);
  }
  return std::nullopt;
}

}  // namespace mpc
