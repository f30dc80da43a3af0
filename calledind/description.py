"""Session descriptions as text and as values (RFC 8866).

Lines may end in CRLF, LF or CR, and those of unknown type are left out. Whatever the octets are, nothing but `SDPError`
comes out, after one pass over them. What two descriptions mean together is in `calledind.sdp`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from calledind.sdes import Secret

LONGEST = 65535
"Octets of a description."
MOST_LINES = 2048

Attribute = tuple[str, str | None]
"An a= line: name, and what follows its colon."

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")

_STATIC = {
    "0": "PCMU/8000",
    "3": "GSM/8000",
    "4": "G723/8000",
    "5": "DVI4/8000",
    "6": "DVI4/16000",
    "7": "LPC/8000",
    "8": "PCMA/8000",
    "9": "G722/8000",
    "10": "L16/44100/2",
    "11": "L16/44100",
    "12": "QCELP/8000",
    "13": "CN/8000",
    "14": "MPA/90000",
    "15": "G728/8000",
    "16": "DVI4/11025",
    "17": "DVI4/22050",
    "18": "G729/8000",
}
"Payload types of audio that need no a=rtpmap (RFC 3551 §6)."

PROTOCOLS = ("RTP/AVP", "RTP/AVPF")
"The second one differs in RTCP feedback, which nobody has to send (RFC 4585)."
SECURE_PROTOCOLS = ("RTP/SAVP", "RTP/SAVPF")
"The same with SRTP (RFC 3711 §12, RFC 5124)."

_LONGEST_REMEMBERED = 200
"Characters."
_SHORTEST_PTIME, _LONGEST_PTIME, _USUAL_PTIME = 1, 1000, 20


class SDPError(ValueError):
    """A description that can't be read, or that no call can be made of; the message says why."""


@dataclass(frozen=True, slots=True)
class Codec:
    """What one payload type of a media stands for."""

    payload_type: int
    "0 to 127."
    name: str
    'In upper case, such as "PCMU" or "TELEPHONE-EVENT".'
    rate: int
    "Clock rate in Hz."
    channels: int = 1
    format: str | None = None
    'The a=fmtp of it, such as "0-16".'

    def parameter(self, name: str) -> str | None:
        """Return the value of "name=value" among the a=fmtp's parameters, None where it isn't there."""
        for each in (self.format or "").split(";"):
            key, equals, value = each.partition("=")
            if equals and key.strip().lower() == name:
                return value.strip()
        return None


@dataclass(frozen=True, slots=True)
class Media:
    """One m= line with the lines that follow it (RFC 8866 §5.14)."""

    kind: str
    'Such as "audio".'
    port: int
    "0 refuses the media."
    protocol: str
    'Such as "RTP/AVP".'
    formats: tuple[str, ...]
    "Payload types where the protocol is RTP, the preferred one first."
    address: str | None = None
    "Of its own c= line, without the TTL; None where the session's counts. May be a host's name."
    attributes: tuple[Attribute, ...] = ()
    ports: int = 1
    "How many ports, two apart, are meant: one unless the media is layered."
    others: tuple[tuple[str, str], ...] = ()
    "Its i=, b= and k= lines."

    def attribute(self, name: str) -> str | None:
        """Return the value of the first a= line of this name, "" where it has none, None where it isn't there."""
        return _attribute(self.attributes, name)

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """What the formats stand for, in their order; those that nothing explains, or nothing sensible, left out."""
        maps = _by_format(self.attributes, "rtpmap")
        formats = _by_format(self.attributes, "fmtp")
        found = []
        for payload_type in dict.fromkeys(self.formats):
            # What can't be read of a number that needs no explanation is as if it weren't there.
            for encoding in (maps.get(payload_type), _STATIC.get(payload_type)):
                codec = _codec(payload_type, encoding, formats.get(payload_type)) if encoding else None
                if codec is not None:
                    found.append(codec)
                    break
        return tuple(found)

    @property
    def direction(self) -> str | None:
        """One of `DIRECTIONS`, None where the media doesn't say."""
        return _direction(self.attributes)

    @property
    def ptime(self) -> int:
        """Milliseconds of audio that one packet ought to have; 20 where nothing sensible is said.

        Never more than a=maxptime, which is what its writer can take (RFC 8866 §6.4).
        """
        ptime = self._milliseconds("ptime") or _USUAL_PTIME
        return min(ptime, self.maxptime or ptime)

    @property
    def maxptime(self) -> int | None:
        """Milliseconds of audio that one packet may have at most; None where nothing sensible is said."""
        return self._milliseconds("maxptime")

    def _milliseconds(self, name: str) -> int | None:
        value = whole_number((self.attribute(name) or "").partition(".")[0], _LONGEST_PTIME)
        return value if value is not None and value >= _SHORTEST_PTIME else None

    def __str__(self) -> str:
        port = f"{self.port}/{self.ports}" if self.ports > 1 else f"{self.port}"
        lines = [f"m={self.kind} {port} {self.protocol} {' '.join(self.formats)}\r\n"]
        lines += [f"{kind}={value}\r\n" for kind, value in self.others if kind == "i"]
        if self.address is not None:
            lines.append(f"c={_connection(self.address)}\r\n")
        lines += [f"{kind}={value}\r\n" for kind, value in self.others if kind != "i"]
        return "".join(lines) + _format_attributes(self.attributes)


