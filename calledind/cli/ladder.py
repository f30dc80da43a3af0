"""A call's SIP messages drawn as a ladder, the way RFC 3665 prints them, one line a message.

      time   calledin                                                 callee
      0.000     │────────────── INVITE, offers PCMU PCMA ───────────────▶│
      0.002     │◀───────────────────── 100 Trying ──────────────────────│

Lines are made one by one, so that they can be printed while the call goes on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rich.text import Text

_RTPMAP = re.compile(r"^a=rtpmap:\d+ ([^/\s]+)/", re.MULTILINE)
_AUDIO = re.compile(r"^m=audio (\d+) \S+([ \d]*)", re.MULTILINE)
_DIRECTION = re.compile(r"^a=(sendonly|recvonly|inactive)\s*$", re.MULTILINE)
_TAG = re.compile(r";\s*tag=([^\s;,>]+)")
_STATIC = {"0": "PCMU", "8": "PCMA"}


@dataclass(frozen=True, slots=True)
class Message:
    """What a ladder shows of one SIP message."""

    at: float
    "Seconds, of the clock of the trace."
    sent: bool
    "By us; else received."
    label: str
    'Such as "INVITE" or "180 Ringing".'
    detail: str
    "What is in it, in a few words, or empty."
    identity: str
    "Start line, CSeq and branch: the same for a message that is sent again."
    failure: bool
    "A response of 300 or more."
    peer: str
    "The peer's tag, by which the telephones of a fork are told apart; empty where there is none yet."

    @classmethod
    def read(cls, entry: Mapping[str, object]) -> Message:
        """Read one entry of a trace: time (seconds), direction ("sent", "received"), text (the whole message)."""
        text = str(entry.get("text", "")).replace("\r\n", "\n")
        head, _, body = text.partition("\n\n")
        start, _, fields = head.partition("\n")
        cseq = _field(fields, "CSeq")
        is_response = start.startswith("SIP/2.0 ")
        label = start.removeprefix("SIP/2.0 ") if is_response else start.partition(" ")[0]
        method = cseq.rpartition(" ")[2]
        if is_response and method not in ("INVITE", ""):
            label += f" ({method})"
        sent = entry.get("direction") == "sent"
        # To is who was called: of our requests and the answers to them the peer, of the peer's requests ourselves.
        peer = _field(fields, "To", "t") if sent != is_response else _field(fields, "From", "f")
        tag = _TAG.search(peer)
        return cls(
            at=float(str(entry.get("time", 0.0))),
            sent=sent,
            label=label or "(empty)",
            detail=_describe(body) if "application/sdp" in _field(fields, "Content-Type", "c") else "",
            identity="|".join((start, cseq, _field(fields, "Via", "v"), _field(fields, "To", "t"))),
            failure=is_response and label[:1] in "3456",
            peer=tag[1] if tag else "",
        )


def _field(fields: str, *names: str) -> str:
    for line in fields.split("\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() in {wanted.lower() for wanted in names}:
            return value.strip()
    return ""


def _describe(sdp: str) -> str:
    """Say in a few words what an SDP is about: its codecs, or that the media is held."""
    audio = _AUDIO.search(sdp)
    if audio is None:
        return "no audio"
    if audio[1] == "0":
        return "audio refused"
    held = _DIRECTION.search(sdp)
    if held is not None:
        return f"{held[1]}: hold" if held[1] != "recvonly" else "recvonly"
    names = [_STATIC[kind] for kind in audio[2].split() if kind in _STATIC]
    names += [name for name in _RTPMAP.findall(sdp) if name not in names and name != "telephone-event"]
    return " ".join(names)


class Ladder:
    """Gives the ladder's lines. `width`: columns of the terminal; `ascii_only`: no line-drawing characters."""

    def __init__(self, *, left: str = "calledin", right: str = "callee", width: int = 80, ascii_only: bool = False):
        self._left, self._right = left, right
        self._span = max(40, min(width, 100) - 20)
        "Characters between the two lifelines."
        self._line, self._double, self._pole = ("-", "=", "|") if ascii_only else ("─", "═", "│")
        self._to_right, self._to_left = (">", "<") if ascii_only else ("▶", "◀")
        self._start: float | None = None
        self._seen: set[tuple[bool, str]] = set()
        self._peers: dict[str, int] = {}
        "Tag -> 1 for the first telephone that was heard of, 2 for the next."

    def head(self) -> Text:
        gap = self._span + 2 + 10 - len(self._left) - len(self._right)
        return Text.assemble(("  seconds  ", "dim"), (self._left, "bold"), " " * max(1, gap - 4), (self._right, "bold"))

    def message(self, message: Message) -> Text:
        if self._start is None:
            self._start = message.at
        again = (message.sent, message.identity) in self._seen
        self._seen.add((message.sent, message.identity))
        label = message.label + (f", {message.detail}" if message.detail else "") + (" (again)" if again else "")
        if message.peer and message.label[:1] in "12":
            # A refusal is not a telephone: the tag of a 401 or 407 is that of the server in between.
            self._peers.setdefault(message.peer, len(self._peers) + 1)
        if not self.is_first(message.peer):
            label += f" [telephone {self._peers[message.peer]}]"
        style = "yellow" if again else "red" if message.failure else "cyan" if message.sent else "green"
        return self._arrow(f"{message.at - self._start:9.3f}", label, style, self._line, rightwards=message.sent)

    def media(self, label: str) -> Text:
        """Return the line for the audio between two messages."""
        return self._arrow(" " * 9, label, "magenta", self._double, rightwards=True)

    def is_first(self, peer: str) -> bool:
        """Whether this tag is that of the first telephone that was heard of."""
        return self._peers.get(peer, 1) == 1

    def _arrow(self, time: str, label: str, style: str, line: str, *, rightwards: bool) -> Text:
        label = f" {label[: self._span - 8]} "
        shaft = self._span - 1 - len(label)
        before = shaft // 2
        drawn = line * before + label + line * (shaft - before)
        drawn = drawn + self._to_right if rightwards else self._to_left + drawn
        return Text.assemble((time, "dim"), "      ", (self._pole, "dim"), (drawn, style), (self._pole, "dim"))
