"""Messages, read and written."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.sip.grammar import ParseError
from calledind.sip.message import LONGEST, MOST_HEADERS, PHRASES, Request, Response, parse, response_to

INVITE = (
    b"INVITE sip:+12125550100@carrier.example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bKabc, SIP/2.0/UDP pbx1;branch=z9hG4bKdef\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.3;branch=z9hG4bKghi\r\n"
    b"Max-Forwards: 70\r\n"
    b'From: "Alice" <sip:alice@192.0.2.1>;tag=9f8e\r\n'
    b"To: <sip:+12125550100@carrier.example.com>\r\n"
    b"Call-ID: 0192@192.0.2.1\r\n"
    b"CSeq: 7 INVITE\r\n"
    b"Contact: <sip:alice@192.0.2.1:5060>\r\n"
    b"Record-Route: <sip:p1;lr>, <sip:p2;lr>\r\n"
    b"Record-Route: <sip:p3;lr>\r\n"
    b"Content-Type: Application/SDP;charset=utf-8\r\n"
    b"Content-Length: 5\r\n"
    b"\r\n"
    b"v=0\r\n"
)


def request(data: bytes) -> Request:
    """Parse what must be a request."""
    message = parse(data)
    assert isinstance(message, Request)
    return message


def with_headers(*lines: str) -> Request:
    """A request that has these header lines and no others."""
    return request("\r\n".join(["OPTIONS sip:a@b SIP/2.0", *lines, "", ""]).encode())


class RequestTests(SynchronousTestCase):
    def test_the_parts_of_a_request(self) -> None:
        """The start line, the headers that a user agent reads, and the body."""
        invite = request(INVITE)
        self.assertEqual((invite.method, invite.uri), ("INVITE", "sip:+12125550100@carrier.example.com"))
        self.assertEqual(invite.request_uri.user, "+12125550100")
        self.assertIs(invite.request_uri, invite.request_uri)
        self.assertEqual(invite.via.branch, "z9hG4bKabc")
        self.assertEqual([via.branch for via in invite.vias], ["z9hG4bKabc", "z9hG4bKdef", "z9hG4bKghi"])
        self.assertEqual((invite.from_.display_name, invite.from_.tag, invite.to.tag), ("Alice", "9f8e", None))
        self.assertEqual((invite.call_id, str(invite.cseq), invite.max_forwards), ("0192@192.0.2.1", "7 INVITE", 70))
        self.assertEqual([route.uri for route in invite.record_route], ["sip:p1;lr", "sip:p2;lr", "sip:p3;lr"])
        self.assertEqual(invite.route, ())
        assert invite.contact is not None
        self.assertEqual(invite.contact.uri, "sip:alice@192.0.2.1:5060")
        self.assertEqual(invite.content_type, "application/sdp")
        self.assertEqual(invite.body, b"v=0\r\n")
        self.assertEqual(repr(invite), "<Request INVITE>")
        invite.check()

    def test_it_is_written_as_it_came(self) -> None:
        """Reading and writing changes nothing."""
        self.assertEqual(bytes(parse(INVITE)), INVITE)

    def test_headers_are_found_in_any_case_and_compact(self) -> None:
        """`get` gives the first line, `all` every line as written, `values` every element."""
        invite = request(INVITE)
        for name in ("record-route", "Record-Route", "RECORD-ROUTE"):
            self.assertEqual(invite.all(name), ["<sip:p1;lr>, <sip:p2;lr>", "<sip:p3;lr>"])
        self.assertEqual(invite.get("i"), "0192@192.0.2.1")
        self.assertEqual(invite.values("RECORD-route"), ["<sip:p1;lr>", "<sip:p2;lr>", "<sip:p3;lr>"])
        self.assertIsNone(invite.get("X-None"))
        self.assertEqual((invite.all("X-None"), invite.values("X-None")), ([], []))

    def test_the_source_is_noted_in_the_topmost_via(self) -> None:
        """The other elements of the same line, and the other lines, stay."""
        noted = request(INVITE).received_from(("192.0.2.9", 4000))
        self.assertEqual(
            noted.all("Via"),
            [
                "SIP/2.0/UDP 192.0.2.1:5060;rport=4000;branch=z9hG4bKabc;received=192.0.2.9, "
                "SIP/2.0/UDP pbx1;branch=z9hG4bKdef",
                "SIP/2.0/UDP 192.0.2.3;branch=z9hG4bKghi",
            ],
        )
        self.assertEqual((noted.body, noted.get("CSeq")), (b"v=0\r\n", "7 INVITE"))
        noted = with_headers("v: ,", "v: SIP/2.0/UDP h").received_from(("192.0.2.9", 4000))
        self.assertEqual(noted.all("Via"), [",", "SIP/2.0/UDP h;received=192.0.2.9"])

    def test_max_forwards_may_be_missing(self) -> None:
        """Requests of the days before RFC 3261 have none."""
        self.assertIsNone(with_headers().max_forwards)
        self.assertRaises(ParseError, lambda: with_headers("Max-Forwards: 256").max_forwards)

    def test_contacts(self) -> None:
        """The star of a REGISTER is no address."""
        self.assertEqual(with_headers("m: *").contacts, ())
        self.assertIsNone(with_headers("m: *").contact)
        self.assertIsNone(with_headers().contact)
        self.assertEqual(len(with_headers('m: "a,b" <sip:a,b@c>, sip:d@e').contacts), 2)
        self.assertRaises(ParseError, lambda: with_headers("m: sip:a@b, *").contact)


class ResponseTests(SynchronousTestCase):
    def test_the_parts_of_a_response(self) -> None:
        """Status and phrase; the phrase may be anything, or missing."""
        for line, status, phrase in (
            ("SIP/2.0 200 OK", 200, "OK"),
            ("sip/2.0 486 Busy  Here ", 486, "Busy  Here "),
            ("SIP/2.0 100 ", 100, ""),
            ("SIP/2.0 100", 100, ""),
            ("SIP/2.0 699 = 2**3 * 100 - 101 вопрос", 699, "= 2**3 * 100 - 101 вопрос"),
        ):
            response = parse(f"{line}\r\n\r\n".encode())
            assert isinstance(response, Response)
            self.assertEqual((response.status, response.phrase), (status, phrase))
        self.assertEqual(repr(response), "<Response 699>")

    def test_broken_status_lines_are_refused(self) -> None:
        """Another version, or a status that isn't one."""
        for line in (
            *("SIP/2.0", "SIP/2.0 ", "SIP/2.0 20 OK", "SIP/2.0 2000 OK", "SIP/2.0 099 x", "SIP/2.0 700 x"),
            *("SIP/7.0 200 OK", "SIP/2.0  200 OK", "SIP/2.0 1a0 OK", "SIP/2.0 1²0 OK", "SIP/2.0 -10 OK"),
        ):
            error = self.assertRaises(ParseError, parse, f"{line}\r\n\r\n".encode())
            self.assertIsNone(error.request)

    def test_what_is_only_good_to_know_is_never_an_error(self) -> None:
        """Reason, Retry-After and Content-Type are None where they can't be read."""
        for lines, cause in (
            (('Reason: SIP;cause=486, Q.850;cause=17;text="busy"',), 17),
            (("Reason: q.850;cause=34",), 34),
            (("Reason: Q.850;cause=x", "Reason: Q.850;cause=19"), 19),
            (('Reason: "', "Reason: Q.850"), None),
            ((), None),
        ):
            self.assertEqual(with_headers(*lines).reason_q850, cause)
        for line, seconds in (
            ("Retry-After: 18000;duration=3600", 18000),
            ("Retry-After: 120 (I'm in a meeting)", 120),
            ("Retry-After: soon", None),
            ("Retry-After: 99999999999", None),
            ("X-Other: 1", None),
        ):
            self.assertEqual(with_headers(line).retry_after, seconds)
        for line, kind in (
            ("c: application / SDP ; x=y", "application/sdp"),
            ("c: sdp", None),
            ("c: a b/c", None),
            ("c: /sdp", None),
            ("X-Other: 1", None),
        ):
            self.assertEqual(with_headers(line).content_type, kind)


