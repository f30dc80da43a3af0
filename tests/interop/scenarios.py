"""What SIPp plays as the carrier, written as SIPp's XML. RTP goes to the port of the `rtp` key."""

from __future__ import annotations

HEAD = '<?xml version="1.0" encoding="ISO-8859-1" ?>\n<scenario name="callee">\n'
TAIL = "</scenario>\n"

ECHO = """[last_Via:]
[last_From:]
[last_To:];tag=[pid]SIPp[call_number]
[last_Call-ID:]
[last_CSeq:]
"""
IN_DIALOG = """[last_Via:]
[last_From:]
[last_To:]
[last_Call-ID:]
[last_CSeq:]
"""
ECHO_INVITE = ECHO.replace("[last_CSeq:]", "CSeq: 1 INVITE")
"For a response to the INVITE when the last request was another."
CONTACT = "Contact: <sip:callee@[local_ip]:[local_port];transport=[transport]>\n"


def receive(method: str, *, optional: bool = False, extra: str = "", inner: str = "") -> str:
    flag = ' optional="true"' if optional else ""
    return f'<recv request="{method}"{flag} {extra}>{inner}</recv>\n'


def expect(status: int, *, optional: bool = False, extra: str = "") -> str:
    flag = ' optional="true"' if optional else ""
    return f'<recv response="{status}"{flag} {extra}></recv>\n'


def send(start: str, headers: str = ECHO, *, more: str = "", body: str = "", retrans: int = 0, extra: str = "") -> str:
    repeat = f' retrans="{retrans}"' if retrans else ""
    kind = "Content-Type: application/sdp\n" if body else ""
    return f"""<send{repeat} {extra}><![CDATA[

SIP/2.0 {start}
{headers}{more}{kind}Content-Length: [len]

{body}
]]></send>
"""


def request(method: str, *, more: str = "", cseq: str = "1 BYE", body: str = "", extra: str = 'retrans="500"') -> str:
    """A request of the callee's in the dialog that it answered; a body is SDP unless `more` says what it is."""
    kind = "Content-Type: application/sdp\n" if body and "Content-Type" not in more else ""
    return f"""<send {extra}><![CDATA[

{method} [$contact] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: [$to];tag=[pid]SIPp[call_number]
To: [$from]
Call-ID: [call_id]
CSeq: {cseq}
{CONTACT}Max-Forwards: 70
{more}{kind}Content-Length: [len]

{body}
]]></send>
"""


def pause(milliseconds: int) -> str:
    return f'<pause milliseconds="{milliseconds}"/>\n'


def sdp(formats: str = "0 8 101", *, port: str = "[rtp]", address: str = "[media_ip]", more: str = "") -> str:
    return f"""v=0
o=callee 53655765 2353687637 IN IP[local_ip_type] {address}
s=-
c=IN IP[local_ip_type] {address}
t=0 0
m=audio {port} RTP/AVP {formats}
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:101 telephone-event/8000
{more}"""


KEEP_DIALOG = """<action>
<ereg regexp="&lt;(.*)&gt;" search_in="hdr" header="Contact:" assign_to="whole,contact"/>
<ereg regexp=".*" search_in="hdr" header="From:" assign_to="from"/>
<ereg regexp=".*" search_in="hdr" header="To:" assign_to="to"/>
</action>"""
REFERENCE = '<Reference variables="whole,contact,from,to"/>\n'

RINGING = send("180 Ringing", more=CONTACT)
OK = send("200 OK", more=CONTACT, body=sdp(), retrans=500)
ANSWER = receive("INVITE") + send("100 Trying", ECHO) + RINGING + pause(100) + OK + receive("ACK")
GOODBYE = receive("BYE", extra='timeout="60000"') + send("200 OK", IN_DIALOG)


def scenario(*steps: str) -> str:
    return HEAD + "".join(steps) + TAIL


def refuse(status: str, *, ringing: bool = False, more: str = "") -> str:
    """The callee refuses with this status line, after ringing or without."""
    rings = RINGING + pause(100) if ringing else ""
    return scenario(receive("INVITE"), rings, send(status, more=more, retrans=500), receive("ACK"))


def reinvite(number: int, direction: str) -> str:
    """The callee's `number`-th re-INVITE, which makes the audio "sendonly" (hold), "sendrecv" and so on."""
    return (
        request("INVITE", cseq=f"{number} INVITE", body=sdp(more=f"a={direction}\n"))
        + expect(100, optional=True)
        + expect(200)
        + request("ACK", cseq=f"{number} ACK", extra="")
    )
