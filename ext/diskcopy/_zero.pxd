# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport int64_t, uint8_t

cdef bint block_is_zero(const uint8_t* block, size_t size) noexcept nogil

# The next run of blocks that are not zero in buffer[position:size]: writes its
# bounds and is true, or is false where only zeroes are left. A short last block counts.
cdef bint next_data(const uint8_t* buffer, size_t position, size_t size, size_t granularity,
                    size_t* start, size_t* end) noexcept nogil
