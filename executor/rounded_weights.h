#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "compiler/base/dtype.h"
#include "compiler/base/weights.h"

namespace mpc {

/// May what is kept as `to` be given as `from`: in the same type, or in f32 where 16 bits are kept?
bool is_kept_from(DType from, DType to);

/// Numbers in f32, rounded to the nearest (ties to even) of f16 or bf16, as Cast does. @pre `to` has two bytes for
/// every four of `from`.
void round_numbers(std::span<const std::byte> from, DType dtype, std::span<std::byte> to);

/// Reads the whole tensor `name` of `weights` as `dtype`: what a plan keeps in 16 bits and the source has in f32 is
/// rounded, piece by piece, on its way. @throws Error(M023) for any other difference, and as WeightSource::read.
void read_weight(const WeightSource& weights, const std::string& name, DType dtype, std::span<std::byte> to);

}  // namespace mpc
