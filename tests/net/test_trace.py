# mypy: allow-untyped-calls
from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind.net.trace import MOST_CALLS, MOST_MESSAGES, SipTrace

PEER = ("192.0.2.1", 5060)


def call_id(number: int) -> str:
    return f"{number:032x}"


def message(number: int, name: str = "Call-ID: ", body: str = "", end: str = "-1") -> bytes:
    return f"INVITE sip:a@b SIP/2.0\r\nVia: x\r\n{name}{call_id(number)}{end}\r\nCSeq: 1 INVITE\r\n\r\n{body}".encode()


class SipTraceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 7.0
        self.trace = SipTrace(lambda: self.now)

    def test_both_directions(self) -> None:
        """What was sent and received for a call is shown in order, with when and who."""
        self.trace.take("sent", PEER, message(1))
        self.now = 8.0
        self.trace.take("received", ("2001:db8::1", 5060), message(1))
        shown = self.trace.show(call_id(1))
        assert shown is not None
        self.assertEqual([(each["time"], each["direction"]) for each in shown], [(7.0, "sent"), (8.0, "received")])
        self.assertEqual((shown[0]["source"], shown[0]["target"]), ("calledin", "192.0.2.1:5060"))
        self.assertEqual((shown[1]["source"], shown[1]["target"]), ("[2001:db8::1]:5060", "calledin"))
        self.assertEqual(shown[0]["text"], message(1).decode())

    def test_spellings(self) -> None:
        """A Call-ID counts however the peer spells its name."""
        self.trace.take("sent", PEER, message(1))
        for name in ("Call-ID: ", "Call-Id:", "call-id :  ", "CALL-ID:\t", "i: ", "I:"):
            self.trace.take("received", PEER, message(1, name))
        self.trace.take("received", PEER, message(1).replace(b"\r\n", b"\n"))
        self.assertEqual(len(self.trace.show(call_id(1)) or ()), 8)

    def test_keys_are_left_out(self) -> None:
        """Of the keys of SRTP in a description, which open the call to who reads them, nothing is kept."""
        lines = "v=0\r\na=crypto:1 AEAD_AES_128_GCM inline:c2VjcmV0|2^20|1:4\r\na=crypto:2 OTHER inline:c2VjcmV0\r\n"
        self.trace.take("sent", PEER, message(1, body=lines))
        shown = [each["text"] for each in self.trace.show(call_id(1)) or ()]
        self.assertEqual(shown, [message(1, body=lines.replace("c2VjcmV0", "...")).decode()])
        odd = "v=0\ra=crypto:1 AES_CM_128_HMAC_SHA1_80 INLINE:c2VjcmV0;inline:c2VjcmV0\r"
        self.trace.take("received", PEER, message(1, body=odd))
        self.assertNotIn("c2Vj", str(self.trace.show(call_id(1))))

    def test_attempts(self) -> None:
        """All attempts of a call are in its trace."""
        self.trace.take("sent", PEER, message(1))
        self.trace.take("sent", PEER, message(1, end="-2"))
        self.assertEqual(len(self.trace.show(call_id(1)) or ()), 2)

    def test_not_ours(self) -> None:
        """Other Call-IDs, none, and one in a body leave nothing; nor do calls that others made up."""
        self.trace.take("received", PEER, message(1))
        self.assertIsNone(self.trace.show(call_id(1)))
        for data in (
            b"",
            b"\r\n\r\n",
            b"\x00" * 50,
            message(2, end=""),
            message(3, "X-Call-ID: "),
            message(3, "Subject: "),
        ):
            self.trace.take("sent", PEER, data)
        self.trace.take("sent", PEER, b"OPTIONS sip:a@b SIP/2.0\r\n\r\n\r\n" + message(4))
        for number in (2, 3, 4):
            self.assertIsNone(self.trace.show(call_id(number)))

    def test_not_utf_8(self) -> None:
        """Octets that are no text are shown as far as they are."""
        self.trace.take("sent", PEER, message(1) + b"\xff")
        self.assertEqual(str((self.trace.show(call_id(1)) or [{}])[0]["text"])[-1], "\ufffd")

    def test_bounded(self) -> None:
        """The last calls are kept, and of each the first messages."""
        for number in range(MOST_CALLS + 5):
            self.trace.take("sent", PEER, message(number))
        self.assertIsNone(self.trace.show(call_id(4)))
        self.assertIsNotNone(self.trace.show(call_id(5)))
        for _ in range(MOST_MESSAGES + 5):
            self.trace.take("received", PEER, message(9))
        self.assertEqual(len(self.trace.show(call_id(9)) or ()), MOST_MESSAGES)
