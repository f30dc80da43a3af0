"""Setting up calls with SIPp as the carrier: what comes before the answer, instead of it, and more often than once."""

from __future__ import annotations

import re

from tests.interop import scenarios as sc
from tests.interop.scenes import (
    GOODBYE,
    Scene,
    ScenesCase,
    actions,
    answer,
    check,
    invited,
    ringing,
    scene,
    taken,
)


def reliable(number: int) -> str:
    """Headers of a provisional response that wants a PRACK."""
    return f"Require: 100rel\nRSeq: {number}\n"


def pracked(number: int, *more: str, status: str = "200 OK", headers: str = "") -> str:
    return taken("PRACK", check(f"{number} 1 INVITE", "RAck"), *more, status=status, more=headers)


HERE = "sip:+12125550100@127.0.0.1:[local_port]"
CHALLENGE = 'Proxy-Authenticate: Digest realm="carrier", nonce="abcdef", qop="auth", algorithm=MD5\n'
UPDATE = (
    """<send retrans="500"><![CDATA[

UPDATE [$contact] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: [$to];tag=[pid]SIPp[call_number]
To: [$from]
Call-ID: [call_id]
CSeq: 1 UPDATE
Contact: <sip:callee@[local_ip]:[local_port]>
Max-Forwards: 70
Content-Type: application/sdp
Content-Length: [len]

"""
    + sc.sdp("8 101")
    + "]]></send>\n"
)
CANCELLED = (
    sc.send("200 OK", sc.IN_DIALOG) + sc.send("487 Request Terminated", sc.ECHO_INVITE, retrans=500) + sc.receive("ACK")
)
TRYING = sc.send("100 Trying", "Via: [$via]\nFrom: [$from]\nTo: [$to]\nCall-ID: [call_id]\nCSeq: [$cseq]\n")

PROVISIONAL = {
    "a reliable 183 with the answer, then a reliable 180; the 200 has no SDP": Scene(
        scene(
            invited(check("100rel", "Supported")),
            ringing("183 Session Progress", more=reliable(17), body=sc.sdp()),
            pracked(17),
            ringing(more=reliable(18)),
            pracked(18),
            sc.send(
                "200 OK",
                "Via: [$via]\nFrom: [$from]\nTo: [$to];tag=[pid]SIPp[call_number]\nCall-ID: [call_id]\nCSeq: [$cseq]\n",
                more=sc.CONTACT,
                retrans=500,
            ),
            sc.receive("ACK"),
            GOODBYE,
        )
    ),
    "a reliable response that comes again gets one PRACK, one before its turn gets none": Scene(
        scene(
            invited(),
            ringing("183 Session Progress", more=reliable(1)),
            pracked(1),
            ringing("183 Session Progress", more=reliable(1)),
            ringing(more=reliable(3)),
            sc.pause(300),
            ringing(more=reliable(2)),
            pracked(2),
            ringing(more=reliable(3)),
            pracked(3),
            answer(),
            GOODBYE,
        )
    ),
    "a PRACK that is challenged": Scene(
        scene(
            invited(),
            ringing("183 Session Progress", more=reliable(5)),
            pracked(5, status="407 Proxy Authentication Required", headers=CHALLENGE),
            pracked(5, check('username="alice"', "Proxy-Authorization"), check("^ *3 PRACK", "CSeq")),
            answer(),
            taken("BYE", check("nc=00000002", "Proxy-Authorization")),
        ),
        trunk='username = "alice"\npassword = "wonder land"',
    ),
    "not offered where the trunk can't bear it": Scene(
        scene(sc.receive("INVITE", inner=actions(check("Supported: timer\r"))), sc.OK, sc.receive("ACK"), sc.GOODBYE),
        trunk="prack = false",
    ),
    "early media in a plain 183, the answer again in the 200": Scene(
        scene(invited(), ringing("183 Session Progress", body=sc.sdp()), sc.pause(100), answer(), GOODBYE)
    ),
    "an offer of the callee's before it answers": Scene(
        scene(
            invited(),
            ringing("183 Session Progress", more=reliable(1), body=sc.sdp()),
            pracked(1),
            UPDATE,
            f'<recv response="200">{actions(check("RTP/AVP 8 101"))}</recv>\n',
            answer(body=sc.sdp("8 101")),
            GOODBYE,
        )
    ),
    "several telephones ring, one answers": Scene(
        scene(
            invited(),
            ringing(tag="a"),
            ringing("183 Session Progress", tag="b", body=sc.sdp()),
            ringing(tag="c"),
            sc.pause(100),
            answer(tag="b"),
            taken("BYE", check("tag=b", "To")),
        )
    ),
    "two answer: the second gets ACK and BYE, the first hears the audio": Scene(
        scene(
            invited(),
            ringing(tag="a"),
            ringing(tag="b"),
            answer(tag="a"),
            sc.send(
                "200 OK",
                "Via: [$via]\nFrom: [$from]\nTo: [$to];tag=b\nCall-ID: [call_id]\nCSeq: [$cseq]\n",
                more=sc.CONTACT,
                body=sc.sdp(),
            ),
            sc.receive("ACK", inner=actions(check("tag=b", "To"))),
            taken("BYE", check("tag=b", "To")),
            sc.pause(1000),
            taken("BYE", check("tag=a", "To"), check("Q.850;cause=16", "Reason")),
        )
    ),
    "each 200 that comes again gets its ACK again": Scene(
        scene(invited(), ringing(), answer(), sc.pause(200), answer(), sc.pause(200), answer(), GOODBYE),
        # Else SIPp takes the second ACK for the first one once more, and answers it by the 200.
        arguments=("-key", "rtp", "40000", "-nr"),
    ),
}

