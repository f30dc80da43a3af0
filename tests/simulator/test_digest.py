# mypy: allow-untyped-calls
"""The carrier's challenges, answered by the daemon's own client."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from calledind.simulator.digest import Digest
from calledind.sip.auth import Authenticator, Credentials
from calledind.sip.message import Request, response_to

URI = "sip:+12125550110@127.0.0.1"


def invite(*headers: tuple[str, str], call_id: str = "one") -> Request:
    own = [
        ("Via", "SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1"),
        ("From", "<sip:a@127.0.0.1>;tag=1"),
        ("To", f"<{URI}>"),
        ("Call-ID", call_id),
        ("CSeq", "1 INVITE"),
    ]
    return Request("INVITE", URI, [*own, *headers])


class DigestTests(SynchronousTestCase):
    def answered(self, digest: Digest, password: str = "secret", status: int = 407) -> Request:
        challenge = response_to(invite(), status, headers=digest.challenge(invite(), status))
        answer = Authenticator(Credentials("user", password)).answer(challenge, method="INVITE", uri=URI, body=b"")
        assert answer is not None
        return invite(*answer)

    def test_right(self) -> None:
        """The right password is taken, for 401 and 407."""
        digest = Digest("user", "secret")
        for status in (401, 407):
            self.assertIs(digest.objection(self.answered(digest, status=status), status), None)

    def test_wrong(self) -> None:
        """A wrong password, no answer, and an answer to another's challenge are not."""
        digest = Digest("user", "secret")
        self.assertEqual(digest.objection(self.answered(digest, "guess"), 407), "response is wrong")
        self.assertEqual(digest.objection(invite(), 407), "no credentials")
        self.assertEqual(digest.objection(self.answered(Digest("user", "secret")), 407), "nonce is wrong")

    def test_another_call(self) -> None:
        """An answer that was overheard is of no use for another call or another number."""
        digest = Digest("user", "secret")
        overheard = self.answered(digest).get("Proxy-Authorization") or ""
        again = invite(("Proxy-Authorization", overheard), call_id="two")
        self.assertEqual(digest.objection(again, 407), "nonce is wrong")
        moved = Request("INVITE", "sip:+12125550111@127.0.0.1", self.answered(digest).headers)
        self.assertEqual(digest.objection(moved, 407), "uri is wrong")

    def test_nonsense(self) -> None:
        """What is no digest is an objection, not an error."""
        for value in ("", "Basic abc", "Digest", 'Digest username="', "Digest " + "a=," * 1000):
            self.assertIsInstance(Digest("u", "p").objection(invite(("Proxy-Authorization", value)), 407), str)
