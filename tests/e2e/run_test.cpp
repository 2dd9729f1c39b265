#include "mpc/mpc.h"
#include "tests/e2e/cli.h"

using namespace mpc::test;
using nlohmann::json;

TEST_CASE("run: any number of devices gives the bits of one") {
  const TemporaryFolder folder;
  for (const std::string name :
       {"two-linear", "branches", "many-small", "residual-cut", "encoder-decoder", "cnn-classifier-32"}) {
    CAPTURE(name);
    const std::string model = zoo_model(folder, name);
    const auto output = [&](const std::string& devices) {
      const std::string path = folder / (name + devices + ".npy");
      const CommandResult result =
          run_mpc({"run", model, "--devices", devices, "--input", "random", "--output", "y=" + path});
      CAPTURE(result.err);
      CHECK(result.exit_code == 0);
      return mpc::load_tensor(path);
    };
    const mpc::Tensor one = output("cpu:1");
    CHECK(one.elements() > 0);
    CHECK(output("cpu:2") == one);
    CHECK(output("cpu:3") == one);
  }
}

TEST_CASE("run: an output that is compared with itself passes, with another one it ends with code 9") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "tiny-linear");
  const std::string y = folder / "y.npy";
  CHECK(run_mpc({"run", model, "--input", "x=random", "--output", "y=" + y}).exit_code == 0);
  const json same = answer_of({"run", model, "--input", "x=random", "--compare", "y=" + y});
  CHECK(same["passed"] == true);
  CHECK(same["comparisons"][0]["max_abs_error"] == 0.0);
  const CommandResult other = run_mpc({"run", model, "--input", "x=random", "--seed", "1", "--compare", "y=" + y});
  CHECK(other.exit_code == 9);
  CHECK(other.err.find("error[M090]") != std::string::npos);
  CHECK(other.err.find("expected") != std::string::npos);
}

TEST_CASE("run: the result is the matrix product that the weights give") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "tiny-linear");
  const std::string x_path = folder / "x.npy";
  const std::string y_path = folder / "y.npy";
  const mpc::Tensor x = mpc::random_tensor(mpc::DType::f32, {32, 10}, 7, "x");
  mpc::save_tensor(x_path, x);
  CHECK(run_mpc({"run", model, "--input", "x=" + x_path, "--output", "y=" + y_path}).exit_code == 0);
  const mpc::Model loaded = mpc::Model::load(model);
  mpc::Session session(mpc::compile(loaded, mpc::Cluster::devices("cpu:1")).value(), loaded);
  std::vector<double> weight;
  double bias = 0;
  for (const mpc::ParameterInfo& parameter : session.parameters()) {
    const mpc::Tensor values = session.parameter(parameter.name);
    if (values.elements() == 1) bias = values.number(0);
    for (int64_t i = 0; values.elements() == 10 && i < 10; ++i) weight.push_back(values.number(i));
  }
  REQUIRE(weight.size() == 10);
  const mpc::Tensor y = mpc::load_tensor(y_path);
  for (int64_t row = 0; row < 32; ++row) {
    double sum = bias;
    for (int64_t i = 0; i < 10; ++i) sum += x.number(row * 10 + i) * weight[static_cast<size_t>(i)];
    // f32 sums of ten products of numbers below one: an error of a few times 1e-7
    CHECK(y.number(row) == doctest::Approx(sum).epsilon(1e-5));
  }
}

TEST_CASE("verify: the data set that a run left passes; a changed one fails with code 9") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "tiny-linear");
  mpc::save_tensor(folder / "input_0.npy", mpc::random_tensor(mpc::DType::f32, {32, 10}, 3, "x"));
  const std::string expected = folder / "output_0.npy";
  CHECK(run_mpc({"run", model, "--input", "x=" + (folder / "input_0.npy"), "--output", "y=" + expected}).exit_code ==
        0);
  const json verdict = answer_of({"verify", model, "--test-data", folder.path(), "--devices", "cpu:2"});
  CHECK(verdict["passed"] == true);
  CHECK(verdict["max_abs_error"].is_number());
  CHECK(verdict["max_rel_error"].is_number());
  mpc::Tensor wrong = mpc::load_tensor(expected);
  wrong.bytes[3] ^= std::byte{0x40};  // the exponent of the first element
  mpc::save_tensor(expected, wrong);
  const CommandResult failed = run_mpc({"verify", model, "--test-data", folder.path(), "--json", "-"});
  CHECK(failed.exit_code == 9);
  CHECK(json::parse(failed.out)["passed"] == false);
  CHECK(failed.err.find("output \"y\" [0, 0]") != std::string::npos);
}

TEST_CASE("verify: test data without an expected output is an error, for there is nothing that could fail") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "tiny-linear");
  mpc::save_tensor(folder / "input_0.npy", mpc::random_tensor(mpc::DType::f32, {32, 10}, 3, "x"));
  const CommandResult result = run_mpc({"verify", model, "--test-data", folder.path()});
  CHECK(result.exit_code == 6);
  CHECK(result.err.find("error[M010]") != std::string::npos);
  CHECK(result.err.find("holds no expected output") != std::string::npos);
}

TEST_CASE("run: a trace of the measured step is written") {
  const TemporaryFolder folder;
  const std::string trace = folder / "trace.json";
  CHECK(run_mpc({"run", zoo_model(folder, "two-linear"), "--devices", "cpu:2", "--input", "random", "--trace", trace})
            .exit_code == 0);
  const json events = json::parse(run_program("/bin/cat", {trace}).out);
  CHECK(events["traceEvents"].size() > 3);
}

TEST_CASE("bench: percentiles ascend and every op has its time") {
  const TemporaryFolder folder;
  const json answer = answer_of({"bench", zoo_model(folder, "two-linear"), "--repetitions", "5", "--warmup", "1"});
  CHECK(answer["median_seconds"] > 0.0);
  CHECK(answer["median_seconds"] <= answer["p90_seconds"]);
  CHECK(answer["p90_seconds"] <= answer["p99_seconds"]);
  CHECK(answer["ops"][0]["op"] == "Gemm");
  CHECK(answer["ops"][0]["calls"] == 2);
}
