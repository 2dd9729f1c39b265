#include <algorithm>
#include <cmath>
#include <vector>

#include "executor/reference/support.h"

namespace mpc::reference {
namespace {

/// x (N, C, positions) and the window of channels around each channel.
class Channels {
 public:
  Channels(const Attributes& attributes, const Shape& x)
      : view_(around_axis(x, 1)),
        below_((attributes.integer("size") - 1) / 2),
        above_(attributes.integer("size") - 1 - below_),
        alpha_(attributes.number("alpha") / static_cast<double>(attributes.integer("size"))),
        beta_(attributes.number("beta")),
        bias_(attributes.number("bias")) {}

  const AxisView& view() const { return view_; }
  double alpha_per_size() const { return alpha_; }
  double beta() const { return beta_; }
  size_t at(int64_t n, int64_t channel, int64_t position) const {
    return static_cast<size_t>((n * view_.length + channel) * view_.inner + position);
  }
  /// Channels [first, second) whose squares count for `channel`.
  std::pair<int64_t, int64_t> window(int64_t channel) const { return clamped(channel, below_, above_); }
  /// Channels whose window `channel` lies in.
  std::pair<int64_t, int64_t> users(int64_t channel) const { return clamped(channel, above_, below_); }

  /// The base of the power: bias + alpha / size * the sum of the squares in the window.
  std::vector<double> bases(const std::vector<double>& x) const {
    std::vector<double> bases(x.size());
    for_each([&](int64_t n, int64_t channel, int64_t position) {
      double sum = 0;
      const auto [first, end] = window(channel);
      for (int64_t c = first; c < end; ++c) sum += x[at(n, c, position)] * x[at(n, c, position)];
      bases[at(n, channel, position)] = bias_ + alpha_ * sum;
    });
    return bases;
  }

  template <class F>
  void for_each(F&& f) const {
    if (view_.length == 0 || view_.inner == 0) return;
    for (int64_t n = 0; n < view_.outer; ++n) {
      for (int64_t channel = 0; channel < view_.length; ++channel) {
        for (int64_t position = 0; position < view_.inner; ++position) f(n, channel, position);
      }
    }
  }

 private:
  std::pair<int64_t, int64_t> clamped(int64_t channel, int64_t below, int64_t above) const {
    const int64_t room = view_.length - 1 - channel;  // compared first: size may be near the largest int64_t
    return {channel - std::min(below, channel), channel + std::min(above, room) + 1};
  }

  AxisView view_;
  int64_t below_;
  int64_t above_;
  double alpha_;
  double beta_;
  double bias_;
};

}  // namespace

void LRN(const KernelCall& call) {
  const Channels channels(call.attributes, call.inputs[0].shape);
  std::vector<double> x = load_numbers(call.inputs[0]);
  const std::vector<double> bases = channels.bases(x);
  for (size_t i = 0; i < x.size(); ++i) x[i] /= std::pow(bases[i], channels.beta());
  store_all(call.outputs[0], x);
}

void LRNGrad(const KernelCall& call) {
  const Channels channels(call.attributes, call.inputs[1].shape);
  const std::vector<double> dy = load_numbers(call.inputs[0]);
  const std::vector<double> x = load_numbers(call.inputs[1]);
  const std::vector<double> bases = channels.bases(x);
  const double factor = 2 * channels.alpha_per_size() * channels.beta();
  std::vector<double> dx(x.size());
  channels.for_each([&](int64_t n, int64_t channel, int64_t position) {
    double sum = 0;
    const auto [first, end] = channels.users(channel);
    for (int64_t c = first; c < end; ++c) {
      const size_t j = channels.at(n, c, position);
      sum += dy[j] * x[j] * std::pow(bases[j], -channels.beta() - 1);
    }
    const size_t i = channels.at(n, channel, position);
    dx[i] = dy[i] * std::pow(bases[i], -channels.beta()) - factor * x[i] * sum;
  });
  store_all(call.outputs[0], dx);
}

}  // namespace mpc::reference
