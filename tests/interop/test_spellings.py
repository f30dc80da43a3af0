"""What carriers write in odd spellings, and what comes late, out of turn or more often than it should."""

from __future__ import annotations

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
from tests.interop.test_carriers import EARLY, LOGIN, UNTAGGED, by_tcp, raw, reliable

SPELLINGS = {
    "compact names": Scene(
        scene(
            invited(),
            raw(
                "200 OK",
                "v: [$via]\nf: [$from]\nt: [$to];tag=q\ni: [call_id]\nCSeq: [$cseq]\nk: timer\nx: 1800;refresher=uas\n"
                "m: <sip:callee@[local_ip]:[local_port];transport=[transport]>\nc: application/sdp\nl: [len]",
                sc.sdp(),
            ),
            sc.receive("ACK"),
            taken("BYE", check("^BYE sip:callee@")),
        )
    ),
    "names in any case, spaces and tabs": Scene(
        scene(
            invited(),
            raw(
                "200 OK",
                "VIA   : [$via]\nfrom:[$from]\nTO\t: [$to];TAG=q\ncall-id:   [call_id]\ncseq :  [$cseq]\n"
                "CONTACT : sip:callee@[local_ip]:[local_port];transport=[transport]\n"
                "CONTENT-TYPE: Application/SDP ; charset=utf-8\ncontent-length: [len]",
                sc.sdp(),
            ),
            sc.receive("ACK"),
            taken("BYE", check("^BYE sip:callee@")),
        )
    ),
    # The values that were kept begin with a space.
    "folded lines": Scene(
        scene(
            invited(),
            raw(
                "200 OK",
                "Via:\n[$via]\nFrom:\n[$from]\nTo:\n[$to];tag=q\nCall-ID: [call_id]\nCSeq:\n[$cseq]\n"
                f"{sc.CONTACT}Content-Type: application/sdp\nContent-Length: [len]",
                sc.sdp(),
            ),
            sc.receive("ACK"),
            GOODBYE,
        )
    ),
    "a Via with its parts in another order and case, a bare To": Scene(
        scene(
            invited(
                '<ereg regexp="branch=([^;]*)" search_in="hdr" header="Via:" assign_to="whole_branch,branch"/>\n',
                '<ereg regexp="[0-9.]+:[0-9]+" search_in="hdr" header="Via:" assign_to="by"/>\n',
            ),
            raw(
                "200 OK",
                'Via: SIP / 2.0 / udp  [$by] ;Received=127.0.0.1;RPORT=9;x="a;b";BRANCH=[$branch]\nFrom: [$from]\n'
                "To: sip:somebody@127.0.0.1;tag=q\nCall-ID: [call_id]\nCSeq: [$cseq]\n"
                f"{sc.CONTACT}Content-Type: application/sdp\nContent-Length: [len]",
                sc.sdp(),
            ),
            sc.receive("ACK"),
            taken("BYE", check("somebody@", "To")),
        )
    ),
    "a Contact with everything in it": Scene(
        scene(
            invited(),
            sc.send(
                "200 OK",
                tagged(),
                more='Contact: "Callee, \\"the\\" one" <sip:call%65e;phone-context=+1@127.0.0.1:[local_port];ob;'
                "alias=10.0.0.1~5060~1;fs_path=%3Csip:192.0.2.4%3Blr%3E;transport=[transport]>"
                ';+sip.instance="<urn:uuid:00>";reg-id=1;expires=3600\n',
                body=sc.sdp(),
                retrans=500,
            ),
            sc.receive(
                "ACK",
                inner=actions(check("^ACK sip:call%65e;phone-context=.1@127.0.0.1:[0-9]*;ob;alias=10.0.0.1~5060~1;fs")),
            ),
            taken("BYE", check("^BYE sip:call%65e;")),
        )
    ),
    "a Contact whose name leads nowhere": Scene(
        scene(
            invited(),
            sc.send("200 OK", tagged(), more="Contact: <sip:sbc.carrier.invalid>\n", body=sc.sdp(), retrans=500),
            sc.receive("ACK", inner=actions(check("^ACK sip:sbc.carrier.invalid SIP"))),
            GOODBYE,
        )
    ),
    "no Contact at all": Scene(
        scene(invited(), sc.send("200 OK", tagged(), body=sc.sdp(), retrans=500), sc.receive("ACK"), GOODBYE)
    ),
    "a tag of all that may be in one": Scene(
        scene(
            invited(),
            ringing(tag="a.b%20!~*_+-`'"),
            answer(tag="a.b%20!~*_+-`'"),
            taken("BYE", check("tag=a.b%20!~[*]_[+]-`'", "To")),
        )
    ),
    "no tag, as before RFC 3261": Scene(
        scene(
            invited(),
            sc.send("180 Ringing", UNTAGGED),
            sc.send("200 OK", UNTAGGED, more=sc.CONTACT, body=sc.sdp(), retrans=500),
            sc.receive("ACK"),
            GOODBYE,
        )
    ),
    "a challenge in odd words": Scene(
        scene(
            invited(),
            sc.send(
                "401 What",
                tagged(),
                more='www-AUTHENTICATE:digest   REALM="a \\"b\\", c" ,NONCE="n,=1;x",ALGORITHM="md5",'
                'QOP="auth-int , AUTH",STALE=FALSE,opaque="",domain="sip:a sip:b"\n',
                retrans=500,
            ),
            sc.receive("ACK"),
            invited(
                check('opaque=""', "Authorization"),
                check("qop=auth,", "Authorization"),
                check('nonce="n,=1;x"', "Authorization"),
            ),
            answer(),
            GOODBYE,
        ),
        trunk=LOGIN,
    ),
    "headers of six thousand octets, most of them nobody's": Scene(
        scene(
            invited(),
            answer(
                more="".join(f"X-Header-{n}: {'x' * 70}\n" for n in range(70))
                + "History-Info: <sip:x@y?Reason=SIP%3Bcause%3D302>;index=1\nUser-to-User: 00;encoding=hex\n"
                + "Require: what\nSession-Expires: soon\nMin-SE: never\n"
            ),
            GOODBYE,
        )
    ),
    "CSeq numbers at both ends": Scene(
        scene(
            invited(),
            answer(),
            asks("INFO", 0, 200, more="Content-Type: application/dtmf-relay\n", body="Signal=5\n"),
            asks("INFO", 2147483646, 200),
            sc.request("BYE", cseq="2147483647 BYE"),
            sc.expect(200),
        )
    ),
}

