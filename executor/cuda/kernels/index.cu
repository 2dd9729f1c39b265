// Operators that read or write where an index tensor says: Gather, GatherElements, GatherND, ScatterElements,
// ScatterND, OneHot, and GatherGrad. What reaches one element from several positions is put together in ascending order
// of positions, so that the bits are always the same.

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/kernels/occurrences.h"
#include "executor/cuda/kernels/views.h"
#include "executor/functors/binary.h"

namespace mpc::cuda {
namespace {

/// targets[j] = the row of data that position j reads or writes.
struct RowTargets {
  IntegerIn indices;
  int64_t* targets;
  int64_t dim;
  Faults faults;
  MPC_DEVICE void operator()(int64_t j) const { targets[j] = faults.checked(indices[j], dim); }
};

/// dx[o, d, i] = sum of dy[o, j, i] over all j with target d. The thread of the first such j makes the result; the
/// others were zeroed before.
template <class T>
struct ChainSums {
  In<T> dy;
  Out<T> dx;
  Occurrences::Lists lists;
  int64_t dim;
  int64_t count;
  int64_t inner;
  MPC_DEVICE void operator()(int64_t at) const {
    const int64_t i = at % inner;
    const int64_t first = at / inner % count;
    const int64_t o = at / inner / count;
    if (lists.is_first[first] == 0) return;
    double sum = 0;
    for (int64_t j = first; j >= 0; j = lists.next[j]) sum += static_cast<double>(dy[(o * count + j) * inner + i]);
    dx.set((o * dim + lists.targets[first]) * inner + i, static_cast<T>(sum));
  }
};

template <class T>
class GatherGradKernel final : public Kernel {
 public:
  GatherGradKernel(const executor::NodeSpec& node, Axis view)
      : view_(view),
        count_(node.inputs[1].shape.elements()),
        occurrences_(count_),
        bytes_(byte_size(node.outputs[0].shape, node.outputs[0].dtype)),
        dy_(input_dtype(node, 0)),
        indices_(input_dtype(node, 1)),
        dx_(output_dtype(node, 0)) {}

  void run(const Launch& launch) override {
    fill_bytes(launch.stream, launch.outputs[0], 0, bytes_);
    const Occurrences::Lists lists = occurrences_.lists(launch.workspace);
    for_each(launch.stream, count_,
             RowTargets{{launch.inputs[1], indices_}, lists.targets, view_.length, faults_of(launch)},
             "GatherGrad positions");
    occurrences_.find(launch.stream, launch.workspace);
    for_each(launch.stream, view_.outer * count_ * view_.inner,
             ChainSums<T>{{launch.inputs[0], dy_}, {launch.outputs[0], dx_}, lists, view_.length, count_, view_.inner},
             "GatherGrad sums");
  }
  int64_t workspace_bytes() const override { return occurrences_.workspace_bytes(); }
  std::string_view name() const override { return "cuda:ordered sums"; }

 private:
  Axis view_;
  int64_t count_;
  Occurrences occurrences_;
  int64_t bytes_;
  DType dy_, indices_, dx_;
};

/// y[o, j, i] = data[o, indices[j], i].
struct GatherRuns {
  const void* data;
  IntegerIn indices;
  void* y;
  int bytes;
  int64_t dim;
  int64_t count;
  int64_t inner;
  Faults faults;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t run = i / inner;
    const int64_t index = faults.checked(indices[run % count], dim);
    copy_element(y, i, data, (run / count * dim + index) * inner + i % inner, bytes);
  }
};

/// Element i of the indices of GatherElements or ScatterElements names the element of data at the same index, but with
/// `axis` replaced by indices[i].
struct ElementPositions {
  IntegerIn indices;
  int axis;
  int rank;
  int64_t dims[kMaxRank] = {};   // of the indices
  int64_t steps[kMaxRank] = {};  // of the data
  int64_t dim;                   // of the data along the axis
  Faults faults;

