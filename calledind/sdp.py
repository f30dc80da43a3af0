"""The offer/answer of one audio stream (RFC 3264) with session descriptions (`calledind.description`).

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

What no call can be made of is an `SDPError`, which says why.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from calledind.codecs import CODECS, OPUS, OPUS_BIT_RATE, OPUS_PACKET
from calledind.codecs import Codec as OurCodec
from calledind.description import (
    PROTOCOLS,
    SECURE_PROTOCOLS,
    Attribute,
    Codec,
    Media,
    SDPError,
    SessionDescription,
    whole_number,
)
from calledind.model import Address
from calledind.sdes import Crypto, SDESError, Secret, Security

__all__ = ["Agreed", "Codec", "SDPError", "SessionDescription", "agree", "answer", "offer"]

_OURS = {codec.name.upper(): codec for codec in CODECS.values()}
"Names are the same in any case of letters."
_EVENT = "TELEPHONE-EVENT"


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
                SECURE_PROTOCOLS[0] if secure else PROTOCOLS[0],
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
        offered, answered = ours.codecs, theirs.codecs
        codec, ours_of_it = _first_codec(theirs, [each.name for each in offered])
        wanted = _events(offered, codec.rate)
        events = _events(answered, codec.rate) if wanted is not None else None
        own = wanted if events is not None else None
        if any(each.payload_type == own and each.name != _EVENT for each in answered):
            own = None  # the peer means something else by our number, and many send what they mean
        return _agreed(answer, theirs, codec, ours_of_it, events, own, offer.direction(ours), security)
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
        if theirs.kind != "audio" or theirs.port == 0 or theirs.protocol not in PROTOCOLS + SECURE_PROTOCOLS:
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
    if theirs.protocol not in (PROTOCOLS + SECURE_PROTOCOLS if offered else PROTOCOLS):
        raise SDPError(f"the peer answers with another protocol than {ours.protocol}")
    if not offered:
        return None
    answered = _keys(theirs)
    if not answered:
        if ours.protocol in SECURE_PROTOCOLS or theirs.protocol in SECURE_PROTOCOLS:
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
    if secure or theirs.protocol in SECURE_PROTOCOLS:
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
    most = whole_number(codec.parameter("maxaveragebitrate") or "", 2**31)  # RFC 7587 §6.1
    return most is None or most >= OPUS_BIT_RATE


def _events(codecs: Sequence[Codec], rate: int) -> int | None:
    """Return the payload type of keys pressed: that of the audio's clock rate, else of 8,000 Hz, which many keep."""
    numbers = {codec.rate: codec.payload_type for codec in reversed(codecs) if codec.name == _EVENT}
    return numbers.get(rate, numbers.get(8000))


def _rate_of(codecs: Sequence[Codec], payload_type: int) -> int:
    return next(codec.rate for codec in codecs if codec.payload_type == payload_type)


@lru_cache(256)
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
    port = whole_number(words[0], 65535) if words else None
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
