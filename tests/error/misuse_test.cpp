#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <map>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "compiler/base/file.h"
#include "tests/support/command.h"
#include "tests/unit/helpers.h"

// Command lines that are wrong: the code, and nothing created or changed.

namespace mpc::test {
namespace {

using Arguments = std::vector<std::string>;

/// A folder with a model in it, and its content to compare with.
class Workplace {
 public:
  Workplace() {
    REQUIRE(run_mpc({"zoo", "two-linear", "-o", model(), "--quiet"}).exit_code == 0);
    before_ = content();
  }
  std::string model() const { return folder_ / "m.onnx"; }
  const TemporaryFolder& folder() const { return folder_; }
  /// Runs a command that must end with `code`, and checks that it left everything as it was.
  void refuses(const Arguments& arguments, int code, const CommandOptions& options = {}) {
    CAPTURE(fmt::format("{}", fmt::join(arguments, " ")));
    const CommandResult result = run_mpc(arguments, options);
    CAPTURE(result.err);
    CHECK(result.exit_code == code);
    if (result.exit_code != 0) CHECK(result.err.find("mpc: error[M") != std::string::npos);
    CHECK(content() == before_);
  }
  /// What stands in the folder belongs there from here on.
  void accept() { before_ = content(); }

 private:
  std::map<std::string, std::string> content() const {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_.path())) {
      constexpr int64_t kMost = int64_t{64} << 20;
      files[entry.path().string()] =
          entry.is_regular_file() && !entry.is_symlink() ? read_text_file(entry.path().string(), kMost) : "";
    }
    return files;
  }

  TemporaryFolder folder_;
  std::map<std::string, std::string> before_;
};

}  // namespace