  explicit ElementPositions(const executor::NodeSpec& node) {
    const Shape& data = node.inputs[0].shape;
    const Steps dense = strides(data);
    indices.dtype = input_dtype(node, 1);
    axis = static_cast<int>(node.attributes->integer("axis"));
    rank = data.rank();
    dim = data[axis];
    for (int d = 0; d < rank; ++d) {
      dims[d] = node.inputs[1].shape[d];
      steps[d] = dense[static_cast<size_t>(d)];
    }
  }
  MPC_DEVICE int64_t at(int64_t i) const {
    int64_t rest = i;
    int64_t position = 0;
    for (int d = rank - 1; d >= 0; --d) {
      const int64_t index = d == axis ? faults.checked(indices[i], dim) : rest % dims[d];
      rest /= dims[d];
      position += index * steps[d];
    }
    return position;
  }
};

struct GatherByElements {
  const void* data;
  void* y;
  int bytes;
  ElementPositions positions;
  MPC_DEVICE void operator()(int64_t i) const { copy_element(y, i, data, positions.at(i), bytes); }
};

/// Where index tuples point: tuple t is indices[t * depth + ...], and names a run of elements of data.
struct Tuples {
  IntegerIn indices;
  int depth = 0;
  int64_t run = 1;    // elements that one tuple names
  int64_t count = 0;  // of tuples
  int64_t tuples_per_batch = 1;
  int64_t batch_elements = 0;   // of data
  int64_t dims[kMaxRank] = {};  // of data, those that are indexed
  int64_t steps[kMaxRank] = {};
  Faults faults;

  Tuples() = default;
  Tuples(const Shape& data, const Shape& of_indices, DType dtype, int batch_dims) {
    const int last = of_indices.rank() - 1;
    const Steps dense = strides(data);
    indices.dtype = dtype;
    depth = static_cast<int>(of_indices[last]);
    run = data.elements(batch_dims + depth, data.rank());
    count = of_indices.elements(0, last);
    tuples_per_batch = of_indices.elements(batch_dims, last);
    batch_elements = data.elements(batch_dims, data.rank());
    for (int i = 0; i < depth; ++i) {
      dims[i] = data[batch_dims + i];
      steps[i] = dense[static_cast<size_t>(batch_dims + i)];
    }
  }
  bool reads_nothing() const {
    for (int i = 0; i < depth; ++i) {
      if (dims[i] == 0) return count > 0;
    }
    return false;
  }
  MPC_DEVICE int64_t begin(int64_t tuple) const {
    int64_t at = tuple / tuples_per_batch * batch_elements;
    for (int i = 0; i < depth; ++i) at += faults.checked(indices[tuple * depth + i], dims[i]) * steps[i];
    return at;
  }
};

struct GatherTuples {
  const void* data;
  void* y;
  int bytes;
  Tuples tuples;
  MPC_DEVICE void operator()(int64_t i) const {
    copy_element(y, i, data, tuples.begin(i / tuples.run) + i % tuples.run, bytes);
  }
};

/// The elements that updates go to: of ScatterElements one each, of ScatterND a run per tuple.
struct ElementTargets {
  int64_t* targets;
  ElementPositions positions;
  MPC_DEVICE void operator()(int64_t i) const { targets[i] = positions.at(i); }
};
struct TupleTargets {
  int64_t* targets;
  Tuples tuples;
  MPC_DEVICE void operator()(int64_t tuple) const { targets[tuple] = tuples.begin(tuple); }
};

enum class ScatterRule : uint8_t { replace, add, multiply, maximum, minimum };

/// Element r of update j and of all updates after it that go to the same place; for `replace` the last one of them.
template <class T>
struct ScatterUpdates {
  In<T> updates;
  In<T> old;  // what y holds
  Out<T> y;
  Occurrences::Lists lists;
  int64_t run;
  ScatterRule rule;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t first = i / run;
    const int64_t r = i % run;
    if (lists.is_first[first] == 0) return;
    const int64_t target = lists.targets[first] + r;
    Total<T> result = static_cast<Total<T>>(old[target]);
    for (int64_t j = first; j >= 0; j = lists.next[j]) {
      result = combined(result, static_cast<Total<T>>(updates[j * run + r]));
    }
    y.set(target, static_cast<T>(result));
  }
  MPC_DEVICE Total<T> combined(Total<T> a, Total<T> b) const {
    switch (rule) {
      case ScatterRule::add:
        return functors::Add::value(a, b);
      case ScatterRule::multiply:
        return functors::Mul::value(a, b);
      case ScatterRule::maximum:
        return a != a || a > b ? a : b;  // a NaN stays
      case ScatterRule::minimum:
        return a != a || a < b ? a : b;
      default:
        return b;
    }
  }
};

