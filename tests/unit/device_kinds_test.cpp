#include <doctest/doctest.h>

#include <set>
#include <string>

#include "compiler/cost/cluster.h"

namespace mpc {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

std::string kind_of(std::string_view model, int64_t gib) {
  const DeviceKind* kind = device_kind_of_model(model, gib * kGiB);
  return kind == nullptr ? "" : std::string(kind->name);
}

TEST_CASE("device kinds: a GPU is known by the name that its driver gives it") {
  CHECK(kind_of("NVIDIA H200", 141) == "h200");
  CHECK(kind_of("NVIDIA H100 80GB HBM3", 79) == "h100-80g");
  CHECK(kind_of("NVIDIA H100 PCIe", 79) == "h100-pcie");
  CHECK(kind_of("NVIDIA GH200 480GB", 95) == "gh200");
  CHECK(kind_of("NVIDIA L40S", 45) == "l40s");
  CHECK(kind_of("NVIDIA L40", 45) == "l40");
  CHECK(kind_of("NVIDIA L4", 22) == "l4");
  CHECK(kind_of("NVIDIA A10G", 22) == "a10");
  CHECK(kind_of("Tesla T4", 15) == "t4");
  CHECK(kind_of("NVIDIA GeForce RTX 4090", 24) == "rtx4090");
  CHECK(kind_of("NVIDIA T400 4GB", 4).empty());
}

TEST_CASE("device kinds: of several sizes of one model the nearest memory is taken") {
  CHECK(kind_of("NVIDIA A100-SXM4-40GB", 39) == "a100-40g");
  CHECK(kind_of("NVIDIA A100-SXM4-80GB", 79) == "a100-80g");
  CHECK(kind_of("Tesla V100-SXM2-16GB", 15) == "v100-16g");
  CHECK(kind_of("Tesla V100-SXM2-32GB", 31) == "v100-32g");
}

TEST_CASE("device kinds: every row has a name of its own, rates, and says where they come from") {
  std::set<std::string_view> names;
  for (const DeviceKind& kind : device_kinds()) {
    INFO(kind.name);
    CHECK(names.insert(kind.name).second);
    CHECK(find_device_kind(kind.name) == &kind);
    CHECK(kind.memory_bytes > 0);
    for (const double rate :
         {kind.rates.flops_f32, kind.rates.flops_f16, kind.rates.flops_f64, kind.rates.bytes_per_second,
          kind.rates.host_bytes_per_second, kind.peer_bytes_per_second})
      CHECK(rate > 0);
    CHECK_FALSE(kind.source.empty());
  }
}

}  // namespace
}  // namespace mpc
