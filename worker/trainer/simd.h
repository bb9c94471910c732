// Plain loops compiled twice: for any CPU of the architecture, and for one with AVX2 where there is one.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace ham::trainer {

// Eight numbers of T, float or double, side by side; arithmetic and comparisons work on all of them.
template <typename T>
struct Simd {
  static constexpr int64_t kLanes = 8;
  using Integer = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  typedef T Numbers __attribute__((vector_size(kLanes * sizeof(T))));
  typedef Integer Integers __attribute__((vector_size(kLanes * sizeof(T))));  // comparisons: -1 true, 0 false
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

  template <typename Vector, typename Element>
  static void Load(const Element* from, Vector* to) {
    static_assert(sizeof(Vector) == kLanes * sizeof(Element));
    std::memcpy(to, from, sizeof(Vector));
  }
  template <typename Vector, typename Element>
  static void Store(const Vector& from, Element* to) {
    static_assert(sizeof(Vector) == kLanes * sizeof(Element));
    std::memcpy(to, &from, sizeof(Vector));
  }
};

#if defined(__x86_64__)

// Without fused multiply-add, so that both forms give the same bits.
template <typename Loop>
[[gnu::flatten, gnu::target("avx2")]] void RunWithAvx2(const Loop& loop) {
  loop();
}

// Calls loop(), of code that can be inlined whole. Let it capture by value: then the compiler knows that what the loop
// stores changes none of that.
template <typename Loop>
void Vectorized(const Loop& loop) {
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (has_avx2) {
    RunWithAvx2(loop);
  } else {
    loop();
  }
}

#else

template <typename Loop>
void Vectorized(const Loop& loop) {
  loop();
}

#endif

}  // namespace ham::trainer
