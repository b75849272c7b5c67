// One pass over p, g, m, v and the one-byte class code: moments, update, mask, theta and all counts (docs/speed.md).
//
// The arithmetic is that of the eager path (cpl_ray/rule.py, methods/collaborative.py, mastered.py), rounding for
// rounding: torch fuses a * b + c exactly where `fused` stands here, and nowhere else, so the compiler must not contract
// on its own. Elementwise: length, alignment and threads change no bit.
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
typedef int8_t Bytes __attribute__((vector_size(WIDTH)));

enum Kind { SGD, MOMENTUM, ADAM };
enum Form { PLAIN, SIGNED, MASKED };

struct Numbers {
  float scale, decay, beta1, feed1, beta2, feed2, unbias1, unbias2, eps, minus_lr;
  int32_t decoupled, mark_flips;
};

struct Counts {
  int64_t conflict, zero, flips, moved, moved_against;
};

namespace {

constexpr int ROUNDS = 64;  // vectors between two emptyings of the byte counters, which hold 127

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

inline int64_t total(Ints lanes) {
  int64_t sum = 0;
  for (int i = 0; i < WIDTH; ++i) sum += lanes[i];
  return sum;
}

// The scalars of a step in all lanes.
struct Wide {
  Floats scale, decay, minus_lr, beta1, feed1, beta2, feed2, unbias1, unbias2, eps;
  bool coupled, decoupled;

