#include <csignal>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/file.h"
#include "compiler/base/json.h"
#include "mpc/mpc.h"
#include "tests/e2e/cli.h"

using mpc::read_json_file;
using mpc::write_file_atomic;
using namespace mpc::test;
using nlohmann::json;

TEST_CASE("train: the loss falls each epoch, and two devices print what one prints") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "seqnet");
  const auto run = [&](const std::string& devices) {
    return run_mpc(
        {"train", model, "--devices", devices, "--data", "synthetic", "--optimizer", "adam,lr=0.01", "--epochs", "3"});
  };
  const CommandResult one = run("cpu:1");
  CAPTURE(one.err);
  CHECK(one.exit_code == 0);
  CHECK(one.out.find("Epoch [1/3], Loss: ") != std::string::npos);
  CHECK(one.out.ends_with("Training finished.\n"));
  CHECK(run("cpu:2").out == one.out);
  double previous = 1e9;
  for (int epoch = 1; epoch <= 3; ++epoch) {
    const std::string head = fmt::format("Epoch [{}/3], Loss: ", epoch);
    const double loss = std::stod(one.out.substr(one.out.find(head) + head.size()));
    CHECK(loss < previous);
    previous = loss;
  }
}

TEST_CASE("train: the losses of every step are equal bit for bit on one, two and three devices") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "residual-cut");
  const auto losses = [&](const std::string& devices) {
    return answer_of({"train", model, "--devices", devices, "--data", "synthetic", "--loss", "mse", "--optimizer",
                      "momentum,lr=0.01", "--steps", "6", "--microbatches", "2"})["loss"];
  };
  const json one = losses("cpu:1");
  CHECK(one.size() == 6);
  CHECK(losses("cpu:2") == one);
  CHECK(losses("cpu:3") == one);
}

TEST_CASE("train: a saved model holds the trained weights and trains on from there") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "hybrid-trainable");
  const std::string saved = folder / "saved.onnx";
  const auto train = [&](const std::string& from, const std::string& to, const std::string& steps) {
    return answer_of({"train", from, "--devices", "cpu:2", "--data", "synthetic", "--samples", "32", "--keep-order",
                      "--loss", "mse", "--optimizer", "sgd,lr=0.1", "--steps", steps, "--save", to})["loss"];
  };
  const json whole = train(model, folder / "whole.onnx", "6");
  const json first = train(model, saved, "3");
  const json second = train(saved, folder / "second.onnx", "3");
  // Plain SGD has no state beside the weights, so two halves are the whole, bit for bit.
  for (size_t i = 0; i < 3; ++i) {
    CHECK(whole[i] == first[i]);
    CHECK(whole[i + 3] == second[i]);
  }
  CHECK(answer_of({"inspect", saved})["parameters"] == answer_of({"inspect", model})["parameters"]);
}

TEST_CASE("train: labels to ignore count nothing, in whatever micro-batches they lie") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "mlp", {"--size", "hidden=16"});
  const mpc::Tensor x = mpc::random_tensor(mpc::DType::f32, {8, 784}, 1, "x");
  // The first row and the last count: of four micro-batches two are only of rows that do not.
  constexpr size_t kPixels = 784;
  const std::vector<int64_t> some = {3, -100, -100, -100, -100, -100, -100, 6};
  const std::vector<float> pixels = x.as<float>();
  std::vector<float> kept(pixels.begin(), pixels.begin() + kPixels);
  kept.insert(kept.end(), pixels.end() - kPixels, pixels.end());
  mpc::save_tensor(folder / "x.npy", x);
  mpc::save_tensor(folder / "some.npy", mpc::Tensor::from({8}, some));
  mpc::save_tensor(folder / "kept_x.npy", mpc::Tensor::from({2, 784}, kept));
  mpc::save_tensor(folder / "kept.npy", mpc::Tensor::from({2}, std::vector<int64_t>{3, 6}));
  const auto train = [&](const std::string& data, const std::string& labels, const std::string& batch,
                         const std::vector<std::string>& more) {
    std::vector<std::string> command = {
        "train", model,     "--data", "x=" + (folder / data), "--labels",    folder / labels, "--batch",
        batch,   "--steps", "4",      "--keep-order",         "--optimizer", "sgd,lr=0.1"};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  };
  const std::vector<double> expected = answer_of(train("kept_x.npy", "kept.npy", "2", {}))["loss"];
  CHECK(expected[3] < expected[0]);
  for (const char* microbatches : {"1", "3", "4"}) {
    CAPTURE(microbatches);
    const std::vector<std::string> ignoring = {"--ignore-label", "-100", "--microbatches", microbatches};
    const json one = answer_of(train("x.npy", "some.npy", "8", ignoring))["loss"];
    for (size_t i = 0; i < expected.size(); ++i)
      CHECK(one[i].get<double>() == doctest::Approx(expected[i]).epsilon(1e-5));
    std::vector<std::string> two = ignoring;
    two.insert(two.end(), {"--devices", "cpu:2"});
    CHECK(answer_of(train("x.npy", "some.npy", "8", two))["loss"] == one);
  }
  const CommandResult unnamed = run_mpc(train("x.npy", "some.npy", "8", {}));
  CHECK(unnamed.exit_code != 0);
  CHECK(unnamed.err.find("--ignore-label") != std::string::npos);
  CHECK(run_mpc(train("x.npy", "some.npy", "8", {"--loss", "mse", "--ignore-label", "-100"})).exit_code == 2);
}