/// The last update of a place replaces what is there, whatever the type.
struct ScatterCopies {
  const void* updates;
  void* y;
  int bytes;
  Occurrences::Lists lists;
  int64_t run;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t j = i / run;
    if (lists.next[j] >= 0) return;
    copy_element(y, lists.targets[j] + i % run, updates, i, bytes);
  }
};

ScatterRule rule_of(const std::string& reduction) {
  if (reduction == "add") return ScatterRule::add;
  if (reduction == "mul") return ScatterRule::multiply;
  if (reduction == "max") return ScatterRule::maximum;
  return reduction == "min" ? ScatterRule::minimum : ScatterRule::replace;
}

/// y = data with the updates put in. Targets: ElementTargets or TupleTargets, one per update.
template <class Targets, class Source>
class ScatterKernel final : public Kernel {
 public:
  /// @param run elements of an update
  ScatterKernel(const executor::NodeSpec& node, const Source& source, int64_t count, int64_t run)
      : source_(source),
        count_(count),
        run_(run),
        occurrences_(count),
        dtype_(output_dtype(node, 0)),
        bytes_(byte_size(node.outputs[0].shape, node.outputs[0].dtype)),
        rule_(rule_of(node.attributes->text("reduction"))) {}

  void run(const Launch& launch) override {
    copy_bytes(launch.stream, launch.outputs[0], launch.inputs[0], bytes_);
    const Occurrences::Lists lists = occurrences_.lists(launch.workspace);
    Source source = source_;
    source.indices.data = launch.inputs[1];
    source.faults = faults_of(launch);
    for_each(launch.stream, count_, Targets{lists.targets, source}, "Scatter positions");
    occurrences_.find(launch.stream, launch.workspace);
    if (rule_ == ScatterRule::replace) {
      const int bytes = static_cast<int>(dtype_bytes(dtype_));
      for_each(launch.stream, count_ * run_, ScatterCopies{launch.inputs[2], launch.outputs[0], bytes, lists, run_},
               "Scatter");
      return;
    }
    with_compute_type(dtype_, [&](auto tag) {
      using T = decltype(tag);
      for_each(
          launch.stream, count_ * run_,
          ScatterUpdates<T>{
              {launch.inputs[2], dtype_}, {launch.outputs[0], dtype_}, {launch.outputs[0], dtype_}, lists, run_, rule_},
          "Scatter");
    });
  }
  int64_t workspace_bytes() const override { return occurrences_.workspace_bytes(); }
  std::string_view name() const override { return "cuda:ordered updates"; }

 private:
  Source source_;
  int64_t count_;
  int64_t run_;
  Occurrences occurrences_;
  DType dtype_;
  int64_t bytes_;
  ScatterRule rule_;
};

struct OneHotRows {
  const void* indices;
  DType index_type;
  const void* values;  // off, on
  void* y;
  int bytes;
  int64_t depth;
  int64_t inner;
  MPC_DEVICE int64_t index_at(int64_t i) const {
    if (!is_small_float(index_type) && index_type != DType::f64) {
      const int64_t index = IntegerIn{indices, index_type}[i];
      return index_type == DType::u64 && index < 0 ? INT64_MAX : index;  // 2^63 and more is out of range, not negative
    }
    return clamped_integer(DoubleIn{indices, index_type}[i], DType::i64);
  }
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t d = i / inner % depth;
    const int64_t index = index_at(i / inner / depth * inner + i % inner);
    const bool is_on = index == d || (index < 0 && index + depth == d);
    copy_element(y, i, values, is_on ? 1 : 0, bytes);
  }
};

}  // namespace