  explicit Wide(const Numbers& c)
      : scale(all(c.scale)), decay(all(c.decay)), minus_lr(all(c.minus_lr)), beta1(all(c.beta1)), feed1(all(c.feed1)),
        beta2(all(c.beta2)), feed2(all(c.feed2)), unbias1(all(c.unbias1)), unbias2(all(c.unbias2)), eps(all(c.eps)),
        coupled(c.decay != 0.0f && !c.decoupled), decoupled(c.decay != 0.0f && c.decoupled) {}
};

// Feeds the moments at one place and returns the update there.
template <Kind KIND>
inline Floats update_of(const Wide& c, int64_t at, Floats before, const float* g, float* m, float* v) {
  Floats fed = load<Floats>(g + at) * c.scale;
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

// Steps the elements from `start` to `n`, both multiples of WIDTH. MASKED: `code` holds sign(g_M) and the last class, and
// gets the new class. SIGNED: `s` has the sign of g_M, moves against it are counted.
template <Kind KIND, Form FORM>
void run(int64_t start, int64_t n, float* __restrict p, const float* __restrict g, float* __restrict m,
         float* __restrict v, const float* __restrict s, int8_t* __restrict code, const Numbers& numbers,
         Counts& counts) {
  const Wide c(numbers);
  const Floats none = all(0.0f);
  const bool mark_flips = numbers.mark_flips;
  for (int64_t at = start; at < n;) {
    const int64_t end = at + ROUNDS * WIDTH < n ? at + ROUNDS * WIDTH : n;
    Ints zeros = {}, moves = {}, againsts = {};
    Bytes conflicts = {}, flips = {};
    for (; at < end; at += WIDTH) {
      const Floats before = load<Floats>(p + at), update = update_of<KIND>(c, at, before, g, m, v);
      Floats applied = update, sign = none;
      if (FORM == MASKED) {
        const Bytes old = load<Bytes>(code + at);
        const Bytes mastered = ((old + 1) & 3) - 1;
        sign = __builtin_convertvector(__builtin_convertvector(mastered, Ints), Floats);
        const Floats agreement = update * sign;  // times -1, 0 or 1: exact, so it cannot underflow
        const Ints conflict = agreement < none;
        applied = conflict ? update * none : update;
        zeros = agreement == none ? zeros + 1 : zeros;
        const Bytes now = __builtin_convertvector(conflict, Bytes);  // -1: conflicting
        const Bytes flip = (old >= 3) ^ now;
        conflicts -= now;
        flips -= flip;
        Bytes kept = mastered + (now & 4);
        if (mark_flips) kept += flip & ((now & 32) - 16);
        store(code + at, kept);
      }
      const Floats after = fused(applied, c.minus_lr, before);
      store(p + at, after);
      const Floats down = before - after;
      moves = down != none ? moves + 1 : moves;
      if (FORM == MASKED) againsts = down * sign < none ? againsts + 1 : againsts;
      if (FORM == SIGNED) {
        const Floats mastered = load<Floats>(s + at);
        againsts -= ((down < none) & (mastered > none)) | ((down > none) & (mastered < none));
      }
    }
    counts.moved += total(moves);
    if (FORM != PLAIN) counts.moved_against += total(againsts);
    if (FORM == MASKED) {
      counts.zero += total(zeros);
      counts.conflict += total(__builtin_convertvector(conflicts, Ints));
      counts.flips += total(__builtin_convertvector(flips, Ints));
    }
  }
}

#if WIDTH == 16 && defined(__AVX512BW__) && defined(__AVX512DQ__)
#define GROUPED
constexpr int64_t GROUP = 64;  // codes of one register

// Of 64 elements, one bit each: which point against the sign of g_M, given where they are not zero and where negative.
inline uint64_t opposing(uint64_t nonzero, uint64_t negative, uint64_t plus, uint64_t minus) {
  return nonzero & ((negative & plus) | (~negative & minus));
}

// The masked `run` by mask registers, 64 codes at a time: `n` is a multiple of 64.
template <Kind KIND>
void run_groups(int64_t n, float* __restrict p, const float* __restrict g, float* __restrict m,
                float* __restrict v, int8_t* __restrict code, const Numbers& numbers, Counts& counts) {
  constexpr int PARTS = GROUP / WIDTH;
  const Wide c(numbers);
  const bool mark_flips = numbers.mark_flips;
  const __m512 none = _mm512_setzero_ps();
  const __m512i one = _mm512_set1_epi8(1), two = _mm512_set1_epi8(2), three = _mm512_set1_epi8(3);
  const __m512i four = _mm512_set1_epi8(4), sixteen = _mm512_set1_epi8(16);
  Counts found = {};
  for (int64_t at = 0; at < n; at += GROUP) {
    const __m512i old = _mm512_loadu_si512(code + at), shifted = _mm512_and_si512(_mm512_add_epi8(old, one), three);
    const uint64_t plus = _mm512_test_epi8_mask(shifted, two), minus = _mm512_testn_epi8_mask(shifted, shifted);
    Floats before[PARTS];
    __m512 update[PARTS];
    uint64_t nonzero = 0, negative = 0;
    for (int i = 0; i < PARTS; ++i) {
      before[i] = load<Floats>(p + at + i * WIDTH);
      update[i] = (__m512)update_of<KIND>(c, at + i * WIDTH, before[i], g, m, v);
      nonzero |= static_cast<uint64_t>(_mm512_cmp_ps_mask(update[i], none, _CMP_NEQ_OQ)) << i * WIDTH;
      negative |= static_cast<uint64_t>(_mm512_movepi32_mask((__m512i)update[i])) << i * WIDTH;
    }
    const uint64_t conflict = opposing(nonzero, negative, plus, minus);
    uint64_t moved = 0, lowered = 0;
    for (int i = 0; i < PARTS; ++i) {
      const __mmask16 here = conflict >> i * WIDTH;
      const Floats after = fused((Floats)_mm512_mask_mul_ps(update[i], here, update[i], none), c.minus_lr, before[i]);
      store(p + at + i * WIDTH, after);
      const __m512 down = (__m512)(before[i] - after);
      moved |= static_cast<uint64_t>(_mm512_cmp_ps_mask(down, none, _CMP_NEQ_UQ)) << i * WIDTH;
      lowered |= static_cast<uint64_t>(_mm512_movepi32_mask((__m512i)down)) << i * WIDTH;
    }
    const uint64_t flip = _mm512_cmpgt_epi8_mask(old, two) ^ conflict;
    __m512i kept = _mm512_sub_epi8(shifted, one);
    kept = _mm512_mask_add_epi8(kept, conflict, kept, four);
    if (mark_flips) {
      kept = _mm512_mask_add_epi8(kept, flip & conflict, kept, sixteen);
      kept = _mm512_mask_sub_epi8(kept, flip & ~conflict, kept, sixteen);
    }
    _mm512_storeu_si512(code + at, kept);
    found.conflict += __builtin_popcountll(conflict);
    found.flips += __builtin_popcountll(flip);
    found.zero += GROUP - __builtin_popcountll(nonzero & (plus | minus));
    found.moved += __builtin_popcountll(moved);
    found.moved_against += __builtin_popcountll(opposing(moved, lowered, plus, minus));
  }
  counts.conflict += found.conflict;
  counts.flips += found.flips;
  counts.zero += found.zero;
  counts.moved += found.moved;
  counts.moved_against += found.moved_against;
}
#endif

// Any length: what is left over goes through a padded copy whose padding moves nothing and counts as zero.
template <Kind KIND, Form FORM>
void run_any(int64_t n, float* p, const float* g, float* m, float* v, const float* s, int8_t* code, const Numbers& c,
             Counts& counts) {
  const int64_t whole = n / WIDTH * WIDTH, rest = n - whole;
#ifdef GROUPED
  const int64_t grouped = FORM == MASKED ? n / GROUP * GROUP : 0;
  if (FORM == MASKED) run_groups<KIND>(grouped, p, g, m, v, code, c, counts);
#else
  const int64_t grouped = 0;
#endif
  run<KIND, FORM>(grouped, whole, p, g, m, v, s, code, c, counts);
  if (rest == 0) return;
  float pad_p[WIDTH] = {}, pad_g[WIDTH] = {}, pad_m[WIDTH] = {}, pad_v[WIDTH], pad_s[WIDTH] = {};
  int8_t pad_code[WIDTH] = {};
  for (float& value : pad_v) value = 1.0f;  // not 0: with eps = 0 that would be 0 / 0
  std::memcpy(pad_p, p + whole, rest * 4);
  std::memcpy(pad_g, g + whole, rest * 4);
  if (KIND != SGD) std::memcpy(pad_m, m + whole, rest * 4);
  if (KIND == ADAM) std::memcpy(pad_v, v + whole, rest * 4);
  if (FORM == SIGNED) std::memcpy(pad_s, s + whole, rest * 4);
  if (FORM == MASKED) std::memcpy(pad_code, code + whole, rest);
  run<KIND, FORM>(0, WIDTH, pad_p, pad_g, pad_m, pad_v, pad_s, pad_code, c, counts);
  std::memcpy(p + whole, pad_p, rest * 4);
  if (KIND != SGD) std::memcpy(m + whole, pad_m, rest * 4);
  if (KIND == ADAM) std::memcpy(v + whole, pad_v, rest * 4);
  if (FORM == MASKED) std::memcpy(code + whole, pad_code, rest);
  if (FORM == MASKED) counts.zero -= WIDTH - rest;
}

template <Kind KIND>
void run_kind(int64_t n, float* p, const float* g, float* m, float* v, const float* s, int8_t* code, const Numbers& c,
              Counts& counts) {
  if (code)
    run_any<KIND, MASKED>(n, p, g, m, v, s, code, c, counts);
  else if (s)
    run_any<KIND, SIGNED>(n, p, g, m, v, s, code, c, counts);
  else
    run_any<KIND, PLAIN>(n, p, g, m, v, s, code, c, counts);
}

}  // namespace

extern "C" {

// Adds to `counts`. `m` is null for SGD without momentum, `v` for both SGDs, `code` without a mask, `s` where no sign of
// g_M is known or `code` has it.
void cpl_update(int64_t n, float* p, const float* g, float* m, float* v, const float* s, int8_t* code,
                const Numbers* c, Counts* counts) {
  if (v)
    run_kind<ADAM>(n, p, g, m, v, s, code, *c, *counts);
  else if (m)
    run_kind<MOMENTUM>(n, p, g, m, v, s, code, *c, *counts);
  else
    run_kind<SGD>(n, p, g, m, v, s, code, *c, *counts);
}

// Stores sign(g) in the code; the last class stays, its flip mark goes.
void cpl_capture(int64_t n, const float* __restrict g, int8_t* __restrict code) {
  for (int64_t i = 0; i < n; ++i)
    code[i] = static_cast<int8_t>((g[i] > 0.0f) - (g[i] < 0.0f) + (code[i] >= 3 ? 4 : 0));
}
}
