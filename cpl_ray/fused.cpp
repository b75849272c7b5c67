// One pass over p, g, m, v and the bit planes of SignState: moments, update, mask, theta and all counts (docs/speed.md).
//
// The arithmetic is that of the eager path (cpl_ray/rule.py, methods/collaborative.py, mastered.py), rounding for
// rounding: torch fuses a * b + c exactly where `fused` stands here, and nowhere else, so the compiler must not contract
// on its own. Elementwise: length, alignment and threads change no bit. Signs and classes are words of 64 bits, an
// element a bit, and are compared as such.
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX2__) && defined(__FMA__)
#define WIDTH 8
#else
#define WIDTH 4
#endif

typedef float Floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Ints __attribute__((vector_size(4 * WIDTH)));
typedef uint64_t Word;

enum Kind { SGD, MOMENTUM, ADAM };
enum Form { PLAIN, SIGNED, MASKED };

struct Numbers {
  float scale, decay, beta1, feed1, beta2, feed2, unbias1, unbias2, eps, minus_lr;
  int32_t decoupled;
};

// Planes of one bit per element. `flips` is null where they need not be told.
struct Planes {
  const Word *plus, *minus;
  Word *conflict, *flips;
};

struct Counts {
  int64_t conflict, zero, flips, moved, moved_against;
};

namespace {

constexpr int64_t GROUP = 64, PARTS = GROUP / WIDTH;  // elements of a word, vectors of a group
constexpr int64_t LINE = 16, WORDS_OF_LINE = 8;  // floats and words of 64 bytes
constexpr int64_t AHEAD = 768, WORDS_AHEAD = 64;  // of the present place, in floats and in words: measured (docs/log.md)

template <class V, class E>
inline V load(const E* from) {
  V values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

template <class V, class E>
inline void store(E* to, V values) {
  std::memcpy(to, &values, sizeof values);
}

inline Floats all(float value) { return Floats{} + value; }

// a * b + c, rounded once
inline Floats fused(Floats a, Floats b, Floats c) {
#if WIDTH == 16
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif WIDTH == 8
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  Floats result;
  for (int i = 0; i < WIDTH; ++i) result[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return result;
#endif
}

inline Floats root(Floats a) {
#if WIDTH == 16
  return (Floats)_mm512_sqrt_ps((__m512)a);
#elif WIDTH == 8
  return (Floats)_mm256_sqrt_ps((__m256)a);
#else
  Floats result;
  for (int i = 0; i < WIDTH; ++i) result[i] = __builtin_sqrtf(a[i]);
  return result;
#endif
}

// Bit i: lane i is negative, or -0.
inline Word negatives(Floats a) {
#if WIDTH == 16
#ifdef __AVX512DQ__
  return _mm512_movepi32_mask((__m512i)a);
#else
  return _mm512_test_epi32_mask((__m512i)a, _mm512_set1_epi32(INT32_MIN));
#endif
#elif WIDTH == 8
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)a));
#else
  Word bits = 0;
  for (int i = 0; i < WIDTH; ++i) bits |= static_cast<Word>(((Ints)a)[i] < 0) << i;
  return bits;
#endif
}

// Bit i: lane i is not zero.
inline Word nonzeros(Floats a) {
#if WIDTH == 16
  return _mm512_cmp_ps_mask((__m512)a, _mm512_setzero_ps(), _CMP_NEQ_UQ);
#else
  return negatives((Floats)(a != all(0.0f)));
#endif
}

// Adds the signs of vector `part` of a group to two words.
inline void add_signs(Floats values, int part, Word& plus, Word& minus) {
  const Word nonzero = nonzeros(values), negative = negatives(values);
  plus |= (nonzero & ~negative) << part * WIDTH;
  minus |= (nonzero & negative) << part * WIDTH;
}

// `a`, times 0 where a bit is set.
inline Floats zeroed(Floats a, Word bits) {
#if WIDTH == 16
  return (Floats)_mm512_mask_mul_ps((__m512)a, static_cast<__mmask16>(bits), (__m512)a, _mm512_setzero_ps());
#else
  Ints lanes;
  for (int i = 0; i < WIDTH; ++i) lanes[i] = 1 << i;
  return ((Ints{} + static_cast<int32_t>(bits)) & lanes) != 0 ? a * all(0.0f) : a;
#endif
}

// Of 64 elements: which point against the sign of g_M, given where they are not zero and where negative.
inline Word opposing(Word nonzero, Word negative, Word plus, Word minus) {
  return nonzero & ((negative & plus) | (~negative & minus));
}

