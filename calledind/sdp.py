"""Session descriptions and the offer/answer of one audio stream (RFC 8866, RFC 3264).

We offer, the peer answers (`offer`, then `agree`); later the peer may offer and we answer (`answer`), to hold the
call, to move its media or to change the codec. Both ways end in an `Agreed`: where the packets go and what is in
them. The rules:

* The line of a media is known by its place: the answer's second m= answers the offer's second m=. Port 0 refuses.
* A codec is known by its name, not its number: PCMU is 0 whether or not an a=rtpmap says so, and a peer may call
  it 96. What is sent carries the number that the receiver has given to it.
* c=, a=sendrecv and their like on the media count before those of the session.
* A peer on hold says a=sendonly or a=inactive, or, as in old days, c=0.0.0.0: nothing is sent to it then.
* SRTP is offered with keys in a=crypto (`calledind.sdes`), in one of two ways. RTP/SAVP asks for it (RFC 4568): an
  answer without a key of ours is none. RTP/AVP with a=crypto leaves it to the peer, against the letter of RFC 4568
  §5 but as telephones and PBXs do it, since an m= line for each way is answered wrongly by more of them: a key in the
  answer means SRTP, whichever protocol is written there, none means RTP, unless the answer says RTP/SAVP.

Whatever the octets are, nothing but `SDPError` comes out, after one pass over them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from calledind.codecs import CODECS, OPUS, OPUS_BIT_RATE, OPUS_PACKET
from calledind.codecs import Codec as OurCodec
from calledind.model import Address
from calledind.sdes import Crypto, SDESError, Secret, Security

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

_PROTOCOLS = ("RTP/AVP", "RTP/AVPF")
"The second one differs in RTCP feedback, which nobody has to send (RFC 4585)."
_SECURE_PROTOCOLS = ("RTP/SAVP", "RTP/SAVPF")
"The same with SRTP (RFC 3711 §12, RFC 5124)."

_LONGEST_REMEMBERED = 200
"Characters."
_SHORTEST_PTIME, _LONGEST_PTIME, _USUAL_PTIME = 1, 1000, 20

_OURS = {codec.name.upper(): codec for codec in CODECS.values()}
"Names are the same in any case of letters."


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
            encoding = maps.get(payload_type) or _STATIC.get(payload_type)
            codec = _codec(payload_type, encoding, formats.get(payload_type)) if encoding else None
            if codec is not None:
                found.append(codec)
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
        value = _number((self.attribute(name) or "").partition(".")[0], _LONGEST_PTIME)
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


@dataclass(frozen=True, slots=True)
class Agreed:
    """What both sides want, as we see it."""

    codec: str
    "One of `codecs.CODECS`."
    payload_type: int
    "What our packets carry: the receiver's number for the codec."
    remote: Address
    remote_rtcp: Address
    "Port 0 where the peer can't be sent any, since it holds the call by the address 0.0.0.0."
    telephone_event: int | None
    "The receiver's payload type for keys pressed (RFC 4733); None where it takes none."
    ptime: int
    "Milliseconds of audio that the peer would like in a packet."
    sends: bool
    "Whether we may send: not while the peer holds the call."
    receives: bool
    "Whether the peer will send."
    events: tuple[int, ...] = ()
    """Payload types with which keys pressed may come (RFC 4733): the number that we gave, and the peer's where that is
    another; none where one side doesn't know them."""
    security: Security | None = None
    "Keys of SRTP; None: plain RTP."


def offer(
    *,
    address: str,
    port: int,
    codecs: Sequence[str] = ("PCMU", "PCMA"),
    session_id: int,
    version: int,
    direction: str = "sendrecv",
    telephone_event: int | None = 101,
    ptime: int = 20,
    crypto: Sequence[Crypto] = (),
    secure: bool = False,
) -> SessionDescription:
    """Offer one audio stream at our numeric `address` and `port`, the preferred codec first.

    `version` must grow by one with each description of the same session that differs. `telephone_event`: payload
    type of keys pressed; where the codecs' clocks differ each rate has its own (RFC 4733 §2.3), numbered on from it.
    `crypto`: our keys, the preferred one first; `secure`: whether it must be one of them.
    """
    rates = list(dict.fromkeys(CODECS[name].clock_rate for name in codecs))
    events = [] if telephone_event is None else [(telephone_event + index, rate) for index, rate in enumerate(rates)]
    return _ours(
        (
            _audio(
                port,
                [(CODECS[name], CODECS[name].number) for name in codecs],
                events,
                direction,
                ptime,
                _SECURE_PROTOCOLS[0] if secure else _PROTOCOLS[0],
                crypto,
            ),
        ),
        address=address,
        session_id=session_id,
        version=version,
    )


