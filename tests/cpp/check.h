// The whole test framework: CHECK counts and prints what is false, report() is main's result.
#pragma once

#include <cstdio>

inline int check_failures = 0;

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      ++check_failures;                                                    \
    }                                                                      \
  } while (false)

inline int report() {
  std::fprintf(stderr, "%d failures\n", check_failures);
  return check_failures != 0;
}
