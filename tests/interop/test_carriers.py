"""Carriers and PBXs as they are met, each with its habits, by UDP and by TCP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tests.interop import scenarios as sc
from tests.interop.scenes import (
    GOODBYE,
    Scene,
    ScenesCase,
    actions,
    answer,
    asks,
    check,
    invited,
    ringing,
    scene,
    tagged,
    taken,
)

LOGIN = 'username = "alice"\npassword = "wonder land"'
UNTAGGED = "Via: [$via]\nFrom: [$from]\nTo: [$to]\nCall-ID: [call_id]\nCSeq: [$cseq]\n"
EARLY = sc.sdp(port="40010", more="a=ptime:20\na=maxptime:150\n")
RESUMED = sc.sdp(more="a=sendrecv\n")
TRYING = sc.send("100 Giving it a try", UNTAGGED)


def raw(start: str, headers: str, body: str = "") -> str:
    """A response with just these headers."""
    return f"<send><![CDATA[\n\nSIP/2.0 {start}\n{headers}\n\n{body}\n]]></send>\n"


def reliable(number: int) -> str:
    return f"Require: 100rel\nRSeq: {number}\n"


CARRIERS = {
    "a border controller behind two proxies: early media, then it rings, and the 200 has another codec": Scene(
        scene(
            invited(),
            TRYING,
            ringing("183 Session Progress", more="X-CallSid: CA1\nServer: Gateway\n", body=EARLY),
            ringing(),
            answer(
                more="Record-Route: <sip:127.0.0.1:[local_port];transport=[transport];lr;ftag=a;did=17.a1>,"
                "<sip:127.0.0.1:[local_port];transport=[transport];r2=on;lr=on>\n",
                body=sc.sdp("8 101", more="a=rtcp:40001\n"),
            ),
            taken("BYE", check("r2=on.*ftag=a")),
        )
    ),
    "a proxy that challenges without a qop, and its gateway with early media": Scene(
        scene(
            invited(),
            sc.send(
                "407 Proxy Authentication Required",
                tagged(),
                more='Proxy-Authenticate: Digest realm="sip.carrier.example", nonce="Y1+/x=="\n',
                retrans=500,
            ),
            sc.receive("ACK"),
            invited(check('nonce="Y1./x=="', "Proxy-Authorization")),
            TRYING,
            ringing("183 Session Progress", body=EARLY),
            answer(),
            GOODBYE,
        ),
        trunk=LOGIN,
    ),
    "a PBX that asks for an offer right after the ACK, then says who is connected": Scene(
        scene(
            invited(),
            ringing(more="Supported: 100rel, timer, replaces, norefersub\n"),
            answer(more="Supported: 100rel, timer, replaces, norefersub\n"),
            sc.request("INVITE", cseq="1 INVITE"),
            sc.expect(100, optional=True),
            f'<recv response="200">{actions(check("RTP/AVP 0 8 101"))}</recv>\n',
            sc.request("ACK", cseq="1 ACK", extra="", body=sc.sdp("8 101")),
            asks("UPDATE", 2, 200, more='P-Asserted-Identity: "Bob" <sip:bob@127.0.0.1>\n'),
            asks("OPTIONS", 3, 200),
            asks(
                "NOTIFY",
                4,
                481,
                more="Event: message-summary\nContent-Type: application/simple-message-summary\n",
                body="Messages-Waiting: no\n",
            ),
            GOODBYE,
        )
    ),
    "a switch that refreshes the session itself": Scene(
        scene(
            invited(),
            ringing("183 Session Progress", body=EARLY, more="Allow-Events: talk, hold, conference, refer\n"),
            answer(
                more="Session-Expires: 120;refresher=uas\nMin-SE: 120\nRequire: timer\n"
                'Content-Disposition: session\nRemote-Party-ID: "Outbound Call" <sip:b@127.0.0.1>;party=called\n'
            ),
            asks(
                "UPDATE",
                1,
                200,
                check("120;refresher=uac", "Session-Expires"),
                more="Supported: timer\nSession-Expires: 120;refresher=uac\n",
            ),
            GOODBYE,
        )
    ),
    "a session of four seconds, without a word on who refreshes": Scene(
        scene(
            invited(),
            answer(more="Allow: INVITE, ACK, BYE, CANCEL, UPDATE\nSession-Expires: 4\n"),
            taken("UPDATE", status="422 Session Interval Too Small", more="Min-SE: 300\n"),
            taken(
                "UPDATE",
                check("300;refresher=uac", "Session-Expires"),
                check("300", "Min-SE"),
                more="Session-Expires: 300;refresher=uac;x=y\n",
            ),
            GOODBYE,
        )
    ),
    "a mobile network: the largest RSeq there is, an UPDATE without an offer before it answers": Scene(
        scene(
            invited(),
            ringing("183 Session Progress", more=reliable(4294967295) + "P-Early-Media: sendonly\n", body=EARLY),
            taken("PRACK", check("4294967295 1 INVITE", "RAck")),
            asks("UPDATE", 1, 200, check("Content-Length: *0"), more="P-Asserted-Identity: <tel:+1212>\n"),
            answer(body=EARLY),
            GOODBYE,
        )
    ),
    "two telephones that ring reliably, each with numbers of its own": Scene(
        scene(
            invited(),
            ringing("183 Session Progress", more=reliable(10), body=EARLY, tag="a"),
            taken("PRACK", check("tag=a", "To"), check("10 1 INVITE", "RAck")),
            ringing("183 Session Progress", more=reliable(70), tag="b"),
            taken("PRACK", check("tag=b", "To"), check("70 1 INVITE", "RAck")),
            ringing(more=reliable(11), tag="a"),
            taken("PRACK", check("tag=a", "To"), check("11 1 INVITE", "RAck")),
            answer(tag="b"),
            taken("BYE", check("tag=b", "To")),
        )
    ),
    "held and let go before it answers": Scene(
        scene(
            invited(),
            ringing("183 Session Progress", more=reliable(1), body=EARLY),
            taken("PRACK"),
            asks("UPDATE", 1, 200, check("a=recvonly"), body=sc.sdp(more="a=sendonly\n")),
            asks("UPDATE", 2, 200, check("a=sendrecv"), body=RESUMED),
            sc.send("200 OK", tagged(), more=sc.CONTACT, retrans=500),
            sc.receive("ACK"),
            GOODBYE,
        )
    ),
    "challenges of every kind, one of which is ours": Scene(
        scene(
            invited(),
            sc.send(
                "401 Unauthorized",
                tagged(),
                more='WWW-Authenticate: Basic realm="x"\nWWW-Authenticate: Bearer authz_server="https://a.example"\n'
                'WWW-Authenticate: Digest realm="y", nonce="n", algorithm=SHA3-512\n'
                'WWW-Authenticate: Digest realm="y", nonce="z"\n',
                retrans=500,
            ),
            sc.receive("ACK"),
            invited(check('nonce="z"', "Authorization")),
            answer(),
            GOODBYE,
        ),
        trunk=LOGIN,
    ),
    "the answer in an early 180 alone; the 200 has none": Scene(
        scene(
            invited(),
            ringing(more=reliable(3), body=sc.sdp("8")),
            taken("PRACK", status="481 Call/Transaction Does Not Exist"),
            sc.send("200 OK", tagged(), more=sc.CONTACT, retrans=500),
            sc.receive("ACK"),
            GOODBYE,
        )
    ),
    "a gateway that offers fax: beside the audio it is refused, alone as well, and the call goes on": Scene(
        scene(
            invited(),
            answer(),
            asks("INVITE", 1, 200, check("m=image 0 udptl t38"), body=sc.sdp(more="m=image 40020 udptl t38\n")),
            asks("INVITE", 2, 488, body=sc.sdp(port="0") + "m=image 40020 udptl t38\na=T38FaxVersion:0\n"),
            GOODBYE,
        )
    ),
    "a video phone that bundles": Scene(
        scene(
            invited(),
            answer(),
            asks(
                "INVITE",
                1,
                200,
                check("m=audio [0-9]* RTP/AVP 0 *\r"),
                check("m=video 0 RTP/SAVPF"),
                body="v=0\no=- 1 9 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\na=group:BUNDLE 0 1\n"
                "m=audio [rtp] RTP/AVP 111 0\na=rtpmap:111 opus/48000/2\na=mid:0\na=rtcp-mux\n"
                "m=video 40002 RTP/SAVPF 96\na=rtpmap:96 VP8/90000\na=mid:1\n",
            ),
            GOODBYE,
        )
    ),
    "an exchange that speaks ISUP beside SDP, and says everything twice": Scene(
        scene(
            invited(),
            raw(
                "200 OK",
                tagged()
                + sc.CONTACT
                + 'Content-Type: multipart/mixed;boundary="b1;x"\nMIME-Version: 1.0\nContent-Length: [len]',
                "--b1;x\nContent-Type: application/isup;version=itu-t92+\n"
                "Content-Disposition: signal;handling=optional\n\nabc\n"
                f"--b1;x\nContent-Type: application/sdp\n\n{sc.sdp()}\n--b1;x--\n",
            ),
            sc.receive("ACK"),
            GOODBYE,
        )
    ),
    "held before the first word, then let go": Scene(
        scene(invited(), answer(body=sc.sdp(address="0.0.0.0")), asks("INVITE", 1, 200, body=RESUMED), GOODBYE)
    ),
    "it hangs up at the ACK, and says why in two ways": Scene(
        scene(
            invited(),
            answer(),
            asks("BYE", 1, 200, more='Reason: SIP;cause=200;text="Elsewhere", Q.850;cause=31;text="x"\n'),
        ),
        kept={"ended_by": "callee", "cause": "callee left", "q850": 31, "sip_status": 200},
    ),
    "a BYE that was passed on by many, and one that wants what we lack": Scene(
        scene(
            invited(),
            answer(),
            asks("BYE", 1, 420, check("x-y", "Unsupported"), more="Require: x-y\n"),
            sc.request(
                "BYE",
                cseq="2 BYE",
                more="Via: SIP/2.0/UDP a.example:5060;branch=z9hG4bK1;received=192.0.2.4, SIP/2.0/TLS c.example\n"
                "Via: SIP / 2.0 / UDP b.example ;branch=z9hG4bK3\nContent-Type: text/plain\n",
                body="hello\n",
            ),
            f'<recv response="200">{actions(check("a.example.*c.example.*b.example"))}</recv>\n',
        ),
        kept={"ended_by": "callee", "q850": None},
    ),
    "a BYE that nobody wants, and one that is challenged": Scene(
        scene(
            invited(),
            answer(),
            taken(
                "BYE",
                status="407 Proxy Authentication Required",
                more='Proxy-Authenticate: Digest realm="x", nonce="y", qop="auth"\n',
            ),
            taken("BYE", check("Digest", "Proxy-Authorization"), status="404 Not Found"),
        ),
        trunk=LOGIN,
    ),
    "a redirect server with everything in its list": Scene(
        scene(
            sc.receive("INVITE"),
            sc.send(
                "300 Multiple Choices",
                more='Contact: <tel:+1212>;q=1, <mailto:a@b>;q=0.9, "x, y" '
                "<sip:two@127.0.0.1:[local_port];transport=[transport]?X-Foo=bar>;q=0.1;expires=30\n",
                retrans=500,
            ),
            sc.receive("ACK"),
            invited(check("^INVITE sip:two@127.0.0.1")),
            answer(),
            GOODBYE,
        )
    ),
    "a redirect server that sends us back to itself": Scene(
        scene(
            sc.receive(
                "INVITE",
                inner=actions('<ereg regexp="sip:[^ ]*" search_in="msg" assign_to="uri"/>\n'),
            ),
            sc.send("302 Moved Temporarily", more="Contact: <[$uri]>\n", retrans=500),
            sc.receive("ACK"),
        ),
        ("0", "0"),
        kept={"sip_status": 302},
    ),
    "a callee that hangs up while it rings": Scene(
        scene(
            invited(),
            ringing(),
            sc.request("BYE"),
            sc.expect(200),
            sc.receive("CANCEL"),
            sc.send("200 OK", sc.IN_DIALOG),
            sc.send("487 Request Terminated", tagged(), retrans=500),
            sc.receive("ACK"),
        ),
        ("0", "1"),
    ),
    "a CANCEL that comes to nobody, and one that crosses a refusal": Scene(
        scene(
            invited(),
            TRYING,
            sc.receive("CANCEL", extra='timeout="10000"'),
            sc.send("481 Call/Transaction Does Not Exist", sc.IN_DIALOG),
            sc.send("486 Busy Here", tagged(), retrans=500),
            sc.receive("ACK"),
        ),
        ("0", "3"),
        kept={"cause": "ring timeout", "ended_by": "us", "sip_status": 486, "rang": False},
    ),
}


def by_tcp(scenes: Mapping[str, Scene]) -> dict[str, Scene]:
    return {
        name: replace(each, trunk=f'{each.trunk}\ntransport = "tcp"', arguments=(*each.arguments, "-t", "t1"))
        for name, each in scenes.items()
    }


class CarrierTests(ScenesCase):
    def test_carriers(self) -> None:
        """What carriers and PBXs do, each in its way."""
        self.play(CARRIERS)

    def test_carriers_by_tcp(self) -> None:
        """The same over TCP."""
        self.play(by_tcp(CARRIERS))
