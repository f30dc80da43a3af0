"""Messages that are right but look wrong, and the other way round: the points that RFC 4475 and RFC 5118 make.

The messages are our own; each case names the section whose point it is.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind import sdp
from calledind.sip.grammar import ParseError
from calledind.sip.message import Message, Request, Response, parse, response_to

BASE = {
    "Via": "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKbase",
    "Max-Forwards": "70",
    "From": "<sip:caller@example.net>;tag=f1",
    "To": "<sip:callee@example.com>",
    "Call-ID": "base@192.0.2.1",
    "CSeq": "8 OPTIONS",
}


def written(
    start: str = "OPTIONS sip:callee@example.com SIP/2.0", /, body: bytes = b"", **changed: str | None
) -> bytes:
    """A message of the headers above, some changed or (None) left out; `_` in a name stands for `-`."""
    headers = BASE | {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [start, *(f"{name}: {value}" for name, value in headers.items() if value is not None)]
    return "\r\n".join([*lines, "", ""]).encode() + body


def request(data: bytes) -> Request:
    """Parse and check what must be a request."""
    message = parse(data)
    message.check()
    assert isinstance(message, Request)
    return message


class ValidTests(SynchronousTestCase):
    """RFC 4475 §3.1.1: to be taken, and understood as they are meant."""

    def test_a_short_tortuous_invite(self) -> None:
        """§3.1.1.1: folding, escapes, compact forms, unknown headers, spaces everywhere."""
        invite = request(
            b"INVITE sip:wanda@lab-1.example.com;odd SIP/2.0\r\n"
            b"TO :\r\n sip:wanda@lab-1.example.com ;   tag    = 77aa11n\r\n"
            b'from   : "H Ruiz \\\\\\""       <sip:hugo@example.com>\r\n  ;\r\n  tag = 51kd8\r\n'
            b"MaX-fOrWaRdS: 0068\r\n"
            b"Call-ID: spaces.51@192.0.2.1\r\n"
            b"cseq: 0009\r\n  INVITE\r\n"
            b"Via  : SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=b1oldstyle\r\n"
            b"s :\r\n"
            b"Freshly-Minted:   minted value\r\n continued minted value\r\n"
            b"X-Odd: ;;,,;;,;\r\n"
            b"Route:\r\n <sip:svc.example.com;lr;other=value;bare>\r\n"
            b"v:  SIP  / 2.0  / TCP     spool.example.com   ;\r\n"
            b"  branch  =   z9hG4bKspool  ,\r\n SIP  /    2.0   / UDP  192.168.7.9   ; branch=\r\n z9hG4bKfar\r\n"
            b'm:"A quoted name \\"\\"" <sip:hugo@example.com> ; fresh =\r\n      one ;\r\n'
            b"  second ; q = 0.33\r\n\r\n"
        )
        self.assertEqual(invite.request_uri.parameters, (("odd", None),))
        self.assertEqual((invite.to.tag, invite.from_.tag), ("77aa11n", "51kd8"))
        self.assertEqual(invite.from_.display_name, 'H Ruiz \\"')
        self.assertEqual((invite.max_forwards, str(invite.cseq)), (68, "9 INVITE"))
        self.assertEqual(
            [(via.transport, via.host, via.branch) for via in invite.vias],
            [
                ("UDP", "192.0.2.2", "b1oldstyle"),
                ("TCP", "spool.example.com", "z9hG4bKspool"),
                ("UDP", "192.168.7.9", "z9hG4bKfar"),
            ],
        )
        self.assertEqual(invite.get("Subject"), "")
        self.assertEqual(invite.get("freshly-minted"), "minted value continued minted value")
        self.assertEqual(invite.get("X-Odd"), ";;,,;;,;")
        assert invite.contact is not None
        self.assertEqual(invite.contact.display_name, 'A quoted name ""')
        self.assertEqual((invite.contact.parameter("fresh"), invite.contact.parameter("q")), ("one", "0.33"))
        self.assertEqual(invite.route[0].parsed_uri.parameter("bare"), "")

    def test_a_wide_range_of_characters(self) -> None:
        """§3.1.1.2: a method, a URI, a tag and a quoted string of all that they may have."""
        method = "!All-of-Token_0123456789*+`.%so'~"
        uri = "sip:all_of.user~(as-it!may)&be's+=$/there?,/;;*:&and=1,its!*pass$wo~d_as.(it's-may)@example.com"
        message = request(
            written(
                f"{method} {uri} SIP/2.0",
                To='"BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f" <sip:bel_nul.del~(x!)@example.com>',
                From="one~` two'+_ three*%!.- <sip:plain@example.com>;odd''~+*_!.-%=\"живой\";tag=_t%ag~2'+`*!-.",
                CSeq=f"1391 {method}",
                Call_ID="call.id%ZK-!.*_+'@id`~)(><:\\/\"][?}{",
            )
        )
        self.assertEqual(message.method, method)
        self.assertEqual(message.request_uri.password, "&and=1,its!*pass$wo~d_as.(it's-may)")
        self.assertEqual(message.to.display_name, "BEL:\x07 NUL:\x00 DEL:\x7f")
        self.assertEqual(message.from_.display_name, "one~` two'+_ three*%!.-")
        self.assertEqual(message.from_.parameter("odd''~+*_!.-%"), "живой")
        self.assertEqual(message.from_.tag, "_t%ag~2'+`*!-.")
        self.assertEqual(bytes(parse(bytes(message))), bytes(message))

    def test_escapes_in_uris(self) -> None:
        """§3.1.1.3 and §3.1.1.4: an escape may stand for any octet, even none that prints."""
        message = request(written("INVITE sip:sips%3Auser%40example.com@example.net SIP/2.0", CSeq="1 INVITE"))
        self.assertEqual(
            (message.request_uri.username, message.request_uri.host), ("sips:user@example.com", "example.net")
        )
        message = request(written(From="sip:null-%00-null@example.com;tag=8"))
        self.assertEqual(message.from_.parsed_uri.username, "null-\0-null")

    def test_a_percent_sign_is_no_escape_elsewhere(self) -> None:
        """§3.1.1.5: RE%47IST%45R is a method of its own."""
        method = "RE%47IST%45R"
        message = request(
            written(f"{method} sip:registrar.example.com SIP/2.0", CSeq=f"293 {method}", To='"%Z%45" <sip:a@b>')
        )
        self.assertEqual((message.method, message.to.display_name), (method, "%Z%45"))

    def test_no_space_before_the_bracket(self) -> None:
        """§3.1.1.6."""
        self.assertEqual(request(written(From="caller<sip:caller@example.com>;tag=323")).from_.display_name, "caller")

    def test_long_values(self) -> None:
        """§3.1.1.7: lengths alone are no mistake."""
        user = "a" * 5000
        message = request(
            written(
                f"INVITE sip:{user}@example.com SIP/2.0",
                CSeq="1 INVITE",
                From=f'"{user}" <sip:{user}@example.com>;tag={user}',
                Via=", ".join(f"SIP/2.0/TCP sip{n}.example.com;branch=z9hG4bK{user}" for n in range(8)),
            )
        )
        self.assertEqual(
            (len(message.request_uri.user), len(message.from_.tag or ""), len(message.vias)), (5000, 5000, 8)
        )

    def test_octets_behind_the_body(self) -> None:
        """§3.1.1.8: a datagram's rest is ignored, even where it looks like a request."""
        self.assertEqual(request(written(Content_Length="0", body=written())).body, b"")

    def test_semicolons_before_the_at_sign(self) -> None:
        """§3.1.1.9: they belong to the user."""
        uri = request(written("OPTIONS sip:user;par=u%40example.net@example.com SIP/2.0")).request_uri
        self.assertEqual((uri.user, uri.host, uri.parameters), ("user;par=u%40example.net", "example.com", ()))

    def test_any_transport(self) -> None:
        """§3.1.1.10."""
        via = ",".join(f"SIP/2.0/{transport} h;branch=b" for transport in ("UDP", "SCTP", "TLS", "UNKNOWN", "TCP"))
        self.assertEqual(request(written(Via=via)).vias[3].transport, "UNKNOWN")

    def test_a_body_of_several_parts(self) -> None:
        """§3.1.1.11: octets are left alone, NULs and all."""
        body = b"--b\r\nContent-Type: text/plain\r\n\r\nHello\r\n--b\r\n\r\n\0\xff\r\n--b--\r\n"
        message = request(written(Content_Type="multipart/mixed;boundary=b", Content_Length=str(len(body)), body=body))
        self.assertEqual((message.body, message.content_type), (body, "multipart/mixed"))

    def test_any_phrase_or_none(self) -> None:
        """§3.1.1.12 and §3.1.1.13."""
        for phrase in ("= 2**3 * 100 + вообще", ""):
            response = parse(written(f"SIP/2.0 200 {phrase}"))
            response.check()
            assert isinstance(response, Response)
            self.assertEqual(response.phrase, phrase)