// The scalars of a step in all lanes.
struct Wide {
  Floats scale, decay, minus_lr, beta1, feed1, beta2, feed2, unbias1, unbias2, eps;
  bool scaled, coupled, decoupled;

  explicit Wide(const Numbers& c)
      : scale(all(c.scale)), decay(all(c.decay)), minus_lr(all(c.minus_lr)), beta1(all(c.beta1)), feed1(all(c.feed1)),
        beta2(all(c.beta2)), feed2(all(c.feed2)), unbias1(all(c.unbias1)), unbias2(all(c.unbias2)), eps(all(c.eps)),
        scaled(c.scale != 1.0f), coupled(c.decay != 0.0f && !c.decoupled), decoupled(c.decay != 0.0f && c.decoupled) {}
};

// Feeds the moments at one place and returns the update there.
template <Kind KIND>
inline Floats update_of(const Wide& c, int64_t at, Floats before, const float* g, float* m, float* v) {
  Floats fed = load<Floats>(g + at);
  if (c.scaled) fed = fed * c.scale;
  if (c.coupled) fed = fused(before, c.decay, fed);
  Floats update = fed;
  if (KIND == MOMENTUM) {
    update = load<Floats>(m + at) * c.beta1 + fed;
    store(m + at, update);
  }
  if (KIND == ADAM) {
    const Floats first = fused(fed, c.feed1, load<Floats>(m + at) * c.beta1);
    const Floats second = fused(c.feed2 * fed, fed, load<Floats>(v + at) * c.beta2);
    store(m + at, first);
    store(v + at, second);
    update = first * c.unbias1 / (root(second * c.unbias2) + c.eps);
  }
  return c.decoupled ? fused(before, c.decay, update) : update;
}

// Asks for memory before its turn: a processor's own prefetching stops at each page, and stalls behind what is computed.
template <class E>
inline void ask(const E* from, int64_t ahead) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) + ahead * sizeof(E)));
}

// Steps `n` elements, a multiple of GROUP. MASKED: by the planes, whose classes become the new ones. SIGNED: `s` has the
// sign of g_M, moves against it are counted.
template <Kind KIND, Form FORM>
void run(int64_t n, float* __restrict p, const float* __restrict g, float* __restrict m, float* __restrict v,
         const float* __restrict s, const Planes& planes, const Numbers& numbers, Counts& counts) {
  const Wide c(numbers);
  Counts found = counts;
  for (int64_t at = 0; at < n; at += GROUP) {
    Floats before[PARTS], update[PARTS];
    Word plus = 0, minus = 0, conflict = 0, moved = 0, lowered = 0;
    for (int64_t ahead = at + AHEAD; ahead < at + AHEAD + GROUP; ahead += LINE) {
      ask(p, ahead), ask(g, ahead);
      if (KIND != SGD) ask(m, ahead);
      if (KIND == ADAM) ask(v, ahead);
    }
    const auto form = [&](int i) {
      const int64_t here = at + i * WIDTH;
      before[i] = load<Floats>(p + here);
      update[i] = update_of<KIND>(c, here, before[i], g, m, v);
    };
    const auto move = [&](int i) {
      const Floats applied = FORM == MASKED ? zeroed(update[i], conflict >> i * WIDTH) : update[i];
      const Floats after = fused(applied, c.minus_lr, before[i]), down = before[i] - after;
      store(p + at + i * WIDTH, after);
      moved |= nonzeros(down) << i * WIDTH;
      if (FORM != PLAIN) lowered |= negatives(down) << i * WIDTH;
    };
    if (FORM == MASKED) {
      const int64_t word = at / GROUP, ahead = word + WORDS_AHEAD;
      if (word % WORDS_OF_LINE == 0) ask(planes.plus, ahead), ask(planes.minus, ahead), ask(planes.conflict, ahead);
      Word nonzero = 0, negative = 0;
      for (int i = 0; i < PARTS; ++i) {
        form(i);
        nonzero |= nonzeros(update[i]) << i * WIDTH;
        negative |= negatives(update[i]) << i * WIDTH;
      }
      plus = planes.plus[word], minus = planes.minus[word];
      conflict = opposing(nonzero, negative, plus, minus);
      const Word flips = planes.conflict[word] ^ conflict;
      planes.conflict[word] = conflict;
      if (planes.flips) planes.flips[word] = flips;
      found.conflict += __builtin_popcountll(conflict);
      found.flips += __builtin_popcountll(flips);
      found.zero += GROUP - __builtin_popcountll(nonzero & (plus | minus));
      for (int i = 0; i < PARTS; ++i) move(i);
    } else {
      for (int i = 0; i < PARTS; ++i) {
        form(i);
        if (FORM == SIGNED) add_signs(load<Floats>(s + at + i * WIDTH), i, plus, minus);
        move(i);
      }
    }
    found.moved += __builtin_popcountll(moved);
    if (FORM != PLAIN) found.moved_against += __builtin_popcountll(opposing(moved, lowered, plus, minus));
  }
  counts = found;
}

