// The way through the program to CUDA devices, on a machine without one: what it says, and, with a fake plugin that
// runs the CUDA backend's kernels on the host, what it computes.

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/command.h"

namespace {

using mpc::test::CommandResult;
using Words = std::vector<std::string>;

/// Runs mpc with MPC_CUDA_PLUGIN set ("" takes it away).
CommandResult run(const std::string& plugin, const Words& arguments) {
  Words words;
  if (plugin.empty()) {
    words = {"-u", "MPC_CUDA_PLUGIN", MPC_PROGRAM};
  } else {
    words = {"MPC_CUDA_PLUGIN=" + plugin, MPC_PROGRAM};
  }
  words.insert(words.end(), arguments.begin(), arguments.end());
  return mpc::test::run_program("/usr/bin/env", words);
}

/// A folder for the models of a test, removed at the end.
struct Folder {
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "mpc-cuda-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string model(const std::string& name) const {
    const std::string file = path + "/" + name + ".onnx";
    REQUIRE(run("", {"zoo", name, "-o", file}).exit_code == 0);
    return file;
  }
  std::string path;
};

std::vector<double> losses(const CommandResult& result) {
  CHECK_MESSAGE(result.exit_code == 0, result.err);
  if (result.exit_code != 0) return {};
  return nlohmann::json::parse(result.out)["loss"].get<std::vector<double>>();
}

