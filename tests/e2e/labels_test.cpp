#include "compiler/base/npy.h"
#include "tests/e2e/cli.h"
#include "tests/unit/onnx_support.h"

namespace mpc::test {
namespace {

template <class T>
std::vector<std::byte> bytes_of_numbers(const std::vector<T>& numbers) {
  const auto bytes = std::as_bytes(std::span(numbers));
  return {bytes.begin(), bytes.end()};
}

TEST_CASE("train: a model input called labels is the model's own, beside the labels of the loss") {
  const TemporaryFolder folder;
  const std::string model = folder / "m.onnx";
  write_proto(
      parse_graph(
          "(float[batch, 4] labels) => (float[batch, 3] y) <float[4, 3] w = {1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1}> "
          "{ y = MatMul(labels, w) }"),
      model);
  // Each row's class is that of its largest number: what w says already.
  std::vector<float> rows;
  std::vector<int64_t> classes;
  for (int i = 0; i < 12; ++i) {
    for (int j = 0; j < 4; ++j) rows.push_back(j == i % 3 ? 4.0F : 0.0F);
    classes.push_back(i % 3);
  }
  write_npy(folder / "rows.npy", Literal(DType::f32, Shape{12, 4}, bytes_of_numbers(rows)));
  write_npy(folder / "classes.npy", Literal(DType::i64, Shape{12}, bytes_of_numbers(classes)));
  for (const std::string devices : {"cpu:1", "cpu:2"}) {
    const nlohmann::json answer =
        answer_of({"train", model, "--devices", devices, "--batch", "6", "--microbatches", "2", "--data",
                   "labels=" + (folder / "rows.npy"), "--labels", folder / "classes.npy", "--epochs", "2"});
    // softmax of (4, 0, 0): -log(e^4 / (e^4 + 2)) = 0.036; with the classes and rows mixed up it would be about 4.
    CHECK(answer["loss"][0].get<double>() == doctest::Approx(0.0360).epsilon(0.01));
  }
  CHECK(run_mpc({"train", model, "--data", "synthetic", "--steps", "1", "--batch", "4"}).exit_code == 0);
}

}  // namespace
}  // namespace mpc::test
