"""What must hold after everything that was done to the daemons: each promise, held or broken, with the calls' ids.

Three witnesses are heard: the store (over the administrator's socket of any node that is up), the carrier and the
customers' server. Whoever asks waits until nothing is left to do (`is_idle`).
"""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

from tests.interop.carrier import BUSY, RINGS, Carrier, Dial
from tests.interop.harness import Daemon, Told, UnixConnection, Web

PROMPT = 0.5
"Seconds between the ACK and the BYE of who only wants to be rid of a callee that picked up meanwhile."
BYE_WITHIN = 5.0
"Seconds after a start within which a call that was being played is hung up."
PAGE = 1000
"Rows of the ledger that are asked for at once."
UNFINISHED = ("accepted", "dialing", "answered", "done")

Record = Mapping[str, Any]
"A call, as an operator may look it up."


@dataclass(frozen=True)
class Finding:
    """One promise."""

    promise: str
    looked_at: int
    "Calls, credits, rows: what it was held against."
    broken: tuple[str, ...]
    "A line for each time that it was broken."

    def __str__(self) -> str:
        if not self.broken:
            return f"held    {self.promise} ({self.looked_at})"
        more = f"\n          and {len(self.broken) - 20} more" if len(self.broken) > 20 else ""
        return f"BROKEN  {self.promise}" + "".join(f"\n          {line}" for line in self.broken[:20]) + more


@dataclass(frozen=True)
class Judgement:
    findings: Sequence[Finding]
    figures: Mapping[str, int]

    @property
    def broken(self) -> list[str]:
        """A line for each time that any promise was broken."""
        return [f"{each.promise}: {line}" for each in self.findings for line in each.broken]

    def __str__(self) -> str:
        counted = ", ".join(f"{name} {number}" for name, number in self.figures.items())
        return "\n".join([*map(str, self.findings), counted])


@dataclass(frozen=True)
class Refusal:
    """A request that was answered with 503: its call must not be made."""

    number: str
    "That was to be called, ten digits; each is asked for once."
    node: str
    "Who said it."
    at: float
    "When the answer was read, by the monotonic clock."


@dataclass
class Evidence:
    """What the witnesses say."""

    accepted: Sequence[str]
    "Ids of the calls that a client was told of, with code 0."
    calls: Mapping[str, Record | None]
    "Every call that any witness has named; None: the store does not know it."
    told: Mapping[str, Sequence[Told]]
    "Call id -> its callbacks."
    dials: Mapping[str, Sequence[Dial]]
    "Call id -> what the carrier saw of it, in the order of the attempts."
    branches: Mapping[str, set[str]]
    "Call id -> branches of its INVITEs."
    totals: Mapping[str, Any]
    "Of the store."
    keys: Sequence[Record]
    ledgers: Mapping[str, Sequence[Record]] | None
    "Key id -> its rows, the oldest first; None: the daemon shows none."
    added: int
    "Credits, by the operator."
    starts: Sequence[float] = field(default=())
    "When a daemon was ready, by the monotonic clock; none: how soon calls were hung up is not looked at."

    refused: Mapping[str, Refusal] = field(default_factory=dict)
    "By number."
    deaths: Sequence[tuple[str, float]] = field(default=())
    "Nodes that died or stood still, and when."
    partitioned: bool = False
    """Whether nodes were cut off from their store, or stood still: what they knew of a call they could not tell in
    time then, and the others ended it by what they knew."""

    def outcomes(self) -> Iterable[tuple[str, Record, Sequence[Dial]]]:
        for call_id, call in self.calls.items():
            if call is not None and call["outcome"] is not None:
                yield call_id, call["outcome"], self.dials.get(call_id, ())