class InvalidTests(SynchronousTestCase):
    """RFC 4475 §3.1.2: to be refused, and where they are requests, with an answer."""

    def refused(self, data: bytes, status: int = 400) -> None:
        """Check that it is refused, by the parser or when it is checked, and can be answered."""

        def read() -> None:
            message = parse(data)
            message.check()
            if isinstance(message, Request):
                _ = message.request_uri, message.contacts, message.route

        error = self.assertRaises(ParseError, read)
        self.assertEqual(error.status, status)
        if error.request is not None:
            self.assertEqual(response_to(error.request, error.status).status, status)

    def test_separators_too_many(self) -> None:
        """§3.1.2.1: parameters and elements of nothing."""
        self.refused(written(Via="SIP/2.0/UDP 192.0.2.15;;,;,,"))
        self.refused(written(Contact='"Joe" <sip:joe@example.org>;;;;'))

    def test_content_length(self) -> None:
        """§3.1.2.2 and §3.1.2.3: longer than the datagram, or below nothing."""
        self.refused(written(Content_Length="9999", body=b"v=0\r\n"))
        self.refused(written(Content_Length="-999", body=b"v=0\r\n"))

    def test_numbers_too_large(self) -> None:
        """§3.1.2.4 and §3.1.2.5: in a request and in a response."""
        self.refused(written(CSeq="36893488147419103232 OPTIONS"))
        self.refused(written(Max_Forwards="300"))
        self.refused(written("SIP/2.0 200 OK", CSeq="9292394834772304023312 OPTIONS"))

    def test_a_quote_without_end(self) -> None:
        """§3.1.2.6."""
        self.refused(written(To='"U Noend <sip:u.noend@example.com>'))

    def test_brackets_round_the_request_uri(self) -> None:
        """§3.1.2.7."""
        self.refused(written("OPTIONS <sip:user@example.com> SIP/2.0"))

    def test_spaces_in_the_request_line(self) -> None:
        """§3.1.2.8, §3.1.2.9 and §3.1.2.10: inside the URI, too many between the parts, and at the end."""
        self.refused(written("OPTIONS sip:user@example.com; lr SIP/2.0"))
        self.refused(written("OPTIONS  sip:user@example.com  SIP/2.0"))
        self.refused(written("OPTIONS sip:remote-target@example.com SIP/2.0  "))

    def test_headers_in_the_request_uri(self) -> None:
        """§3.1.2.11: they can be read, and are for whoever takes the request to refuse or ignore."""
        uri = request(written("OPTIONS sip:user@example.com?Route=%3Csip:example.com%3E SIP/2.0")).request_uri
        self.assertEqual(uri.headers, (("Route", "%3Csip:example.com%3E"),))

    def test_a_bare_uri_with_headers(self) -> None:
        """§3.1.2.13: a URI with a question mark needs its brackets."""
        self.refused(written(Contact="sip:user@example.com?Route=%3Csip:sip.example.com%3E"))

    def test_spaces_inside_brackets(self) -> None:
        """§3.1.2.14: may be refused or understood; we understand."""
        self.assertEqual(
            request(written(To='"Spaces" < sip:k.spaces@example.org >')).to.uri, "sip:k.spaces@example.org"
        )

    def test_display_names_that_ought_to_be_quoted(self) -> None:
        """§3.1.2.15: the same."""
        self.assertEqual(request(written(To="Weber, Ida <sip:ida@example.com>")).to.display_name, "Weber, Ida")

    def test_another_version(self) -> None:
        """§3.1.2.16: 505."""
        self.refused(written("OPTIONS sip:k.spaces@example.org SIP/7.0"), 505)

    def test_methods_that_differ(self) -> None:
        """§3.1.2.17 and §3.1.2.18: the request line says one thing, CSeq another."""
        self.refused(written("OPTIONS sip:a@b SIP/2.0", CSeq="8 INVITE"))
        self.refused(written("NEWMETHOD sip:a@b SIP/2.0", CSeq="8 INVITE"))

    def test_a_status_too_large(self) -> None:
        """§3.1.2.19."""
        self.refused(written("SIP/2.0 4294967496 far too large"))


