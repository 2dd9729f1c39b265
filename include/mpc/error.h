#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace mpc {

/// Every error id (mpc/errors.def). The id decides the exit code.
enum class ErrorId {
#define MPC_ERROR(id, exit_code, meaning) id,
#include "mpc/errors.def"
#undef MPC_ERROR
};

/// The exit code of the program for an error: 2 usage, 3 malformed input, 4 unsupported, 5 no plan or over a limit, 6
/// file system, 7 out of memory, 8 device or transfer, 9 numeric check, 10 checkpoint, 70 a bug in mpc.
int exit_code(ErrorId id);
/// "M031".
std::string_view error_name(ErrorId id);
/// What the id means in general: the text of its row.
std::string_view error_meaning(ErrorId id);

/// The one exception that ends a call. `where` names the file or ONNX node; `what_happened` says what was found and
/// what was expected; `hint` says what to do (may be empty).
class Error : public std::exception {
 public:
  Error(ErrorId id, std::string where, std::string what_happened, std::string hint = {});

  ErrorId id() const { return id_; }
  int code() const { return exit_code(id_); }
  const std::string& where() const { return where_; }
  const std::string& what_happened() const { return what_happened_; }
  const std::string& hint() const { return hint_; }
  /// `where: what_happened; hint`, control bytes and invalid UTF-8 escaped, at most 2 KB.
  const char* what() const noexcept override { return text_.c_str(); }
  /// The same error with `prefix` put before `where` (a file name, for instance).
  Error with_prefix(std::string_view prefix) const;

 private:
  ErrorId id_;
  std::string where_;
  std::string what_happened_;
  std::string hint_;
  std::string text_;
};

}  // namespace mpc
