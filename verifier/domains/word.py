"""The machine word of the numeric domains, and its low half (the 32-bit subregister).

Everything else in this package takes its widths from here and writes none itself, so the tests
load the same source with 4-bit words and enumerate every value of every operation.
"""

from __future__ import annotations

BITS = 64
LOW_BITS = BITS // 2

U64 = (1 << BITS) - 1
S64_MAX = U64 >> 1
S64_MIN = -S64_MAX - 1
SIGN64 = S64_MAX + 1

U32 = (1 << LOW_BITS) - 1
S32_MAX = U32 >> 1
S32_MIN = -S32_MAX - 1
SIGN32 = S32_MAX + 1

HIGH = U64 ^ U32
SPAN32 = U32 + 1
SPAN64 = U64 + 1
