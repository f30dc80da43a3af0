"""Inside a call, and outside of any, with SIPp as the carrier: new offers, refreshes, questions, strangers."""

from __future__ import annotations

import re

from tests.interop import scenarios as sc
from tests.interop.case import settings, trunk
from tests.interop.harness import free_udp_port, sipp
from tests.interop.hearing import Ear
from tests.interop.scenes import (
    GOODBYE,
    Scene,
    ScenesCase,
    actions,
    answer,
    asks,
    check,
    invited,
    scene,
    taken,
)

ALLOWS = "Allow: INVITE, ACK, BYE, CANCEL, UPDATE\n"
PCMA = sc.sdp("8 101")
HELD = sc.sdp(more="a=sendonly\n")
RESUMED = sc.sdp(more="a=sendrecv\n")

OFFERS = {
    "hold by sendonly, and resume": Scene(
        scene(
            invited(),
            answer(),
            asks("INVITE", 1, 200, check("a=recvonly"), body=HELD),
            sc.pause(300),
            asks("INVITE", 2, 200, check("a=sendrecv"), body=RESUMED),
            GOODBYE,
        )
    ),
    "hold by inactive, and resume by UPDATE": Scene(
        scene(
            invited(),
            answer(),
            asks("INVITE", 1, 200, check("a=inactive"), body=sc.sdp(more="a=inactive\n")),
            asks("UPDATE", 2, 200, check("a=sendrecv"), body=RESUMED),
            GOODBYE,
        )
    ),
    "hold by 0.0.0.0, and resume": Scene(
        scene(
            invited(),
            answer(),
            asks("INVITE", 1, 200, check("a=recvonly"), body=sc.sdp(address="0.0.0.0")),
            asks("INVITE", 2, 200, check("a=sendrecv"), body=RESUMED),
            GOODBYE,
        )
    ),
    "a codec that we don't have is refused, with a Warning, and the call goes on": Scene(
        scene(
            invited(),
            answer(),
            asks("INVITE", 1, 488, check("305 ", "Warning"), body=sc.sdp("18")),
            asks("UPDATE", 2, 488, check("305 ", "Warning"), body=sc.sdp("18")),
            GOODBYE,
        )
    ),
    "an UPDATE without an offer has no answer": Scene(
        scene(invited(), answer(), asks("UPDATE", 1, 200, check("Content-Length: *0")), GOODBYE)
    ),
    "their offer while ours is open waits (491), afterwards it doesn't": Scene(
        scene(
            invited(),
            answer(more="Session-Expires: 4;refresher=uac\nRequire: timer\n"),
            # Our refresh, a re-INVITE with an offer, since UPDATE isn't allowed here.
            sc.receive(
                "INVITE",
                extra='timeout="10000"',
                inner=actions(
                    '<ereg regexp=".*" search_in="hdr" header="Via:" assign_to="via"/>\n',
                    '<ereg regexp=".*" search_in="hdr" header="CSeq:" assign_to="cseq"/>\n',
                ),
            ),
            asks("INVITE", 1, 491, body=RESUMED),
            sc.send(
                "200 OK",
                "Via: [$via]\nFrom: [$from]\nTo: [$to];tag=[pid]SIPp[call_number]\nCall-ID: [call_id]\nCSeq: [$cseq]\n",
                more=sc.CONTACT,
                body=sc.sdp(),
                retrans=500,
            ),
            sc.receive("ACK"),
            asks("INVITE", 2, 200, body=RESUMED),
            GOODBYE,
        )
    ),
}

