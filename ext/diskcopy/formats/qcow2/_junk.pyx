# SPDX-License-Identifier: Apache-2.0
"""Telling data that will not compress, from a sample: many times faster than trying."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

# Samples are stretches of so many bytes, one in each STEP bytes.
cdef enum:
    STRETCH = 128
    STEP = 1024
    # Up to so many bytes, all are looked at.
    SMALL = 8192
    TABLE_BITS = 13
    WORD = 8
    APART = 8
    LOOKED = 64

# Bytes at random have a chi-square of 255 against an even spread, give or take 23. With 8
# KiB sampled, 440 means that a Huffman code saves 1/500; that is what is let go.
cdef double MOST_SPREAD = 440
cdef uint32_t MOST_REPEATS = 3


cdef inline uint32_t _slot(uint64_t word) noexcept nogil:
    return <uint32_t> ((word * <uint64_t> 0x9E3779B97F4A7C15) >> (64 - TABLE_BITS))


cdef bint _is_junk(const uint8_t* data, size_t size) noexcept nogil:
    cdef uint32_t counts[256]
    cdef uint32_t places[1 << TABLE_BITS]
    cdef size_t start, stop, at, step = STEP if size > SMALL else STRETCH, sampled = 0
    cdef uint32_t slot, repeats = 0
    cdef uint64_t word, other
    cdef double expected, spread = 0
    memset(counts, 0, sizeof(counts))
    start = 0
    while start < size:
        stop = min(start + STRETCH, size)
        for at in range(start, stop):
            counts[data[at]] += 1
        sampled += stop - start
        start += step
    expected = sampled / 256.0
    for at in range(256):
        spread += (counts[at] - expected) * (counts[at] - expected)
    if spread > MOST_SPREAD * expected:
        return False
    # The word at every APART-th byte is remembered, and in the first bytes of each sample every
    # byte's word is looked for: nearly any repeat of APART + WORD bytes is found.
    memset(places, 0, sizeof(places))
    start = 0
    while start + WORD <= size:
        stop = min(start + LOOKED, size - WORD + 1)
        for at in range(start, stop):
            memcpy(&word, data + at, WORD)
            slot = _slot(word)
            if places[slot]:
                memcpy(&other, data + places[slot] - 1, WORD)
                repeats += word == other
        stop = min(start + step, size - WORD + 1)
        at = start
        while at < stop:
            memcpy(&word, data + at, WORD)
            places[_slot(word)] = <uint32_t> at + 1
            at += APART
        start += step
    return repeats <= MOST_REPEATS


def is_junk(const unsigned char[::1] data not None):
    """Whether compressing `data` would save next to nothing: its bytes are spread evenly, and
    do not repeat what came before. Wrong by some hundredths of its length at the most in
    what people store; never wrong about the data themselves."""
    cdef size_t size = data.shape[0]
    cdef bint answer
    if size == 0 or size > <size_t> 1 << 30:
        return False
    with nogil:
        answer = _is_junk(&data[0], size)
    return answer