Words train(const std::string& model, const std::string& devices) {
  return {"train",         model,         "--devices",    devices,   "--data", "synthetic",      "--loss",
          "cross-entropy", "--optimizer", "adam,lr=0.01", "--batch", "8",      "--microbatches", "2",
          "--steps",       "4",           "--quiet",      "--json",  "-"};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("cuda cli: without a plugin, devices says so, and CUDA devices are refused with code 8") {
  const std::string absent = "/nonexistent/libmpc_cuda.so";
  const CommandResult devices = run(absent, {"devices", "--json", "-"});
  CHECK(devices.exit_code == 0);
  CHECK(contains(nlohmann::json::parse(devices.out)["cuda"]["reason"].get<std::string>(), "no CUDA plugin"));
  const Folder folder;
  const CommandResult refused =
      run(absent, {"run", folder.model("tiny-linear"), "--devices", "cuda:0", "--input", "random"});
  CHECK(refused.exit_code == 8);
  CHECK(contains(refused.err, "error[M080]"));
  CHECK(contains(refused.err, "no CUDA plugin"));
}

TEST_CASE("cuda cli: a file that is no plugin is refused by its name") {
  const CommandResult devices = run("/lib/x86_64-linux-gnu/libm.so.6", {"devices", "--json", "-"});
  CHECK(devices.exit_code == 0);
  CHECK(nlohmann::json::parse(devices.out)["cuda"]["reason"].get<std::string>().find("libm.so.6") != std::string::npos);
}

TEST_CASE("cuda cli: planning for GPUs needs no plugin") {
  const Folder folder;
  CHECK(run("/nonexistent/libmpc_cuda.so", {"partition", folder.model("mlp"), "--gpus", "2"}).exit_code == 0);
}

TEST_CASE("cuda cli: more GPUs than there are are refused with code 8, naming logical devices") {
  const Folder folder;
  const std::string model = folder.model("tiny-linear");
  const CommandResult refused = run(MPC_FAKE_PLUGIN, {"run", model, "--gpus", "3", "--input", "random"});
  CHECK(refused.exit_code == 8);
  CHECK(contains(refused.err, "has 1 GPUs"));
  CHECK(contains(refused.err, "cuda:0*3"));
}

TEST_CASE("cuda cli: training on logical devices gives the losses of one, and on CPU and GPU it works") {
  const Folder folder;
  const std::string model = folder.model("mlp");
  const std::vector<double> one = losses(run(MPC_FAKE_PLUGIN, train(model, "cuda:0")));
  REQUIRE(one.size() == 4);
  CHECK(one.back() < one.front());
  CHECK(losses(run(MPC_FAKE_PLUGIN, train(model, "cuda:0*2"))) == one);
  CHECK(losses(run(MPC_FAKE_PLUGIN, train(model, "cuda:0*4"))) == one);
  const std::vector<double> mixed = losses(run(MPC_FAKE_PLUGIN, train(model, "cpu,cuda:0")));
  const std::vector<double> cpu = losses(run("", train(model, "cpu:1")));
  REQUIRE(mixed.size() == 4);
  // Kernels of the two backends add in other orders; Adam's first steps hardly depend on the size of a gradient.
  for (size_t i = 0; i < 4; ++i) {
    CHECK(mixed[i] == doctest::Approx(cpu[i]).epsilon(1e-3));
    CHECK(one[i] == doctest::Approx(cpu[i]).epsilon(1e-3));
  }
}

TEST_CASE("cuda cli: a network with convolutions trains on logical devices") {
  const Folder folder;
  const std::string model = folder.model("cnn-classifier-32");
  const std::vector<double> one = losses(run(MPC_FAKE_PLUGIN, train(model, "cuda:0")));
  REQUIRE(one.size() == 4);
  CHECK(losses(run(MPC_FAKE_PLUGIN, train(model, "cuda:0*3"))) == one);
}

TEST_CASE("cuda cli: a network of LSTMs runs on the GPU") {
  const Folder folder;
  const std::string model = folder.model("encoder-decoder");
  CHECK(run(MPC_FAKE_PLUGIN, {"run", model, "--devices", "cuda:0", "--input", "random"}).exit_code == 0);
}

TEST_CASE("cuda cli: a precision is the same bits on any number of devices, and near f32") {
  const Folder folder;
  const std::string model = folder.model("mlp");
  const std::vector<double> exact = losses(run(MPC_FAKE_PLUGIN, train(model, "cuda:0")));
  REQUIRE(exact.size() == 4);
  for (const std::string precision : {"tf32", "bf16", "f16"}) {
    CAPTURE(precision);
    const auto losses_on = [&](const std::string& devices) {
      std::vector<std::string> words = train(model, devices);
      words.insert(words.end(), {"--precision", precision});
      return losses(run(MPC_FAKE_PLUGIN, words));
    };
    const std::vector<double> one = losses_on("cuda:0");
    REQUIRE(one.size() == 4);
    // bf16 keeps 8 bits; four steps of an optimizer add to it.
    for (size_t i = 0; i < 4; ++i) CHECK(one[i] == doctest::Approx(exact[i]).epsilon(0.05));
    CHECK(losses_on("cuda:0*2") == one);
  }
}

TEST_CASE(
    "cuda cli: a transport can be asked for, gives the same losses, and is refused by name when there is none such") {
  const Folder folder;
  const std::string model = folder.model("mlp");
  const auto with_transport = [&](const std::string& transport) {
    Words words = train(model, "cuda:0*2");
    words.insert(words.end(), {"--transport", transport});
    return run(MPC_FAKE_PLUGIN, words);
  };
  const std::vector<double> expected = losses(with_transport("auto"));
  REQUIRE(expected.size() == 4);
  for (const std::string transport : {"device", "peer", "host", "nccl"})
    CHECK(losses(with_transport(transport)) == expected);
  const CommandResult alias = with_transport("alias");
  CHECK(alias.exit_code == 4);
  CHECK(contains(alias.err, "an arena each"));
  const CommandResult refused = with_transport("hots");
  CHECK(refused.exit_code == 2);
  CHECK(contains(refused.err, "did you mean host?"));
}

TEST_CASE("cuda cli: bench measures replayed steps, and times the operators of others") {
  const Folder folder;
  const CommandResult result = run(MPC_FAKE_PLUGIN, {"bench", folder.model("mlp"), "--devices", "cuda:0",
                                                     "--repetitions", "2", "--quiet", "--json", "-"});
  REQUIRE(result.exit_code == 0);
  const nlohmann::json answer = nlohmann::json::parse(result.out);
  CHECK(answer["repetitions"] == 2);
  CHECK(answer["median_seconds"].get<double>() > 0);
  CHECK(!answer["ops"].empty());
}

TEST_CASE("cuda cli: profile measures the operators, the rates and the link of CUDA devices, and one kind at a time") {
  const Folder folder;
  const std::string model = folder.model("mlp");
  const std::string file = folder.path + "/rates.json";
  const auto profile = [&](const std::string& devices) {
    return run(MPC_FAKE_PLUGIN, {"profile", "--devices", devices, "--only-models", "--model", model, "--train",
                                 "--batch", "4", "-o", file, "--quiet", "--json", "-"});
  };
  const CommandResult measured = profile("cuda:0*2");
  REQUIRE_MESSAGE(measured.exit_code == 0, measured.err);
  const nlohmann::json answer = nlohmann::json::parse(measured.out);
  REQUIRE(answer["devices"].size() == 1);
  const nlohmann::json& device = answer["devices"][0];
  CHECK(device["backend"] == "cuda");
  CHECK(device["hardware"] == "a GPU that is not there");
  CHECK(device["versions"]["driver"] == "CUDA 13.0");
  CHECK(device["versions"].contains("mpc"));
  std::set<std::string> products;  // what they were timed in
  for (const auto& row : device["ops"]) {
    if (row["op"] == "Gemm" || row["op"] == "MatMul") products.insert(row["dtype"].get<std::string>());
  }
  CHECK(products == std::set<std::string>{"f32", "tf32"});
  for (const char* rate : {"memory_bandwidth", "host_bandwidth"}) CHECK(device[rate].get<double>() > 0);
  for (const char* rate : {"f32", "tf32", "f16", "f64"}) CHECK(device["flops"][rate].get<double>() > 0);
  REQUIRE(answer["links"].size() == 3);
  std::set<std::string> links;
  for (const auto& row : answer["links"]) {
    links.insert(row["from"].get<std::string>() + " " + row["to"].get<std::string>() +
                 (row["same_gpu"].get<bool>() ? " on one GPU" : ""));
    CHECK(row["bytes_per_second"].get<double>() > 0);
  }
  CHECK(links == std::set<std::string>{"cpu cuda", "cuda cpu", "cuda cuda on one GPU"});
  for (const char* precision : {"f32", "tf32", "bf16"}) {
    const CommandResult planned =
        run(MPC_FAKE_PLUGIN, {"partition", model, "--devices", "cuda:0*2", "--batch", "4", "--profile", file,
                              "--precision", precision, "-o", folder.path + "/plan.json"});
    CHECK_MESSAGE(planned.exit_code == 0, planned.err);
    CHECK(!contains(planned.out + planned.err, "keep their rates"));  // every link was measured
  }
  const CommandResult mixed = profile("cpu,cuda:0");
  CHECK(mixed.exit_code == 4);
  CHECK(contains(mixed.err, "one kind is measured at a time"));
}