HANGS_UP = asks("BYE", 1, 200)
SESSIONS = {
    "we refresh by UPDATE": Scene(
        scene(
            invited(check("timer", "Supported")),
            answer(more=ALLOWS + "Session-Expires: 4;refresher=uac\nRequire: timer\n"),
            taken(
                "UPDATE",
                check("refresher=uac", "Session-Expires"),
                check("Content-Length: *0"),
                more=sc.CONTACT + "Session-Expires: 90;refresher=uac\n",
            ),
            GOODBYE,
        )
    ),
    "we refresh by re-INVITE where UPDATE isn't taken after all": Scene(
        scene(
            invited(),
            answer(more=ALLOWS + "Session-Expires: 4;refresher=uac\nRequire: timer\n"),
            taken("UPDATE", status="501 Not Implemented"),
            sc.receive("INVITE", inner=actions(check("refresher=uac", "Session-Expires"), check("RTP/AVP"))),
            sc.send("200 OK", sc.IN_DIALOG, more=sc.CONTACT, body=sc.sdp(), retrans=500),
            sc.receive("ACK"),
            GOODBYE,
        )
    ),
    "our refresh is answered by another Contact, which the BYE goes to": Scene(
        scene(
            invited(),
            answer(more=ALLOWS + "Session-Expires: 4;refresher=uac\nRequire: timer\n"),
            taken("UPDATE", more="Contact: <sip:moved@[local_ip]:[local_port]>\nSession-Expires: 90;refresher=uac\n"),
            taken("BYE", check("^BYE sip:moved@")),
        )
    ),
    "our refresh is refused in passing, and comes again": Scene(
        scene(
            invited(),
            answer(more=ALLOWS + "Session-Expires: 16;refresher=uac\nRequire: timer\n", body=HELD),
            taken("UPDATE", status="500 Server Internal Error"),
            taken("UPDATE", more=sc.CONTACT + "Session-Expires: 90;refresher=uac\n"),
            HANGS_UP,
        )
    ),
    "they ought to refresh and don't: BYE": Scene(
        scene(
            invited(),
            answer(more="Session-Expires: 4;refresher=uas\nRequire: timer\n"),
            taken("BYE", check("expired", "Reason")),
        )
    ),
    "they refresh, by UPDATE and by re-INVITE": Scene(
        scene(
            invited(),
            answer(more="Session-Expires: 4;refresher=uas\nRequire: timer\n"),
            asks(
                "UPDATE",
                1,
                200,
                check("1800;refresher=uac", "Session-Expires"),
                check("timer", "Require"),
                more="Supported: timer\nSession-Expires: 1800;refresher=uac\n",
            ),
            asks(
                "INVITE",
                2,
                200,
                check("1800;refresher=uac", "Session-Expires"),
                more="Supported: timer\nSession-Expires: 1800;refresher=uac\n",
                body=RESUMED,
            ),
            taken("BYE", check("cause=16", "Reason")),
        )
    ),
    "they want to be refreshed too often: 422": Scene(
        scene(
            invited(),
            answer(),
            asks("UPDATE", 1, 422, check("90", "Min-SE"), more="Supported: timer\nSession-Expires: 20\n"),
            GOODBYE,
        )
    ),
    "our refresh meets nobody who knows the call: BYE": Scene(
        scene(
            invited(),
            answer(more=ALLOWS + "Session-Expires: 4;refresher=uac\nRequire: timer\n"),
            taken("UPDATE", status="481 Call/Transaction Does Not Exist"),
            taken("BYE", check("cause=481", "Reason"), status="481 Call/Transaction Does Not Exist"),
        )
    ),
}

MEETS = "491 Request Pending"
SHORT_SESSION = "Session-Expires: 27;refresher=uac\nRequire: timer\n"
"""Refreshed after 13.5 s; given up after 18 s, which leaves time for one more try. The callee answers with a hold, so
that the audio waits for as long."""
GLARES = {
    "UPDATE": Scene(
        scene(
            invited(),
            answer(more=ALLOWS + SHORT_SESSION, body=HELD),
            taken("UPDATE", status=MEETS),
            taken("UPDATE", more=sc.CONTACT + "Session-Expires: 90;refresher=uac\n"),
            HANGS_UP,
        )
    ),
    "INVITE": Scene(
        scene(
            invited(),
            answer(more=SHORT_SESSION, body=HELD),
            sc.receive("INVITE", extra='timeout="15000"'),
            sc.send(MEETS, sc.IN_DIALOG, retrans=500),
            sc.receive("ACK"),
            sc.receive("INVITE", extra='timeout="10000"'),
            sc.send("200 OK", sc.IN_DIALOG, more=sc.CONTACT, body=HELD, retrans=500),
            sc.receive("ACK"),
            HANGS_UP,
        )
    ),
}