class ToleranceTests(SynchronousTestCase):
    def test_compact_forms_spaces_and_folding(self) -> None:
        """The same headers in the writings that are found in the wild."""
        message = request(
            b"\r\n\r\nOPTIONS sip:a@b SIP/2.0\r\n"
            b"v \t:  SIP/2.0/UDP\r\n\thost;branch=z9hG4bKx\r\n"
            b"f:sip:a@b\r\n  ;tag=1 \r\n"
            b"X-Long: a\r\n b\r\n\r\n"
        )
        self.assertEqual(message.headers[0], ("Via", "SIP/2.0/UDP host;branch=z9hG4bKx"))
        self.assertEqual((message.via.host, message.from_.tag, message.get("x-long")), ("host", "1", "a b"))

    def test_line_feeds_alone_end_lines(self) -> None:
        """With or without their CR, also mixed; the body is left alone."""
        for data in (
            INVITE.replace(b"\r\n", b"\n").replace(b"v=0\n", b"v=0\r\n"),
            INVITE.replace(b"\r\n", b"\n", 3),
            INVITE.replace(b"\r\n\r\nv=0", b"\r\n\nv=0"),
            INVITE.replace(b"\r\n\r\nv=0", b"\n\r\nv=0"),
        ):
            message = request(data)
            self.assertEqual(message.headers, parse(INVITE).headers)
            self.assertEqual(message.body.strip(), b"v=0")

    def test_the_first_empty_line_ends_the_headers(self) -> None:
        """An empty line of another kind in the body doesn't end them a second time."""
        message = request(b"OPTIONS sip:a@b SIP/2.0\nSubject: 1\n\nY: 2\r\n\r\n")
        self.assertEqual((message.headers, message.body), ([("Subject", "1")], b"Y: 2\r\n\r\n"))

    def test_latin_1_is_read_and_goes_back_as_it_came(self) -> None:
        """A name that isn't UTF-8 loses no call."""
        data = b'OPTIONS sip:a@b SIP/2.0\r\nFrom: "Zo\xeb\xa0" <sip:z@b>\r\nTo: <sip:a@b>\r\nContent-Length: 0\r\n\r\n'
        message = request(data)
        self.assertEqual(message.from_.display_name, "Zoë\xa0")
        self.assertEqual(bytes(message), data)
        self.assertIn(b'From: "Zo\xeb\xa0" <sip:z@b>\r\n', bytes(response_to(message, 200)))
        self.assertIn(b"Subject: Zo\xc3\xab \xd0\xb2", bytes(response_to(message, 200, headers=[("Subject", "Zoë в")])))

    def test_content_length(self) -> None:
        """What is beyond it is no part of the message; without it the datagram's end is the body's."""
        head = b"OPTIONS sip:a@b SIP/2.0\r\n"
        self.assertEqual(parse(head + b"l: 2\r\n\r\nabc").body, b"ab")
        self.assertEqual(parse(head + b"l: 2\r\nContent-Length: 2\r\n\r\nabc").body, b"ab")
        self.assertEqual(parse(head + b"\r\nabc").body, b"abc")


