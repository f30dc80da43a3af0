"""Dialogs: made, kept, restored, and the requests they build (RFC 3261 §12)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Address
from calledind.sip.dialog import Dialog
from calledind.sip.message import Request, Response, response_to
from calledind.sip.target import Target

US: Address = ("192.0.2.9", 5060)
PEER: Address = ("192.0.2.1", 5062)


def invite(*headers: tuple[str, str]) -> Request:
    own = [
        ("Via", "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKx;rport"),
        ("From", '"Us" <sip:us@192.0.2.9>;tag=ours'),
        ("To", "<sip:them@example.com>"),
        ("Call-ID", "id"),
        ("CSeq", "7 INVITE"),
    ]
    return Request("INVITE", "sip:them@example.com", [*own, *headers])


def success(*headers: tuple[str, str]) -> Response:
    return response_to(invite(), 200, to_tag="theirs", headers=headers)


def caller(*headers: tuple[str, str], peer: Address = PEER) -> Dialog:
    return Dialog.of_caller(invite(), success(*headers), peer)


CONTACT = ("Contact", "<sip:them@192.0.2.2:5080>")


class RequestTests(SynchronousTestCase):
    def test_without_routes(self) -> None:
        """Without a route set the remote target is the Request-URI and the way out; CSeq goes on by one."""
        dialog = caller(CONTACT)
        bye = dialog.request("BYE", US, [("Reason", "x")])
        self.assertEqual(bye.uri, "sip:them@192.0.2.2:5080")
        self.assertEqual(
            bye.headers[1:],
            [
                ("Max-Forwards", "70"),
                ("From", '"Us" <sip:us@192.0.2.9>;tag=ours'),
                ("To", "<sip:them@example.com>;tag=theirs"),
                ("Call-ID", "id"),
                ("CSeq", "8 BYE"),
                ("Reason", "x"),
            ],
        )
        self.assertEqual((bye.via.host, bye.via.port, bye.via.wants_rport), ("192.0.2.9", 5060, True))
        self.assertEqual(dialog.request("BYE", US).cseq.number, 9)
        self.assertEqual(dialog.next_hop, ("192.0.2.2", 5080))

    def test_ack(self) -> None:
        """An ACK has the INVITE's CSeq number and a branch of its own."""
        dialog = caller(CONTACT)
        dialog.request("BYE", US)
        ack = dialog.request("ACK", US)
        self.assertEqual(ack.cseq.number, 7)
        self.assertNotEqual(ack.via.branch, "z9hG4bKx")

    def test_loose_routes(self) -> None:
        """The caller's route set is the Record-Route reversed; loose routers find the target in the Request-URI."""
        dialog = caller(CONTACT, ("Record-Route", "<sip:192.0.2.3;lr>, <sip:192.0.2.4:5070;lr=on>"))
        bye = dialog.request("BYE", US)
        self.assertEqual(bye.uri, "sip:them@192.0.2.2:5080")
        self.assertEqual(bye.all("Route"), ["<sip:192.0.2.4:5070;lr=on>", "<sip:192.0.2.3;lr>"])
        self.assertEqual(dialog.next_hop, ("192.0.2.4", 5070))

    def test_strict_route(self) -> None:
        """A strict router stands in the Request-URI itself, and the target comes last."""
        dialog = caller(CONTACT, ("Record-Route", "<sip:192.0.2.3;lr>, <sip:192.0.2.4;method=X;a=b?H=v>"))
        bye = dialog.request("BYE", US)
        self.assertEqual(bye.uri, "sip:192.0.2.4;a=b")
        self.assertEqual(bye.all("Route"), ["<sip:192.0.2.3;lr>", "<sip:them@192.0.2.2:5080>"])
        self.assertEqual(dialog.next_hop, ("192.0.2.4", 5060))

    def test_callee(self) -> None:
        """The callee has From and To the other way round, the route set in order and the peer's CSeq."""
        routes = ("Record-Route", "<sip:192.0.2.3;lr>, <sip:192.0.2.4;lr>")
        dialog = Dialog.of_callee(invite(("Contact", "<sip:us@192.0.2.9>"), routes), "mine", PEER)
        bye = dialog.request("BYE", PEER)
        self.assertEqual((bye.from_.tag, bye.to.tag, bye.cseq.number), ("mine", "ours", 1))
        self.assertEqual(bye.all("Route"), ["<sip:192.0.2.3;lr>", "<sip:192.0.2.4;lr>"])
        self.assertEqual((bye.uri, dialog.remote_cseq), ("sip:us@192.0.2.9", 7))

    def test_order(self) -> None:
        """A CSeq lower than the last is out of order, the same again is not."""
        dialog = caller(CONTACT)
        numbers = [5, 4, 5, 9, 8]
        requests = [Request("INFO", "sip:x", [("CSeq", f"{number} INFO")]) for number in numbers]
        self.assertEqual([dialog.in_order(request) for request in requests], [True, False, True, True, False])

    def test_refresh(self) -> None:
        """A new Contact is the new target, one that can't be read isn't."""
        dialog = caller(CONTACT)
        dialog.refresh_target(invite(("Contact", "<sip:new@192.0.2.7>")))
        dialog.refresh_target(invite(("Contact", "<sip:new@192.0.2.8:port>")))
        dialog.refresh_target(invite())
        self.assertEqual(dialog.remote_target, "sip:new@192.0.2.7")


