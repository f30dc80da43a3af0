"""The nouns that flow from the request to the callback."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import lru_cache
from urllib.parse import urlsplit

Address = tuple[str, int]
"A numeric IP address (without brackets) and a port."


class ReturnCode(IntEnum):
    """What the playback request is answered with, one or two ASCII digits."""

    ACCEPTED = 0
    INVALID_KEY = 1
    NO_CREDITS = 2
    DO_NOT_CALL = 3
    BAD_REQUEST = 4
    KEY_DISABLED = 5
    FLOOD = 6
    AREA_NOT_SUPPORTED = 7
    COUNTRY_NOT_SUPPORTED = 8
    MP3_UNUSABLE = 9
    MP3_TOO_LONG = 10


class Reason(IntEnum):
    """Why a call was not answered, as the callback says it."""

    FAILED = 0
    HUNG_UP = 1
    RING_TIMEOUT = 3
    BUSY = 5
    CONGESTION = 8


class State(StrEnum):
    """Where a call is in its life; each change is one compare-and-set of the store."""

    ACCEPTED = "accepted"
    "On stable storage, credit held, flood mark set, waiting in the queue."
    DIALING = "dialing"
    "Committed before the first INVITE may leave the machine."
    ANSWERED = "answered"
    "The dialog's ids are kept, so that another process can send the BYE."
    DONE = "done"
    "Outcome known and credit settled; the callback, where one was asked for, is waiting."
    DELIVERED = "delivered"
    "The callback was taken, or none was asked for."
    EXHAUSTED = "exhausted"
    "The callback was given up."


class BadRequest(ValueError):
    """A playback request that is not as the contract describes; the message says which parameter and why."""


PARAMETERS = ("api_key", "phone_number", "country_code", "mp3", "cache", "caller_id", "callback_url", "secret")
_NAMES = tuple((name, name.encode()) for name in PARAMETERS)
LONGEST_URL = 4096
LONGEST_SECRET = 30
NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f]")
DEFAULT_CALLER = "0000000000"
"The caller_id of a request that names none: the trunk's own number stands in for it."
ANONYMOUS = "anonymous"
"The caller_id of a call whose callee is not to see a number (RFC 3323)."
ATTESTATIONS = ("", "A", "B", "C")
"What may be said of a key's calls: nothing of its own, full, partial, gateway (RFC 8588 §5)."


@dataclass(frozen=True, slots=True)
class PlaybackRequest:
    """One GET of /api/playback/, checked for its form only."""

    api_key: str = field(repr=False)
    phone_number: str = field(repr=False)
    "Exactly ten ASCII digits."
    country_code: str
    'ASCII digits, "1" for North America.'
    mp3: str = field(repr=False)
    "Absolute http or https URL."
    cache: bool = True
    "Whether the fetched MP3 may be kept and used again."
    caller_id: str = field(default=DEFAULT_CALLER, repr=False)
    "What the callee sees."
    callback_url: str | None = field(default=None, repr=False)
    "Absolute http or https URL."
    secret: str = field(default="", repr=False)
    "At most 30 characters, handed back in the callback."

    @classmethod
    def parse(cls, args: Mapping[bytes, Sequence[bytes]]) -> PlaybackRequest:
        """Read the query's arguments as `twisted.web` gives them. Raises `BadRequest`; unknown names are ignored."""
        text = {name: _text(name, args[written]) for name, written in _NAMES if written in args}
        for name in ("api_key", "phone_number", "country_code", "mp3"):
            if not text.get(name):
                raise BadRequest(f"{name} is required")
        if len(text["phone_number"]) != 10 or not _digits(text["phone_number"]):
            raise BadRequest("phone_number must be exactly ten digits")
        if not _digits(text["country_code"]):
            raise BadRequest("country_code must be digits, such as 1 or 44")
        cache = text.get("cache", "True")
        if cache not in ("True", "False"):
            raise BadRequest("cache must be True or False")
        caller_id = text.get("caller_id") or DEFAULT_CALLER
        if not is_caller_id(caller_id):
            raise BadRequest(f'caller_id must be 1 to 20 digits, with a leading + where wanted, or "{ANONYMOUS}"')
        if len(text.get("secret", "")) > LONGEST_SECRET:
            raise BadRequest("secret must be at most 30 characters")
        _check_url("mp3", text["mp3"])
        if "callback_url" in text:
            _check_url("callback_url", text["callback_url"])
        return cls(
            api_key=text["api_key"],
            phone_number=text["phone_number"],
            country_code=text["country_code"],
            mp3=text["mp3"],
            cache=cache == "True",
            caller_id=caller_id,
            callback_url=text.get("callback_url"),
            secret=text.get("secret", ""),
        )


def _text(name: str, values: Sequence[bytes]) -> str:
    if len(values) != 1:
        raise BadRequest(f"{name} is given more than once")
    try:
        return values[0].decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest(f"{name} is not UTF-8") from None


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def is_caller_id(text: str) -> bool:
    """Whether a request may name this caller: 1 to 20 digits, with a leading + where wanted, or `ANONYMOUS`."""
    return text == ANONYMOUS or (len(text) <= 20 and _digits(text.removeprefix("+")))


def _check_url(name: str, url: str) -> None:
    if len(url) > LONGEST_URL:
        raise BadRequest(f"{name} is longer than {LONGEST_URL} characters")
    wrong = _wrong_with(url)
    if wrong:
        raise BadRequest(f"{name} {wrong}")


