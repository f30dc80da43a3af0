"""The offers and answers of one call (RFC 3264): whose turn it is, what is said, and what is agreed on by now.

* We offer in the INVITE, and the callee's 2xx answers. Before it, the callee may make an offer of its own (in an
  UPDATE); what came of that one then stands, whatever was answered to ours.
* Once the call is up either side may offer again: the callee, to hold the call, to move its media, to take another
  codec; we, when a message without an offer asks for ours, which is answered in the ACK.
* The codec in use is kept where that is possible, and our keys of SRTP are the same in all our descriptions.
* The version grows by one from each description that we send to the next (§8), however many are refused in between.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from calledind import sdes, sdp
from calledind.codecs import ALWAYS
from calledind.model import Address
from calledind.net.media import Format
from calledind.settings.tables import Trunk

TELEPHONE_EVENT = 101
"Payload type of our offer (RFC 4733 has no fixed one)."
MOST_EARLY = 32
"Offers of the callee's before it answered, of which it is kept what came of each: one counts of each fork's."


class Negotiation:
    """What one call on one trunk and its callee agree on."""

    __slots__ = (
        "_audio",
        "_audio_codecs",
        "_audio_path",
        "_crypto",
        "_early",
        "_local",
        "_session_id",
        "_trunk",
        "_version",
        "agreed",
    )

    def __init__(
        self,
        trunk: Trunk,
        audio: str,
        *,
        audio_codecs: Callable[[str], Collection[str]],
        audio_path: Callable[[str, str], Path],
    ) -> None:
        """`audio`: its name; `audio_codecs` says what it is encoded in, `audio_path` where each encoding is."""
        self.agreed: sdp.Agreed | None = None
        "None until the callee has answered."
        self._trunk = trunk
        self._audio = audio
        self._audio_codecs = audio_codecs
        self._audio_path = audio_path
        self._local: Address = ("", 0)
        self._early: dict[bytes, sdp.Agreed] = {}
        "The callee's own offers, made before it answered -> what came of each."
        self._session_id = random.getrandbits(31)
        self._version = 1
        self._crypto = sdes.generate(trunk.srtp_suites) if trunk.srtp != "off" else ()

    def offer(self, local: Address) -> bytes:
        """Return the offer of the INVITE; `local` is where the call's media arrives, in this and all that follows."""
        self._local = local
        return bytes(self._offer(self.codecs()))

    def read_answer(self, answer: bytes, early_offer: bytes) -> None:
        """Agree on what the 2xx says, or on what came of `early_offer`, if that was answered. Raises SDPError."""
        early = self._early.get(early_offer)
        self.agreed = self._agree(answer, self.codecs()) if early is None else early
        self._early.clear()

    def answer(self, offer: bytes) -> bytes | None:
        """Answer a further offer of the callee's; return one of ours where it asks for that with an empty one.

        None where it is too early to be asked. Raises SDPError where nothing can be agreed on; all stays as it was.
        """
        if not offer:
            return self._offer_again()
        theirs = sdp.SessionDescription.parse(offer)
        answer, agreed = self._answer(theirs, self._version + 1)
        self._version += 1
        if self.agreed is None:
            self._early.pop(offer, None)
            self._early[offer] = agreed
            if len(self._early) > MOST_EARLY:
                del self._early[next(iter(self._early))]
        else:
            self.agreed = agreed
        return bytes(answer)

    def read_late_answer(self, answer: bytes) -> None:
        """Agree on what the ACK says to the offer that was asked for. Raises SDPError; all stays as it was."""
        self.agreed = self._agree(answer, self._preferred())

    def codecs(self) -> tuple[str, ...]:
        """Return what the trunk wants and the audio has; that of a restart may lack what a trunk wants since then."""
        there = self._audio_codecs(self._audio)
        return tuple(codec for codec in self._trunk.codecs if codec in there) or ALWAYS

    def format(self, agreed: sdp.Agreed) -> Format:
        """Return what the media has to play for it."""
        path = self._audio_path(self._audio, agreed.codec)
        return Format(path, agreed.codec, agreed.payload_type, agreed.ptime, agreed.events)

    def _offer_again(self) -> bytes | None:
        if self.agreed is None:
            return None
        self._version += 1
        return bytes(self._offer(self._preferred()))

    def _preferred(self) -> tuple[str, ...]:
        """Return the codecs that we offer in the middle of a call, the one in use first."""
        return tuple(dict.fromkeys((self.agreed.codec, *self.codecs()))) if self.agreed else self.codecs()

    def _offer(self, codecs: Sequence[str]) -> sdp.SessionDescription:
        host, port = self._local
        return sdp.offer(
            address=host,
            port=port,
            codecs=codecs,
            session_id=self._session_id,
            version=self._version,
            telephone_event=TELEPHONE_EVENT,
            crypto=self._crypto,
            secure=self._trunk.srtp == "required",
        )

    def _agree(self, answer: bytes, codecs: Sequence[str]) -> sdp.Agreed:
        """Raises SDPError."""
        return sdp.agree(self._offer(codecs), sdp.SessionDescription.parse(answer))

    def _answer(self, offer: sdp.SessionDescription, version: int) -> tuple[sdp.SessionDescription, sdp.Agreed]:
        """Keep the codec where that is possible (RFC 3264 §8.3.2). Raises SDPError."""

        def answer(codecs: Sequence[str]) -> tuple[sdp.SessionDescription, sdp.Agreed]:
            host, port = self._local
            return sdp.answer(
                offer,
                address=host,
                port=port,
                codecs=codecs,
                session_id=self._session_id,
                version=version,
                telephone_event=TELEPHONE_EVENT,
                crypto=self._crypto,
                secure=self._trunk.srtp == "required",
            )

        if self.agreed is not None:
            with suppress(sdp.SDPError):
                return answer((self.agreed.codec,))
        return answer(self.codecs())
