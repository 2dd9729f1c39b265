// Row S-D: the whole training run of the text, 6,000 steps.

#include <doctest/doctest.h>

#include <limits>
#include <memory>
#include <numeric>

#include "compiler/base/random.h"
#include "tests/acceptance/rows.h"

namespace mpc::test {
namespace {

constexpr int64_t kRows = 100;
constexpr int64_t kPixels = 784;
constexpr int64_t kImages = 60'000;
constexpr int kEpochs = 10;
constexpr uint64_t kShuffle = 7919;  // coprime to the number of images: every epoch visits each image once

/// A data set with the shapes and value range of FashionMNIST as the text's script feeds it: bytes divided by 255
/// twice. Every class has bright and dark pixels of its own, and a third of every image is noise.
class Images {
 public:
  void batch(int64_t step, std::vector<float>& pixels, std::vector<int64_t>& labels) const {
    for (int64_t row = 0; row < kRows; ++row) {
      const uint64_t position = static_cast<uint64_t>(step * kRows + row);
      const uint64_t image = (position * kShuffle + position / kImages) % kImages;
      const uint64_t label = image % 10;
      labels[static_cast<size_t>(row)] = static_cast<int64_t>(label);
      for (int64_t p = 0; p < kPixels; ++p) {
        const uint64_t noise = mix_bits(image * kPixels + static_cast<uint64_t>(p));
        const uint64_t pattern = mix_bits((label << 32) + static_cast<uint64_t>(p));
        const uint64_t byte = noise % 3 == 0 ? (noise >> 8) & 255 : (pattern & 1) * 200;
        pixels[static_cast<size_t>(row * kPixels + p)] = static_cast<float>(byte) / 255.0F / 255.0F;
      }
    }
  }
};

/// The loss of every step of each plan, all on the same batches.
std::vector<std::vector<double>> losses_of(const ZooModel& model, const std::vector<Plan>& plans, int64_t steps) {
  std::vector<float> pixels(kRows * kPixels);
  std::vector<int64_t> labels(kRows);
  std::vector<std::unique_ptr<executor::Session>> sessions;
  for (const Plan& plan : plans) {
    sessions.push_back(std::make_unique<executor::Session>(plan, model.model().weights(), executor::SessionOptions()));
    sessions.back()->bind("x", DType::f32, Shape{kRows, 1, 28, 28}, std::as_bytes(std::span(pixels)));
    sessions.back()->bind("labels", DType::i64, Shape{kRows}, std::as_bytes(std::span(labels)));
  }
  const Images images;
  std::vector<std::vector<double>> losses(plans.size());
  for (int64_t step = 0; step < steps; ++step) {
    images.batch(step, pixels, labels);
    for (size_t i = 0; i < sessions.size(); ++i) losses[i].push_back(sessions[i]->step().loss);
  }
  return losses;
}

TEST_CASE(
    "S-D: ten epochs of 600 steps on two devices have the loss curve of one device, and the loss falls in each epoch") {
  const ZooModel model("seqnet");
  const PlanOptions options =
      training({{"lin1/", 0}, {"lin2/", 1}, {"loss/", 1}}, LossKind::cross_entropy, "adam,lr=0.01");
  constexpr int64_t kStepsPerEpoch = kImages / kRows;
  const std::vector<Plan> plans = {plan_of(model, 1, on_one_device(options)), plan_of(model, 2, options)};
  const auto losses = losses_of(model, plans, kEpochs * kStepsPerEpoch);
  const std::vector<double>& two = losses[1];
  REQUIRE(two.size() == 6'000);
  CHECK(losses[0] == two);
  double before = std::numeric_limits<double>::infinity();
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    const auto first = two.begin() + epoch * kStepsPerEpoch;
    const double mean = std::accumulate(first, first + kStepsPerEpoch, 0.0) / static_cast<double>(kStepsPerEpoch);
    INFO("epoch ", epoch + 1, ": loss ", mean);
    CHECK(mean < before);
    before = mean;
  }
}

}  // namespace
}  // namespace mpc::test