QUESTIONS = {
    "each method is answered as its RFC says": Scene(
        scene(
            invited(),
            answer(),
            asks("OPTIONS", 1, 200, check("INVITE, ACK", "Allow"), check("application/sdp", "Accept")),
            asks("INFO", 2, 200),
            asks("INFO", 3, 469, more="Info-Package: nightly\n"),
            asks("NOTIFY", 4, 481, more="Event: refer\nSubscription-State: active\n"),
            asks("REFER", 5, 405, check("INVITE, ACK", "Allow"), more="Refer-To: <sip:a@b>\n"),
            asks("MESSAGE", 6, 405, check("INVITE, ACK", "Allow")),
            asks("SUBSCRIBE", 7, 405, more="Event: dialog\n"),
            asks("PRACK", 8, 481, more="RAck: 1 1 INVITE\n"),
            asks("DANCE", 9, 501, check("INVITE, ACK", "Allow")),
            asks("OPTIONS", 10, 420, check("dancing", "Unsupported"), more="Require: timer, dancing\n"),
            GOODBYE,
        )
    ),
    "their BYE with a cause ends it": Scene(
        scene(
            invited(),
            answer(),
            sc.pause(300),
            asks("BYE", 1, 200, more='Reason: Q.850;cause=16;text="Normal call clearing"\n'),
        )
    ),
    "a BYE in another dialog ends nothing": Scene(
        scene(
            invited(),
            answer(),
            sc.request("BYE", cseq="1 BYE").replace("tag=[pid]SIPp[call_number]", "tag=somebody"),
            '<recv response="481"/>\n',
            GOODBYE,
        )
    ),
    "both say BYE at once": Scene(
        scene(
            invited(),
            answer(),
            sc.receive(
                "BYE",
                extra='timeout="15000"',
                inner=actions(
                    '<ereg regexp=".*" search_in="hdr" header="Via:" assign_to="via"/>\n',
                    '<ereg regexp=".*" search_in="hdr" header="CSeq:" assign_to="cseq"/>\n',
                ),
            ),
            sc.request("BYE", cseq="1 BYE", extra=""),
            '<recv response="200"/>\n',
            sc.send(
                "200 OK",
                "Via: [$via]\nFrom: [$from]\nTo: [$to];tag=[pid]SIPp[call_number]\nCall-ID: [call_id]\nCSeq: [$cseq]\n",
            ),
        )
    ),
}


def unasked(method: str, number: int, *, more: str = "", branch: str = "[branch]") -> str:
    """A request outside of any dialog."""
    return f"""<send><![CDATA[

{method} sip:calledin@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch={branch};rport
From: <sip:carrier@[local_ip]:[local_port]>;tag=[pid]SIPp[call_number]
To: <sip:calledin@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: {number} {method}
{sc.CONTACT}Max-Forwards: 70
{more}Content-Length: 0

]]></send>
"""


def refused(method: str, number: int, status: int, *checks: str, more: str = "") -> str:
    inner = actions(*checks) if checks else ""
    return unasked(method, number, more=more) + f'<recv response="{status}">{inner}</recv>\n'


ACK = """<send><![CDATA[

ACK sip:calledin@[remote_ip]:[remote_port] SIP/2.0
[last_Via:]
[last_From:]
[last_To:]
[last_Call-ID:]
CSeq: 2 ACK
Max-Forwards: 70
Content-Length: 0

]]></send>
"""
SAME = "z9hG4bKthe-same-[pid]"
UNASKED = scene(
    refused("OPTIONS", 1, 200, check("INVITE, ACK", "Allow"), check("timer", "Supported")),
    refused("INVITE", 2, 403, check("INVITE, ACK", "Allow")),
    ACK,
    refused("BYE", 3, 481),
    refused("CANCEL", 4, 481),
    refused("REGISTER", 5, 405, check("INVITE, ACK", "Allow")),
    refused("MESSAGE", 6, 405),
    refused("UPDATE", 7, 481),
    refused("DANCE", 8, 501, check("INVITE, ACK", "Allow")),
    refused("OPTIONS", 9, 420, check("dancing", "Unsupported"), more="Require: dancing\n"),
    unasked("OPTIONS", 10, branch=SAME),
    '<recv response="200"/>\n',
    unasked("OPTIONS", 10, branch=SAME),
    '<recv response="200"/>\n',
)
KNOCKS = scene(unasked("OPTIONS", 1), unasked("INVITE", 2), unasked("REGISTER", 3), unasked("DANCE", 4), sc.pause(700))


