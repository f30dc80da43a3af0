"""Where the audio of an MP3 file begins and ends: tags are stepped over by their length and never read.

A tag is text and pictures by a stranger, sometimes packed: 279 kB of ID3 have been seen to unpack to 780 MB.
Nothing in it is needed to play the audio.

    ID3v2 (ID3v2.4 §3.1)        in front, 10 octets of header, length in four times 7 bits; some files have several
    APEv2                       in front with its header, or behind with its footer, each 32 octets
    Lyrics3v2                   behind, ends with six digits of length and "LYRICS200"
    ID3v1                       behind, the last 128 octets
"""

from __future__ import annotations

_ID3V1_LENGTH = 128
_APE_LENGTH = 32
_MOST_TAGS = 32
"More than that, one behind the other, is not somebody's honest music."


def audio_span(data: bytes) -> tuple[int, int]:
    """Return the octets [start, end) of `data` that are between the tags; start == end when nothing is left."""
    start = 0
    for _ in range(_MOST_TAGS):
        length = _tag_in_front(data, start)
        if not length:
            break
        start = min(start + length, len(data))
    end = len(data)
    for _ in range(_MOST_TAGS):
        length = _tag_behind(data, start, end)
        if not length:
            break
        end -= length
    return start, end


def _tag_in_front(data: bytes, start: int) -> int:
    header = data[start : start + _APE_LENGTH]
    if header[:3] == b"ID3" and len(header) >= 10:
        footer = 10 if header[5] & 0x10 else 0
        return 10 + _synchsafe(header[6:10]) + footer
    if header[:8] == b"APETAGEX" and len(header) == _APE_LENGTH:
        return _APE_LENGTH + int.from_bytes(header[12:16], "little")
    return 0


def _tag_behind(data: bytes, start: int, end: int) -> int:
    """Return the length of the last tag before `end`, 0 when there is none that lies wholly behind `start`."""
    length = 0
    if data[end - _ID3V1_LENGTH : end][:3] == b"TAG" and end - start >= _ID3V1_LENGTH:
        length = _ID3V1_LENGTH
    elif data[max(end - _APE_LENGTH, 0) : end][:8] == b"APETAGEX":
        footer = data[end - _APE_LENGTH : end]
        has_header = int.from_bytes(footer[20:24], "little") & 0x80000000
        length = int.from_bytes(footer[12:16], "little") + (_APE_LENGTH if has_header else 0)
        length = max(length, _APE_LENGTH)
    elif data[max(end - 9, 0) : end] == b"LYRICS200":
        digits = data[max(end - 15, 0) : end - 9]
        length = int(digits) + 15 if digits.isdigit() else 0
    return length if length <= end - start else 0


def _synchsafe(octets: bytes) -> int:
    """Read 28 bits from four octets of seven (ID3v2.4 §6.2)."""
    value = 0
    for octet in octets:
        value = value << 7 | octet & 0x7F
    return value