def agree(offer: SessionDescription, answer: SessionDescription) -> Agreed:
    """Read the peer's answer to our offer. Raises `SDPError` where no call can be made of it."""
    for index, ours in enumerate(offer.media):
        if ours.kind != "audio" or ours.port == 0:
            continue
        theirs = _counterpart(answer, index)
        if theirs.kind != "audio" or theirs.port == 0:
            raise SDPError("the peer refuses audio")
        security = _answered_security(ours, theirs)
        codec, ours_of_it = _first_codec(theirs, [each.name for each in ours.codecs])
        events = _events(theirs.codecs, codec.rate)
        own = _events(ours.codecs, codec.rate) if events is not None else None
        return _agreed(
            answer, theirs, codec, ours_of_it, events if own is not None else None, own, offer.direction(ours), security
        )
    raise SDPError("the offer has no audio")


def _counterpart(answer: SessionDescription, index: int) -> Media:
    """Return what answers the offer's m= line of this index. Raises `SDPError` where nothing does.

    It is the line at the same place (RFC 3264 §6). A peer that mixes them up but has one audio is meant well.
    """
    if index < len(answer.media) and answer.media[index].kind == "audio":
        return answer.media[index]
    audio = [media for media in answer.media if media.kind == "audio" and media.port]
    if len(audio) == 1:
        return audio[0]
    if index < len(answer.media):
        return answer.media[index]
    raise SDPError("the answer has no audio where the offer has it")


def answer(
    offer: SessionDescription,
    *,
    address: str,
    port: int,
    codecs: Sequence[str] = ("PCMU", "PCMA"),
    session_id: int,
    version: int,
    telephone_event: int | None = 101,
    direction: str = "sendrecv",
    ptime: int = 20,
    crypto: Sequence[Crypto] = (),
    secure: bool = False,
) -> tuple[SessionDescription, Agreed]:
    """Answer the peer's offer: the first audio with one of our codecs is taken, all else is refused with port 0.

    The peer's order and numbers of the codecs are kept; `telephone_event` None takes no keys. `direction` is what
    we are willing to do, the answer what is left of it. `crypto`: a key of ours for each suite, the peer's order
    decides; `secure`: whether audio without a key is refused. Raises `SDPError` where there is nothing to take.
    """
    failure = SDPError("the offer has no audio by RTP")
    for index, theirs in enumerate(offer.media):
        if theirs.kind != "audio" or theirs.port == 0 or theirs.protocol not in _PROTOCOLS + _SECURE_PROTOCOLS:
            continue
        try:
            key, security = _offered_security(theirs, crypto, secure=secure)
            codec, ours = _first_codec(theirs, codecs)
            events = _events(theirs.codecs, codec.rate) if telephone_event is not None else None
            agreed = _agreed(offer, theirs, codec, ours, events, events, direction, security)
        except SDPError as error:
            failure = error
            continue
        kept = _DIRECTION[agreed.sends, agreed.receives]
        keys = [] if events is None else [(events, _rate_of(theirs.codecs, events))]
        taken = _audio(port, [(ours, codec.payload_type)], keys, kept, ptime, theirs.protocol, key)
        media = (*map(_refused, offer.media[:index]), taken, *map(_refused, offer.media[index + 1 :]))
        description = _ours(media, address=address, session_id=session_id, version=version, timing=offer.timing)
        return description, agreed
    raise failure


_DIRECTION = {
    (True, True): "sendrecv",
    (True, False): "sendonly",
    (False, True): "recvonly",
    (False, False): "inactive",
}
"Whether a side sends and receives -> what it writes."