// Any length: what is left over goes through a padded copy whose padding moves nothing and counts as zero.
template <Kind KIND, Form FORM>
void run_any(int64_t n, float* p, const float* g, float* m, float* v, const float* s, const Planes& planes,
             const Numbers& c, Counts& counts) {
  const int64_t whole = n / GROUP * GROUP, rest = n - whole, word = whole / GROUP;
  run<KIND, FORM>(whole, p, g, m, v, s, planes, c, counts);
  if (rest == 0) return;
  float pad_p[GROUP] = {}, pad_g[GROUP] = {}, pad_m[GROUP] = {}, pad_v[GROUP], pad_s[GROUP] = {};
  for (float& value : pad_v) value = 1.0f;  // not 0: with eps = 0 that would be 0 / 0
  std::memcpy(pad_p, p + whole, rest * 4);
  std::memcpy(pad_g, g + whole, rest * 4);
  if (KIND != SGD) std::memcpy(pad_m, m + whole, rest * 4);
  if (KIND == ADAM) std::memcpy(pad_v, v + whole, rest * 4);
  if (FORM == SIGNED) std::memcpy(pad_s, s + whole, rest * 4);
  Planes last = {};
  if (FORM == MASKED) last = {planes.plus + word, planes.minus + word, planes.conflict + word, planes.flips};
  if (last.flips) last.flips += word;
  run<KIND, FORM>(GROUP, pad_p, pad_g, pad_m, pad_v, pad_s, last, c, counts);
  std::memcpy(p + whole, pad_p, rest * 4);
  if (KIND != SGD) std::memcpy(m + whole, pad_m, rest * 4);
  if (KIND == ADAM) std::memcpy(v + whole, pad_v, rest * 4);
  if (FORM == MASKED) counts.zero -= GROUP - rest;
}

template <Kind KIND>
void run_kind(int64_t n, float* p, const float* g, float* m, float* v, const float* s, const Planes& planes,
              const Numbers& c, Counts& counts) {
  if (planes.conflict)
    run_any<KIND, MASKED>(n, p, g, m, v, s, planes, c, counts);
  else if (s)
    run_any<KIND, SIGNED>(n, p, g, m, v, s, planes, c, counts);
  else
    run_any<KIND, PLAIN>(n, p, g, m, v, s, planes, c, counts);
}

}  // namespace

extern "C" {

// Adds to `counts`. `m` is null for SGD without momentum, `v` for both SGDs, the planes without a mask, `flips` where
// none are marked, `s` where no sign of g_M is known or the planes have it. Bits of planes after the last element are 0.
void cpl_update(int64_t n, float* p, const float* g, float* m, float* v, const float* s, const Word* plus,
                const Word* minus, Word* conflict, Word* flips, const Numbers* c, Counts* counts) {
  const Planes planes = {plus, minus, conflict, flips};
  if (v)
    run_kind<ADAM>(n, p, g, m, v, s, planes, *c, *counts);
  else if (m)
    run_kind<MOMENTUM>(n, p, g, m, v, s, planes, *c, *counts);
  else
    run_kind<SGD>(n, p, g, m, v, s, planes, *c, *counts);
}

// Stores sign(g) in two planes.
void cpl_capture(int64_t n, const float* __restrict g, Word* __restrict plus, Word* __restrict minus) {
  const auto capture = [&](const float* from, int64_t word) {
    Word positives = 0, others = 0;
    for (int64_t ahead = AHEAD; ahead < AHEAD + GROUP; ahead += LINE) ask(from, ahead);
    for (int i = 0; i < PARTS; ++i) add_signs(load<Floats>(from + i * WIDTH), i, positives, others);
    plus[word] = positives;
    minus[word] = others;
  };
  int64_t at = 0;
  for (; at + GROUP <= n; at += GROUP) capture(g + at, at / GROUP);
  float pad[GROUP] = {};
  std::memcpy(pad, g + at, (n - at) * 4);
  if (at < n) capture(pad, at / GROUP);
}
}
