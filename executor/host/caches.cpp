#include "executor/host/caches.h"

#include <algorithm>

#include <unistd.h>

namespace mpc::executor {

int64_t last_cache_bytes() {
  constexpr int64_t kUsual = int64_t{32} << 20;
  int64_t bytes = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
  for (const int level : {_SC_LEVEL3_CACHE_SIZE, _SC_LEVEL2_CACHE_SIZE})
    bytes = std::max<int64_t>(bytes, ::sysconf(level));
#endif
  return bytes > 0 ? bytes : kUsual;
}

void bring_to_cache(std::span<const std::byte> bytes) {
  constexpr size_t kLine = 64;
  for (size_t at = 0; at < bytes.size(); at += kLine)
    static_cast<void>(*static_cast<const volatile std::byte*>(&bytes[at]));  // volatile: it is read though not used
}

}  // namespace mpc::executor
