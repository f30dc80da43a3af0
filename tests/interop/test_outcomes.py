"""What every status and every cause comes to: the customer's reason, and what the operator can look up beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import need, sipp
from tests.interop.scenes import KEEP, actions, ringing, scene, tagged

HUNG_UP, RING_TIMEOUT, BUSY, CONGESTION, FAILED = "1", "3", "5", "8", "0"
STATUSES = {
    **dict.fromkeys((486, 600, 603), BUSY),
    **dict.fromkeys((487, 607, 608), HUNG_UP),
    **dict.fromkeys((401, 402, 403, 407, 409, 482, 483), CONGESTION),
    **dict.fromkeys((500, 502, 503, 513, 580, 599), CONGESTION),
    **dict.fromkeys((300, 302, 305, 380, 400, 404, 410, 415, 420, 433, 484, 488, 491, 499), FAILED),
    **dict.fromkeys((501, 505, 604, 606, 699), FAILED),
}
"What doesn't depend on whether a telephone rang."
UNHEARD = (408, 480, 504)
CAUSES = {
    17: BUSY,
    26: HUNG_UP,
    **dict.fromkeys((21, 27, 34, 38, 41, 42, 44, 47), CONGESTION),
    **dict.fromkeys((1, 3, 22, 28, 88, 102, 111), FAILED),
}
"Of a Reason beside a 480."
UNHEARD_CAUSES = (18, 19, 20)
SPEECHLESS_CAUSES = (0, 16, 31, 127)
"The status counts."
CALLEES_OWN = frozenset({480, 486, 600, 603, 604, 606, 607, 608, 699})
"Statuses that a person or a telephone gives, for all that anybody knows."


def number(kind: int, figure: int) -> str:
    """The telephone number whose last three digits are what it is refused with."""
    return f"212555{kind}{figure:03}"


def carrier(reasons: Iterable[int], *, of_status: str = "", more: str = "", rings: bool = False) -> str:
    """SIPp reads from the number called how to refuse it. `of_status`: the figures aren't statuses, but $last."""
    last = '<ereg regexp="([0-9][0-9][0-9])@" search_in="hdr" header="To:" assign_to="match,last"/>\n'
    if of_status:
        return scene(
            sc.receive("INVITE", inner=actions(KEEP, last)),
            ringing() if rings else "",
            sc.send(of_status, tagged(), more=more, retrans=500),
            sc.receive("ACK"),
        )
    which = (f'<ereg regexp="{each}@" search_in="hdr" header="To:" assign_to="is{each}"/>\n' for each in reasons)
    return scene(
        sc.receive("INVITE", inner=actions(KEEP, *which)),
        ringing() if rings else "",
        *(sc.send(f"{each} Whatever", tagged(), extra=f'condexec="is{each}"') for each in reasons),
        sc.receive("ACK"),
    )


Q850 = 'Reason: SIP;cause=480, Q.850 ;cause="[$last]";text="Because, you know"\n'


class OutcomeTests(InteropCase):
    def setUp(self) -> None:
        need("sipp")
        super().setUp()

    def test_table(self) -> None:
        """Each status, each Q.850 cause, with a telephone that rang and without; and who ended it, as far as known."""
        rang = {**STATUSES, **dict.fromkeys(UNHEARD, RING_TIMEOUT)}
        did_not_ring = {**STATUSES, **dict.fromkeys(UNHEARD, CONGESTION)}
        causes = {**CAUSES, **dict.fromkeys((*UNHEARD_CAUSES, *SPEECHLESS_CAUSES), CONGESTION)}
        causes_after_ringing = {**CAUSES, **dict.fromkeys((*UNHEARD_CAUSES, *SPEECHLESS_CAUSES), RING_TIMEOUT)}
        busy = dict.fromkeys((1, 16, 17, 34), BUSY)
        kinds: tuple[tuple[str, Mapping[int, str]], ...] = (
            (carrier(did_not_ring), did_not_ring),
            (carrier(rang, rings=True), rang),
            (carrier(causes, of_status="480 X", more=Q850), causes),
            (carrier(causes_after_ringing, of_status="480 X", more=Q850, rings=True), causes_after_ringing),
            # Whoever is busy is, whatever else is said.
            (carrier(busy, of_status="486 X", more=Q850), busy),
        )
        trunks = []
        for kind, (scenario, reasons) in enumerate(kinds):
            each = self.world.enter_context(sipp(self.folder / f"sipp{kind}", scenario, calls=len(reasons)))
            trunks.append(trunk(each.port, name=f"kind{kind}", more=f'prefixes = ["1212555{kind}"]'))
        daemon = self.run_daemon(settings(*trunks, sip="t1 = 0.1"))
        for kind, (_, reasons) in enumerate(kinds):
            calls = {number(kind, figure): self.ask(daemon, phone_number=number(kind, figure)) for figure in reasons}
            told = {}
            for _ in calls:
                query = self.web.next_callback().query
                told[query["phone_number"]] = query["answered"], query["reason"]
            self.assertEqual(told, {number(kind, figure): ("0", reason) for figure, reason in reasons.items()}, kind)
            for figure in reasons:
                kept = daemon.admin("GET", f"/calls/{calls[number(kind, figure)]}")["outcome"]
                status, q850 = (figure, None) if kind < 2 else (486 if kind == 4 else 480, figure)
                by = "callee" if status in CALLEES_OWN else "network"
                self.assertEqual(
                    (kept["sip_status"], kept["q850"], kept["ended_by"], kept["trunk"], kept["rang"]),
                    (status, q850, by, f"kind{kind}", kind in (1, 3)),
                )
