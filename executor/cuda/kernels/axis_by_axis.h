#pragma once

#include <algorithm>
#include <vector>

#include "executor/cuda/data.h"

// Gradients of what takes every axis on its own (Pad, Resize): the sums are made axis after axis, the first one first,
// in f64, each result by one thread in ascending order. O(elements * length of the axis) per axis.

namespace mpc::cuda {

/// y[o, j, i] = sum over k of map.weight(k, j) x[o, k, i].
template <class Map>
struct SumAlongAxis {
  DoubleIn x;
  DoubleOut y;
  Map map;
  int64_t from;
  int64_t to;
  int64_t inner;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t mine = i / inner % to;
    const int64_t begin = i / inner / to * from * inner + i % inner;
    double sum = 0;
    for (int64_t k = 0; k < from; ++k) {
      const double weight = map.weight(k, mine);
      if (weight != 0) sum += weight * x[begin + k * inner];  // what does not count may be NaN
    }
    y.set(i, sum);
  }
};

/// What lies between two axes is in the workspace, in two halves that take turns.
/// Map: from(), to() elements of the axis in x and in y, and weight(k, j) of element k of x in element j of y.
template <class Map>
class AxisByAxisKernel final : public Kernel {
 public:
  AxisByAxisKernel(const executor::NodeSpec& node, std::vector<Map> maps)
      : maps_(std::move(maps)), x_(node.inputs[0].dtype), y_(node.outputs[0].dtype), inner_(maps_.size(), 1) {
    for (size_t d = maps_.size(); d-- > 1;) inner_[d - 1] = inner_[d] * maps_[d].from();
    int64_t outer = 1;
    for (size_t d = 0; d < maps_.size(); ++d) {
      outer *= maps_[d].to();
      counts_.push_back(outer * inner_[d]);
      if (d + 1 < maps_.size()) half_ = std::max(half_, counts_[d]);
    }
  }

  void run(const Launch& launch) override {
    double* const halves[] = {static_cast<double*>(launch.workspace), static_cast<double*>(launch.workspace) + half_};
    DoubleIn x{launch.inputs[0], x_};
    for (size_t d = 0; d < maps_.size(); ++d) {
      const bool is_last = d + 1 == maps_.size();
      const DoubleOut y = is_last ? DoubleOut{launch.outputs[0], y_} : DoubleOut{halves[d % 2], DType::f64};
      for_each(launch.stream, counts_[d], SumAlongAxis<Map>{x, y, maps_[d], maps_[d].from(), maps_[d].to(), inner_[d]},
               "sums along an axis");
      x = {y.data, y.dtype};
    }
  }
  int64_t workspace_bytes() const override { return 2 * half_ * static_cast<int64_t>(sizeof(double)); }
  std::string_view name() const override { return "cuda:ordered sums"; }

 private:
  std::vector<Map> maps_;
  DType x_, y_;
  std::vector<int64_t> inner_;   // elements of x behind an axis
  std::vector<int64_t> counts_;  // elements once an axis is done
  int64_t half_ = 0;
};

template <class Map>
KernelOrReason axis_by_axis(const executor::NodeSpec& node, std::vector<Map> maps) {
  if (first_not_float(node)) return declined("sums along axes: only floats");
  if (maps.empty()) return declined("sums along axes: there are none");
  return {std::make_unique<AxisByAxisKernel<Map>>(node, std::move(maps)), {}};
}

}  // namespace mpc::cuda