class FallbackTests(SynchronousTestCase):
    def test_unusable_contacts(self) -> None:
        """Without a Contact that a request can be sent to, it is what was called, by the way it was called."""
        for value in (None, "*", "<tel:+12125550100>", "<sip:x@>", "nonsense", "<http://example.com>", '"x'):
            dialog = caller(*([("Contact", value)] if value else []))
            self.assertEqual((dialog.remote_target, dialog.next_hop), ("sip:them@example.com", PEER), value)

    def test_unusable_routes(self) -> None:
        """Record-Routes that can't be read are as good as none."""
        self.assertEqual(caller(CONTACT, ("Record-Route", "<sip:a")).route_set, ())
        odd = caller(CONTACT, ("Record-Route", "<urn:x>"))
        self.assertEqual((odd.next_hop, odd.request("BYE", US).uri), (PEER, "sip:them@192.0.2.2:5080"))

    def test_next_hop(self) -> None:
        """Names, unknown transports, TLS begun or left, impossible and hidden addresses lead to where the peer's
        messages come from."""
        public: Address = ("8.8.8.8", 5060)
        tcp, tls = Target(*PEER, "tcp", "carrier"), Target(*PEER, "tls", "carrier")
        for uri, peer, expected in (
            ("sip:host.example.com", PEER, PEER),
            ("sip:192.0.2.2;transport=sctp", PEER, PEER),
            ("sip:192.0.2.2;transport=tcp", PEER, Target("192.0.2.2", 5060, "tcp")),
            ("sip:192.0.2.2;transport=tls", PEER, PEER),
            ("sip:192.0.2.2", tcp, Target("192.0.2.2", 5060, "tcp", "carrier")),
            ("sip:192.0.2.2;transport=udp", tcp, ("192.0.2.2", 5060)),
            ("sip:192.0.2.2;transport=tcp", tls, tls),
            ("sip:192.0.2.2", tls, Target("192.0.2.2", 5061, "tls", "carrier")),
            ("sips:192.0.2.2:5066", tls, Target("192.0.2.2", 5066, "tls", "carrier")),
            ("sip:192.0.2.2;transport=UDP", PEER, ("192.0.2.2", 5060)),
            ("sips:192.0.2.2", PEER, PEER),
            ("sip:0.0.0.0", PEER, PEER),
            ("sip:224.0.0.1", PEER, PEER),
            ("sip:192.0.2.2:0", PEER, PEER),
            ("sip:10.0.0.1", public, public),
            ("sip:127.0.0.1", public, public),
            ("sip:9.9.9.9:5066", public, ("9.9.9.9", 5066)),
            ("sip:10.0.0.1", ("10.0.0.2", 5060), ("10.0.0.1", 5060)),
            ("sip:[2001:db8::1]:5066", ("2001:db8::2", 5060), ("2001:db8::1", 5066)),
        ):
            self.assertEqual(caller(("Contact", f"<{uri}>"), peer=peer).next_hop, expected, uri)

    def test_via_is_that_of_the_next_hop(self) -> None:
        """The Via of a request has the transport that it leaves by."""
        for parameter, name in (("", "TCP"), (";transport=udp", "UDP")):
            dialog = caller(("Contact", f"<sip:192.0.2.2{parameter}>"), peer=Target(*PEER, "tcp"))
            self.assertEqual(dialog.request("BYE", US).via.transport, name)

    def test_headers_of_contact(self) -> None:
        """What a Request-URI may not have is left out of it (§19.1.1)."""
        dialog = caller(("Contact", "<sip:them@192.0.2.2;a=b;method=INVITE?Subject=x>"))
        self.assertEqual(dialog.request("BYE", US).uri, "sip:them@192.0.2.2;a=b")

    def test_no_tag(self) -> None:
        """A peer of RFC 2543 without a tag has the empty one."""
        response = response_to(invite(), 200, headers=[CONTACT])
        self.assertEqual(Dialog.of_caller(invite(), response, PEER).remote_tag, "")


class SnapshotTests(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        """A restored dialog equals the one that was kept, and goes on from its CSeq."""
        dialog = caller(CONTACT, ("Record-Route", "<sip:192.0.2.3;lr>"))
        again = Dialog.restore(dialog.snapshot())
        self.assertEqual(again, dialog)
        self.assertEqual(again.request("BYE", US).cseq.number, 8)

    def test_rubbish(self) -> None:
        """What isn't a snapshot is a ValueError, whatever it is instead."""
        for text in ("", "{}", "[]", "1", '{"peer": 1}', '{"peer": ["a", 1], "route_set": []}'):
            self.assertRaises(ValueError, Dialog.restore, text)
