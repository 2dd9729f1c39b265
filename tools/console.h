#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "compiler/base/env.h"
#include "mpc/error.h"

namespace mpc::tools {

/// JSON that keeps the order in which members are added.
using Json = nlohmann::ordered_json;

/// Where a command's words go. Text for people goes to stdout, or to stderr when stdout carries data; --quiet drops it.
class Console {
 public:
  std::string json_path;  // of --json; "-": stdout; empty: none
  bool is_quiet = false;
  bool is_verbose = false;
  Environment environment;  // docs/env.md

  /// Another option made stdout carry data (a DOT picture, say).
  void keep_stdout_for_data() { has_data_on_stdout_ = true; }

  /// Text for people, as it is. @throws Error(M011) when stdout is closed or full.
  void say(std::string_view text) const;
  /// The same with -v only.
  void detail(std::string_view text) const;
  /// `mpc: TEXT` on stderr.
  void note(std::string_view text) const;
  /// Data on stdout, as it is. @throws Error(M011).
  void data(std::string_view text) const;
  /// The answer of --json, when it was asked for. @throws Error(M011, M012).
  void json(const Json& answer) const;
  void json_text(const std::string& answer) const;
  bool wants_json() const { return !json_path.empty(); }

  /// The one line of an error, and its object when --json goes to stdout. Never throws.
  void report(const Error& error) const noexcept;

 private:
  bool has_data_on_stdout_ = false;
};

/// A line on the terminal that shows how far long work is, its rate and the time left. Without a terminal, or with
/// --quiet, it shows nothing.
class Progress {
 public:
  /// @param total units of work, 0 when unknown. `unit` is named in the rate ("cases", "samples").
  Progress(const Console& console, std::string label, int64_t total, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` units are done; `remark` stands at the end of the line.
  void update(int64_t done, std::string_view remark = {});
  /// Takes the line away, so that other text can be written.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;

  bool is_shown_;
  bool has_line_ = false;
  std::string label_;
  int64_t total_;
  std::string unit_;
  Clock::time_point start_;
  Clock::time_point last_shown_;
};

/// A file that a command writes and none that it reads. @throws Error(M012) when both are the same file.
void require_other_file(const std::string& output, const std::string& input);

}  // namespace mpc::tools