TEST_CASE("train: sgd with a momentum is what momentum is, and nesterov is a switch") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "hybrid-trainable");
  const auto losses = [&](const std::string& optimizer) {
    return answer_of({"train", model, "--data", "synthetic", "--samples", "32", "--keep-order", "--loss", "mse",
                      "--optimizer", optimizer, "--steps", "4"})["loss"];
  };
  const json plain = losses("sgd,lr=0.1"), momentum = losses("momentum,lr=0.1,momentum=0.9");
  CHECK(momentum != plain);
  CHECK(losses("sgd,lr=0.1,momentum=0.9") == momentum);
  CHECK(losses("sgd,momentum=0.9,lr=0.1,nesterov=0") == momentum);
  const json nesterov = losses("momentum,lr=0.1,momentum=0.9,nesterov=1");
  CHECK(nesterov != momentum);
  CHECK(losses("sgd,lr=0.1,momentum=0.9,nesterov=true") == nesterov);
  CHECK(losses("sgd,lr=0.1,momentum=0.9,nesterov") == nesterov);
}

TEST_CASE("train: class labels are whole numbers, in a file of any type") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "seqnet");
  mpc::save_tensor(folder / "x.npy", mpc::random_tensor(mpc::DType::f32, {100, 1, 28, 28}, 1, "x"));
  std::vector<float> classes(100, 4);
  mpc::save_tensor(folder / "whole.npy", mpc::Tensor::from({100}, classes));
  classes[7] = 4.5F;
  mpc::save_tensor(folder / "halves.npy", mpc::Tensor::from({100}, classes));
  const auto train = [&](const std::string& labels) {
    return run_mpc({"train", model, "--data", "x=" + (folder / "x.npy"), "--labels", folder / labels, "--steps", "1"});
  };
  CHECK(train("whole.npy").exit_code == 0);
  const CommandResult refused = train("halves.npy");
  CHECK(refused.exit_code == 2);
  CHECK(refused.err.find("label 7 is 4.5, and classes are whole numbers") != std::string::npos);
}

TEST_CASE("train: data and labels come from files") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "tiny-linear");
  const mpc::Tensor x = mpc::random_tensor(mpc::DType::f32, {64, 10}, 1, "x");
  std::vector<float> targets(64);
  for (int64_t row = 0; row < 64; ++row)
    targets[static_cast<size_t>(row)] = static_cast<float>(x.number(row * 10) - x.number(row * 10 + 1));
  mpc::save_tensor(folder / "x.npy", x);
  mpc::save_tensor(folder / "t.npy", mpc::Tensor::from({64, 1}, targets));
  const json answer = answer_of({"train", model, "--data", "x=" + (folder / "x.npy"), "--labels", folder / "t.npy",
                                 "--loss", "mse", "--optimizer", "sgd,lr=0.1", "--epochs", "100"});
  CHECK(answer["loss"].size() == 200);
  // A linear target is learnt to the end.
  CHECK(answer["loss"].back().get<double>() < 1e-3);
}

TEST_CASE("train, S-D: seqnet on two devices learns images from IDX files, with the loss of one device bit for bit") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "seqnet");
  constexpr int kRows = 400;
  constexpr int kPixels = 28 * 28;
  // Header: two zeros, u8, rank, big-endian dimensions. Each class is a bright band of its own.
  std::string images = {0, 0, 8, 3, 0, 0, kRows >> 8, static_cast<char>(kRows & 255), 0, 0, 0, 28, 0, 0, 0, 28};
  std::string labels = {0, 0, 8, 1, 0, 0, kRows >> 8, static_cast<char>(kRows & 255)};
  for (int row = 0; row < kRows; ++row) {
    const int label = row % 10;
    labels += static_cast<char>(label);
    for (int pixel = 0; pixel < kPixels; ++pixel) images += static_cast<char>(pixel / 28 / 2 == label ? 255 : 10);
  }
  write_file_atomic(folder / "images", images);
  write_file_atomic(folder / "labels", labels);
  const std::vector<std::string> parts = {"--devices", "cpu:2", "--pin",   "lin1/=0", "--pin",
                                          "lin2/=1",   "--pin", "loss/=1", "--json",  folder / "two.json"};
  const auto train = [&](const std::string& data, const std::vector<std::string>& devices) {
    std::vector<std::string> arguments = {"train",           model,         "--data",       "x=" + data, "--labels",
                                          folder / "labels", "--optimizer", "adam,lr=0.01", "--epochs",  "10",
                                          "--batch",         "100"};
    arguments.insert(arguments.end(), devices.begin(), devices.end());
    return run_mpc(arguments);
  };
  const CommandResult two = train(folder / "images", parts);
  REQUIRE_MESSAGE(two.exit_code == 0, two.err);
  CHECK(two.out.find("Epoch [1/10], Loss: ") != std::string::npos);
  CHECK(two.out.find("Epoch [10/10], Loss: ") != std::string::npos);
  CHECK(two.out.find("Training finished.") != std::string::npos);
  const json answer = read_json_file(folder / "two.json", mpc::ErrorId::M010);
  CHECK(answer["loss"].size() == 40);
  // Guessing among ten classes costs ln 10 = 2.30.
  CHECK(answer["loss"].front().get<double>() > 1.5);
  CHECK(answer["loss"].back().get<double>() < 0.5);
  // 100 rows of 200 hidden values, forth and back; images and labels are fed where they are used.
  REQUIRE(answer["transfers"].size() == 2);
  for (const json& transfer : answer["transfers"]) CHECK(transfer["bytes"] == 80000);

  REQUIRE(train(folder / "images", {"--devices", "cpu:1", "--json", folder / "one.json"}).exit_code == 0);
  CHECK(read_json_file(folder / "one.json", mpc::ErrorId::M010)["loss"] == answer["loss"]);

  // As it is downloaded.
  REQUIRE(run_program("/bin/gzip", {"-k", folder / "images"}).exit_code == 0);
  REQUIRE(train(folder / "images.gz", {"--devices", "cpu:1", "--json", folder / "packed.json"}).exit_code == 0);
  CHECK(read_json_file(folder / "packed.json", mpc::ErrorId::M010)["loss"] == answer["loss"]);
}