TEST_CASE("misuse: wrong words on the command line end with code 2") {
  Workplace place;
  place.refuses({}, 2);
  place.refuses({"teleport"}, 2);
  place.refuses({"--teleport"}, 2);
  place.refuses({"partition", place.model(), "--teleport"}, 2);
  place.refuses({"partition", place.model(), "--gpus"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--gpus", "3"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--quiet", "--quiet"}, 2);
  place.refuses({"partition", place.model(), "another", "--gpus", "2"}, 2);
  place.refuses({"partition", place.model()}, 2);
  place.refuses({"partition", "--gpus", "2"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--devices", "cpu:2"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--dot-level", "galaxy", "--dot", place.folder() / "x.dot"},
                2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--schedule", "1f2b"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "4", "--node-bandwidth", "1e9"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "4", "--gpus-per-node", "2", "--node-bandwidth", "0"}, 2);
  place.refuses({"partition", place.model(), "--cluster", "c.json", "--gpus-per-node", "2"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--objective", "beauty"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--gpu-type", "h300"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--limit", "nods=2"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--dim", "batch"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--dim", "batch=-1"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--shape", "2,3"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--shape", "x=2,,3"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--shape", "x=2,-3"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--shape", "x=2", "--shape", "x=2"}, 2);
  place.refuses({"train", place.model(), "--data", "synthetic", "--epochs", "1", "--steps", "1"}, 2);
  place.refuses({"train", place.model(), "--data", "synthetic", "--optimizer", "adamm"}, 2);
  place.refuses({"train", place.model(), "--data", "synthetic", "--loss", "hope"}, 2);
  place.refuses({"train", place.model(), "--data", "synthetic", "--loss", "mse", "--steps", "99999999999999999999"}, 2);
  place.refuses({"zoo", "two-linear"}, 2);
  place.refuses({"zoo", "two-linear", "-o", place.folder() / "x.onnx", "--size", "width=2"}, 2);
}

TEST_CASE("misuse: training settings that would say nothing end with code 2") {
  Workplace place;
  for (const char* optimizer : {"sgd,nesterov", "sgd,beta1=0.5", "adam,momentum=0.5", "adamw,dampening=0.1",
                                "momentum,nesterov=maybe", "momentum,beta2=0.9"})
    place.refuses({"train", place.model(), "--data", "synthetic", "--loss", "mse", "--optimizer", optimizer}, 2);
  place.refuses({"train", place.model(), "--data", "synthetic", "--loss", "mse", "--freeze", "nobody"}, 2);
  place.refuses({"train", place.model(), "--data", "synthetic", "--loss", "mse", "--group", "layer1=sgd,lr=1"}, 2);
}

TEST_CASE("misuse: what a plan has decided is not asked again") {
  Workplace place;
  const std::string plan = place.folder() / "p.json", training = place.folder() / "t.json";
  REQUIRE(run_mpc({"partition", place.model(), "--devices", "cpu:2", "-o", plan, "--quiet"}).exit_code == 0);
  REQUIRE(
      run_mpc({"partition", place.model(), "--devices", "cpu:2", "--train", "--loss", "mse", "-o", training, "--quiet"})
          .exit_code == 0);
  place.accept();
  for (const Arguments& flag : std::vector<Arguments>{{"--devices", "cpu:2"},
                                                      {"--memory", "1GiB"},
                                                      {"--profile", "x.json"},
                                                      {"--batch", "7"},
                                                      {"--dim", "n=7"},
                                                      {"--microbatches", "2"},
                                                      {"--schedule", "gpipe"},
                                                      {"--precision", "bf16"},
                                                      {"--objective", "memory"},
                                                      {"--pin", "layer1=1"}}) {
    Arguments run = {"run", "--plan", plan, "--input", "random"},
              train = {"train", "--plan", training, "--data", "synthetic"};
    run.insert(run.end(), flag.begin(), flag.end());
    train.insert(train.end(), flag.begin(), flag.end());
    place.refuses(run, 2);
    place.refuses(train, 2);
  }
  for (const Arguments& flag : std::vector<Arguments>{{"--optimizer", "adam"},
                                                      {"--loss", "l1"},
                                                      {"--freeze", ".*"},
                                                      {"--clip-norm", "1"},
                                                      {"--group", ".*=sgd"}}) {
    Arguments train = {"train", "--plan", training, "--data", "synthetic"};
    train.insert(train.end(), flag.begin(), flag.end());
    place.refuses(train, 2);
  }
}

TEST_CASE("misuse: flags that say nothing without another one are not taken alone") {
  Workplace place;
  for (const Arguments& flag : std::vector<Arguments>{{"--loss", "mse"},
                                                      {"--optimizer", "adam"},
                                                      {"--freeze", ".*"},
                                                      {"--clip-norm", "1"},
                                                      {"--group", ".*=sgd"}}) {
    for (const char* command : {"partition", "bench"}) {
      Arguments alone = {command, place.model(), "--devices", "cpu:2"};
      alone.insert(alone.end(), flag.begin(), flag.end());
      place.refuses(alone, 2);
    }
  }
  for (const Arguments& flag :
       std::vector<Arguments>{{"--dot-level", "op"}, {"--dot-blocks", "3"}, {"--dot-backward"}}) {
    Arguments alone = {"partition", place.model(), "--devices", "cpu:2"};
    alone.insert(alone.end(), flag.begin(), flag.end());
    place.refuses(alone, 2);
  }
  for (const char* schedule : {"gpipe", "1f1b", "zb-v"})
    place.refuses({"partition", place.model(), "--devices", "cpu:2", "--schedule", schedule, "--chunks", "3"}, 2);
}

TEST_CASE("misuse: device counts, memories and pins that cannot be end with code 2") {
  Workplace place;
  for (const char* devices : {"0", "-1", "9999999999", "2.5", "", "cpu:0", "cpu:-1", "cpu:2.5", "cpu:9999999999",
                              "tpu:1", "cuda:0,cuda:0", "cpu,,cpu"}) {
    place.refuses({"partition", place.model(), "--devices", devices}, 2);
  }
  for (const char* gpus : {"0", "-1", "9999999999", "2.5", ""})
    place.refuses({"partition", place.model(), "--gpus", gpus}, 2);
  for (const char* memory : {"12Q", "0", "-1GiB", "", "16 GB ", "1GiB,1GiB,1GiB", "1e999"}) {
    place.refuses({"partition", place.model(), "--devices", "cpu:2", "--memory", memory}, 2);
  }
  for (const char* pin : {"layer1", "=0", "layer1=", "layer1=2", "layer1=-1", "layer1=cpu:7", "([=0", "nobody=0"}) {
    place.refuses({"partition", place.model(), "--devices", "cpu:2", "--pin", pin}, 2);
  }
  for (const char* batch : {"0", "-4", "1.5", "x"})
    place.refuses({"partition", place.model(), "--devices", "cpu:2", "--batch", batch}, 2);
}

TEST_CASE("misuse: files that cannot be read end with code 6") {
  Workplace place;
  const TemporaryFolder& folder = place.folder();
  place.refuses({"partition", folder / "absent.onnx", "--gpus", "2"}, 6);
  place.refuses({"partition", folder.path(), "--gpus", "2"}, 6);
  place.refuses({"partition", "", "--gpus", "2"}, 6);
  place.refuses({"partition", "/dev/zero", "--gpus", "2"}, 6);
  place.refuses({"partition", std::string(4096, 'a'), "--gpus", "2"}, 6);
  place.refuses({"partition", folder / "line\nbreak", "--gpus", "2"}, 6);
  place.refuses({"partition", folder / "bytes\xff\xfe", "--gpus", "2"}, 6);
  place.refuses({"run", place.model(), "--input", "x=" + (folder / "absent.npy")}, 6);
  place.refuses({"run", "--plan", folder / "absent.json"}, 6);
  place.refuses({"partition", place.model(), "--cluster", folder / "absent.json"}, 6);
  REQUIRE(mkfifo((folder / "pipe").c_str(), 0600) == 0);
  place.accept();
  place.refuses({"check", folder / "pipe"}, 6);
}

TEST_CASE("misuse: outputs that cannot be written end with code 6 and leave what was there") {
  Workplace place;
  const TemporaryFolder& folder = place.folder();
  const auto partition = [&](const std::string& flag, const std::string& path) {
    return Arguments{"partition", place.model(), "--devices", "cpu:2", "--quiet", flag, path};
  };
  for (const char* flag : {"-o", "--dot", "--trace", "--onnx", "--json"}) {
    place.refuses(partition(flag, folder / "absent/out"), 6);
    place.refuses(partition(flag, place.model()), 6);
    place.refuses(partition(flag, folder.path()), 6);
    place.refuses(partition(flag, "/dev/full"), 6);
  }
  std::filesystem::create_symlink(place.model(), folder / "link");
  place.accept();
  for (const char* flag : {"-o", "--dot", "--trace", "--onnx", "--json"})
    place.refuses(partition(flag, folder / "link"), 6);
  place.refuses({"zoo", "tiny-linear", "-o", folder / "link"}, 6);
  place.refuses({"train", place.model(), "--data", "synthetic", "--loss", "mse", "--save", folder / "absent/out.onnx"},
                6);
}

TEST_CASE("misuse: stdout that is closed, full or read by nobody ends with code 6, never by a signal") {
  Workplace place;
  const Arguments partition = {"partition", place.model(), "--devices", "cpu:2"};
  CommandOptions closed;
  closed.closes_stdout = true;
  place.refuses(partition, 6, closed);
  CommandOptions full;
  full.stdout_path = "/dev/full";
  place.refuses(partition, 6, full);
  CommandOptions unread;
  unread.reads_nothing = true;
  place.refuses(partition, 6, unread);
  Arguments with_json = partition;
  with_json.insert(with_json.end(), {"--json", "-"});
  place.refuses(with_json, 6, full);
  // Training ends there, and what it has trained is kept.
  const std::string saved = place.folder() / "saved.onnx";
  const CommandResult trained = run_mpc(
      {"train", place.model(), "--data", "synthetic", "--loss", "mse", "--epochs", "1000", "--save", saved}, full);
  CHECK(trained.exit_code == 6);
  CHECK(trained.err.find("holds the weights after") != std::string::npos);
  CHECK(run_mpc({"check", saved}).exit_code == 0);
}

TEST_CASE("misuse: a model whose name begins with a dash is read after --") {
  const TemporaryFolder folder;
  REQUIRE(run_mpc({"zoo", "two-linear", "-o", folder / "-x", "--quiet"}).exit_code == 0);
  CommandOptions options;
  options.folder = folder.path();
  CHECK(run_mpc({"check", "--", "-x"}, options).exit_code == 0);
  CHECK(run_mpc({"check", "-x"}, options).exit_code == 2);
}

TEST_CASE("misuse: a working folder that is gone is an error of files") {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "gone");
  CommandOptions options;
  options.folder = folder / "gone";
  options.removes_folder = true;
  CHECK(run_mpc({"check", "m.onnx"}, options).exit_code == 6);
  std::filesystem::create_directory(folder / "gone");
  CHECK(run_mpc({"zoo", "tiny-linear", "-o", "m.onnx"}, options).exit_code == 6);
}

TEST_CASE("misuse: what this version does not do is refused by name with code 4") {
  Workplace place;
  place.refuses({"train", place.model(), "--data", "synthetic", "--checkpoint", "c"}, 4);
  place.refuses({"train", place.model(), "--data", "synthetic", "--resume"}, 4);
  place.refuses({"train", place.model(), "--data", "synthetic", "--precision", "tf32"}, 4);
  place.refuses({"split", "--plan", "p.json"}, 4);
  place.refuses({"profile", "-o", "p.json", "--cluster", place.folder() / "absent.json"}, 6);
  place.refuses({"profile"}, 2);
  place.refuses({"profile", "-o", "p.json", "--only-models"}, 2);
  place.refuses({"partition", place.model(), "--devices", "cpu:2", "--profile", place.folder() / "absent.json"}, 6);
  place.refuses({"partition", place.model(), "--devices", "cpu:2", "--report", place.model()}, 6);
  place.refuses({"run", "--plan", "p.json", "--profile", "q.json", "--input", "random"}, 2);
}

TEST_CASE("misuse: flags of models and of cost graphs do not mix") {
  Workplace place;
  const std::string graph = place.folder() / "g.json";
  write_file_atomic(graph, R"({"devices": {"count": 2, "memory_bytes": 1}, "edges": [],
    "nodes": [{"id": 7, "time_gpu": 1, "memory_bytes": 0, "backward": false}]})");
  place.accept();
  place.refuses({"partition", "--cost-graph", graph, "--quiet"}, 0);
  place.refuses({"partition", place.model(), "--cost-graph", graph}, 2);
  place.refuses({"partition", "--cost-graph", graph, "--gpus", "2"}, 2);
  place.refuses({"partition", "--cost-graph", graph, "--train"}, 2);
  place.refuses({"partition", "--cost-graph", graph, "-o", place.folder() / "plan.json"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--contiguous"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--objective", "memory", "--budget", "1s"}, 2);
  place.refuses({"partition", place.model(), "--gpus", "2", "--cpus", "1"}, 2);
  for (const char* budget : {"", "0", "-1s", "1h", "nan", "1e999", "s", "1 s", "100000000s"}) {
    place.refuses({"partition", "--cost-graph", graph, "--budget", budget}, 2);
    place.refuses({"partition", place.model(), "--gpus", "2", "--objective", "latency", "--budget", budget}, 2);
    place.refuses({"partition", place.model(), "--gpus", "2", "--budget", budget}, 2);
  }
  for (const char* cpus : {"-1", "4097", "x"}) place.refuses({"partition", "--cost-graph", graph, "--cpus", cpus}, 2);
  place.refuses({"partition", "--cost-graph", graph, "--json", graph}, 6);
  place.refuses({"partition", "--cost-graph", place.folder() / "absent.json"}, 6);
  place.refuses({"partition", "--cost-graph", place.model()}, 3);
}

}  // namespace mpc::test