@lru_cache(maxsize=1024)
def _wrong_with(url: str) -> str:
    """Say what is wrong with a URL, empty where nothing is. The same MP3 is asked for again and again."""
    if NOT_IN_URLS.search(url):
        return "has a space or control character; percent-encode it"
    try:
        parts = urlsplit(url)
        port_is_right = parts.port != 0
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_right:
        return "must be an absolute http or https URL"
    # What is more than that about names is found out when they are asked for.
    if "%" in parts.hostname or not all(parts.hostname.removesuffix(".").split(".")):
        return "has a host that can't be one"
    return ""


@dataclass(frozen=True, slots=True)
class Key:
    """An api key as the store keeps it; the key itself is never kept."""

    id: str
    'Public name, "key_" and 16 hexadecimal digits.'
    name: str
    "What the operator calls it."
    credits: int
    "Calls that may still be accepted; credits held by running calls are not in it."
    held: int
    "Credits of accepted calls whose outcome is not known yet."
    charged: int
    "Credits spent."
    disabled: bool
    created_at: float
    "Seconds since the epoch."
    caller_ids: tuple[str, ...] = field(default=(), repr=False)
    "The caller ids that its requests may name; none: any."
    attestation: str = ""
    'What the operator attests of its calls by STIR/SHAKEN: "A", "B", "C" (RFC 8588 §5), or "": what the settings say.'


def new_call_id(now: float) -> str:
    """Return an id of 32 hexadecimal digits that sorts by time (48 bits of milliseconds, 80 random bits)."""
    return f"{int(now * 1000) & 0xFFFFFFFFFFFF:012x}{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True)
class Call:
    """An accepted call: all that is needed to dial it and to tell its outcome."""

    id: str
    key_id: str
    phone_number: str = field(repr=False)
    country_code: str
    caller_id: str = field(repr=False)
    audio: str
    "Name of the audio in the library, a lower-case hexadecimal SHA-256."
    duration: float
    "Of the audio, in seconds."
    callback_url: str | None = field(repr=False)
    secret: str = field(repr=False)
    accepted_at: float
    "Seconds since the epoch."
    attestation: str = ""
    "Of its api key, as far as it holds for this caller_id."
    idempotency: str = ""
    """Of a request that may be repeated: 32 hexadecimal digits that tell the key and the customer's name for the
    request, then 16 that tell what was asked for."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One INVITE's traces, committed before it leaves, so that a later process can end what it began."""

    number: int
    "1 for the first trunk tried, 2 for the next."
    trunk: str
    invitation: str
    "JSON by `sip.useragent`: what CANCEL needs. Opaque to the store."


class Cause(StrEnum):
    """What ended a call, before anyone asks for the reason."""

    PLAYED = "played"
    "Answered, and we said BYE after the last word."
    CALLEE_LEFT = "callee left"
    "Answered, and the callee hung up or the media went silent."
    FINAL_RESPONSE = "final response"
    "A SIP status of 300 or more."
    RING_TIMEOUT = "ring timeout"
    NO_RESPONSE = "no response"
    "Timer B, or no trunk that could be asked."
    TRANSPORT = "transport"
    "DNS, TCP, TLS or ICMP failure."
    UNUSABLE_SDP = "unusable SDP"
    "A 2xx whose answer we can't use."
    EXPIRED = "expired"
    "Waited in the queue for longer than `queue_ttl`."
    HUNG_UP = "hung up"
    "Its customer or an operator ended it."
    INTERRUPTED = "interrupted"
    "The daemon was restarted in the middle of it."
    MEDIA_FAILED = "media failed"
    "The audio or the process that sends it was lost."


class EndedBy(StrEnum):
    CALLEE = "callee"
    US = "us"
    OPERATOR = "operator"
    CUSTOMER = "customer"
    "Who asked for the call, and took it back."
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known when a call has ended: the raw material of the outcome."""

    cause: Cause
    answered: bool
    ended_by: EndedBy
    ended_at: float
    "Seconds since the epoch."
    answered_at: float | None = None
    rang: bool = False
    "A 180 or 183 was seen."
    sip_status: int | None = None
    q850: int | None = None
    "The Q.850 cause of a Reason header (RFC 3326)."
    trunk: str = ""
    detail: str = ""
    "For people: the reason phrase, a Warning, what failed."


@dataclass(frozen=True, slots=True)
class Outcome:
    """Exactly one of these ends each accepted call."""

    answered: bool
    reason: Reason | None
    "None when answered."
    ending: Ending


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A call with its state, as the store knows it."""

    call: Call
    state: State
    attempt: Attempt | None = None
    dialog: str | None = None
    "JSON by `sip.useragent`: what BYE needs."
    answered_at: float | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class PendingCallback:
    """A callback that was neither taken nor given up yet."""

    call: Call
    outcome: Outcome
    tries: int
    "Made so far."
    due_at: float
    "Seconds since the epoch."


class Happening(StrEnum):
    """What has happened to a call, as those who look on are told."""

    ACCEPTED = "accepted"
    DIALING = "dialing"
    "Its INVITE leaves; once for each attempt."
    RINGING = "ringing"
    ANSWERED = "answered"
    ENDED = "ended"
    "The store has its outcome."
    CALLBACK = "callback"
    "Its callback was tried."
    TRUNK = "trunk"
    "No call's: a trunk fails, or is well again."


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has just happened on this node."""

    what: Happening
    at: float
    "Seconds since the epoch."
    call: Call | None = None
    "None for a TRUNK."
    trunk: str = ""
    "Of DIALING, RINGING, ANSWERED, ENDED and TRUNK, its name."
    outcome: Outcome | None = None
    "Of ENDED and CALLBACK."
    details: Mapping[str, object] = field(default_factory=dict)
    """JSON-able. Of CALLBACK: "verdict" ("delivered", "exhausted", "postponed"), "status" (None: no response), "tries".
    Of TRUNK: "health" ("failing" or "well") and with "failing" a "detail", or else "registered" and "registration"."""