TEST_CASE("train, S-D: fewer devices than asked for are refused, unless one is to be shared by name") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "seqnet");
  const auto train = [&](const std::vector<std::string>& devices) {
    std::vector<std::string> arguments = {"train", model, "--data", "synthetic", "--steps", "2"};
    arguments.insert(arguments.end(), devices.begin(), devices.end());
    return run_mpc(arguments);
  };
  const CommandResult gpus = train({"--gpus", "64"});
  CHECK(gpus.exit_code == 8);
  CHECK(gpus.err.find("GPUs that mpc can use") != std::string::npos);
  CHECK(gpus.err.find("--devices cuda:0*64 puts 64 logical devices on one GPU") != std::string::npos);
  const CommandResult pinned = train({"--devices", "cpu:1", "--pin", "lin1/=0", "--pin", "lin2/=1"});
  CHECK(pinned.exit_code == 2);
  CHECK(pinned.err.find("--pin lin2/=1: there is no device '1'; devices are 0 to 0") != std::string::npos);
  // Two logical devices on the one CPU.
  CHECK(train({"--devices", "cpu,cpu", "--pin", "lin1/=0", "--pin", "lin2/=1"}).exit_code == 0);
}

TEST_CASE("train: interrupted, it saves a valid model and ends with 130 or 143") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "hybrid-trainable");
  for (const auto& [signal_number, code] : {std::pair(SIGINT, 130), std::pair(SIGTERM, 143)}) {
    const std::string saved = folder / fmt::format("saved{}.onnx", code);
    CommandOptions options;
    options.signal_after = "Step [3/";
    options.signal_number = signal_number;
    const CommandResult result =
        run_mpc({"train", model, "--data", "synthetic", "--loss", "mse", "--steps", "100000000", "-v", "--save", saved},
                options);
    CHECK(result.exit_code == code);
    CHECK(result.err.find("error[M130]") != std::string::npos);
    CHECK(run_mpc({"check", saved}).exit_code == 0);
  }
  for (const std::string& entry : folder.entries()) CHECK(!entry.ends_with(".tmp"));
}

TEST_CASE("train: an interrupt without anything to save ends at once") {
  const TemporaryFolder folder;
  CommandOptions options;
  options.signal_after = "Step [2/";
  options.signal_number = SIGINT;
  const CommandResult result = run_mpc({"train", zoo_model(folder, "hybrid-trainable"), "--data", "synthetic", "--loss",
                                        "mse", "--steps", "100000000", "-v"},
                                       options);
  CHECK(result.exit_code == 130);
}

TEST_CASE("train: frozen parameters stay as they are") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "two-linear");
  const std::string saved = folder / "saved.onnx";
  answer_of({"train", model, "--data", "synthetic", "--loss", "mse", "--steps", "2", "--freeze", "layer1.*", "--save",
             saved});
  const auto parameters = [](const std::string& path) {
    const mpc::Model loaded = mpc::Model::load(path);
    const mpc::Session session(mpc::compile(loaded, mpc::Cluster::devices("cpu:1")).value(), loaded);
    std::map<std::string, mpc::Tensor> values;
    for (const mpc::ParameterInfo& parameter : session.parameters())
      values.emplace(parameter.name, session.parameter(parameter.name));
    return values;
  };
  const auto before = parameters(model);
  const auto after = parameters(saved);
  CHECK(before.size() == 4);
  for (const auto& [name, value] : before) {
    CAPTURE(name);
    CHECK((after.at(name) == value) == name.starts_with("layer1"));
  }
}