class Operator:
    """Asks the first of some nodes that answers, over one connection."""

    def __init__(self, nodes: Sequence[Daemon]) -> None:
        self._nodes = nodes
        self._connection: UnixConnection | None = None

    def __enter__(self) -> Operator:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def get(self, path: str) -> Any:
        """Return the answer, None where there is no such thing. Raises AssertionError where no node answers."""
        problem: object = "there are none"
        for _ in range(2):
            for node in self._nodes:
                try:
                    return self._ask(node, path)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    problem = error
                    self._leave()
        raise AssertionError(f"no node answers {path}: {problem!r}")

    def _ask(self, node: Daemon, path: str) -> Any:
        if self._connection is None:
            self._connection = UnixConnection(node.data / "admin.sock")
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        body = response.read()
        if response.status == 404:
            return None
        if response.status != 200:
            raise ValueError((response.status, body))
        return json.loads(body)

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def is_idle(nodes: Sequence[Daemon]) -> bool:
    """Whether no call waits, rings, talks or has to be told of any more."""
    with Operator(nodes) as operator:
        store = operator.get("/status")["store"]
    return bool(store["held"] == 0 and not any(store["calls"].get(state) for state in UNFINISHED))


def gather(
    nodes: Sequence[Daemon],
    carrier: Carrier,
    web: Web,
    accepted: Sequence[str],
    added: int,
    *,
    starts: Sequence[float] = (),
) -> Evidence:
    """Hear the witnesses; the callbacks are taken out of the web server's queue."""
    told: dict[str, list[Told]] = defaultdict(list)
    while True:
        try:
            callback = web.told.get_nowait()
        except Empty:
            break
        told[callback.headers["webhook-id"]].append(callback)
    dials: dict[str, list[Dial]] = defaultdict(list)
    for dial in sorted(carrier.dials.values(), key=lambda each: each.number):
        dials[dial.call].append(dial)
    with Operator(nodes) as operator:
        keys = operator.get("/keys")["keys"]
        return Evidence(
            accepted=accepted,
            calls={call_id: operator.get(f"/calls/{call_id}") for call_id in sorted({*accepted, *told, *dials})},
            told=told,
            dials=dials,
            branches=carrier.invites,
            totals=operator.get("/status")["store"],
            keys=keys,
            ledgers=_ledgers(operator, [str(key["id"]) for key in keys]),
            added=added,
            starts=starts,
        )


def _ledgers(operator: Operator, key_ids: Sequence[str]) -> dict[str, list[Record]] | None:
    ledgers: dict[str, list[Record]] = {}
    for key_id in key_ids:
        rows: list[Record] = []
        before = ""
        while True:
            page = operator.get(f"/keys/{key_id}/ledger?most={PAGE}" + (f"&before={before}" if before else ""))
            if page is None:
                return None
            rows += page["entries"]
            if not page["entries"]:
                break
            before = page["entries"][-1]["place"]
        ledgers[key_id] = rows[::-1]
    return ledgers


def judge(evidence: Evidence) -> Judgement:
    findings = [
        Finding(promise, looked_at, tuple(broken))
        for promise, look in PROMISES.items()
        for looked_at, broken in [look(evidence)]
    ]
    outcomes = [outcome for _, outcome, __ in evidence.outcomes()]
    figures = {
        "calls told with code 0": len(evidence.accepted),
        "calls": len(evidence.calls),
        "dialled": len(evidence.dials),
        "answered": sum(outcome["answered"] for outcome in outcomes),
        "interrupted": sum(outcome["cause"] == "interrupted" for outcome in outcomes),
        "callbacks": sum(map(len, evidence.told.values())),
        "refused with 503": len(evidence.refused),
        "of these on their way": sum(1 for _ in _made_all_the_same(evidence)),
    }
    return Judgement(findings, figures)


# the promises: each returns what it looked at, and what is broken

Look = tuple[int, list[str]]


def _known(evidence: Evidence) -> Look:
    lost = [f"{call_id}: was told with code 0" for call_id in evidence.accepted if evidence.calls[call_id] is None]
    lost += [
        f"{call_id}: was dialled or told of"
        for call_id, call in evidence.calls.items()
        if call is None and call_id not in evidence.accepted
    ]
    return len(evidence.accepted), lost


def _counted(evidence: Evidence) -> Look:
    """What no witness has named was accepted, but never dialled and never told of: lost as well."""
    known = sum(evidence.totals["calls"].values())
    named = sum(call is not None for call in evidence.calls.values())
    return known, [f"the store knows {known} calls, the witnesses {named}"] if known != named else []