class RefusalTests(SynchronousTestCase):
    def refused(self, data: bytes) -> ParseError:
        """Parse what must not be taken."""
        error: ParseError = self.assertRaises(ParseError, parse, data)
        return error

    def test_what_is_no_message(self) -> None:
        """Nothing that could be answered."""
        for data in (
            *(b"", b"\r\n\r\n", b"\0\0\0\0", b"hello", b"\xff" * 100, b"OPTIONS sip:a@b SIP/2.0\r\nX: 1\r\n"),
            *(
                b"\r\n\r\n\r\nx",
                b"GET / HTTP/1.1\r\n\r\n",
                b"OPTIONS sip:a@b\r\n\r\n",
                b" OPTIONS sip:a@b SIP/2.0\r\n\r\n",
            ),
            *(b"IN<VITE sip:a@b SIP/2.0\r\n\r\n", b"X: 1\r\n\r\n", INVITE.replace(b"Via:", b" Via:", 1)),
        ):
            error = self.refused(data)
            self.assertEqual((error.status, error.request), (400, None))

    def test_a_lone_cr_is_refused(self) -> None:
        """What one reader takes for a space, another takes for a line's end."""
        for data in (
            b"OPTIONS sip:a@b SIP/2.0\r\nX: 1\rY: 2\r\n\r\n",
            b"OPTIONS sip:a@b SIP/2.0\nX: 1\rY: 2\n\n",
            b"OPTIONS sip:a@b SIP/2.0\r\r\nX: 1\r\n\r\n",
            b"OPTIONS sip:a@b SIP/2.0\nX: 1\r\r\n\n",
        ):
            self.refused(data)

    def test_a_broken_request_can_be_answered(self) -> None:
        """The error carries the request as far as it could be read."""
        for spoilt in (
            INVITE.replace(b"Max-Forwards: 70", b"Max-Forwards 70"),
            INVITE.replace(b"Max-Forwards: 70", b"Max Forwards: 70"),
            INVITE.replace(b"Content-Length: 5", b"Content-Length: 6"),
            INVITE.replace(b"Content-Length: 5", b"Content-Length: -5"),
            INVITE.replace(b"Content-Length: 5", b"Content-Length: 5\r\nl: 4"),
            INVITE.replace(b"Content-Length: 5", b"Content-Length: " + b"9" * 5000),
            INVITE.replace(b"INVITE sip:+", b"INVITE  sip:+", 1),
            INVITE.replace(b"com SIP/2.0", b"com  SIP/2.0", 1),
            INVITE.replace(b"INVITE sip:+12125550100@carrier.example.com ", b"INVITE <sip:a@b> ", 1),
            INVITE.replace(b"sip:+12125550100@carrier.example.com S", b"S", 1),
        ):
            error = self.refused(spoilt)
            assert error.request is not None
            answer = response_to(error.request, error.status, to_tag="t")
            self.assertEqual((answer.status, answer.phrase, answer.get("CSeq")), (400, "Bad Request", "7 INVITE"))
            self.assertEqual(answer.to.tag, "t")

    def test_a_broken_response_is_not_answered(self) -> None:
        """Errors of responses carry no request."""
        self.assertIsNone(self.refused(b"SIP/2.0 200 OK\r\nl: 9\r\n\r\n").request)

    def test_another_version_is_answered_with_505(self) -> None:
        """A request of another version is told so."""
        error = self.refused(INVITE.replace(b"SIP/2.0\r\n", b"SIP/7.0\r\n", 1))
        self.assertEqual(error.status, 505)
        assert error.request is not None
        self.assertEqual(error.request.call_id, "0192@192.0.2.1")

    def test_bounds(self) -> None:
        """Messages of more octets or header lines than anyone needs are refused."""
        self.assertEqual(self.refused(b"x" * (LONGEST + 1)).status, 513)
        most = b"OPTIONS sip:a@b SIP/2.0\r\n" + b"X: 1\r\n" * MOST_HEADERS
        self.assertEqual(len(parse(most + b"\r\n").headers), MOST_HEADERS)
        self.assertEqual(self.refused(most + b"X: 1\r\n\r\n").status, 513)

    def test_check_wants_the_headers_that_every_message_has(self) -> None:
        """Each of them once, readable, and CSeq of the method of the request."""
        lines = INVITE.decode().split("\r\n")[1:-4]
        for index, line in enumerate(lines):
            rest = "\r\n".join(["INVITE sip:a@b SIP/2.0", *lines[:index], *lines[index + 1 :], "", ""]).encode()
            if line.startswith(("From", "To", "Call-ID", "CSeq")):
                self.assertRaises(ParseError, parse(rest).check)
                name = line.partition(":")[0].encode()
                self.assertRaises(
                    ParseError, parse(INVITE.replace(name, b"X: y\r\n" + line.encode() + b"\r\n" + name)).check
                )
            else:
                parse(rest).check()
        for good, bad in (
            (b"CSeq: 7 INVITE", b"CSeq: 7 OPTIONS"),
            (b"CSeq: 7 INVITE", b"CSeq: 2147483648 INVITE"),
            (b"Call-ID: 0192@192.0.2.1", b"Call-ID: a b"),
            (b"Call-ID: 0192@192.0.2.1", b"Call-ID:"),
            (b"Max-Forwards: 70", b"Max-Forwards: 300"),
            (b";tag=9f8e", b";tag="),
            (b"SIP/2.0/UDP pbx1", b'SIP/2.0/UDP "'),
        ):
            self.assertRaises(ParseError, parse(INVITE.replace(good, bad)).check)
        self.assertRaises(ParseError, with_headers("f: sip:a@b", "t: sip:a@b", "i: x", "CSeq: 1 OPTIONS").check)
        self.assertRaises(ParseError, lambda: with_headers().via)
        self.assertRaises(ParseError, lambda: with_headers("v: ,,").via)
        self.assertRaises(ParseError, parse(b"SIP/2.0 200 OK\r\n\r\n").check)