def _agreed(
    description: SessionDescription,
    media: Media,
    codec: Codec,
    ours: OurCodec,
    events: int | None,
    own_events: int | None,
    our_direction: str,
    security: Security | None,
) -> Agreed:
    """Work out what the peer's description of the taken media means for us."""
    remote = _numeric(description.connection(media))
    direction = description.direction(media)
    held = ipaddress.ip_address(remote).is_unspecified
    return Agreed(
        codec=ours.name,
        payload_type=codec.payload_type,
        remote=(remote, media.port),
        remote_rtcp=(remote, 0) if held else _rtcp(media, remote),
        telephone_event=events,
        ptime=media.ptime,
        sends=our_direction in ("sendrecv", "sendonly") and direction in ("sendrecv", "recvonly") and not held,
        receives=our_direction in ("sendrecv", "recvonly") and direction in ("sendrecv", "sendonly"),
        events=tuple(dict.fromkeys(each for each in (own_events, events) if each is not None)),
        security=security,
    )


def _keys(media: Media) -> list[str]:
    return [value or "" for name, value in media.attributes if name == "crypto"]


def _answered_security(ours: Media, theirs: Media) -> Security | None:
    """Return the keys that an answer to our offer agrees to (RFC 4568 §5.1.3). Raises `SDPError`."""
    offered = {crypto.tag: crypto.keys for crypto in map(Crypto.parse, _keys(ours))}
    if theirs.protocol not in (_PROTOCOLS + _SECURE_PROTOCOLS if offered else _PROTOCOLS):
        raise SDPError(f"the peer answers with another protocol than {ours.protocol}")
    if not offered:
        return None
    answered = _keys(theirs)
    if not answered:
        if ours.protocol in _SECURE_PROTOCOLS or theirs.protocol in _SECURE_PROTOCOLS:
            raise SDPError("the peer answers without a key for SRTP")
        return None
    try:
        crypto = Crypto.parse(answered[0])
    except SDESError as error:
        raise SDPError(f"the peer answers with {error}") from None
    own = offered.get(crypto.tag)
    if own is None or own.suite != crypto.keys.suite:
        raise SDPError("the peer answers with a key for what was not offered")
    return Security(own, crypto.keys)


def _offered_security(
    theirs: Media, crypto: Sequence[Crypto], *, secure: bool
) -> tuple[tuple[Crypto, ...], Security | None]:
    """Return our key for the answer to a media, with both sides' keys; neither for plain RTP. Raises `SDPError`."""
    ours = {each.keys.suite: each.keys for each in crypto}
    for line in _keys(theirs):
        try:
            offered = Crypto.parse(line)
        except SDESError:
            continue  # the next may be one that we have
        own = ours.get(offered.keys.suite)
        if own is not None:
            return (Crypto(offered.tag, own),), Security(own, offered.keys)
    if secure or theirs.protocol in _SECURE_PROTOCOLS:
        raise SDPError("no key for SRTP in common")
    return (), None


def _first_codec(media: Media, names: Sequence[str]) -> tuple[Codec, OurCodec]:
    """Return the first codec of the media that is one of ours by name, as the peer and as we describe it."""
    wanted = {name.upper() for name in names}
    for codec in media.codecs:
        ours = _OURS.get(codec.name) if codec.name in wanted else None
        if ours is not None and _is_same(codec, ours) and _can_take(media, codec, ours):
            return codec, ours
    raise SDPError("no codec in common")


def _is_same(codec: Codec, ours: OurCodec) -> bool:
    """Say whether the figures are those of our codec, or of those who get them wrong in a known way."""
    if ours.name == "G722" and codec.rate == ours.sample_rate:
        return codec.channels == 1  # the true rate in place of the old mistake (RFC 3551 §4.5.2)
    return codec.rate == ours.clock_rate and codec.channels in (1, ours.channels)


def _can_take(media: Media, codec: Codec, ours: OurCodec) -> bool:
    """Say whether what we encode is within what the peer takes."""
    if ours is not OPUS:
        return True
    if media.maxptime is not None and media.maxptime < OPUS_PACKET:
        return False
    most = _number(codec.parameter("maxaveragebitrate") or "", 2**31)  # RFC 7587 §6.1
    return most is None or most >= OPUS_BIT_RATE


def _events(codecs: Sequence[Codec], rate: int) -> int | None:
    """Return the payload type of keys pressed: that of the audio's clock rate, else of 8,000 Hz, which many keep."""
    numbers = {codec.rate: codec.payload_type for codec in reversed(codecs) if codec.name == "TELEPHONE-EVENT"}
    return numbers.get(rate, numbers.get(8000))


