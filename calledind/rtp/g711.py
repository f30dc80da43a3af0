"""G.711 read: the linear value of each octet.

Not the encoder's table turned round, but the recommendation's formula: a mistake in the one would be heard in the
other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def _mu_law_table() -> NDArray[np.int16]:
    """Return the 256 values of mu-law (ITU-T G.711, table 2a), as 16-bit linear PCM."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84 << ((code >> 4) & 7)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _a_law_table() -> NDArray[np.int16]:
    """Return the 256 values of A-law (ITU-T G.711, table 1a), as 16-bit linear PCM."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    segment = (code >> 4) & 7
    magnitude = ((code & 0x0F) << 4) + 8
    magnitude = np.where(segment > 0, magnitude + 0x100 << np.maximum(segment - 1, 0), magnitude)
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


DECODED = {"PCMU": _mu_law_table(), "PCMA": _a_law_table()}
"Codec -> the linear value of each of its 256 codes."
