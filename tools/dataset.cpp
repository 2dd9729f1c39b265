#include "tools/dataset.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "tools/results.h"

namespace mpc::tools {
namespace {

bool is_integer(DType dtype) {
  return dtype != DType::f32 && dtype != DType::f64 && dtype != DType::f16 && dtype != DType::bf16;
}

/// The shape of `rows` rows of an input.
std::vector<int64_t> with_rows(const TensorInfo& input, int64_t rows) {
  std::vector<int64_t> shape = input.shape;
  shape[0] = rows;
  return shape;
}

/// Rows that are the pattern of their class plus noise of half its size.
Tensor class_patterns(const TensorInfo& input, const Tensor& labels, int64_t classes, uint64_t seed) {
  const int64_t rows = labels.shape[0];
  std::vector<float> values =
      random_tensor(DType::f32, with_rows(input, rows), seed, input.name + "/noise").as<float>();
  const std::vector<float> patterns =
      random_tensor(DType::f32, with_rows(input, classes), seed, input.name + "/pattern").as<float>();
  const int64_t width = rows == 0 ? 0 : static_cast<int64_t>(values.size()) / rows;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t label = static_cast<int64_t>(labels.number(row));
    for (int64_t i = 0; i < width; ++i) {
      float& value = values[static_cast<size_t>(row * width + i)];
      value = 0.5f * value + patterns[static_cast<size_t>(label * width + i)];
    }
  }
  return Tensor::from(with_rows(input, rows), values).converted(input.dtype);
}

/// Targets in [0, 1), which every loss on numbers accepts.
Tensor number_targets(const TensorInfo& input, int64_t rows, uint64_t seed) {
  std::vector<float> values = random_tensor(DType::f32, with_rows(input, rows), seed, input.name).as<float>();
  for (float& value : values) value = 0.5f * (value + 1.0f);
  return Tensor::from(with_rows(input, rows), values).converted(input.dtype);
}

/// Classes are whole numbers, in whatever type a file has them.
void require_classes(const Tensor& file, const TensorInfo& labels) {
  if (!is_integer(labels.dtype) || is_integer(file.dtype)) return;
  for (int64_t i = 0; i < file.elements(); ++i) {
    const double label = file.number(i);
    if (label == std::floor(label)) continue;
    throw Error(ErrorId::M004, fmt::format("input \"{}\"", labels.name),
                fmt::format("label {} is {}, and classes are whole numbers", i, label),
                "choose a loss for numbers, such as --loss mse");
  }
}

}  // namespace

Dataset Dataset::from_files(const DataFiles& files, const Plan& plan) {
  Dataset data;
  data.rows_ = -1;
  for (const TensorInfo& input : plan.inputs()) {
    const Tensor* file = nullptr;
    if (input.is_labels) {
      if (files.labels) file = &*files.labels;
    } else if (const auto found = files.inputs.find(input.name); found != files.inputs.end()) {
      file = &found->second;
    }
    if (file == nullptr) {
      throw Error(
          ErrorId::M004, fmt::format("input \"{}\"", input.name), "has no data",
          input.is_labels ? "give --labels FILE" : fmt::format("give --data {}=FILE, or --data synthetic", input.name));
    }
    if (input.is_labels) require_classes(*file, input);
    if (!input.is_batched || input.shape.empty()) {
      data.whole_.emplace(input.name, *file);
      continue;
    }
    Tensor tensor = fit_rows(*file, input);
    if (data.rows_ >= 0 && tensor.shape[0] != data.rows_) {
      throw Error(ErrorId::M004, fmt::format("input \"{}\"", input.name),
                  fmt::format("has {} rows, other inputs have {}", tensor.shape[0], data.rows_));
    }
    data.rows_ = tensor.shape[0];
    data.batched_.emplace(input.name, std::move(tensor));
  }
  data.rows_ = std::max<int64_t>(data.rows_, plan.batch() == 0 ? 1 : 0);
  return data;
}

Dataset Dataset::synthetic(const Plan& plan, int64_t rows, uint64_t seed) {
  Dataset data;
  data.rows_ = rows;
  const std::vector<TensorInfo> inputs = plan.inputs();
  const auto labels = std::ranges::find_if(inputs, &TensorInfo::is_labels);
  const bool has_classes =
      labels != inputs.end() && labels->is_batched && is_integer(labels->dtype) && labels->shape.size() == 1;
  if (has_classes) {
    data.batched_[labels->name] = random_tensor(labels->dtype, {rows}, seed, labels->name, labels->bound);
  }
  for (const TensorInfo& input : inputs) {
    if (data.batched_.contains(input.name)) continue;
    if (!input.is_batched || input.shape.empty()) {
      data.whole_.emplace(input.name, random_input(input, seed));
    } else if (is_integer(input.dtype)) {
      data.batched_.emplace(input.name,
                            random_tensor(input.dtype, with_rows(input, rows), seed, input.name, input.bound));
    } else if (has_classes) {
      data.batched_.emplace(input.name, class_patterns(input, data.batched_[labels->name], labels->bound, seed));
    } else if (input.is_labels) {
      data.batched_.emplace(input.name, number_targets(input, rows, seed));
    } else {
      data.batched_.emplace(input.name, random_tensor(input.dtype, with_rows(input, rows), seed, input.name));
    }
  }
  return data;
}

void Dataset::bind(std::span<const int64_t> rows, Session& session) const {
  for (const auto& [name, tensor] : batched_) session.bind(name, take_rows(tensor, rows));
  for (const auto& [name, tensor] : whole_) session.bind(name, tensor);
}

}  // namespace mpc::tools