KernelOrReason gather(const executor::NodeSpec& node, const MakeOptions&) {
  const Axis view = around(node.inputs[0].shape, node.attributes->integer("axis"));
  const int64_t count = node.inputs[1].shape.elements();
  const int64_t results = node.outputs[0].shape.elements();
  if (count != 0 && view.length == 0) return always_fault(node, MPC_CUDA_FAULT_INDEX);
  const int bytes = element_bytes(node);
  const DType indices = input_dtype(node, 1);
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    for_each(launch.stream, results,
             GatherRuns{launch.inputs[0],
                        {launch.inputs[1], indices},
                        launch.outputs[0],
                        bytes,
                        view.length,
                        count,
                        view.inner,
                        faults_of(launch)},
             "Gather");
  });
}

KernelOrReason gather_grad(const executor::NodeSpec& node, const MakeOptions&) {
  const Axis view = around(node.outputs[0].shape, node.attributes->integer("axis"));
  if (view.length == 0 && node.inputs[1].shape.elements() != 0) return always_fault(node, MPC_CUDA_FAULT_INDEX);
  return with_compute_type(output_dtype(node, 0), [&](auto tag) -> KernelOrReason {
    using T = decltype(tag);
    if constexpr (std::is_integral_v<T>) {
      return declined("GatherGrad: only floats");
    } else {
      return {std::make_unique<GatherGradKernel<T>>(node, view), {}};
    }
  });
}

KernelOrReason gather_elements(const executor::NodeSpec& node, const MakeOptions&) {
  const ElementPositions positions(node);
  const int64_t results = node.inputs[1].shape.elements();
  if (results != 0 && positions.dim == 0) return always_fault(node, MPC_CUDA_FAULT_INDEX);
  const int bytes = element_bytes(node);
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    GatherByElements body{launch.inputs[0], launch.outputs[0], bytes, positions};
    body.positions.indices.data = launch.inputs[1];
    body.positions.faults = faults_of(launch);
    for_each(launch.stream, results, body, "GatherElements");
  });
}

KernelOrReason gather_nd(const executor::NodeSpec& node, const MakeOptions&) {
  const int batch_dims = static_cast<int>(node.attributes->integer("batch_dims"));
  const Tuples tuples(node.inputs[0].shape, node.inputs[1].shape, input_dtype(node, 1), batch_dims);
  if (tuples.reads_nothing()) return always_fault(node, MPC_CUDA_FAULT_INDEX);
  const int64_t results = node.outputs[0].shape.elements();
  const int bytes = element_bytes(node);
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    GatherTuples body{launch.inputs[0], launch.outputs[0], bytes, tuples};
    body.tuples.indices.data = launch.inputs[1];
    body.tuples.faults = faults_of(launch);
    for_each(launch.stream, results, body, "GatherND");
  });
}

KernelOrReason scatter_elements(const executor::NodeSpec& node, const MakeOptions&) {
  const ElementPositions positions(node);
  const int64_t count = node.inputs[1].shape.elements();
  if (count != 0 && positions.dim == 0) return always_fault(node, MPC_CUDA_FAULT_INDEX);
  return {std::make_unique<ScatterKernel<ElementTargets, ElementPositions>>(node, positions, count, 1), {}};
}

KernelOrReason scatter_nd(const executor::NodeSpec& node, const MakeOptions&) {
  const Tuples tuples(node.inputs[0].shape, node.inputs[1].shape, input_dtype(node, 1), 0);
  if (tuples.reads_nothing()) return always_fault(node, MPC_CUDA_FAULT_INDEX);
  return {std::make_unique<ScatterKernel<TupleTargets, Tuples>>(node, tuples, tuples.count, tuples.run), {}};
}

KernelOrReason one_hot(const executor::NodeSpec& node, const MakeOptions&) {
  const DType indices = input_dtype(node, 0);
  const Axis view = around(node.outputs[0].shape, node.attributes->integer("axis"));
  const int64_t results = node.outputs[0].shape.elements();
  const int bytes = element_bytes(node);
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    for_each(launch.stream, results,
             OneHotRows{launch.inputs[0], indices, launch.inputs[1], launch.outputs[0], bytes, view.length, view.inner},
             "OneHot");
  });
}

}  // namespace mpc::cuda
