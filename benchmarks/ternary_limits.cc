// The limits of this machine that ternary.py holds its figures against; compiled by it for the machine it runs on, and
// run in the same process.
#include <chrono>
#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

volatile std::int64_t sink;

}  // namespace

// GB/s of one pass over memory by one thread: four loads of 64 bytes at a time, prefetched so many bytes ahead (0: not
// at all). bytes: a multiple of 256.
extern "C" double read_rate(const std::uint8_t* memory, std::size_t bytes, std::size_t ahead) {
  const double start = seconds();
  std::int64_t total = 0;
#if defined(__AVX2__)
  __m256i sum[8];
  for (__m256i& lane : sum) lane = _mm256_setzero_si256();
  for (std::size_t at = 0; at < bytes; at += 256) {
    for (std::size_t line = 0; line < 256 && ahead != 0; line += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(memory + at + line) + ahead, _MM_HINT_T0);
    }
    for (std::size_t lane = 0; lane < 8; ++lane) {
      const auto* from = reinterpret_cast<const __m256i*>(memory + at + 32 * lane);
      sum[lane] = _mm256_xor_si256(sum[lane], _mm256_loadu_si256(from));
    }
  }
  for (const __m256i& lane : sum) total += _mm256_extract_epi64(lane, 0);
#else
  (void)ahead;
  for (std::size_t at = 0; at < bytes; at += 8) total ^= *reinterpret_cast<const std::int64_t*>(memory + at);
#endif
  const double rate = static_cast<double>(bytes) / (seconds() - start) / 1e9;
  sink = total;
  return rate;
}

#if defined(__AVX512VNNI__)
static double vnni_rate(long rounds) {
  __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(3);
  // Twelve chains hide the latency; they start apart, or the compiler would see that they are equal.
  __m512i c0 = _mm512_set1_epi32(0), c1 = _mm512_set1_epi32(1), c2 = _mm512_set1_epi32(2);
  __m512i c3 = _mm512_set1_epi32(3), c4 = _mm512_set1_epi32(4), c5 = _mm512_set1_epi32(5);
  __m512i c6 = _mm512_set1_epi32(6), c7 = _mm512_set1_epi32(7), c8 = _mm512_set1_epi32(8);
  __m512i c9 = _mm512_set1_epi32(9), c10 = _mm512_set1_epi32(10), c11 = _mm512_set1_epi32(11);
  const double start = seconds();
  for (long round = 0; round < rounds; ++round) {
    // Opaque operands keep the compiler from merging rounds.
    __asm__ volatile("" : "+v"(a), "+v"(b));
    c0 = _mm512_dpbusd_epi32(c0, a, b), c1 = _mm512_dpbusd_epi32(c1, a, b), c2 = _mm512_dpbusd_epi32(c2, a, b);
    c3 = _mm512_dpbusd_epi32(c3, a, b), c4 = _mm512_dpbusd_epi32(c4, a, b), c5 = _mm512_dpbusd_epi32(c5, a, b);
    c6 = _mm512_dpbusd_epi32(c6, a, b), c7 = _mm512_dpbusd_epi32(c7, a, b), c8 = _mm512_dpbusd_epi32(c8, a, b);
    c9 = _mm512_dpbusd_epi32(c9, a, b), c10 = _mm512_dpbusd_epi32(c10, a, b), c11 = _mm512_dpbusd_epi32(c11, a, b);
  }
  const double took = seconds() - start;
  const __m512i s0 = _mm512_add_epi32(_mm512_add_epi32(c0, c1), _mm512_add_epi32(c2, c3));
  const __m512i s1 = _mm512_add_epi32(_mm512_add_epi32(c4, c5), _mm512_add_epi32(c6, c7));
  const __m512i s2 = _mm512_add_epi32(_mm512_add_epi32(c8, c9), _mm512_add_epi32(c10, c11));
  sink = _mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_add_epi32(s0, s1), s2));
  return static_cast<double>(rounds) * 12 * 64 * 2 / took / 1e9;
}
#endif

// GOPS (two operations a multiply-add) of independent vpdpbusd on 512-bit registers; 0 where the CPU has none.
extern "C" double vnni_peak(long rounds) {
#if defined(__AVX512VNNI__)
  return vnni_rate(rounds);
#else
  return 0.0 * static_cast<double>(rounds);
#endif
}
