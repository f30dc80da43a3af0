"""JSON without blanks, written quickly: what processes and the store tell each other for each call."""

from __future__ import annotations

import json
from typing import Any

_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"), check_circular=False)
# `encode` would make this one anew for every value, which takes as long as to use it.
_CHUNKS: Any = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, _ENCODER.default, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False
)


def dump(value: object) -> str:
    """Write JSON. Raises ValueError for infinities and NaN, which SQLite does not read."""
    return "".join(_CHUNKS(value, 0))