def _rate_of(codecs: Sequence[Codec], payload_type: int) -> int:
    return next(codec.rate for codec in codecs if codec.payload_type == payload_type)


def _numeric(host: str) -> str:
    """Return a unicast or unspecified IP address; names can't be waited for in the middle of a call."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise SDPError("the media's address is not an IP address") from None
    if address.is_multicast or "%" in host or host == "255.255.255.255":
        raise SDPError("the media's address is not one host's")
    return str(address)


def _rtcp(media: Media, remote: str) -> Address:
    """Return where RTCP goes: a=rtcp (RFC 3605) or the next port. What is wrong with a=rtcp is passed over."""
    words = (media.attribute("rtcp") or "").split()
    port = _number(words[0], 65535) if words else None
    if port:
        if len(words) == 4:
            try:
                return _numeric(words[3]), port
            except SDPError:
                pass
        return remote, port
    # After 65535 comes nothing; RTCP on the port of RTP can at least be told apart there (RFC 5761).
    return remote, min(media.port + 1, 65535)


def _audio(
    port: int,
    codecs: Sequence[tuple[OurCodec, int]],
    telephone_events: Sequence[tuple[int, int]],
    direction: str,
    ptime: int,
    protocol: str,
    crypto: Sequence[Crypto],
) -> Media:
    """Describe our audio. `codecs`: with their numbers; `telephone_events`: numbers and clock rates."""
    attributes: list[Attribute] = [("crypto", Secret(each)) for each in crypto]
    for codec, number in codecs:
        attributes.append(("rtpmap", f"{number} {codec.rtpmap}"))
        if codec.parameters is not None:
            attributes.append(("fmtp", f"{number} {codec.parameters}"))
    for number, rate in telephone_events:
        attributes += [("rtpmap", f"{number} telephone-event/{rate}"), ("fmtp", f"{number} 0-16")]
    attributes += [("ptime", str(ptime)), (direction, None)]
    numbers = [number for _, number in codecs] + [number for number, _ in telephone_events]
    return Media("audio", port, protocol, tuple(map(str, numbers)), None, tuple(attributes))


def _refused(media: Media) -> Media:
    return Media(media.kind, 0, media.protocol, media.formats or ("0",))  # one at least (RFC 8866 §5.14)


def _ours(
    media: tuple[Media, ...], *, address: str, session_id: int, version: int, timing: tuple[str, ...] = ("0 0",)
) -> SessionDescription:
    """Put media into a description of ours; an answer has the offer's `timing` (RFC 3264 §6)."""
    return SessionDescription(session_id, version, media, address, username="calledin", origin=address, timing=timing)


# Reading and writing lines


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
        _number(fields[-5], 2**64 - 1) or 0,
        _number(fields[-4], 2**64 - 1) or 0,
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
    port = _number(port_text, 65535)
    ports = _number(count, 65535) if slash else 1
    if port is None or not ports:
        raise SDPError("an m= line has no proper port")
    return Media(
        fields[0].lower(),
        port,
        _protocol(fields[2]),
        tuple(fields[3:]),
        _first_address(lines),
        _attributes(lines),
        ports,
        tuple(line for line in lines if line[0] in "ibk"),
    )


def _protocol(text: str) -> str:
    """Return ours as we write them, and others as their writers do, who may look for just that in our refusal."""
    return text.upper() if text.upper() in _PROTOCOLS + _SECURE_PROTOCOLS else text


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
    number = _number(payload_type, 127)
    rates = [_number(figure.strip(), 1_000_000) for figure in figures]
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


def _number(text: str, largest: int) -> int | None:
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > largest:
        return None
    return int(text)


def _connection(address: str) -> str:
    return f"IN {'IP6' if ':' in address else 'IP4'} {address}"


def _lines(lines: tuple[tuple[str, str], ...], kinds: str) -> list[str]:
    return [f"{kind}={value}\r\n" for kind in kinds for name, value in lines if name == kind]


def _format_attributes(attributes: tuple[Attribute, ...]) -> str:
    return "".join(f"a={name}\r\n" if value is None else f"a={name}:{value}\r\n" for name, value in attributes)
