#pragma once

#include <string>

#include "compiler/onnx/importer.h"

namespace mpc::onnx_io {

/// What to say when a product's operands do not fit (a classifier that expects the features of images of another size):
/// the size of an input with which they would, "an input \"x\" of 32x32 instead of 64x64". Empty when no size fits.
/// Only dimensions after the first two are varied (N, C, H, W), all in the same ratio. Sizes are found by importing the
/// model with them, so whatever lies between input and product counts. Some twenty imports; large models are not
/// searched.
/// @pre `failed` ended with an error while it imported `data` with `options` and has a mismatch().
std::string fitting_input(const Model::Data& data, const ImportOptions& options, const Evaluator& evaluator,
                          const Importer& failed);

}  // namespace mpc::onnx_io