@dataclass(frozen=True, slots=True)
class SessionDescription:
    """A whole description (RFC 8866 §5)."""

    session_id: int
    "Of the o= line; with the version it tells a changed description from a repeated one. 0 where it's no number."
    version: int
    media: tuple[Media, ...]
    address: str | None = None
    "Of the session's c= line, without the TTL; may be a host's name."
    attributes: tuple[Attribute, ...] = ()
    username: str = "-"
    origin: str = "0.0.0.0"  # noqa: S104 - a name, nothing is bound to it
    "The address in the o= line."
    name: str = "-"
    timing: tuple[str, ...] = ("0 0",)
    "The values of the t= lines."
    others: tuple[tuple[str, str], ...] = ()
    "Its i=, u=, e=, p=, b=, r=, z= and k= lines."

    @classmethod
    def parse(cls, data: bytes) -> SessionDescription:
        """Read a description. Lines may end in CRLF, LF or CR; lines of unknown type are left out."""
        return _parse(data)

    def direction(self, media: Media) -> str:
        """Return which way a media of this description flows, as its writer sees it; one of `DIRECTIONS`."""
        return media.direction or _direction(self.attributes) or "sendrecv"

    def connection(self, media: Media) -> str:
        """Return the address for a media of this description, a name possibly. Raises `SDPError` without any."""
        address = media.address if media.address is not None else self.address
        if address is None:
            raise SDPError("no c= line says where the media goes")
        return address

    def __str__(self) -> str:
        lines = [
            "v=0\r\n",
            f"o={self.username} {self.session_id} {self.version} {_connection(self.origin)}\r\n",
            f"s={self.name}\r\n",
            *_lines(self.others, "iuep"),
        ]
        if self.address is not None:
            lines.append(f"c={_connection(self.address)}\r\n")
        lines += _lines(self.others, "b")
        lines += [f"t={value}\r\n" for value in self.timing]
        lines += _lines(self.others, "rzk")
        return "".join(lines) + _format_attributes(self.attributes) + "".join(map(str, self.media))

    def __bytes__(self) -> bytes:
        return str(self).encode()


def _parse(data: bytes) -> SessionDescription:
    """Cut a description into the block of the session and one of each media."""
    if len(data) > LONGEST:
        raise SDPError("the description is too long")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n\0 ").split("\n")
    if len(lines) > MOST_LINES:
        raise SDPError("the description has too many lines")
    if lines[0].rstrip() != "v=0":
        raise SDPError("a description begins with v=0")
    blocks: list[list[tuple[str, str]]] = [[]]
    for line in lines[1:]:
        if line[1:2] != "=":
            raise SDPError("a line is not of the form x=value")
        if line[0] == "m":
            blocks.append([])
        blocks[-1].append((line[0], line[2:].rstrip(" ")))
    return _session(blocks[0], tuple(map(_media, blocks[1:])))


def _session(lines: list[tuple[str, str]], media: tuple[Media, ...]) -> SessionDescription:
    origins = [value for kind, value in lines if kind == "o"]
    fields = origins[0].split() if origins else []
    # Read from the right: there are user names with spaces.
    if len(fields) < 6:
        raise SDPError("no proper o= line")
    names = [value for kind, value in lines if kind == "s"]
    return SessionDescription(
        whole_number(fields[-5], 2**64 - 1) or 0,
        whole_number(fields[-4], 2**64 - 1) or 0,
        media,
        address=_first_address(lines),
        attributes=_attributes(lines),
        username=fields[0],
        origin=fields[-1],
        name=names[0] if names and names[0].strip() else "-",
        timing=tuple(value for kind, value in lines if kind == "t") or ("0 0",),
        others=tuple(line for line in lines if line[0] in "iuepbrzk"),
    )