class WritingTests(SynchronousTestCase):
    def test_a_request_of_ours(self) -> None:
        """Names are brought to their usual spelling, Content-Length is computed."""
        ours = Request("BYE", "sip:a@b", [("v", "SIP/2.0/UDP h"), ("content-length", "99")], b"abc")
        self.assertEqual(bytes(ours), b"BYE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nContent-Length: 3\r\n\r\nabc")
        self.assertEqual(ours.via.host, "h")

    def test_nothing_is_injected(self) -> None:
        """A line end in anything that we write is our mistake, and loud."""
        for message in (
            Request("BYE", "sip:a@b", [("Subject", "a\r\nTo: b")]),
            Request("BYE", "sip:a@b", [("Subject", "a\nTo: b")]),
            Request("BYE", "sip:a@b", [("Subject", "a\r")]),
            Request("BYE", "sip:a@b\r\nTo:", []),
            Request("BYE", "sip:a@b SIP/2.0", []),
            Request("B YE", "sip:a@b", []),
            Request("BYE", "", []),
            Response(200, "OK\r\nTo: b", []),
        ):
            self.assertRaises(ValueError, message.serialise)
        self.assertRaises(ValueError, Request, "BYE", "sip:a@b", [("Sub:ject", "a")])

    def test_a_response_copies_what_it_must(self) -> None:
        """Every Via, From, To with our tag, Call-ID and CSeq, then what is added."""
        response = response_to(request(INVITE), 180, to_tag="x", headers=[("Contact", "<sip:c>")], body=b"b")
        self.assertEqual(
            bytes(response),
            b"SIP/2.0 180 Ringing\r\n"
            b"Via: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bKabc, SIP/2.0/UDP pbx1;branch=z9hG4bKdef\r\n"
            b"Via: SIP/2.0/UDP 192.0.2.3;branch=z9hG4bKghi\r\n"
            b'From: "Alice" <sip:alice@192.0.2.1>;tag=9f8e\r\n'
            b"To: <sip:+12125550100@carrier.example.com>;tag=x\r\n"
            b"Call-ID: 0192@192.0.2.1\r\n"
            b"CSeq: 7 INVITE\r\n"
            b"Contact: <sip:c>\r\n"
            b"Content-Length: 1\r\n\r\nb",
        )

    def test_a_tag_is_never_put_twice(self) -> None:
        """A To with a tag, or one that can't be read, goes back as it came."""
        for to in ("<sip:a@b>;tag=old", '"broken'):
            self.assertEqual(response_to(with_headers(f"To: {to}"), 200, to_tag="new").get("To"), to)
        self.assertEqual(response_to(with_headers("To: sip:a@b"), 200).get("To"), "sip:a@b")
        self.assertEqual(response_to(with_headers("To: sip:a@b"), 200, to_tag="n").to.tag, "n")

    def test_phrases(self) -> None:
        """The usual one unless another is given; none for a status that nobody knows."""
        options = with_headers()
        self.assertEqual(response_to(options, 486).phrase, "Busy Here")
        self.assertEqual(response_to(options, 486, "No").phrase, "No")
        self.assertEqual(response_to(options, 299).phrase, "")
        self.assertEqual(PHRASES[200], "OK")

    def test_timestamp_goes_back_with_100_only(self) -> None:
        """The sender measures its round trip by the first answer."""
        options = with_headers("Timestamp: 54")
        self.assertEqual(response_to(options, 100).get("Timestamp"), "54")
        self.assertIsNone(response_to(options, 200).get("Timestamp"))

    def test_only_written_by_its_kinds(self) -> None:
        """What requests and responses share can't be written by itself."""
        from calledind.sip.message import Message

        self.assertRaises(NotImplementedError, bytes, Message([], b""))


