#include "cli/command.h"

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include <cstdio>

namespace plumeria::cli {

Exit exit_of(const Error& error) {
  switch (error.code) {
    case Errc::in_use:
    case Errc::busy:
      return Exit::in_use;
    case Errc::corrupt:
    case Errc::not_a_store:
    case Errc::version:
      return Exit::damaged;
    case Errc::unavailable:
      return Exit::unreachable;
    case Errc::invalid:
      return Exit::usage;
    default:
      return Exit::failed;
  }
}

std::string exit_codes() {
  return "Exit codes: 0 done; 1 failed; 2 wrong arguments; 3 in use; 4 damaged, foreign or of\n"
         "another version; 5 nobody answers; 6 repaired; 7 lease lost.";
}

CLI::Validator seconds_between(double low, double high) {
  const auto check = [low, high](const std::string& text) {
    double seconds = 0;
    if (absl::SimpleAtod(text, &seconds) && seconds >= low && seconds <= high) return std::string();
    return absl::StrCat("\"", text, "\" is not a number of seconds between ", low, " and ", high);
  };
  return CLI::Validator(check, "");
}

CLI::Validator size_between(std::uint64_t low, std::uint64_t high, std::uint64_t multiple_of) {
  const auto convert = [=](std::string& text) -> std::string {
    const std::size_t digits = text.find_first_not_of("0123456789");
    const std::string unit = digits == text.npos ? "" : absl::AsciiStrToUpper(text.substr(digits));
    const std::size_t power = unit.empty() ? 0 : std::string_view("KMGT").find(unit[0]) + 1;
    std::uint64_t number = 0;
    const bool known =
        unit.empty() ||
        (power > 0 && (unit.size() == 1 || unit.substr(1) == "B" || unit.substr(1) == "IB"));
    if (!known || !absl::SimpleAtoi(text.substr(0, digits), &number) ||
        number > (~std::uint64_t{0} >> 10 * power)) {
      return absl::StrCat("\"", text, "\" is not a size (such as 4194304, 512K, 64M or 2G)");
    }
    number <<= 10 * power;
    if (number < low || number > high || number % multiple_of != 0) {
      return absl::StrCat("\"", text, "\" is not between ", low, " and ", high, " bytes",
                          multiple_of > 1 ? absl::StrCat(", in multiples of ", multiple_of) : "");
    }
    text = absl::StrCat(number);
    return {};
  };
  return CLI::Validator(convert, "");
}

CLI::Validator not_empty() {
  return CLI::Validator(
      [](const std::string& text) { return text.empty() ? "is empty" : std::string(); }, "");
}

void complain(std::string_view text) {
  std::fprintf(stderr, "plumeria: %.*s\n", static_cast<int>(text.size()), text.data());
}

Exit complain(const Error& error) {
  complain(error.message());
  return exit_of(error);
}

}  // namespace plumeria::cli
