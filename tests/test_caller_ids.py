"""Which caller ids a key's requests may name, and what is attested of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from calledind.admission import Admission, Verdict
from calledind.audio.library import Prepared
from calledind.keyring import Keyring
from calledind.model import Call, Key, ReturnCode
from calledind.settings.tables import Calls, Regions


@dataclass
class Books:
    """A store that accepts everything, and notes it."""

    key: Key
    calls: list[Call] = field(default_factory=list)

    def find_key(self, digest: bytes) -> Deferred[Key | None]:
        return succeed(self.key)

    def check(self, *_: object) -> Deferred[ReturnCode]:
        return succeed(ReturnCode.ACCEPTED)

    def accept(self, call: Call) -> Deferred[ReturnCode]:
        self.calls.append(call)
        return succeed(ReturnCode.ACCEPTED)


class Shelf:
    """A library that has any MP3 at hand."""

    def ready(self, url: str, *, cache: bool) -> bool:
        return True

    def prepare(self, url: str, *, cache: bool) -> Deferred[Prepared]:
        return succeed(Prepared("a" * 64, 1.0))

    def unpin(self, name: str) -> None:
        """Nothing is kept."""


class CallerIdTests(SynchronousTestCase):
    def ask(
        self, caller_id: str | None, *listed: str, attestation: str = "", **calls: Any
    ) -> tuple[Verdict, list[Call]]:
        """Ask for a call with this caller id, by a key with such a list."""
        key = Key("key_1", "Ann", 9, 0, 0, disabled=False, created_at=0.0, caller_ids=listed, attestation=attestation)
        books = Books(key)
        accepted: list[Call] = []
        store: Any = books
        admission = Admission(
            store=store,
            keyring=Keyring(b"x" * 32),
            library=Shelf(),
            regions=Regions(),
            accepted=accepted.append,
            obstacle=lambda: None,
            now=lambda: 1_800_000_000.0,
        )
        admission.use_calls(Calls(**calls))
        wanted = {
            b"api_key": [b"ck"],
            b"phone_number": [b"2125550100"],
            b"country_code": [b"1"],
            b"mp3": [b"http://example.com/a.mp3"],
        }
        if caller_id is not None:
            wanted[b"caller_id"] = [caller_id.encode()]
        verdict = self.successResultOf(admission.admit(wanted))
        self.assertEqual(accepted, books.calls)
        return verdict, accepted

    def used(self, caller_id: str | None, *listed: str, **calls: Any) -> str:
        """Return the caller id of the accepted call."""
        verdict, (call,) = self.ask(caller_id, *listed, **calls)
        self.assertEqual(verdict.code, ReturnCode.ACCEPTED)
        return call.caller_id

    def test_no_list(self) -> None:
        """A key without a list may use any."""
        for caller_id in ("2125550199", "+442079460000", "7001", "anonymous"):
            self.assertEqual(self.used(caller_id), caller_id)

    def test_list(self) -> None:
        """A key with a list may use what is on it, however it is written."""
        listed = ("+12125550199", "7001")
        for caller_id in ("2125550199", "12125550199", "+12125550199", "7001"):
            self.assertEqual(self.used(caller_id, *listed), caller_id)

    def test_replaced(self) -> None:
        """What is not on the list is replaced by the default, which the trunk's own stands in for."""
        for caller_id in ("2125550198", "+442125550199", "7002", "anonymous"):
            self.assertEqual(self.used(caller_id, "+12125550199", "7001"), "0000000000")

    def test_home_country(self) -> None:
        """A number without a country code is one of the home country."""
        self.assertEqual(self.used("02079460000", "+442079460000", home_country="44"), "02079460000")
        self.assertEqual(self.used("02079460000", "+442079460000", home_country="1"), "0000000000")

    def test_refused(self) -> None:
        """Or it is code 4 with words, where the settings say so; nothing is accepted then."""
        verdict, calls = self.ask("2125550198", "+12125550199", unlisted_caller_id="refuse")
        self.assertEqual((verdict.code, calls), (ReturnCode.BAD_REQUEST, []))
        self.assertIn("caller_id", verdict.words)
        self.assertEqual(self.used("2125550199", "+12125550199", unlisted_caller_id="refuse"), "2125550199")

    def test_default_is_always_allowed(self) -> None:
        """A request may leave the caller to the trunk, list or not."""
        for caller_id in (None, "0000000000"):
            self.assertEqual(self.used(caller_id, "+12125550199", unlisted_caller_id="refuse"), "0000000000")

    def test_form(self) -> None:
        """What is no caller id at all is code 4."""
        for caller_id in ("bob", "+", "1" * 21, "1\r\nX: y", "\u0661", "Anonymous"):
            self.assertEqual(self.ask(caller_id)[0].code, ReturnCode.BAD_REQUEST, caller_id)

    def test_attestation(self) -> None:
        """A call has its key's attestation; a full one only with a caller id that the key is known to have."""
        for attestation, caller_id, listed, told in (
            ("A", "2125550199", ("+12125550199",), "A"),
            ("A", "2125550198", ("+12125550199",), "A"),  # replaced by the trunk's own
            ("A", None, (), "A"),
            ("A", "2125550199", (), "B"),
            ("B", "2125550199", (), "B"),
            ("C", "2125550199", (), "C"),
            ("", "2125550199", (), ""),
        ):
            _, (call,) = self.ask(caller_id, *listed, attestation=attestation)
            self.assertEqual(call.attestation, told, (attestation, caller_id, listed))
