/* SPDX-License-Identifier: Apache-2.0
 *
 * Is a block of memory all zero? One answer in several instruction sets, chosen by
 * name at run time. A block of data ends at its first 128 bytes as a rule, so what
 * counts is zero memory that is not in cache: each loop asks for lines well ahead,
 * because the hardware's prefetcher stops at every page border.
 */
#ifndef DISKCOPY_ZERO_SCAN_H
#define DISKCOPY_ZERO_SCAN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef int (*zero_scan_fn)(const uint8_t *block, size_t size);

#define ZERO_SCAN_AHEAD 2048

static inline int zero_scan_tail(const uint8_t *p, const uint8_t *end)
{
    uint64_t word;
    for (; p + 8 <= end; p += 8) {
        memcpy(&word, p, 8);
        if (word)
            return 0;
    }
    for (; p < end; p++)
        if (*p)
            return 0;
    return 1;
}

static int zero_scan_portable(const uint8_t *p, size_t size)
{
    const uint8_t *end = p + size;
    uint64_t w[8];
    for (; p + 64 <= end; p += 64) {
        memcpy(w, p, 64);
        __builtin_prefetch(p + ZERO_SCAN_AHEAD);
        if (w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7])
            return 0;
    }
    return zero_scan_tail(p, end);
}

#if defined(__x86_64__)
#include <immintrin.h>

static int zero_scan_sse2(const uint8_t *p, size_t size)
{
    const uint8_t *end = p + size;
    for (; p + 64 <= end; p += 64) {
        __m128i a = _mm_or_si128(_mm_loadu_si128((const __m128i *)p),
                                 _mm_loadu_si128((const __m128i *)(p + 16)));
        __m128i b = _mm_or_si128(_mm_loadu_si128((const __m128i *)(p + 32)),
                                 _mm_loadu_si128((const __m128i *)(p + 48)));
        __builtin_prefetch(p + ZERO_SCAN_AHEAD);
        a = _mm_cmpeq_epi8(_mm_or_si128(a, b), _mm_setzero_si128());
        if (_mm_movemask_epi8(a) != 0xffff)
            return 0;
    }
    return zero_scan_tail(p, end);
}

__attribute__((target("avx2")))
static int zero_scan_avx2(const uint8_t *p, size_t size)
{
    const uint8_t *end = p + size;
    for (; p + 128 <= end; p += 128) {
        __m256i a = _mm256_or_si256(_mm256_loadu_si256((const __m256i *)p),
                                    _mm256_loadu_si256((const __m256i *)(p + 32)));
        __m256i b = _mm256_or_si256(_mm256_loadu_si256((const __m256i *)(p + 64)),
                                    _mm256_loadu_si256((const __m256i *)(p + 96)));
        __builtin_prefetch(p + ZERO_SCAN_AHEAD);
        __builtin_prefetch(p + ZERO_SCAN_AHEAD + 64);
        a = _mm256_or_si256(a, b);
        if (!_mm256_testz_si256(a, a))
            return 0;
    }
    return zero_scan_tail(p, end);
}
#endif

/* The scanner called `name`, or NULL where this processor or build has none of it. */
static zero_scan_fn zero_scan_by_name(const char *name)
{
    if (!strcmp(name, "portable"))
        return zero_scan_portable;
#if defined(__x86_64__)
    if (!strcmp(name, "sse2"))
        return zero_scan_sse2;
    if (!strcmp(name, "avx2") && __builtin_cpu_supports("avx2"))
        return zero_scan_avx2;
#endif
    return NULL;
}

#endif
