"""Messages on a stream."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.sip.framing import Keepalive, StreamFramer
from calledind.sip.grammar import ParseError
from calledind.sip.message import Request, Response

OPTIONS = b"OPTIONS sip:a@b SIP/2.0\r\nl: 3\r\n\r\nabc"
OK = b"SIP/2.0 200 OK\nContent-Length: 0\n\n"


def shown(items: list[Request | Response | Keepalive]) -> list[object]:
    """What was found, for comparing."""
    return [
        item if isinstance(item, Keepalive) else (item.method if isinstance(item, Request) else item.status, item.body)
        for item in items
    ]


class FramingTests(SynchronousTestCase):
    def test_messages_back_to_back(self) -> None:
        """Several in one piece come out in their order."""
        self.assertEqual(
            shown(StreamFramer().feed(OPTIONS + OK + OPTIONS)), [("OPTIONS", b"abc"), (200, b""), ("OPTIONS", b"abc")]
        )

    @settings(deadline=None, derandomize=True)
    @given(st.lists(st.integers(0, len(OPTIONS + OK) * 2), max_size=12))
    def test_it_does_not_matter_how_the_stream_is_cut(self, cuts: list[int]) -> None:
        """The same messages come out, however the octets arrive."""
        stream = (OPTIONS + OK) * 2
        edges = [0, *sorted(cuts), len(stream)]
        framer = StreamFramer()
        found = [item for start, end in pairwise(edges) for item in framer.feed(stream[start:end])]
        self.assertEqual(shown(found), [("OPTIONS", b"abc"), (200, b"")] * 2)

    def test_octet_by_octet(self) -> None:
        """A message is there with its last octet, not before and not later."""
        framer = StreamFramer()
        for octet in OPTIONS[:-1]:
            self.assertEqual(framer.feed(bytes([octet])), [])
        self.assertEqual(shown(framer.feed(OPTIONS[-1:])), [("OPTIONS", b"abc")])

    def test_keepalives(self) -> None:
        """Four octets are a ping, two its answer; messages may follow."""
        framer = StreamFramer()
        self.assertEqual(shown(framer.feed(b"\r\n\r\n")), [Keepalive(ping=True)])
        self.assertEqual(shown(framer.feed(b"\r\n")), [Keepalive(ping=False)])
        self.assertEqual(shown(framer.feed(b"\r\n\r\n" + OPTIONS)), [Keepalive(ping=True), ("OPTIONS", b"abc")])
        self.assertEqual(framer.feed(b"\r"), [])
        self.assertEqual(shown(framer.feed(b"\n")), [Keepalive(ping=False)])


class ErrorTests(SynchronousTestCase):
    def test_content_length_is_needed(self) -> None:
        """Without it nobody knows where the next message begins; the request can be answered first."""
        error = self.assertRaises(ParseError, StreamFramer().feed, b"OPTIONS sip:a@b SIP/2.0\r\n\r\n")
        self.assertEqual(error.request.method, "OPTIONS")

    def test_broken_headers(self) -> None:
        """The error carries the request; of a response it carries none."""
        error = self.assertRaises(ParseError, StreamFramer().feed, b"OPTIONS sip:a@b SIP/2.0\r\nl: x\r\n\r\n")
        self.assertEqual(error.request.method, "OPTIONS")
        error = self.assertRaises(ParseError, StreamFramer().feed, b"SIP/2.0 200 OK\r\nl: x\r\n\r\n")
        self.assertIsNone(error.request)
        self.assertRaises(ParseError, StreamFramer().feed, b"hello\r\n\r\n")

    def test_what_was_complete_comes_first(self) -> None:
        """Messages before the error are returned, the error is raised by the next call and every later one."""
        framer = StreamFramer()
        self.assertEqual(shown(framer.feed(OPTIONS + b"hello\r\n\r\n")), [("OPTIONS", b"abc")])
        self.assertRaises(ParseError, framer.feed, b"")
        self.assertRaises(ParseError, framer.feed, OPTIONS)

    def test_buffers_are_bounded(self) -> None:
        """Headers without end and bodies too long are refused before they fill the memory."""
        framer = StreamFramer(longest=100)
        self.assertEqual(framer.feed(b"x" * 100), [])
        self.assertEqual(self.assertRaises(ParseError, framer.feed, b"x").status, 513)
        error = self.assertRaises(
            ParseError, StreamFramer(longest=100).feed, b"OPTIONS sip:a@b SIP/2.0\r\nl: 99\r\n\r\n"
        )
        self.assertEqual((error.status, error.request.method), (513, "OPTIONS"))
        self.assertEqual(self.assertRaises(ParseError, StreamFramer().feed, b"x" * 70000 + b"\r\n\r\n").status, 513)
