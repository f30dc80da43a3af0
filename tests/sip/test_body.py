"""Session descriptions found in bodies."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind.sip.body import admits_sdp, is_understood, session_description
from calledind.sip.message import Response

SDP = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\n"


def found(kind: str | None, body: bytes) -> bytes:
    return session_description(Response(200, "OK", [("Content-Type", kind)] if kind else [], body))


class BodyTests(SynchronousTestCase):
    def test_alone(self) -> None:
        """A body of SDP is it, however its type is spelled; without a type it has to look like it."""
        self.assertEqual(found("Application/SDP; charset=utf-8", SDP), SDP)
        self.assertEqual(found(None, SDP), SDP)
        self.assertEqual(found(None, b"hello"), b"")
        self.assertEqual(found("text/plain", SDP), b"")
        self.assertEqual(found("nonsense", SDP), b"")

    def test_in_parts(self) -> None:
        """Of several parts, as telephone exchanges send them with ISUP, the SDP is found."""
        parts = (
            b"--sep\r\nContent-Type: application/isup;version=itu-t92+\r\n\r\n\x01\x02\r\n"
            b"--sep\r\nc: application/sdp\r\nContent-Disposition: session\r\n\r\n" + SDP + b"\r\n--sep--\r\n"
        )
        self.assertEqual(found('multipart/mixed;boundary="sep"', parts), SDP)
        self.assertEqual(found("multipart/mixed; boundary=sep", b"preamble\r\n" + parts), SDP)

    def test_parts_of_parts(self) -> None:
        """A part may have parts of its own (RFC 5621 §3.1); who goes on for ever isn't followed."""
        whole = b"--b\r\nContent-Type: application/sdp\r\n\r\n" + SDP + b"\r\n--b--\r\n"
        text = b"--%d\r\nContent-Type: text/plain\r\n\r\nhello\r\n"
        kind = "multipart/alternative;boundary=b"
        for depth in range(1, 6):
            number = b"%d" % depth
            whole = text % depth + b"--" + number + b"\r\nContent-Type: " + kind.encode() + b"\r\n\r\n" + whole
            kind = f"multipart/mixed;boundary={depth}"
            self.assertEqual(found(kind, whole), SDP if depth <= 3 else b"", depth)

    def test_early_session(self) -> None:
        """What describes the early media alone (RFC 3959) is not the session's description."""
        early = (
            b"\r\nContent-Type: application/sdp\r\nContent-Disposition: Early-Session;handling=optional\r\n\r\nv=0\r\n"
        )
        parts = b"--x" + early + b"--x\r\nContent-Type: application/sdp\r\n\r\n" + SDP + b"\r\n--x--\r\n"
        self.assertEqual(found("multipart/mixed;boundary=x", parts), SDP)
        headers = [("Content-Type", "application/sdp"), ("Content-Disposition", "early-session")]
        self.assertEqual(session_description(Response(183, "", headers, SDP)), b"")

    def test_broken_parts(self) -> None:
        """Parts without a boundary, an end or SDP are no SDP."""
        self.assertEqual(found("multipart/mixed", SDP), b"")
        self.assertEqual(found("multipart/mixed;charset=x", SDP), b"")
        self.assertEqual(found('multipart/mixed;boundary="', SDP), b"")
        self.assertEqual(found("multipart/mixed;boundary=x", b"--x\r\nContent-Type: text/plain\r\n\r\nv=0"), b"")

    def test_understood(self) -> None:
        """A body of another kind or encoding is not understood, unless it may be ignored."""
        for headers, understood in (
            ((), True),
            ((("Content-Type", "application/sdp"),), True),
            ((("Content-Type", "multipart/mixed;boundary=x"),), True),
            ((("Content-Type", "text/plain"),), False),
            ((("Content-Type", "nonsense"),), False),
            ((("Content-Type", "text/plain"), ("Content-Disposition", "render; Handling = Optional")), True),
            ((("Content-Type", "application/sdp"), ("Content-Encoding", "gzip")), False),
            ((("Content-Type", "application/sdp"), ("Content-Encoding", "Identity")), True),
        ):
            self.assertIs(is_understood(Response(200, "OK", headers, SDP)), understood, headers)
        self.assertTrue(is_understood(Response(200, "OK", [("Content-Type", "text/plain")])))

    def test_welcome(self) -> None:
        """SDP is welcome unless Accept names only other kinds."""
        for accept, welcome in (
            ([], True),
            (["text/plain, Application / SDP;level=1"], True),
            (["text/plain", "application/*"], True),
            (["*/*"], True),
            (["text/plain"], False),
            ([""], False),
        ):
            self.assertIs(admits_sdp(Response(200, "OK", [("Accept", value) for value in accept])), welcome, accept)