LATE = {
    "a 200 once more after the BYE gets its ACK": Scene(
        scene(
            invited(),
            answer(),
            GOODBYE,
            sc.send("200 OK", tagged(), more=sc.CONTACT, body=sc.sdp()),
            sc.receive("ACK", extra='timeout="3000"'),
        ),
        arguments=("-key", "rtp", "40000", "-nr"),
    ),
    "a BYE that comes before our ACK": Scene(
        scene(
            invited(),
            sc.send("200 OK", tagged(), more=sc.CONTACT, body=sc.sdp()),
            sc.request("BYE", extra=""),
            sc.receive("ACK", optional=True),
            '<recv response="200"/>\n',
        ),
        # Where SIPp pauses between the two, our ACK is there first, which it must bear.
        arguments=("-key", "rtp", "40000", "-default_behaviors", "all,-abortunexp"),
        kept={"ended_by": "callee"},
    ),
    "a 200 of another telephone after the 486: ACK, BYE": Scene(
        scene(
            invited(),
            ringing(),
            sc.send("486 Busy Here", tagged(), retrans=500),
            sc.receive("ACK"),
            sc.pause(200),
            sc.send("200 OK", tagged("second"), more=sc.CONTACT, body=sc.sdp()),
            sc.receive("ACK", inner=actions(check("second", "To"))),
            taken("BYE", check("second", "To")),
        ),
        ("0", "5"),
    ),
    "a PRACK and a BYE that nobody answers are repeated": Scene(
        scene(
            invited(),
            ringing("183 Session Progress", more=reliable(1), body=EARLY),
            sc.receive("PRACK"),
            sc.receive("PRACK"),
            answer(),
            sc.receive("PRACK", optional=True),
            taken("BYE"),
        ),
        arguments=("-key", "rtp", "40000", "-nr"),
    ),
}
"By UDP alone."


class SpellingTests(ScenesCase):
    def test_spellings(self) -> None:
        """What they write means the same in every spelling; what comes late is met as it should be."""
        self.play(SPELLINGS | LATE)

    def test_spellings_by_tcp(self) -> None:
        """The same over TCP."""
        self.play(by_tcp(SPELLINGS))