def _media(lines: list[tuple[str, str]]) -> Media:
    fields = lines[0][1].split()
    # There are those who leave the formats of a refused media away.
    if len(fields) < 4 and not (len(fields) == 3 and fields[1] == "0"):
        raise SDPError("an m= line has fewer than four parts")
    port_text, slash, count = fields[1].partition("/")
    port = whole_number(port_text, 65535)
    ports = whole_number(count, 65535) if slash else 1
    if port is None or not ports:
        raise SDPError("an m= line has no proper port")
    return Media(
        fields[0].lower(),
        port,
        _protocol(fields[2]),
        tuple(fields[3:]),
        _first_address(lines) if port else None,  # nothing goes there, whatever it is
        _attributes(lines),
        ports,
        tuple(line for line in lines if line[0] in "ibk"),
    )


def _protocol(text: str) -> str:
    """Return ours as we write them, and others as their writers do, who may look for just that in our refusal."""
    return text.upper() if text.upper() in PROTOCOLS + SECURE_PROTOCOLS else text


def _first_address(lines: list[tuple[str, str]]) -> str | None:
    """Return the address of the first c= line, without TTL and count."""
    for kind, value in lines:
        if kind == "c":
            fields = value.split()
            address = fields[2].partition("/")[0] if len(fields) == 3 else ""
            if not address or fields[0].upper() != "IN" or fields[1].upper() not in ("IP4", "IP6"):
                raise SDPError("a c= line is not of the internet")
            return address
    return None


def _attributes(lines: list[tuple[str, str]]) -> tuple[Attribute, ...]:
    attributes: list[Attribute] = []
    for kind, value in lines:
        if kind == "a":
            name, colon, rest = value.partition(":")
            name, rest = name.strip(), rest.strip()
            if name == "crypto":
                rest = Secret(rest)
            attributes.append((name, rest if colon else None))
    return tuple(attributes)


def _codec(payload_type: str, encoding: str, parameters: str | None) -> Codec | None:
    """Read what most descriptions have in common from memory; an endless one is not kept there."""
    short = len(payload_type) + len(encoding) + len(parameters or "") <= _LONGEST_REMEMBERED
    return (
        _remembered_codec(payload_type, encoding, parameters)
        if short
        else _read_codec(payload_type, encoding, parameters)
    )


def _read_codec(payload_type: str, encoding: str, parameters: str | None) -> Codec | None:
    """Read "NAME/RATE" or "NAME/RATE/CHANNELS"; None where it is neither."""
    name, *figures = encoding.split("/")
    number = whole_number(payload_type, 127)
    rates = [whole_number(figure.strip(), 1_000_000) for figure in figures]
    if number is None or not name or len(rates) not in (1, 2) or not all(rates):
        return None
    return Codec(number, name.upper(), rates[0] or 0, (rates[1] or 1) if len(rates) == 2 else 1, parameters)


_remembered_codec = lru_cache(256)(_read_codec)


def _attribute(attributes: tuple[Attribute, ...], name: str) -> str | None:
    for key, value in attributes:
        if key == name:
            return value or ""
    return None


def _by_format(attributes: tuple[Attribute, ...], name: str) -> dict[str, str]:
    """Return format -> what the a= lines of this name, "rtpmap" or "fmtp", say of it; the first counts."""
    found: dict[str, str] = {}
    for key, value in attributes:
        if key == name and value:
            number, _, words = value.partition(" ")
            found.setdefault(number, words.strip())
    return found


def _direction(attributes: tuple[Attribute, ...]) -> str | None:
    for name, _ in attributes:
        if name in DIRECTIONS:
            return name
    return None


def whole_number(text: str, largest: int) -> int | None:
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > largest:
        return None
    return int(text)


def _connection(address: str) -> str:
    return f"IN {'IP6' if ':' in address else 'IP4'} {address}"


def _lines(lines: tuple[tuple[str, str], ...], kinds: str) -> list[str]:
    return [f"{kind}={value}\r\n" for kind in kinds for name, value in lines if name == kind]


def _format_attributes(attributes: tuple[Attribute, ...]) -> str:
    return "".join(f"a={name}\r\n" if value is None else f"a={name}:{value}\r\n" for name, value in attributes)
