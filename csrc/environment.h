// Settings by environment variables. A value that is not one of those expected is an error that names the variable, never a
// guess: a typing error must not look like a measurement of something else.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>

#include "checks.h"

namespace gcn {

// A whole number from 0 to `most`, in decimal digits; `otherwise` where the variable is not set.
inline int64_t number_from_environment(const char* name, int64_t most, int64_t otherwise) {
  const char* const text = std::getenv(name);
  if (!text) return otherwise;
  const std::string digits = "0123456789";
  const size_t length = std::strlen(text);
  bool expected = length > 0 && length <= 18 && std::strspn(text, digits.c_str()) == length;
  const int64_t value = expected ? std::strtoll(text, nullptr, 10) : 0;
  expected = expected && value <= most;
  check(expected, name, ": expected a whole number from 0 to ", most, ", got '", text, "'; correct it, or unset the variable");
  return value;
}

// Which of `names` the variable says; -1 where it is not set.
inline int choice_from_environment(const char* name, std::initializer_list<const char*> names) {
  const char* const text = std::getenv(name);
  if (!text) return -1;
  int index = 0;
  std::string listed;
  for (const char* expected : names) {
    if (std::strcmp(text, expected) == 0) return index;
    listed += (index++ ? ", " : "") + std::string(expected);
  }
  check(false, name, ": expected one of ", listed, ", got '", text, "'; correct it, or unset the variable");
  return -1;
}

}  // namespace gcn
