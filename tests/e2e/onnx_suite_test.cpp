#include <filesystem>

#include <fmt/format.h>

#include "mpc/mpc.h"
#include "tests/e2e/cli.h"

// The backend test data of the ONNX package: every case for the operators mpc has, and the nine light models.

using namespace mpc::test;
using nlohmann::json;

namespace {

const std::string kData = MPC_ONNX_TEST_DATA;

bool is_data_missing() {
  if (std::filesystem::exists(kData)) return false;
  MESSAGE("skipped: no ONNX test data in " << kData);
  return true;
}

}  // namespace

TEST_CASE("ONNX test data: what is supported is right, on one device and on three") {
  if (is_data_missing()) return;
  // A ratchet: more operators raise it, nothing lowers it.
  constexpr int64_t kLeastPassed = 1387;
  for (const std::string devices : {"cpu:1", "cpu:3"}) {
    CAPTURE(devices);
    const json answer = answer_of({"verify", "--suite", kData, "--devices", devices, "--quiet"});
    CHECK(answer["passed"] == true);
    CHECK(answer["counts"]["failed"] == 0);
    CHECK(answer["counts"]["error"] == 0);
    CHECK(answer["counts"]["passed"] >= kLeastPassed);
    CHECK(answer["cases"].size() == 1905);
  }
}

TEST_CASE("ONNX light models: the split models give the outputs that the package states") {
  if (is_data_missing()) return;
  const TemporaryFolder folder;
  // The package's input: 0, 1/n, 2/n, ...
  constexpr int64_t kElements = 3 * 224 * 224;
  std::vector<float> values(kElements);
  for (int64_t i = 0; i < kElements; ++i)
    values[static_cast<size_t>(i)] = static_cast<float>(static_cast<double>(i) / kElements);
  mpc::save_tensor(folder / "x.npy", mpc::Tensor::from({1, 3, 224, 224}, values));
  for (const std::string name : {"bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50",
                                 "shufflenet", "squeezenet", "vgg19", "zfnet512"}) {
    CAPTURE(name);
    const std::string model = fmt::format("{}/light/light_{}.onnx", kData, name);
    const mpc::Model loaded = mpc::Model::load(model);
    for (const std::string devices : {"cpu:2", "cpu:8"}) {
      if (devices == "cpu:8" && name == "vgg19") continue;  // half a GiB of weights: once is enough
      // 2e-3 is the tolerance the package gives densenet121, the widest of the nine.
      const json answer = answer_of(
          {"run", model, "--devices", devices, "--input", loaded.inputs()[0].name + "=" + (folder / "x.npy"),
           "--compare", fmt::format("{}={}/light/light_{}_output_0.pb", loaded.outputs()[0].name, kData, name),
           "--rtol", "2e-3", "--atol", "1e-7"});
      CHECK(answer["passed"] == true);
      CHECK(answer["transfers"].size() > 0);
    }
  }
}
