"""Messages that are right but look wrong, and the other way round: the points that RFC 4475 and RFC 5118 make.

The messages are our own. Each says how it is read, what a trunk is answered that sends it, and, of a response,
whether the request that it is for hears of it. Whoever is no trunk is never answered.
"""

from __future__ import annotations

from dataclasses import dataclass

BASE = {
    "Via": "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKbase;rport",
    "Max-Forwards": "70",
    "From": "<sip:caller@example.net>;tag=f1",
    "To": "<sip:callee@example.com>",
    "Call-ID": "base@192.0.2.1",
    "CSeq": "8 OPTIONS",
}
PORT = b"5099"
"In a Via without rport: the port that the message comes from."


def written(
    start: str = "OPTIONS sip:callee@example.com SIP/2.0", /, body: bytes = b"", **changed: str | None
) -> bytes:
    """A message of the headers above, some changed or (None) left out; `_` in a name stands for `-`."""
    headers = BASE | {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [start, *(f"{name}: {value}" for name, value in headers.items() if value is not None)]
    return "\r\n".join([*lines, "", ""]).encode() + body


def asked(method: str, uri: str = "sip:callee@example.com", /, body: bytes = b"", **changed: str | None) -> bytes:
    """A request of another method."""
    return written(f"{method} {uri} SIP/2.0", body=body, **({"CSeq": f"8 {method}"} | changed))


def said(start: str = "SIP/2.0 200 OK", /, **changed: str | None) -> bytes:
    """A response to the OPTIONS whose branch takes the place of "ours"."""
    via = "SIP/2.0/UDP 127.0.0.1:5060;branch=ours"
    own = {"Via": via, "Max_Forwards": None, "CSeq": "1 OPTIONS"}
    return written(start, b"", **(own | changed))


def twice(name: str, value: str = "") -> bytes:
    """An OPTIONS in which one header is there once more."""
    return written().replace(b"\r\n\r\n", f"\r\n{name}: {value or BASE[name]}\r\n\r\n".encode())


def without(*names: str) -> bytes:
    return written(body=b"", **{name.replace("-", "_"): None for name in names})


@dataclass(frozen=True)
class Torture:
    point: str
    section: str
    "Of RFC 4475, or where it begins with 5118, of that; empty: what they might have said as well."
    data: bytes
    answer: int | None
    "Status of the response that a trunk gets; None: it gets none."
    refused: int | None = None
    "Status of what the parser or the check of the indispensable headers raises; None: it is read."
    heard: int | None = None
    "Of a response: the status that reaches the transaction; None: it is dropped."

    def octets(self, number: int, port: int = 5099, branch: str = "z9hG4bKnobodys") -> bytes:
        """The message with a branch and a Call-ID of its own; `branch`: what a response is for."""
        own = self.data.replace(b"base", b"base%d" % number).replace(PORT, b"%d" % port)
        return own.replace(b"branch=ours", b"branch=" + branch.encode())

    @property
    def name(self) -> str:
        return f"{self.section}: {self.point}"

    @property
    def is_ipv6(self) -> bool:
        return self.section.startswith("5118")


def broken(point: str, section: str, data: bytes, status: int = 400) -> Torture:
    """What the parser refuses, and what is answered so."""
    return Torture(point, section, data, answer=status, refused=status)


def dropped(point: str, section: str, data: bytes, refused: int | None = 400) -> Torture:
    """What is answered by nothing, and heard by nobody."""
    return Torture(point, section, data, answer=None, refused=refused)


def heard(point: str, section: str, data: bytes, status: int = 200) -> Torture:
    """A response that reaches its request."""
    return Torture(point, section, data, answer=None, heard=status)


TORTUOUS = (
    b"INVITE sip:wanda@lab-1.example.com;odd SIP/2.0\r\n"
    b"TO :\r\n sip:wanda@lab-1.example.com ;   tag    = 77aa11n\r\n"
    b'from   : "H Ruiz \\\\\\""       <sip:hugo@example.com>\r\n  ;\r\n  tag = 51kd8\r\n'
    b"MaX-fOrWaRdS: 0068\r\n"
    b"Call-ID: spaces.base@192.0.2.1\r\n"
    b"cseq: 0009\r\n  INVITE\r\n"
    b"Via  : SIP  /   2.0\r\n /UDP\r\n    192.0.2.2:5099;branch=b1oldstyle\r\n"
    b"s :\r\n"
    b"Freshly-Minted:   minted value\r\n continued minted value\r\n"
    b"X-Odd: ;;,,;;,;\r\n"
    b"Route:\r\n <sip:svc.example.com;lr;other=value;bare>\r\n"
    b"v:  SIP  / 2.0  / TCP     spool.example.com   ;\r\n"
    b"  branch  =   z9hG4bKspool  ,\r\n SIP  /    2.0   / UDP  192.168.7.9   ; branch=\r\n z9hG4bKfar\r\n"
    b'm:"A quoted name \\"\\"" <sip:hugo@example.com> ; fresh =\r\n      one ;\r\n'
    b"  second ; q = 0.33\r\n\r\n"
)
ALL_CHARACTERS = "!All-of-Token_0123456789*+`.%so'~"
"A method of all that one may have."
ALL_IN_URI = "sip:all_of.user~(as-it!may)&be's+=$/there?,/;;*:&and=1,its!*pass$wo~d_as.(it's-may)@example.com"
CHARACTERS = asked(
    ALL_CHARACTERS,
    ALL_IN_URI,
    To='"BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f" <sip:bel_nul.del~(x!)@example.com>',
    From="one~` two'+_ three*%!.- <sip:plain@example.com>;odd''~+*_!.-%=\"живой\";tag=_t%ag~2'+`*!-.",
    Call_ID="base.id%ZK-!.*_+'@id`~)(><:\\/\"][?}{",
)
LONG = "a" * 1000
SDP_IP6 = (
    b"v=0\r\no=- 97 0 IN IP6 2001:db8::20\r\ns=Live\r\nt=0 0\r\n"
    b"m=audio 6000 RTP/AVP 2\r\nc=IN IP6 2001:db8::20\r\nm=video 6024 RTP/AVP 107\r\nc=IN IP4 192.0.2.1\r\n"
)
PARTS = b"--b\r\nContent-Type: text/plain\r\n\r\nHello\r\n--b\r\n\r\n\0\xff\r\n--b--\r\n"
SDP = {"Content_Type": "application/sdp"}

VALID = (
    Torture("everything odd at once, in a dialog that isn't there", "3.1.1.1", TORTUOUS, 481),
    Torture("everything odd at once", "3.1.1.1", TORTUOUS.replace(b";   tag    = 77aa11n", b""), 403),
    Torture("all characters", "3.1.1.2", CHARACTERS, 501),
    Torture("escapes", "3.1.1.3", asked("INVITE", "sip:sips%3Auser%40example.com@example.net"), 403),
    Torture("an escaped NUL", "3.1.1.4", asked("REGISTER", From="sip:null-%00-null@example.com;tag=8"), 405),
    Torture("an escaped NUL in the Request-URI", "3.1.1.4", asked("OPTIONS", "sip:a%00b@example.com"), 200),
    Torture("a percent sign that is no escape", "3.1.1.5", asked("RE%47IST%45R", To='"%Z%45" <sip:a@b>'), 501),
    Torture("no space before the bracket", "3.1.1.6", written(From="caller<sip:caller@example.com>;tag=323"), 200),
    Torture(
        "long values",
        "3.1.1.7",
        asked(
            "INVITE",
            f"sip:{LONG}@example.com",
            From=f'"{LONG}" <sip:{LONG}@example.com>;tag={LONG}',
            Via=", ".join([BASE["Via"], *(f"SIP/2.0/TCP sip{n}.example.com;branch=z9hG4bK{LONG}" for n in range(8))]),
        ),
        403,
    ),
    Torture("a second request behind the body", "3.1.1.8", asked("REGISTER", body=written(), Content_Length="0"), 405),
    Torture("semicolons in the user part", "3.1.1.9", asked("OPTIONS", "sip:user;par=u%40example.net@b.com"), 200),
    *(
        Torture(f"transport {name}", "3.1.1.10", written(Via=f"SIP/2.0/{name} h;rport;branch=z9hG4bKbase"), 200)
        for name in ("UDP", "SCTP", "TLS", "UNKNOWN", "TCP")
    ),
    Torture(
        "a message of several parts",
        "3.1.1.11",
        asked("MESSAGE", body=PARTS, Content_Type="multipart/mixed;boundary=b", Content_Length=str(len(PARTS))),
        405,
    ),
    Torture(
        "a call of several parts",
        "3.1.1.11",
        asked("INVITE", body=PARTS, Content_Type="multipart/mixed;boundary=b", Content_Length=str(len(PARTS))),
        403,
    ),
    heard("an odd phrase", "3.1.1.12", said("SIP/2.0 200 = 2**3 * 100 + вообще")),
    heard("an empty phrase", "3.1.1.13", said("SIP/2.0 200 ")),
    heard("no phrase and no space", "3.1.1.13", said("SIP/2.0 200")),
    Torture("line feeds alone", "", written().replace(b"\r\n", b"\n"), 200),
    Torture("empty lines before it", "", b"\r\n\r\n" + written(), 200),
    Torture("a version in lower case", "", written("OPTIONS sip:callee@example.com sip/2.0"), 200),
    Torture("a sips URI", "", asked("OPTIONS", "sips:callee@example.com"), 200),
    Torture("a tel URI", "", asked("OPTIONS", "tel:+12025550199"), 200),
    Torture("the largest CSeq", "", written(CSeq="2147483647 OPTIONS"), 200),
    Torture("Latin-1", "", written(Subject="gr\xfcn").replace("ü".encode(), b"\xfc"), 200),
)
INVALID = (
    broken("separators too many in Via", "3.1.2.1", written(Via="SIP/2.0/UDP 192.0.2.15;;,;,,")),
    Torture("separators too many in Contact", "3.1.2.1", asked("INVITE", Contact="<sip:joe@example.org>;;;;"), 400),
    broken("Content-Length longer than the datagram", "3.1.2.2", written(Content_Length="9999", body=b"v=0\r\n")),
    broken("Content-Length below nothing", "3.1.2.3", written(Content_Length="-999", body=b"v=0\r\n")),
    broken("Content-Length with a sign", "3.1.2.3", written(Content_Length="+5", body=b"v=0\r\n")),
    broken("CSeq far too large", "3.1.2.4", written(CSeq="36893488147419103232 OPTIONS")),
    broken("CSeq too large by one", "3.1.2.4", written(CSeq="2147483648 OPTIONS")),
    broken("Max-Forwards too large", "3.1.2.4", written(Max_Forwards="300")),
    Torture("Expires too large", "3.1.2.4", asked("REGISTER", Expires="10000000000000000000000000000000"), 405),
    dropped("a response's CSeq too large", "3.1.2.5", said(CSeq="9292394834772304023312 OPTIONS")),
    heard("Retry-After too large", "3.1.2.5", said("SIP/2.0 503 No", Retry_After="94930283850302834930"), 503),
    broken("a quote without end", "3.1.2.6", written(To='"U Noend <sip:u.noend@example.com>')),
    broken("brackets round the Request-URI", "3.1.2.7", asked("OPTIONS", "<sip:user@example.com>")),
    broken("a space in the Request-URI", "3.1.2.8", asked("OPTIONS", "sip:user@example.com; lr")),
    broken("two spaces in the request line", "3.1.2.9", written("OPTIONS  sip:user@example.com  SIP/2.0")),
    broken("spaces behind the request line", "3.1.2.10", written("OPTIONS sip:user@example.com SIP/2.0  ")),
    Torture("headers in the Request-URI", "3.1.2.11", asked("INVITE", "sip:u@b.com?Route=%3Csip:b.com%3E"), 403),
    Torture("another time zone than GMT", "3.1.2.12", asked("INVITE", Date="Fri, 01 Jan 2010 16:00:00 EST"), 403),
    Torture("a bare URI with headers", "3.1.2.13", asked("REGISTER", Contact="sip:u@b.com?Route=%3Csip:c.com%3E"), 405),
    Torture(
        "a caller's bare URI with headers",
        "3.1.2.13",
        asked("INVITE", Contact="sip:u@b.com?Route=%3Csip:c.com%3E"),
        400,
    ),
    Torture("spaces inside the brackets", "3.1.2.14", written(To='"Spaces" < sip:k.spaces@example.org >'), 200),
    Torture("a name that ought to be quoted", "3.1.2.15", written(To="Weber, Ida <sip:ida@example.com>"), 200),
    broken("another version", "3.1.2.16", written("OPTIONS sip:callee@example.com SIP/7.0"), 505),
    dropped("a response of another version", "3.1.2.16", said("SIP/7.0 200 OK")),
    broken("CSeq of another method", "3.1.2.17", written(CSeq="8 INVITE")),
    broken("CSeq of another method than an unknown one", "3.1.2.18", asked("NEWMETHOD", CSeq="8 INVITE")),
    dropped("a status far too large", "3.1.2.19", said("SIP/2.0 4294967496 far too large")),
    dropped("a status too large by one", "3.1.2.19", said("SIP/2.0 700 Beyond")),
    dropped("a status too small", "3.1.2.19", said("SIP/2.0 099 Below")),
    broken("a header line without a colon", "", written().replace(b"Max-Forwards:", b"Max-Forwards")),
    broken("a header's name with a space", "", written().replace(b"Max-Forwards:", b"Max Forwards:")),
    broken("a second address in From", "", written(From="<sip:a@b>;tag=1, <sip:c@d>;tag=2")),
    broken("no number in Max-Forwards", "", written(Max_Forwards="many")),
    broken("an empty Call-ID", "", written(Call_ID="")),
    dropped("a CR without its LF", "", written(Subject="a\rb")),
    dropped("no end of the headers", "", written().removesuffix(b"\r\n")),
    dropped("too many header lines", "", written().replace(b"\r\n\r\n", b"\r\n" + b"A:\r\n" * 600 + b"\r\n"), 513),
    dropped("octets of nothing", "", bytes(range(1, 256))),
    dropped("an ACK that is broken", "", asked("ACK", CSeq="8 INVITE")),
)
TRANSACTION = (
    Torture("a branch that is only a cookie", "3.2.1", written(Via="SIP/2.0/UDP h;rport;branch=z9hG4bK"), 200),
    Torture("and once more in another call", "3.2.1", written(Via="SIP/2.0/UDP h;rport;branch=z9hG4bK"), 200),
    heard("a response as it should be", "", said()),
    heard("a response without To tag", "", said("SIP/2.0 404 Not Found"), 404),
    heard("a response that came by way of nonsense", "", said(Via="SIP/2.0/UDP a;branch=ours;received=?;rport=x")),
    dropped("a response to nobody's branch", "", said(Via="SIP/2.0/UDP a;branch=z9hG4bKother"), None),
    dropped("a response to another method", "", said(CSeq="1 INVITE"), None),
    dropped("a response without CSeq", "", said(CSeq=None)),
    dropped("a response without Via", "", said(Via=None)),
)
MEANING = (
    *(broken(f"{name} is missing", "3.3.1", without(name)) for name in ("Call-ID", "From", "To", "CSeq")),
    broken("much is missing", "3.3.1", without("Call-ID", "From", "To")),
    dropped("Via is missing", "3.3.1", without("Via")),
    Torture("Max-Forwards is missing", "3.3.1", without("Max-Forwards"), 200),
    Torture("a scheme that nobody knows", "3.3.2", asked("OPTIONS", "unheard-of:opaque"), 416),
    Torture("a scheme of something else", "3.3.3", asked("OPTIONS", "some.thing://192.0.2.103:3002"), 416),
    Torture("a scheme that nobody knows, of a call", "3.3.2", asked("INVITE", "unheard-of:opaque"), 416),
    Torture(
        "other schemes in From and To", "3.3.4", written(To="isbn:2983792873", From="<http://a.example>;tag=1"), 200
    ),
    *(
        Torture(
            f"extensions that nobody has, in an {method}",
            "3.3.5",
            asked(method, Require="nothing, either", Proxy_Require="no"),
            420,
        )
        for method in ("OPTIONS", "INVITE")
    ),
    Torture("a kind of body that nobody knows", "3.3.6", asked("INVITE", body=b"<a/>", Content_Type="x/unknown"), 415),
    Torture("a body that is packed", "3.3.6", asked("INVITE", body=b"\x1f\x8b", Content_Encoding="gzip", **SDP), 415),
    Torture("authorization that nobody knows", "3.3.7", asked("REGISTER", Authorization="Unheard opaque=1"), 405),
    Torture("authorization that nobody needs", "3.3.7", written(Authorization="Unheard opaque=1"), 200),
    *(broken(f"{name} is there twice", "3.3.8", twice(name)) for name in ("From", "To", "Call-ID", "CSeq")),
    broken("Max-Forwards is there twice", "3.3.8", twice("Max-Forwards", "5")),
    broken("two Content-Lengths", "3.3.9", twice("Content-Length", "8\r\nContent-Length: 4")),
    dropped(
        "a response for everybody behind us",
        "3.3.10",
        said(Via="SIP/2.0/UDP 127.0.0.1:5060;branch=ours, SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1"),
        None,
    ),
    Torture("Max-Forwards of nothing, at its end", "3.3.11", written(Max_Forwards="0"), 200),
    Torture("a parameter of Contact", "3.3.12", asked("REGISTER", Contact="<sip:a@b>;unheard"), 405),
    Torture("a parameter of Contact's URI", "3.3.13", asked("REGISTER", Contact="<sip:a@b;unheard>"), 405),
    Torture("headers in Contact's URI", "3.3.14", asked("REGISTER", Contact="<sip:a@b?Route=%3Csip:c%3E>"), 405),
    Torture("a star among the Contacts", "3.3.12", asked("INVITE", Contact="*, <sip:user@example.org>"), 400),
    Torture("no kind of answer is acceptable", "3.3.15", asked("INVITE", Accept="text/nobody-knows-this"), 406),
    Torture(
        "a call of the days before",
        "3.4.1",
        asked("INVITE", From="<sip:a@b;user=phone>", Max_Forwards=None, Via="SIP/2.0/UDP iftgw.example.com:5099"),
        403,
    ),
    *(Torture(f"{name} of nothing", "", asked(name), 481) for name in ("BYE", "CANCEL", "INFO", "PRACK", "UPDATE")),
    *(
        Torture(f"{name}, which nobody serves", "", asked(name), 405)
        for name in ("REGISTER", "SUBSCRIBE", "MESSAGE", "REFER", "PUBLISH")
    ),
    Torture("NOTIFY of nothing", "", asked("NOTIFY"), 481),
    Torture("a method in lower case is another", "", asked("options"), 501),
    Torture("a dialog that isn't there", "", written(To="<sip:callee@example.com>;tag=gone"), 481),
    Torture("a Route that can't be read", "", written(Route="<sip:a"), 400),
    dropped("an ACK of nothing", "", asked("ACK"), None),
)
IPV6 = (
    Torture(
        "references with brackets",
        "5118 4.1",
        asked(
            "OPTIONS",
            "sip:[2001:db8::10]",
            Via="SIP/2.0/UDP [2001:db8::9:1];rport;branch=z9hG4bKbase",
            Contact='"Caller" <sip:caller@[2001:db8::1]>',
        ),
        200,
    ),
    Torture("no brackets in the Request-URI", "5118 4.2", asked("OPTIONS", "sip:2001:db8::10"), 400),
    broken("no brackets in Via", "5118 4.2", written(Via="SIP/2.0/UDP 2001:db8::9:1;rport;branch=z9hG4bKbase")),
    Torture("what may look like a port", "5118 4.3", asked("OPTIONS", "sip:[2001:db8::10:5070]"), 200),
    Torture("a port", "5118 4.4", asked("OPTIONS", "sip:[2001:db8::10]:5070"), 200),
    *(
        Torture(
            f"received={received}",
            "5118 4.5",
            asked("BYE", Via=f"{BASE['Via']}, SIP/2.0/UDP [2001:db8::9:1];received={received};branch=z9hG4bKas3"),
            481,
        )
        for received in ("[2001:db8::9:255]", "2001:db8::9:255")
    ),
    *(
        heard(
            f"a response's received={received}",
            "5118 4.5",
            said(Via=f"SIP/2.0/UDP [::1];received={received};branch=ours"),
        )
        for received in ("[2001:db8::9:255]", "2001:db8::9:255")
    ),
    Torture("both families in one description", "5118 4.6", asked("INVITE", body=SDP_IP6, **SDP), 403),
    Torture(
        "both families in one way back",
        "5118 4.7",
        written(Via=f"SIP/2.0/UDP [2001:db8::9:1]:6050;rport;branch=z9hG4bKbase, {BASE['Via']}"),
        200,
    ),
    Torture(
        "IPv4 inside IPv6",
        "5118 4.9",
        asked(
            "INVITE",
            Via="SIP/2.0/UDP [::ffff:192.0.2.10]:19823;rport;branch=z9hG4bKbase",
            Contact="<sip:a@[::ffff:192.0.2.10]:19823>",
        ),
        403,
    ),
    Torture("three colons", "5118 4.10", asked("OPTIONS", "sip:user@[2001:db8:::192.0.2.1]"), 200),
    Torture("two colons", "5118 4.10", asked("OPTIONS", "sip:user@[2001:db8::192.0.2.1]"), 200),
    Torture("a bracket without end", "5118 4.2", asked("OPTIONS", "sip:user@[2001:db8::1"), 400),
    Torture("a zone", "5118 4.1", asked("OPTIONS", "sip:user@[fe80::1%25eth0]"), 400),
)
TABLE = (*VALID, *INVALID, *TRANSACTION, *MEANING, *IPV6)
