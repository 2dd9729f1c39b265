#include "tools/console.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "compiler/base/error.h"
#include "compiler/base/file.h"

namespace mpc::tools {
namespace {

constexpr size_t kMostErrorBytes = 2000;

/// False when the descriptor does not take the text.
bool write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(descriptor, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    text.remove_prefix(static_cast<size_t>(count));
  }
  return true;
}

void write_stdout(std::string_view text) {
  if (write_all(STDOUT_FILENO, text)) return;
  throw Error(ErrorId::M011, "standard output", std::strerror(errno));
}

std::string duration(double seconds) {
  const int64_t whole = static_cast<int64_t>(seconds + 0.5);
  constexpr int64_t kMinute = 60;
  constexpr int64_t kHour = 3600;
  if (whole >= kHour) return fmt::format("{}:{:02}:{:02}", whole / kHour, whole % kHour / kMinute, whole % kMinute);
  return fmt::format("{}:{:02}", whole / kMinute, whole % kMinute);
}

}  // namespace

void Console::say(std::string_view text) const {
  if (is_quiet) return;
  if (json_path == "-" || has_data_on_stdout_) {
    write_all(STDERR_FILENO, text);  // nothing is lost when it is closed: these are words, not the answer
  } else {
    write_stdout(text);
  }
}

void Console::detail(std::string_view text) const {
  if (is_verbose) say(text);
}

void Console::note(std::string_view text) const {
  if (!is_quiet) write_all(STDERR_FILENO, fmt::format("mpc: {}\n", escaped(text)));
}

void Console::data(std::string_view text) const {
  write_stdout(text);
}

void Console::json(const Json& answer) const {
  if (wants_json()) json_text(answer.dump(1, ' ', false, Json::error_handler_t::replace));
}

void Console::json_text(const std::string& answer) const {
  if (json_path.empty()) return;
  if (json_path == "-") {
    write_stdout(answer + "\n");
  } else {
    write_file_atomic(json_path, answer + "\n");
  }
}

void Console::report(const Error& error) const noexcept {
  std::string line = fmt::format("mpc: error[{}] {}", error_name(error.id()), error.what());
  if (line.size() > kMostErrorBytes) line = escaped(line, kMostErrorBytes);
  write_all(STDERR_FILENO, line + "\n");
  if (json_path != "-") return;
  const Json object = {{"error",
                        {{"id", error_name(error.id())},
                         {"code", error.code()},
                         {"where", escaped(error.where(), 500)},
                         {"what", escaped(error.what_happened(), 1000)},
                         {"hint", escaped(error.hint(), 400)}}}};
  write_all(STDOUT_FILENO, object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
}

Progress::Progress(const Console& console, std::string label, int64_t total, std::string unit)
    : is_shown_(!console.is_quiet && isatty(STDERR_FILENO) != 0),
      label_(std::move(label)),
      total_(total),
      unit_(std::move(unit)),
      start_(Clock::now()),
      last_shown_(start_) {}

Progress::~Progress() {
  clear();
}

void Progress::update(int64_t done, std::string_view remark) {
  if (!is_shown_) return;
  const Clock::time_point now = Clock::now();
  constexpr auto kBetweenLines = std::chrono::milliseconds(100);
  if (now - last_shown_ < kBetweenLines) return;
  last_shown_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  std::string line = label_;
  if (total_ > 0) {
    constexpr int kBarCells = 24;
    const int filled = static_cast<int>(kBarCells * done / total_);
    line += " [" + std::string(static_cast<size_t>(filled), '#') +
            std::string(static_cast<size_t>(kBarCells - filled), '.') + "]";
    line += fmt::format(" {}/{}", done, total_);
  } else {
    line += fmt::format(" {}", done);
  }
  if (done > 0 && elapsed > 0) {
    const double rate = static_cast<double>(done) / elapsed;
    line += fmt::format("  {:.3g} {}/s", rate, unit_);
    if (total_ > 0) line += fmt::format("  {} left", duration(static_cast<double>(total_ - done) / rate));
  }
  if (!remark.empty()) line += fmt::format("  {}", remark);
  write_all(STDERR_FILENO, "\r\x1b[2K" + line);
  has_line_ = true;
}

void Progress::clear() {
  if (has_line_) write_all(STDERR_FILENO, "\r\x1b[2K");
  has_line_ = false;
}

void require_other_file(const std::string& output, const std::string& input) {
  if (output.empty() || output == "-") return;
  if (output == input || is_same_file(output, input)) {
    throw Error(ErrorId::M012, output, "is both read and written", "write to another file");
  }
}

}  // namespace mpc::tools
