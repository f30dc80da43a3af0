"""Many SIPp scenarios against one daemon at once: a trunk, a number and an outcome each."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import Daemon, Sipp, need, sipp

ANSWERED = ("1", "")
PATIENCE = 20.0
"Seconds that SIPp is waited for once the customer was told."


@dataclass(frozen=True)
class Scene:
    """What the callee plays, and what the customer is told of it."""

    scenario: str
    outcome: tuple[str, str] = ANSWERED
    trunk: str = ""
    "More settings of its trunk."
    arguments: tuple[str, ...] = field(default=("-key", "rtp", "40000"))
    "More of SIPp's."
    kept: Mapping[str, object] = field(default_factory=dict)
    "What the operator can look up of the call's end."


def check(regexp: str, header: str = "") -> str:
    """An action that fails the call where a header of the message (or all of it) isn't like this."""
    where = f'search_in="hdr" header="{header}:"' if header else 'search_in="msg"'
    escaped = regexp.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return f'<ereg regexp="{escaped}" {where} check_it="true" assign_to="checked"/>\n'


def actions(*each: str) -> str:
    return "<action>\n" + "".join(each) + "</action>"


KEEP = (
    '<ereg regexp="&lt;(.*)&gt;" search_in="hdr" header="Contact:" assign_to="whole,contact"/>\n'
    '<ereg regexp=".*" search_in="hdr" header="From:" assign_to="from"/>\n'
    '<ereg regexp=".*" search_in="hdr" header="To:" assign_to="to"/>\n'
    '<ereg regexp=".*" search_in="hdr" header="Via:" assign_to="via"/>\n'
    '<ereg regexp=".*" search_in="hdr" header="CSeq:" assign_to="cseq"/>\n'
)
"What responses to this INVITE and requests in its dialog are made of."


def tagged(tag: str = "[pid]SIPp[call_number]") -> str:
    """Headers of a response to the INVITE that was kept, whatever has come since."""
    return f"Via: [$via]\nFrom: [$from]\nTo: [$to];tag={tag}\nCall-ID: [call_id]\nCSeq: [$cseq]\n"


def invited(*more: str) -> str:
    """Take an INVITE, keep what is needed of it, and check more."""
    return sc.receive("INVITE", inner=actions(KEEP, *more))


def answer(*, more: str = "", body: str | None = None, tag: str = "[pid]SIPp[call_number]") -> str:
    """The 200 to the INVITE that was kept, and its ACK."""
    content = sc.sdp() if body is None else body
    return sc.send("200 OK", tagged(tag), more=sc.CONTACT + more, body=content, retrans=500) + sc.receive("ACK")


def ringing(status: str = "180 Ringing", *, more: str = "", body: str = "", tag: str = "[pid]SIPp[call_number]") -> str:
    return sc.send(status, tagged(tag), more=sc.CONTACT + more, body=body)


def taken(method: str, *checks: str, status: str = "200 OK", more: str = "") -> str:
    """Take a request inside the dialog, and answer it."""
    inner = actions(*checks) if checks else ""
    return sc.receive(method, extra='timeout="15000"', inner=inner) + sc.send(status, sc.IN_DIALOG, more=more)


GOODBYE = taken("BYE")


def scene(*steps: str) -> str:
    """A scenario; SIPp wants each variable that is assigned to be used as well."""
    names = [name for each in re.findall(r'assign_to="([^"]*)"', "".join(steps)) for name in each.split(",")]
    used = f'<Reference variables="{",".join(dict.fromkeys(names))}"/>\n' if names else ""
    return sc.scenario(*steps, used)


def asks(request: str, number: int, status: int, *checks: str, more: str = "", body: str = "") -> str:
    """The callee's request inside the dialog, and what it must be answered with; an INVITE's ACK as well."""
    inner = actions(*checks) if checks else ""
    steps = sc.request(request, cseq=f"{number} {request}", more=more, body=body)
    steps += sc.expect(100, optional=True) if request == "INVITE" else ""
    steps += f'<recv response="{status}">{inner}</recv>\n'
    if request == "INVITE":
        steps += sc.request("ACK", cseq=f"{number} ACK", extra="")
    return steps


class ScenesCase(InteropCase):
    """Plays all scenes at once."""

    calls = "ring_timeout = 3.0\nlead_out = 2.0"
    sip = "t1 = 0.1"

    def setUp(self) -> None:
        need("sipp")
        super().setUp()

    def play(self, scenes: Mapping[str, Scene], *, mp3: str = "/short.mp3") -> tuple[Daemon, dict[str, Sipp]]:
        """Every customer is told the scene's outcome, and every SIPp saw what its scenario says."""
        carriers: dict[str, Sipp] = {}
        trunks: list[str] = []
        numbers: dict[str, str] = {}
        for number, (name, each) in enumerate(scenes.items()):
            folder = self.folder / f"sipp{number}"
            carriers[name] = self.world.enter_context(sipp(folder, each.scenario, *each.arguments))
            more = f'prefixes = ["121255501{number:02}"]\n{each.trunk}'
            trunks.append(trunk(carriers[name].port, name=f"sipp{number}", more=more))
            numbers[f"21255501{number:02}"] = name
        daemon = self.run_daemon(settings(*trunks, calls=self.calls, sip=self.sip))
        calls = {
            name: self.ask(daemon, phone_number=phone_number, mp3=self.web.url + mp3)
            for phone_number, name in numbers.items()
        }
        told = [self.web.next_callback() for _ in numbers]
        outcomes = {numbers[each.query["phone_number"]]: self.outcome(each) for each in told}
        went = {name: (outcomes[name], _status(carrier)) for name, carrier in carriers.items()}
        wrong = {name: carriers[name] for name, each in scenes.items() if went[name] != (each.outcome, 0)}
        words = "".join(
            f"\n==== {name}: {went[name]}\n{carrier.explain()[:2000]}\n{carrier.messages()[-20000:]}"
            for name, carrier in wrong.items()
        )
        self.assertEqual(list(wrong), [], words)
        for name, each in scenes.items():
            ending = daemon.admin("GET", f"/calls/{calls[name]}")["outcome"]
            self.assertEqual({key: ending[key] for key in each.kept}, each.kept, name)
        return daemon, carriers


def _status(carrier: Sipp) -> int | str:
    try:
        return carrier.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return "waits for something that never comes"