class InDialogTests(ScenesCase):
    def test_offers(self) -> None:
        """Hold, resume, refusals and offers that meet."""
        self.play(OFFERS)

    def test_sessions(self) -> None:
        """Session timers, as either refresher."""
        self.play(SESSIONS)

    def test_glares(self) -> None:
        """A refresh of ours that meets a request of theirs (491) comes again, 2.1 to 4 s later (RFC 3261 §14.1)."""
        _, carriers = self.play(GLARES)
        for method, carrier in carriers.items():
            times = [
                int(hours) * 3600 + int(minutes) * 60 + float(seconds)
                for hours, minutes, seconds in re.findall(
                    rf"(\d+):(\d+):([\d.]+)\nUDP message received [^\n]*\n\n{method} ", carrier.messages()
                )
            ]
            first, second = times[-2:]
            self.assertTrue(2.0 <= (second - first) % 86400 <= 5.0, (method, times))

    def test_questions(self) -> None:
        """What else a peer may ask for in a call, and how it may end it."""
        self.play(QUESTIONS)

    def test_new_address(self) -> None:
        """Media follow a re-INVITE, an UPDATE, and the answer to an offer that was asked for; so does the codec."""
        ears = {name: Ear() for name in ("re-INVITE", "UPDATE", "asked for", "codec")}
        for ear in ears.values():
            self.addCleanup(ear.close)
        port = {name: str(ear.port) for name, ear in ears.items()}
        late = sc.sdp("8 101", port=port["asked for"])
        self.play(
            {
                "re-INVITE": Scene(
                    scene(invited(), answer(), asks("INVITE", 1, 200, body=sc.sdp(port=port["re-INVITE"])), GOODBYE)
                ),
                "UPDATE": Scene(
                    scene(invited(), answer(), asks("UPDATE", 1, 200, body=sc.sdp(port=port["UPDATE"])), GOODBYE)
                ),
                "asked for": Scene(
                    scene(
                        invited(),
                        answer(),
                        sc.request("INVITE", cseq="1 INVITE"),
                        f'<recv response="200">{actions(check("RTP/AVP 0 8 101"))}</recv>\n',
                        sc.request("ACK", cseq="1 ACK", extra="", body=late),
                        GOODBYE,
                    )
                ),
                "codec": Scene(
                    scene(
                        invited(),
                        answer(),
                        asks("INVITE", 1, 200, check("RTP/AVP 8 101"), body=sc.sdp("8 101", port=port["codec"])),
                        GOODBYE,
                    )
                ),
            }
        )
        payload_types = {name: {data[1] & 0x7F for _, data in ear.packets} for name, ear in ears.items()}
        self.assertEqual(payload_types, {"re-INVITE": {0}, "UPDATE": {0}, "asked for": {8}, "codec": {8}})
        for name, ear in ears.items():
            self.assertGreater(len(ear.packets), 50, name)

    def test_unasked(self) -> None:
        """A trunk is told what we do and what not, a repeat from the transaction; a stranger hears nothing."""
        sip_port, carrier_port = free_udp_port(), free_udp_port()
        self.run_daemon(settings(trunk(carrier_port), sip_port=sip_port, sip=self.sip))
        there = f"127.0.0.1:{sip_port}"
        with sipp(self.folder / "trunk", UNASKED, there, "-nr", port=carrier_port) as carrier:
            self.assertEqual(carrier.wait(20), 0, carrier.explain())
            answers = re.findall(
                r"SIP/2\.0 200 OK\nVia: [^\n]*the-same[^\n]*\nFrom: [^\n]*\nTo: ([^\n]*)", carrier.messages()
            )
            self.assertEqual((len(answers), len(set(answers))), (2, 1), carrier.messages())
        with sipp(self.folder / "stranger", KNOCKS, there, address="127.0.0.9") as stranger:
            self.assertEqual(stranger.wait(20), 0, stranger.explain())
            self.assertNotIn("SIP/2.0 ", re.sub(r"(?m)^(\w+ sip:.*|Via: )SIP/2\.0.*$", "", stranger.messages()))
