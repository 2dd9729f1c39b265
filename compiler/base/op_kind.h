#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace mpc {

enum class OpKind : uint16_t {
#define MPC_OP(name, share, aliases) name,
#include "compiler/base/ops.def"
#undef MPC_OP
};

inline constexpr int kOpCount = 0
#define MPC_OP(name, share, aliases) +1
#include "compiler/base/ops.def"
#undef MPC_OP
    ;

/// May an output of the op take the bytes of an input of the same type that dies at this node?
enum class Share : uint8_t { kOwnBytes, kElementwise };

std::string_view op_name(OpKind op);
std::optional<OpKind> find_op(std::string_view name);
Share op_share(OpKind op);
/// The input that `output` is written over (the op updates it in place), or nothing.
std::optional<int> aliased_input(OpKind op, int output);

}  // namespace mpc