ENDINGS = {
    "no CANCEL before a provisional response, however long that takes": Scene(
        scene(
            invited(),
            sc.pause(3500),
            TRYING,
            sc.receive("CANCEL", inner=actions(check("Q.850;cause=19", "Reason"))),
            CANCELLED,
        ),
        ("0", "3"),
    ),
    "a CANCEL that crosses the 200": Scene(
        scene(
            invited(),
            ringing(),
            sc.receive("CANCEL", extra='timeout="10000"'),
            sc.send("200 OK", sc.IN_DIALOG),
            answer(),
            GOODBYE,
        ),
        ("0", "3"),
    ),
    "a CANCEL that no 487 follows": Scene(
        scene(
            invited(),
            ringing(),
            sc.receive("CANCEL", extra='timeout="10000"'),
            sc.send("200 OK", sc.IN_DIALOG),
        ),
        ("0", "3"),
    ),
    "several telephones ring, all are busy": Scene(
        scene(
            invited(),
            ringing(tag="a"),
            ringing("183 Session Progress", tag="b", body=sc.sdp()),
            sc.pause(100),
            sc.send("486 Busy Here", sc.ECHO, retrans=500),
            sc.receive("ACK"),
        ),
        ("0", "5"),
    ),
    "a refusal that says when and why": Scene(
        sc.refuse("480 Gone Fishing", more='Retry-After: 18000;duration=3600\nWarning: 399 pbx "At the lake"\n'),
        ("0", "8"),
    ),
    "a cause that goes before the status": Scene(
        sc.refuse("503 Service Unavailable", more='Reason: SIP;cause=503, Q.850;cause=17;text="User busy"\n'),
        ("0", "5"),
    ),
}