def _dialled_once(evidence: Evidence) -> Look:
    broken = []
    for call_id, dials in evidence.dials.items():
        if len(evidence.branches[call_id]) > len(dials):
            broken.append(f"{call_id}: {len(evidence.branches[call_id])} INVITEs in {len(dials)} attempts")
        for dial in dials[:-1]:
            if dial.said != 503:
                broken.append(
                    f"{call_id}: was dialled again after attempt {dial.number}, which said {dial.said or '-'}"
                )
    return len(evidence.dials), broken


def _dialled_at_all(evidence: Evidence) -> Look:
    never = [
        f"{call_id}: ended as {outcome['cause']!r} without a dial ({outcome['detail']})"
        for call_id, outcome, dials in evidence.outcomes()
        if not dials and outcome["cause"] != "interrupted"
    ]
    return len(evidence.calls), never


def _ended_once(evidence: Evidence) -> Look:
    broken = []
    for call_id, call in evidence.calls.items():
        if call is None:
            continue
        if call["outcome"] is None or call["state"] in UNFINISHED:
            broken.append(f"{call_id}: is {call['state']}, with the outcome {call['outcome']}")
    return len(evidence.calls), broken


def _told(evidence: Evidence) -> Look:
    broken = []
    for call_id, call in evidence.calls.items():
        if call is None or call["outcome"] is None:
            continue
        outcome, callbacks = call["outcome"], evidence.told.get(call_id, ())
        wanted = {
            "phone_number": call["phone_number"],
            "country_code": call["country_code"],
            "answered": "1" if outcome["answered"] else "0",
            "reason": "" if outcome["reason"] is None else str(outcome["reason"]),
        }
        if not callbacks and call["callback_url"] is not None:
            broken.append(f"{call_id}: its customer was told nothing, and the store says {call['state']}")
        for callback in callbacks:
            said = {name: callback.query.get(name) for name in wanted}
            if said != wanted:
                broken.append(f"{call_id}: its customer was told {said}, and the store says {wanted}")
    return sum(map(len, evidence.told.values())), broken


def _true(evidence: Evidence) -> Look:
    """What the customer is told is what the telephone saw."""
    broken = []
    for call_id, outcome, dials in evidence.outcomes():
        last = dials[-1] if dials else None
        if evidence.partitioned and outcome["cause"] == "interrupted":
            continue
        lie = _lie(outcome, last)
        if lie:
            broken.append(f"{call_id}: {lie}; it ended as {outcome['cause']!r}, {outcome['detail']!r}, carrier: {last}")
    return len(evidence.calls), broken


def _lie(outcome: Record, dial: Dial | None) -> str:
    talked = dial is not None and dial.acknowledged_at is not None
    if outcome["answered"]:
        return "" if talked else "said to be answered, and nobody had picked up"
    if dial is None or outcome["cause"] == "interrupted":
        if not talked:
            return ""
        assert dial is not None
        assert dial.acknowledged_at is not None
        brief = dial.left_at is not None and dial.left_at - dial.acknowledged_at < PROMPT
        return "" if brief else "said not to be answered, and it was talked to"
    if talked and outcome["cause"] not in ("ring timeout", "hung up"):
        return "said not to be answered, and it had picked up"
    if dial.said == 486 and outcome["reason"] != 5:
        return f"was busy, and the reason is {outcome['reason']}"
    if dial.kind in RINGS and dial.kind not in BUSY and dial.said == 180 and outcome["reason"] != 3:
        return f"rang in vain, and the reason is {outcome['reason']}"
    return ""


def _left(evidence: Evidence) -> Look:
    dials = [dial for each in evidence.dials.values() for dial in each]
    return len(dials), [f"{dial.call}: attempt {dial.number} is live: {dial}" for dial in dials if dial.is_live]


def _promptly(evidence: Evidence) -> Look:
    """Hung up soon by the process that came after the one that had it."""
    cleared = [
        dial for each in evidence.dials.values() for dial in each if dial.cleared and dial.left_at and dial.answered_at
    ]
    broken = []
    for dial in cleared:
        assert dial.left_at is not None
        assert dial.answered_at is not None
        after = [at for at in evidence.starts if dial.answered_at < at <= dial.left_at]
        if after and dial.left_at - min(after) > BYE_WITHIN:
            broken.append(f"{dial.call}: got its BYE {dial.left_at - min(after):.1f} s after the start")
    return len(cleared) if evidence.starts else 0, broken


