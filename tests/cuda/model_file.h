#pragma once

#include <filesystem>
#include <string>

#include <unistd.h>

#include "compiler/onnx/model.h"
#include "models/zoo.h"

namespace mpc::test {

/// A sample model in a file that goes with the object.
class ModelFile {
 public:
  ModelFile(const std::string& name, const zoo::Options& options)
      : path_(std::filesystem::temp_directory_path() /
              ("mpc-test-" + name + "-" + std::to_string(getpid()) + ".onnx")) {
    zoo::write(name, options, path_.string());
  }
  ~ModelFile() {
    std::error_code ignored;  // a file that is gone already
    std::filesystem::remove(path_, ignored);
  }
  ModelFile(const ModelFile&) = delete;
  ModelFile& operator=(const ModelFile&) = delete;
  onnx_io::Model load() const { return onnx_io::Model::load(path_.string()); }

 private:
  std::filesystem::path path_;
};

}  // namespace mpc::test