token = st.text("abcXYZ019-.!%*_+`'~", min_size=1)
value = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])).map(lambda text: text.strip(" \t"))
headers = st.lists(st.tuples(token.filter(lambda name: len(name) > 1), value), max_size=6)


class RoundTripTests(SynchronousTestCase):
    @settings(deadline=None, derandomize=True)
    @given(token, headers, st.binary(max_size=40))
    def test_requests_are_read_back(self, method: str, headers: list[tuple[str, str]], body: bytes) -> None:
        """Whatever values are written come back, header by header."""
        sent = Request(method, "sip:a@b", headers, body)
        read = request(bytes(sent))
        self.assertEqual((read.method, read.uri, read.body), (method, "sip:a@b", body))
        self.assertEqual(read.headers[:-1], sent.headers)
        self.assertEqual(bytes(read), bytes(sent))

    @settings(deadline=None, derandomize=True)
    @given(st.integers(100, 699), value, headers, st.binary(max_size=40))
    def test_responses_are_read_back(
        self, status: int, phrase: str, headers: list[tuple[str, str]], body: bytes
    ) -> None:
        """The same for responses, with any phrase."""
        read = parse(bytes(Response(status, phrase, headers, body)))
        assert isinstance(read, Response)
        self.assertEqual((read.status, read.phrase, read.body), (status, phrase, body))

    @settings(deadline=None, derandomize=True)
    @given(headers)
    def test_folding_changes_nothing(self, headers: list[tuple[str, str]]) -> None:
        """A line folded behind its colon means the same."""
        folded = "".join(f"{name}:\r\n {value}\r\n" for name, value in headers)
        # Values of nothing would fold into an empty line of spaces: the same value.
        read = request(f"OPTIONS sip:a@b SIP/2.0\r\n{folded}\r\n".encode())
        self.assertEqual(read.headers, Request("OPTIONS", "sip:a@b", headers).headers)