ROUTES = {
    "loose routes: the last Record-Route first, the Contact as Request-URI": Scene(
        scene(
            invited(),
            sc.send(
                "200 OK",
                "Via: [$via]\nFrom: [$from]\nTo: [$to];tag=[pid]SIPp[call_number]\nCall-ID: [call_id]\nCSeq: [$cseq]\n",
                more="Record-Route: <sip:127.0.0.1:[local_port];lr;hop=2>, <sip:127.0.0.1:[local_port];lr;hop=1>\n"
                + sc.CONTACT,
                body=sc.sdp(),
                retrans=500,
            ),
            sc.receive("ACK", inner=actions(check("^ACK sip:callee@"), check("hop=1.*hop=2"))),
            taken("BYE", check("^BYE sip:callee@"), check("hop=1.*hop=2")),
        )
    ),
    "a strict router: itself as Request-URI, the Contact as the last Route": Scene(
        scene(
            invited(),
            sc.send(
                "200 OK",
                "Via: [$via]\nFrom: [$from]\nTo: [$to];tag=[pid]SIPp[call_number]\nCall-ID: [call_id]\nCSeq: [$cseq]\n",
                more="Record-Route: <sip:127.0.0.1:[local_port];lr;hop=2>\n"
                "Record-Route: <sip:127.0.0.1:[local_port];hop=1>\n" + sc.CONTACT,
                body=sc.sdp(),
                retrans=500,
            ),
            sc.receive("ACK", inner=actions(check("^ACK sip:127.0.0.1:[0-9]*;hop=1"), check("Route:.*hop=2.*callee@"))),
            taken("BYE", check("^BYE sip:127.0.0.1:[0-9]*;hop=1"), check("Route:.*hop=2.*callee@")),
        )
    ),
    "a 302 within the trunk is followed, CSeq one higher": Scene(
        scene(
            sc.receive("INVITE"),
            sc.send(
                "302 Moved Temporarily",
                more="Contact: <sip:on@elsewhere.example>;q=1.0, <sip:two@127.0.0.1:[local_port]>;q=0.5\n",
                retrans=500,
            ),
            sc.receive("ACK"),
            invited(check("^INVITE sip:two@127.0.0.1"), check("^ *2 INVITE", "CSeq"), check("To:.*555")),
            ringing(),
            answer(),
            GOODBYE,
        )
    ),
    "a 302 to somebody else is not followed": Scene(
        sc.refuse("302 Moved Temporarily", more="Contact: <sip:on@127.0.0.7:5060>\n"), ("0", "0")
    ),
    "a trunk that sends us round in circles": Scene(
        scene(
            *(
                sc.receive("INVITE")
                + sc.send(
                    "302 Moved Temporarily",
                    more=f"Contact: <sip:again{n}@127.0.0.1:[local_port]>\n",
                    retrans=500,
                )
                + sc.receive("ACK")
                for n in range(3)
            )
        ),
        ("0", "0"),
        trunk="follow_redirects = 2",
    ),
    "a redirected call that is cancelled": Scene(
        scene(
            sc.receive("INVITE"),
            sc.send("301 Moved", more="Contact: <sip:two@127.0.0.1:[local_port]>\n", retrans=500),
            sc.receive("ACK"),
            invited(),
            ringing(),
            sc.receive("CANCEL", extra='timeout="10000"', inner=actions(check("^ *2 CANCEL", "CSeq"))),
            sc.send("200 OK", sc.IN_DIALOG),
            sc.send(
                "487 Request Terminated",
                "Via: [$via]\nFrom: [$from]\nTo: [$to];tag=[pid]SIPp[call_number]\nCall-ID: [call_id]\nCSeq: [$cseq]\n",
                retrans=500,
            ),
            sc.receive("ACK"),
        ),
        ("0", "3"),
    ),
    "a 422 is followed by what it wants": Scene(
        scene(
            sc.receive("INVITE", inner=actions(check("^ *120", "Session-Expires"))),
            sc.send("422 Session Interval Too Small", more="Min-SE: 600\n", retrans=500),
            sc.receive("ACK"),
            invited(check("^ *600", "Session-Expires"), check("^ *600", "Min-SE"), check("^ *2 INVITE", "CSeq")),
            answer(),
            GOODBYE,
        ),
        trunk="session_expires = 120",
    ),
}


class SetUpTests(ScenesCase):
    def test_provisional(self) -> None:
        """What comes before the answer: reliable and plain, early media, of several telephones, and several answers."""
        _, carriers = self.play(PROVISIONAL)
        first = carriers["a reliable 183 with the answer, then a reliable 180; the 200 has no SDP"].messages()
        self.assertEqual(len(re.findall(r"^PRACK ", first, re.MULTILINE)), 2)

    def test_endings(self) -> None:
        """What comes instead of an answer, and what a CANCEL is answered with."""
        self.play(ENDINGS)

    def test_ways(self) -> None:
        """Routes, redirections, and a session that is too short."""
        self.play(ROUTES)