AT_ONCE = 0.1
"Seconds after a 503 within which an INVITE may still come: the call was on its way."
BEFORE_IT = 2.5
"Seconds from the acceptance that was not answered until the 503, at most."


def _made_all_the_same(evidence: Evidence) -> Iterable[tuple[Refusal, str, Sequence[Dial]]]:
    for call_id, call in evidence.calls.items():
        if call is not None and call["phone_number"] in evidence.refused:
            yield evidence.refused[call["phone_number"]], call_id, evidence.dials.get(call_id, ())


def _refused(evidence: Evidence) -> Look:
    """Its acceptance is withdrawn, where the node that said 503 was there to do so, and nobody had begun."""
    broken = []
    for refusal, call_id, dials in _made_all_the_same(evidence):
        made = dials[0].at if dials else None
        if made is not None and made < refusal.at + AT_ONCE:
            continue
        until = float("inf") if made is None else made
        if any(node == refusal.node and refusal.at - BEFORE_IT < at < until for node, at in evidence.deaths):
            continue
        after = "never" if made is None else f"{made - refusal.at:.2f} s later"
        broken.append(f"{call_id}: {refusal.node} said 503, and it was dialled {after}")
    return len(evidence.refused), broken


def _credits(evidence: Evidence) -> Look:
    broken = []
    answered = sum(outcome["answered"] for _, outcome, __ in evidence.outcomes())
    totals = evidence.totals
    if totals["held"] != 0:
        broken.append(f"{totals['held']} credits are still held")
    if totals["charged"] != answered:
        broken.append(f"{totals['charged']} credits were charged for {answered} answered calls")
    if totals["credits"] + totals["held"] + totals["charged"] != evidence.added:
        broken.append(f"{totals['credits']} credits left and {totals['charged']} charged of {evidence.added}")
    for figure in ("credits", "held", "charged"):
        total = sum(key[figure] for key in evidence.keys)
        if total != totals[figure]:
            broken.append(f"the keys' {figure} are {total} in all, the store's {totals[figure]}")
    return evidence.added, broken


def _ledger(evidence: Evidence) -> Look:
    if evidence.ledgers is None:
        return 0, []
    broken = []
    answered = {call_id: outcome["answered"] for call_id, outcome, _ in evidence.outcomes()}
    entered: dict[str, Counter[str]] = defaultdict(Counter)
    for key in evidence.keys:
        balance = 0
        for row in evidence.ledgers[key["id"]]:
            balance += row["amount"]
            if row["balance"] != balance:
                broken.append(f"key {key['id']}: the balance is {row['balance']} after {row}, and not {balance}")
                balance = row["balance"]
            if row["reason"] in ("held", "released", "charged"):
                entered[row["reference"]][row["reason"]] += 1
        if balance != key["credits"]:
            broken.append(f"key {key['id']}: its rows make {balance}, and it has {key['credits']}")
    for call_id in {*answered, *entered}:
        wanted = Counter(["held", "charged" if answered.get(call_id) else "released"])
        if entered[call_id] != wanted:
            broken.append(f"{call_id}: its rows are {dict(entered[call_id])}, and should be {dict(wanted)}")
    return sum(map(len, evidence.ledgers.values())), broken


PROMISES: Mapping[str, Callable[[Evidence], Look]] = {
    "1  every call that was told with code 0 is in the store": _known,
    "1  every call in the store was dialled or told of": _counted,
    "2  no call was dialled twice": _dialled_once,
    "2  what had waited was dialled after the restart": _dialled_at_all,
    "3  every call has exactly one end": _ended_once,
    "3  every customer was told, the same each time": _told,
    "3  what was told is what the telephone saw": _true,
    "   no telephone is left ringing, and no call talking": _left,
    "   who was being played to is hung up within 5 s of the start": _promptly,
    "   what was refused with 503 was not made": _refused,
    "4  credits, held and charged add up": _credits,
    "4  the ledger's rows add up": _ledger,
}
"Words -> how to look; the numbers are those of the design."


def settle_down(nodes: Sequence[Daemon], carrier: Carrier, seconds: float = 120.0) -> None:
    """Wait until all is over, in the store and at the carrier; after that time, it is for the judge to say."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not (is_idle(nodes) and not carrier.live()):
        time.sleep(0.2)