class MeaningTests(SynchronousTestCase):
    """RFC 4475 §3.3: well formed, and yet not to be taken as they are."""

    def test_headers_that_are_missing(self) -> None:
        """§3.3.1: Call-ID, From or To."""
        for name in ("Call-ID", "From", "To", "Via", "CSeq"):
            lines = [line for line in written().split(b"\r\n") if not line.startswith(name.encode())]
            self.assertRaises(ParseError, parse(b"\r\n".join(lines)).check)

    def test_schemes_that_nobody_knows(self) -> None:
        """§3.3.2, §3.3.3 and §3.3.4: 416 for the Request-URI; From and To may be of any."""
        for uri in ("unheard-of:opaque", "some.thing://192.0.2.103:3002"):
            message = request(written(f"OPTIONS {uri} SIP/2.0"))
            self.assertEqual(self.assertRaises(ParseError, lambda message=message: message.request_uri).status, 416)
        self.assertEqual(request(written(To="isbn:2983792873")).to.uri, "isbn:2983792873")

    def test_headers_that_are_there_twice(self) -> None:
        """§3.3.8: of From, To, Call-ID and CSeq there is one."""
        for name in ("From", "To", "Call-ID", "CSeq"):
            data = written().replace(b"\r\n\r\n", f"\r\n{name}: {BASE[name]}\r\n\r\n".encode())
            self.assertRaises(ParseError, parse(data).check)
        two = written().replace(b"\r\n\r\n", b"\r\nContent-Length: 8\r\nContent-Length: 4\r\n\r\n12345678")
        self.assertRaises(ParseError, parse, two)

    def test_a_star_among_contacts(self) -> None:
        """§3.3.12: the star stands alone or not at all."""
        message = request(written(Contact="*, <sip:user@example.org>"))
        self.assertRaises(ParseError, lambda: message.contacts)

    def test_a_request_of_the_days_before(self) -> None:
        """RFC 4475 §3.4.1: RFC 2543 knew neither branch nor tags nor Max-Forwards."""
        message = request(
            written(Via="SIP/2.0/UDP iftgw.example.com", From="<sip:+1212@example.net;user=phone>", Max_Forwards=None)
        )
        self.assertEqual((message.via.branch, message.from_.tag, message.max_forwards), (None, None, None))


