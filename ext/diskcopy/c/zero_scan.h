/* SPDX-License-Identifier: Apache-2.0
 *
 * How many zero bytes does a piece of memory begin with? One answer in several
 * instruction sets, chosen by name at run time.
 *
 * Data is recognised at its first lines, so what takes time is zero memory that is not
 * in cache. There one ascending stream leaves the memory idle, and asking ahead for
 * lines made it worse (AMD EPYC: 21 GB/s plain, 16 with prefetching 1 or 2 KiB ahead).
 * Four streams read 26 GB/s where each is 16 KiB or longer, so a run of zeroes is
 * tried in windows of four quarters, which double while they are found to be zero:
 * what a window that holds data reads in vain is at most what was won before.
 */
#ifndef DISKCOPY_ZERO_SCAN_H
#define DISKCOPY_ZERO_SCAN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef size_t (*zero_scan_fn)(const uint8_t *memory, size_t size);

#define ZERO_SCAN_LINE 64
#define ZERO_SCAN_FIRST_WINDOW ((size_t)16 << 10)
#define ZERO_SCAN_LAST_WINDOW ((size_t)256 << 10)

/* The index of the first byte at or after `at` that is not zero, or `size`. */
static inline size_t zero_scan_bytes(const uint8_t *memory, size_t at, size_t size)
{
    uint64_t word;
    for (; at + sizeof word <= size; at += sizeof word) {
        memcpy(&word, memory + at, sizeof word);
        if (word)
            break;
    }
    while (at < size && !memory[at])
        at++;
    return at;
}

/* One scanner, from what an instruction set has: `line(p)` is some vector that is zero
 * where the 64 bytes at p are, vectors join with `|`, and `any(vector)` tests one. */
#define ZERO_SCAN(name, target, line, any)                                                 \
    target static size_t name##_stream(const uint8_t *memory, size_t at, size_t size)      \
    {                                                                                      \
        for (; at + 2 * ZERO_SCAN_LINE <= size; at += 2 * ZERO_SCAN_LINE)                  \
            if (any(line(memory + at) | line(memory + at + ZERO_SCAN_LINE)))               \
                break;                                                                     \
        return zero_scan_bytes(memory, at, size);                                          \
    }                                                                                      \
                                                                                           \
    target static int name##_window(const uint8_t *memory, size_t size)                    \
    {                                                                                      \
        const uint8_t *b = memory + size / 4, *c = b + size / 4, *d = c + size / 4;        \
        for (size_t at = 0; at < size / 4; at += ZERO_SCAN_LINE)                           \
            if (any(line(memory + at) | line(b + at) | line(c + at) | line(d + at)))       \
                return 0;                                                                  \
        return 1;                                                                          \
    }                                                                                      \
                                                                                           \
    static size_t name(const uint8_t *memory, size_t size)                                 \
    {                                                                                      \
        size_t window = ZERO_SCAN_FIRST_WINDOW;                                            \
        size_t at = name##_stream(memory, 0, size < window ? size : window);               \
        if (at < window)                                                                   \
            return at;                                                                     \
        while (at + window <= size && name##_window(memory + at, window)) {                \
            at += window;                                                                  \
            if (window < ZERO_SCAN_LAST_WINDOW)                                            \
                window *= 2;                                                               \
        }                                                                                  \
        /* What is left is short, or ends in a window with data. */                        \
        return name##_stream(memory, at, size);                                            \
    }

static inline uint64_t zero_scan_line_portable(const uint8_t *p)
{
    uint64_t w[8];
    memcpy(w, p, sizeof w);
    return w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7];
}

static inline int zero_scan_any_portable(uint64_t word)
{
    return word != 0;
}

ZERO_SCAN(zero_scan_portable, , zero_scan_line_portable, zero_scan_any_portable)

#if defined(__x86_64__)
#include <immintrin.h>

static inline __m128i zero_scan_line_sse2(const uint8_t *p)
{
    const __m128i *v = (const __m128i *)p;
    return _mm_loadu_si128(v) | _mm_loadu_si128(v + 1) | _mm_loadu_si128(v + 2) | _mm_loadu_si128(v + 3);
}

static inline int zero_scan_any_sse2(__m128i vector)
{
    return _mm_movemask_epi8(_mm_cmpeq_epi8(vector, _mm_setzero_si128())) != 0xffff;
}

ZERO_SCAN(zero_scan_sse2, , zero_scan_line_sse2, zero_scan_any_sse2)

#define ZERO_SCAN_AVX2 __attribute__((target("avx2")))

ZERO_SCAN_AVX2 static inline __m256i zero_scan_line_avx2(const uint8_t *p)
{
    const __m256i *v = (const __m256i *)p;
    return _mm256_loadu_si256(v) | _mm256_loadu_si256(v + 1);
}

ZERO_SCAN_AVX2 static inline int zero_scan_any_avx2(__m256i vector)
{
    return !_mm256_testz_si256(vector, vector);
}

ZERO_SCAN(zero_scan_avx2, ZERO_SCAN_AVX2, zero_scan_line_avx2, zero_scan_any_avx2)
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
