"""The numbers that the built-in carrier knows, and what happens when each is called.

A scenario is a script: steps, each so many seconds after the one before it. `carrier` plays it. The same table
is what the tests expect, what the demo shows and what the help lists, so that they can't disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from calledind.model import Reason


@dataclass(frozen=True, slots=True)
class Respond:
    """Send a response to the INVITE."""

    status: int
    phrase: str
    after: float = 0.0
    "Seconds after the step before."
    early_media: bool = False
    "With an SDP answer, and silence sent as RTP: a 183 with a ring-back tone would look like this."
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Challenge:
    """Ask for a digest (RFC 7616) in a final response; the next INVITE with the right one goes on from here."""

    status: int
    "401 or 407."


@dataclass(frozen=True, slots=True)
class Answer:
    """Send 200 with an SDP answer, and listen."""

    after: float = 1.0
    "Seconds after the step before."
    codecs: tuple[str, ...] = ("PCMU", "PCMA")
    "That the callee is willing to hear."
    fork: bool = False
    "A second telephone answers the same INVITE, with a To-tag of its own (RFC 3261 §13.2.2.4)."


@dataclass(frozen=True, slots=True)
class Press:
    """Press keys, sent as telephone-events (RFC 4733)."""

    digits: str
    after: float = 1.0
    "Seconds after the step before; the keys are half a second apart."


@dataclass(frozen=True, slots=True)
class Hold:
    """Put the caller on hold by a re-INVITE, then take it back by another (RFC 3264 §8.4)."""

    after: float = 1.0
    "Seconds after the step before."
    seconds: float = 1.0
    "How long the hold lasts."


@dataclass(frozen=True, slots=True)
class HangUp:
    """Send BYE."""

    after: float
    "Seconds after the step before."


@dataclass(frozen=True, slots=True)
class Ask:
    """Leave it to who sits at the telephone (`simulator.telephone`); while nobody does, it rings on."""

    after: float = 0.0
    "Seconds after the step before."


TimedStep = Respond | Answer | Press | Hold | HangUp | Ask
Step = Challenge | TimedStep


@dataclass(frozen=True, slots=True)
class Scenario:
    """What one number does."""

    name: str
    words: str
    "For people: what happens."
    answered: bool
    "What the callback says."
    reason: Reason | None
    "What the callback says, None where it is empty; with a ring timeout of 33 seconds or more."
    script: tuple[Step, ...]
    "Challenges come first."
    loss: float = 0.0
    "Share of the SIP and RTP packets, in both directions, that never arrive."
    deaf: bool = False
    "Requests to this number are met with silence."


CREDENTIALS = ("simulator", "calledin")
"The username and password that the challenging numbers want; no secret, since nothing is behind them."

_RINGING = Respond(180, "Ringing", after=0.1)

TELEPHONE = Scenario(
    "telephone", "rings in the browser, at /phone of the page", False, Reason.RING_TIMEOUT, (_RINGING, Ask())
)
TELEPHONES = tuple(f"21255501{last}" for last in range(99, 89, -1))
"Ten numbers, the first in the table, of the same telephone: each may be called once a minute."

LISTENS = Scenario("listens", "answers and listens to the end", True, None, (_RINGING, Answer()))

SCENARIOS: dict[str, Scenario] = {
    "2125550100": LISTENS,
    "2125550101": Scenario(
        "busy", "is busy (486)", False, Reason.BUSY, (_RINGING, Respond(486, "Busy Here", after=0.5))
    ),
    "2125550102": Scenario(
        "declines", "declines (603)", False, Reason.BUSY, (_RINGING, Respond(603, "Decline", after=1.0))
    ),
    "2125550103": Scenario("rings", "rings for ever, nobody answers", False, Reason.RING_TIMEOUT, (_RINGING,)),
    "2125550104": Scenario(
        "congestion",
        "finds no free line (503)",
        False,
        Reason.CONGESTION,
        (Respond(503, "Service Unavailable", after=0.1),),
    ),
    "2125550105": Scenario(
        "unknown", "does not exist (404)", False, Reason.FAILED, (Respond(404, "Not Found", after=0.1),)
    ),
    "2125550106": Scenario("slow", "rings for ten seconds, then answers", True, None, (_RINGING, Answer(after=10.0))),
    "2125550107": Scenario(
        "leaves", "answers and hangs up after three seconds", True, None, (_RINGING, Answer(), HangUp(after=3.0))
    ),
    "2125550108": Scenario(
        "early media",
        "plays early media (183), then is busy",
        False,
        Reason.BUSY,
        (Respond(183, "Session Progress", after=0.1, early_media=True), Respond(486, "Busy Here", after=1.5)),
    ),
    "2125550109": Scenario(
        "fork", "answers on two telephones at once (fork)", True, None, (_RINGING, Answer(fork=True))
    ),
    "2125550110": Scenario(
        "challenge",
        "asks for a password (407), then answers",
        True,
        None,
        (Challenge(407), _RINGING, Answer()),
    ),
    "2125550111": Scenario("lossy", "loses a tenth of all packets", True, None, (_RINGING, Answer()), loss=0.1),
    "2125550112": Scenario("silent", "does not respond at all (timer B)", False, Reason.FAILED, (), deaf=True),
    "2125550113": Scenario(
        "away",
        "rings, then is not available (480)",
        False,
        Reason.RING_TIMEOUT,
        (_RINGING, Respond(480, "Temporarily Unavailable", after=1.5)),
    ),
    "2125550114": Scenario(
        "incompatible",
        "can't use what we offer (488)",
        False,
        Reason.FAILED,
        (Respond(488, "Not Acceptable Here", after=0.1, headers=(("Warning", '304 simulator "No such codec"'),)),),
    ),
    "2125550115": Scenario("a-law", "answers with PCMA only", True, None, (_RINGING, Answer(codecs=("PCMA",)))),
    "2125550116": Scenario("keys", "answers and presses 1 2 #", True, None, (_RINGING, Answer(), Press("12#"))),
    "2125550117": Scenario(
        "hold",
        "answers, holds the call for a second",
        True,
        None,
        (_RINGING, Answer(), Hold(after=2.0)),
    ),
    "2125550118": Scenario(
        "terminated",
        "rings, is ended by somebody else (487)",
        False,
        Reason.HUNG_UP,
        (_RINGING, Respond(487, "Request Terminated", after=1.0)),
    ),
    "2125550119": Scenario(
        "q850",
        "is busy by its Q.850 cause (480)",
        False,
        Reason.BUSY,
        (
            Respond(
                480,
                "Temporarily Unavailable",
                after=0.1,
                headers=(("Reason", 'Q.850;cause=17;text="User busy"'),),
            ),
        ),
    ),
    TELEPHONES[0]: TELEPHONE,
}
"Number in North America -> its scenario; every other number listens."


def scenario_of(user: str) -> Scenario:
    """Return the scenario for a Request-URI's user, such as "+12125550101" or "12125550101"."""
    number = national(user)
    return TELEPHONE if number in TELEPHONES else SCENARIOS.get(number, LISTENS)


def national(user: str) -> str:
    """Return the last ten digits of a Request-URI's user: the number without "+" and country code."""
    return "".join(character for character in user if character in "0123456789")[-10:]


def rows() -> Iterator[dict[str, object]]:
    """Give the table for people and programs: number, name, words, answered (0 or 1), reason ("" when answered)."""
    for number, scenario in SCENARIOS.items():
        yield {
            "number": number,
            "name": scenario.name,
            "words": scenario.words,
            "answered": int(scenario.answered),
            "reason": "" if scenario.reason is None else int(scenario.reason),
        }