class Ipv6Tests(SynchronousTestCase):
    """RFC 5118."""

    def test_references_with_brackets(self) -> None:
        """§4.1: in the Request-URI, Via and Contact."""
        message = request(
            written(
                "OPTIONS sip:[2001:db8::10] SIP/2.0",
                Via="SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bKas3",
                Contact='"Caller" <sip:caller@[2001:db8::1]>',
            )
        )
        self.assertEqual((message.request_uri.host, message.via.host), ("2001:db8::10", "2001:db8::9:1"))
        assert message.contact is not None
        self.assertEqual(message.contact.parsed_uri.host, "2001:db8::1")

    def test_references_without_brackets(self) -> None:
        """§4.2: nobody knows where the address ends."""
        self.assertRaises(ParseError, lambda: request(written("OPTIONS sip:2001:db8::10 SIP/2.0")).request_uri)

    def test_ports(self) -> None:
        """§4.3 and §4.4: what is inside the brackets is the address, what is behind them the port."""
        inside = request(written("OPTIONS sip:[2001:db8::10:5070] SIP/2.0")).request_uri
        self.assertEqual((inside.host, inside.port), ("2001:db8::10:5070", None))
        behind = request(written("OPTIONS sip:[2001:db8::10]:5070 SIP/2.0")).request_uri
        self.assertEqual((behind.host, behind.port), ("2001:db8::10", 5070))

    def test_received_with_and_without_brackets(self) -> None:
        """§4.5: both are found."""
        for received in ("[2001:db8::9:255]", "2001:db8::9:255"):
            via = request(written(Via=f"SIP/2.0/UDP [2001:db8::9:1];received={received};branch=z9hG4bKas3")).via
            self.assertEqual((via.received, via.branch), ("2001:db8::9:255", "z9hG4bKas3"))

    def test_descriptions(self) -> None:
        """§4.6 and §4.8: IPv6 and IPv4 side by side in one description."""
        description = sdp.SessionDescription.parse(
            b"v=0\r\no=- 97 0 IN IP6 2001:db8::20\r\ns=Live\r\nt=0 0\r\n"
            b"m=audio 6000 RTP/AVP 2\r\nc=IN IP6 2001:db8::20\r\nm=video 6024 RTP/AVP 107\r\nc=IN IP4 192.0.2.1\r\n"
        )
        self.assertEqual([description.connection(media) for media in description.media], ["2001:db8::20", "192.0.2.1"])

    def test_both_in_one_header(self) -> None:
        """§4.7: hops of both kinds."""
        vias = request(written(Via="SIP/2.0/UDP [2001:db8::9:1]:6050;branch=a, SIP/2.0/UDP 192.0.2.1;branch=b")).vias
        self.assertEqual([(via.host, via.port) for via in vias], [("2001:db8::9:1", 6050), ("192.0.2.1", None)])

    def test_ipv4_mapped_addresses(self) -> None:
        """§4.9: an IPv6 address like any other."""
        via = request(written(Via="SIP/2.0/UDP [::ffff:192.0.2.10]:19823;branch=z9hG4bKbh19")).via
        self.assertEqual((via.host, via.port), ("::ffff:192.0.2.10", 19823))

    def test_three_colons(self) -> None:
        """§4.10: RFC 3261's grammar has one too many; both writings are borne with and mean the same."""
        for colons in ("::", ":::"):
            message: Message = request(written(f"OPTIONS sip:user@[2001:db8{colons}192.0.2.1] SIP/2.0"))
            assert isinstance(message, Request)
            self.assertEqual(message.request_uri.host, "2001:db8::192.0.2.1")
