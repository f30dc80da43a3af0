"""What is made of the messages that RFC 4475 and RFC 5118 speak of: by the parser, the transactions, the user agent."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind import sdp
from calledind.sip.grammar import ParseError
from calledind.sip.message import Message, Request, Response, parse
from tests.sip.parties import THEM, World
from tests.sip.test_useragent import Case
from tests.sip.torture import ALL_CHARACTERS, CHARACTERS, PARTS, SDP_IP6, TABLE, TORTUOUS, Torture, written


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
        invite = request(TORTUOUS)
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
        message = request(CHARACTERS)
        self.assertEqual(message.method, ALL_CHARACTERS)
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
        message = request(written(Content_Type="multipart/mixed;boundary=b", body=PARTS))
        self.assertEqual((message.body, message.content_type), (PARTS, "multipart/mixed"))

    def test_any_phrase_or_none(self) -> None:
        """§3.1.1.12 and §3.1.1.13."""
        for phrase in ("= 2**3 * 100 + вообще", ""):
            response = parse(written(f"SIP/2.0 200 {phrase}"))
            response.check()
            assert isinstance(response, Response)
            self.assertEqual(response.phrase, phrase)


class MeantTests(SynchronousTestCase):
    """RFC 4475 §3.1.2 and §3.3: what is wrong, and yet understood as it is meant."""

    def test_headers_in_the_request_uri(self) -> None:
        """§3.1.2.11: they can be read, and nothing is done with them."""
        uri = request(written("OPTIONS sip:user@example.com?Route=%3Csip:example.com%3E SIP/2.0")).request_uri
        self.assertEqual(uri.headers, (("Route", "%3Csip:example.com%3E"),))

    def test_spaces_inside_brackets(self) -> None:
        """§3.1.2.14: may be refused or understood; we understand."""
        self.assertEqual(
            request(written(To='"Spaces" < sip:k.spaces@example.org >')).to.uri, "sip:k.spaces@example.org"
        )

    def test_display_names_that_ought_to_be_quoted(self) -> None:
        """§3.1.2.15: the same."""
        self.assertEqual(request(written(To="Weber, Ida <sip:ida@example.com>")).to.display_name, "Weber, Ida")

    def test_other_schemes(self) -> None:
        """§3.3.4: From and To may be of any."""
        self.assertEqual(request(written(To="isbn:2983792873")).to.uri, "isbn:2983792873")

    def test_a_request_of_the_days_before(self) -> None:
        """§3.4.1: RFC 2543 knew neither branch nor tags nor Max-Forwards."""
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
        description = sdp.SessionDescription.parse(SDP_IP6)
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


class TableTests(Case):
    """Each message of the table, as far as it comes."""

    def test_names(self) -> None:
        """A failure says which one it is of."""
        self.assertEqual(len({torture.name for torture in TABLE}), len(TABLE))

    def test_parser(self) -> None:
        """What is read is read, and what isn't is refused with the status that its sender is told."""
        refused = {torture.name: self.refused(torture.octets(number)) for number, torture in enumerate(TABLE)}
        self.assertEqual(refused, {torture.name: torture.refused for torture in TABLE})

    def refused(self, data: bytes) -> int | None:
        try:
            parse(data).check()
        except ParseError as error:
            return error.status
        return None

    def test_trunk(self) -> None:
        """A trunk is answered once, in the same words when it asks again, and nothing is left after a while."""
        answers = {torture.name: self.answers(torture.octets(number)) for number, torture in enumerate(TABLE)}
        expected = {torture.name: [] if torture.answer is None else [torture.answer] * 2 for torture in TABLE}
        self.assertEqual(answers, expected)

    def answers(self, data: bytes) -> list[int]:
        world = World()
        world.agent.datagram_received(data, THEM)
        world.agent.datagram_received(data, THEM)
        sent = {datagram.data for datagram in world.network.sent}
        self.assertLessEqual(len(sent), 1)
        responses = [parse(datagram.data) for datagram in world.network.sent]
        self.quiet(world)
        return [response.status for response in responses if isinstance(response, Response)]

    def test_stranger(self) -> None:
        """Whoever is no trunk is not answered, and costs nothing."""
        for number, torture in enumerate(TABLE):
            world = World()
            world.agent.datagram_received(torture.octets(number), ("127.0.0.9", 5060))
            self.assertEqual((world.network.sent, len(world.agent)), ([], 0), torture.name)

    def test_responses(self) -> None:
        """A response reaches the request that it is for, or nobody; that goes on as if it had never come."""
        heard = {torture.name: self.heard(torture, number) for number, torture in enumerate(TABLE)}
        self.assertEqual(heard, {torture.name: torture.heard for torture in TABLE})

    def heard(self, torture: Torture, number: int) -> int | None:
        world = World()
        heard: list[int | None] = []
        world.network.rule = lambda datagram: []
        world.agent.options(THEM, "sip:127.0.0.2", heard.append)
        asked_for = parse(world.network.sent[0].data)
        world.agent.datagram_received(torture.octets(number, branch=asked_for.via.branch or ""), THEM)
        status = heard[0] if heard else None
        world.network.pass_time(40)
        self.assertEqual((len(heard), len(world.agent)), (1, 0), torture.name)
        return status
