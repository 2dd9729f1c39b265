#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace mpc::executor {

/// Bytes of the last cache before memory, as the system tells; 32 MiB where it does not.
int64_t last_cache_bytes();

/// Reads the bytes, so that caches hold what fits of them.
void bring_to_cache(std::span<const std::byte> bytes);

}  // namespace mpc::executor
