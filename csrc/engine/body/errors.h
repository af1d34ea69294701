// Collects everything that is wrong, to report it at once.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace symgrad {

// Counts all, and keeps the first ones.
class Errors {
 public:
  void Add(std::string error) {
    if (++count_ <= kShown) shown_.push_back(std::move(error));
  }
  bool empty() const { return count_ == 0; }

  // "<headline>:\n  - <error>\n  - …"
  absl::Status ToStatus(absl::StatusCode code, absl::string_view headline) const {
    std::string message = absl::StrCat(headline, ":\n  - ", absl::StrJoin(shown_, "\n  - "));
    if (count_ > kShown) absl::StrAppend(&message, "\n  - … and ", count_ - kShown, " more");
    return absl::Status(code, message);
  }

 private:
  static constexpr int kShown = 50;
  int count_ = 0;
  std::vector<std::string> shown_;
};

}  // namespace symgrad
