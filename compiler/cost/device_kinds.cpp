#include <cstdlib>

#include "compiler/cost/cluster.h"

namespace mpc {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

// Achievable rates, not peaks: dense matrix rates a well-tuned library reaches on large operands, streaming memory
// rates, and about 5 us per kernel launch. `source` says what each row was taken from.
constexpr DeviceKind kKinds[] = {
    {"cpu",
     "cpu",
     "",
     8 * kGiB,
     {50e9, 45e9, 3e9, 12e9, 2e-6, 12e9},
     6e9,
     4e-6,
     "one core with AVX2: 50 GFLOP/s f32 in GEMM, 12 GB/s streaming; a transfer is a memcpy between two arenas"},
    {"cpu-avx512",
     "cpu",
     "",
     8 * kGiB,
     {200e9, 180e9, 3.5e9, 25e9, 2e-6, 14e9},
     14e9,
     4e-6,
     "one core with AVX-512: 200 GFLOP/s f32 in oneDNN's GEMM, 25 GB/s streaming, 14 GB/s memcpy measured on a Xeon; a "
     "transfer is a memcpy"},
    {"a100-40g",
     "cuda",
     "A100",
     40 * kGiB,
     {17e12, 250e12, 15e12, 1.3e12, 5e-6, 22e9, 130e12},
     240e9,
     8e-6,
     "NVIDIA A100 datasheet: 19.5 TFLOP/s f32, 156 tf32, 312 bf16, 1.56 TB/s, NVLink3 300 GB/s per direction; about 85 "
     "% reached"},
    {"a100-80g",
     "cuda",
     "A100",
     80 * kGiB,
     {17e12, 250e12, 15e12, 1.7e12, 5e-6, 22e9, 130e12},
     240e9,
     8e-6,
     "NVIDIA A100 80GB datasheet: 19.5 TFLOP/s f32, 156 tf32, 312 bf16, 2.04 TB/s, NVLink3 300 GB/s per direction; "
     "about 85 % reached"},
    {"h100-80g",
     "cuda",
     "H100",
     80 * kGiB,
     {52e12, 700e12, 52e12, 2.9e12, 5e-6, 50e9, 350e12},
     370e9,
     8e-6,
     "NVIDIA H100 SXM datasheet: 67 TFLOP/s f32, 494 tf32, 989 bf16, 3.35 TB/s, NVLink4 450 GB/s per direction; shares "
     "reached as on H200"},
    {"h200",
     "cuda",
     "H200",
     141 * 1000000000LL,
     {52e12, 790e12, 52e12, 4.3e12, 5e-6, 55e9, 395e12},
     370e9,
     8e-6,
     "NVIDIA H200: 790 TFLOP/s bf16 and 4.3 TB/s measured; half of that in tf32; 67 TFLOP/s f32 and NVLink4 450 GB/s "
     "by datasheet"},
    {"b200",
     "cuda",
     "B200",
     180 * 1000000000LL,
     {65e12, 1800e12, 30e12, 6.8e12, 5e-6, 55e9, 900e12},
     740e9,
     8e-6,
     "NVIDIA B200 datasheet: 80 TFLOP/s f32, 1125 tf32, 2250 bf16, 8 TB/s, NVLink5 900 GB/s per direction; about 80 to "
     "85 % reached"},
    {"l40s",
     "cuda",
     "L40S",
     48 * kGiB,
     {60e12, 290e12, 1.2e12, 0.75e12, 5e-6, 25e9, 145e12},
     22e9,
     15e-6,
     "NVIDIA L40S datasheet: 91.6 TFLOP/s f32, 183 tf32, 362 bf16, 864 GB/s, PCIe 4 x16"},
    {"rtx4090",
     "cuda",
     "RTX 4090",
     24 * kGiB,
     {60e12, 140e12, 1.1e12, 0.9e12, 5e-6, 25e9, 70e12},
     20e9,
     20e-6,
     "NVIDIA Ada whitepaper: 82.6 TFLOP/s f32, 82.6 tf32, 165 bf16 with f32 accumulation, 1008 GB/s, PCIe 4 x16 "
     "through the host"},
    {"v100-16g",
     "cuda",
     "V100",
     16 * kGiB,
     {13e12, 100e12, 6.5e12, 0.78e12, 5e-6, 11e9},
     120e9,
     9e-6,
     "NVIDIA V100 datasheet: 15.7 TFLOP/s f32, 125 f16, 900 GB/s, NVLink2 150 GB/s per direction"},
    {"v100-32g",
     "cuda",
     "V100",
     32 * kGiB,
     {13e12, 100e12, 6.5e12, 0.78e12, 5e-6, 11e9},
     120e9,
     9e-6,
     "NVIDIA V100 datasheet: 15.7 TFLOP/s f32, 125 f16, 900 GB/s, NVLink2 150 GB/s per direction"},
    {"h100-pcie",
     "cuda",
     "H100 PCIe",
     80 * kGiB,
     {43e12, 600e12, 22e12, 1.7e12, 5e-6, 50e9, 300e12},
     50e9,
     12e-6,
     "NVIDIA H100 PCIe datasheet: 51 TFLOP/s f32, 378 tf32, 756 bf16, 2 TB/s, PCIe 5 x16; about 80 to 85 % reached"},
    {"gh200",
     "cuda",
     "GH200",
     96 * 1000000000LL,
     {52e12, 700e12, 52e12, 3.5e12, 5e-6, 350e9, 350e12},
     370e9,
     8e-6,
     "NVIDIA GH200 datasheet: 67 TFLOP/s f32, 494 tf32, 990 bf16, 4 TB/s, 450 GB/s per direction to the host; shares "
     "reached as on H200"},
    {"a10",
     "cuda",
     "A10",
     24 * kGiB,
     {26e12, 105e12, 0.8e12, 0.51e12, 5e-6, 22e9, 52e12},
     20e9,
     15e-6,
     "NVIDIA A10 datasheet: 31.2 TFLOP/s f32, 62.5 tf32, 125 bf16, 600 GB/s, PCIe 4 x16; about 85 % reached"},
    {"a6000",
     "cuda",
     "RTX A6000",
     48 * kGiB,
     {32e12, 130e12, 1e12, 0.65e12, 5e-6, 22e9, 65e12},
     20e9,
     15e-6,
     "NVIDIA RTX A6000 datasheet: 38.7 TFLOP/s f32, 77.4 tf32, 155 bf16, 768 GB/s, PCIe 4 x16; about 85 % reached"},
    {"rtx6000-ada",
     "cuda",
     "RTX 6000 Ada",
     48 * kGiB,
     {60e12, 290e12, 1.2e12, 0.82e12, 5e-6, 25e9, 145e12},
     22e9,
     15e-6,
     "NVIDIA RTX 6000 Ada datasheet: 91.1 TFLOP/s f32, 182 tf32, 364 bf16, 960 GB/s, PCIe 4 x16; shares reached as on "
     "L40S"},
    {"l40",
     "cuda",
     "L40",
     48 * kGiB,
     {60e12, 145e12, 1.2e12, 0.75e12, 5e-6, 25e9, 72e12},
     22e9,
     15e-6,
     "NVIDIA L40 datasheet: 90.5 TFLOP/s f32, 90.5 tf32, 181 bf16, 864 GB/s, PCIe 4 x16; shares reached as on L40S"},
    {"l4",
     "cuda",
     "L4",
     24 * kGiB,
     {20e12, 97e12, 0.4e12, 0.26e12, 5e-6, 22e9, 48e12},
     20e9,
     15e-6,
     "NVIDIA L4 datasheet: 30.3 TFLOP/s f32, 60 tf32, 121 bf16, 300 GB/s, PCIe 4 x16; shares reached as on L40S"},
    {"t4",
     "cuda",
     "Tesla T4",
     16 * kGiB,
     {6.5e12, 52e12, 0.2e12, 0.27e12, 5e-6, 11e9},
     10e9,
     20e-6,
     "NVIDIA T4 datasheet: 8.1 TFLOP/s f32, 65 f16, 320 GB/s, PCIe 3 x16; about 80 to 85 % reached"},
    {"rtx3090",
     "cuda",
     "RTX 3090",
     24 * kGiB,
     {28e12, 60e12, 0.5e12, 0.8e12, 5e-6, 22e9, 30e12},
     20e9,
     20e-6,
     "NVIDIA GA102 whitepaper: 35.6 TFLOP/s f32, 35.6 tf32, 71 bf16 with f32 accumulation, 936 GB/s, PCIe 4 x16 "
     "through the host"},
    {"rtx5090",
     "cuda",
     "RTX 5090",
     32 * kGiB,
     {76e12, 178e12, 1.4e12, 1.5e12, 5e-6, 50e9, 89e12},
     40e9,
     20e-6,
     "NVIDIA RTX Blackwell whitepaper: 104.8 TFLOP/s f32, 104.8 tf32, 209.5 bf16 with f32 accumulation, 1792 GB/s, "
     "PCIe 5 x16 through the host"},
};

}  // namespace

std::span<const DeviceKind> device_kinds() {
  return kKinds;
}

const DeviceKind* find_device_kind(std::string_view name) {
  for (const DeviceKind& kind : kKinds) {
    if (kind.name == name) return &kind;
  }
  return nullptr;
}

const DeviceKind* device_kind_of_model(std::string_view model, int64_t memory_bytes) {
  const DeviceKind* best = nullptr;
  for (const DeviceKind& kind : kKinds) {
    if (kind.model.empty() || model.find(kind.model) == std::string_view::npos) continue;
    const bool is_nearer = best != nullptr && kind.model == best->model &&
                           std::llabs(kind.memory_bytes - memory_bytes) < std::llabs(best->memory_bytes - memory_bytes);
    if (best == nullptr || kind.model.size() > best->model.size() || is_nearer) best = &kind;
  }
  return best;
}

}  // namespace mpc
