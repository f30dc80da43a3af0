# mypy: allow-untyped-calls
from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from calledind.admission import WORDS, Admission, Area, Unavailable, Verdict
from calledind.audio.errors import AudioError, LibraryUnavailable
from calledind.audio.library import Prepared
from calledind.keyring import Keyring
from calledind.model import Call, Key, PlaybackRequest, ReturnCode
from calledind.settings.tables import Calls, Regions
from calledind.store.interface import Store, StoreUnavailable

NOW = 1_800_000_000.0
AUDIO = "a" * 64
KEYRING = Keyring(b"p" * 32)
GOOD = {
    b"api_key": [b"ck_good"],
    b"phone_number": [b"2125550100"],
    b"country_code": [b"1"],
    b"mp3": [b"https://example.com/a.mp3"],
}
STORE_ORDER = (ReturnCode.KEY_DISABLED, ReturnCode.DO_NOT_CALL, ReturnCode.FLOOD, ReturnCode.NO_CREDITS)
"The order in which a store decides; the first that holds is its answer."


@dataclass
class FakeStore:
    """Knows one key; `wrong` is what `check` finds, `wrong_later` what `accept` finds."""

    key: Key
    log: list[str] = field(default_factory=list)
    wrong: set[ReturnCode] = field(default_factory=set)
    wrong_later: set[ReturnCode] = field(default_factory=set)
    away: str = ""
    "The method that can't be done."
    kept: list[Call] = field(default_factory=list)

    def keys(self) -> Deferred[list[Key]]:
        return succeed([self.key])

    def find_key(self, digest: bytes) -> Deferred[Key | None]:
        return self._answer("find_key", self.key if digest == KEYRING.digest("ck_good") else None)

    def check(self, key_id: str, country_code: str, phone_number: str, now: float) -> Deferred[ReturnCode]:
        assert (key_id, country_code, phone_number, now) == (self.key.id, "1", "2125550100", NOW)
        return self._answer("check", self._first(self.wrong))

    def objections(
        self, key_id: str, country_code: str, phone_number: str, now: float
    ) -> Deferred[Sequence[ReturnCode]]:
        assert len(country_code) <= 8
        return self._answer("objections", [code for code in STORE_ORDER if code in self.wrong])

    def accept(self, call: Call) -> Deferred[ReturnCode]:
        code = self._first(self.wrong | self.wrong_later)
        if code is ReturnCode.ACCEPTED and self.away != "accept":
            self.kept.append(call)
        return self._answer("accept", code)

    def _first(self, wrong: set[ReturnCode]) -> ReturnCode:
        return next((code for code in STORE_ORDER if code in wrong), ReturnCode.ACCEPTED)

    def _answer(self, what: str, answer: Any) -> Deferred[Any]:
        self.log.append(what)
        return fail(StoreUnavailable("disk full")) if self.away == what else succeed(answer)


@dataclass
class FakeLibrary:
    error: Exception | None = None
    pins: int = 0
    is_ready: bool = False
    asked: list[tuple[str, bool]] = field(default_factory=list)

    def ready(self, url: str, *, cache: bool) -> bool:
        return self.is_ready

    def prepare(self, url: str, *, cache: bool) -> Deferred[Prepared]:
        self.asked.append((url, cache))
        if self.error is not None:
            return fail(self.error)
        self.pins += 1
        return succeed(Prepared(AUDIO, 3.5))

    def unpin(self, name: str) -> None:
        assert name == AUDIO
        self.pins -= 1


class AdmissionCase(SynchronousTestCase):
    def setUp(self) -> None:
        key = Key("key_1", "n", credits=1, held=0, charged=0, disabled=False, created_at=NOW)
        self.store = FakeStore(key)
        self.library = FakeLibrary()
        self.accepted: list[Call] = []
        self.obstacle: Unavailable | None = None
        self.decided: list[ReturnCode | None] = []
        self.admission = self.make()

    def make(self, *, check_is_cheap: bool = True) -> Admission:
        return Admission(
            store=cast(Store, self.store),
            keyring=KEYRING,
            library=self.library,
            regions=Regions(),
            accepted=self.accepted.append,
            obstacle=lambda: self.obstacle,
            now=lambda: NOW,
            check_is_cheap=check_is_cheap,
            decided=self.decided.append,
        )

    def ask(self, **changes: str) -> Verdict:
        args = {**GOOD, **{name.encode(): [value.encode()] for name, value in changes.items()}}
        return self.successResultOf(self.admission.admit(args))

    def unavailable(self) -> Unavailable:
        error = self.failureResultOf(self.admission.admit(GOOD), Unavailable).value
        assert isinstance(error, Unavailable)
        return error


class CodeTests(AdmissionCase):
    def test_accepted(self) -> None:
        """Code 0: the call is kept and handed on, with its audio pinned for it."""
        verdict = self.ask(cache="False", caller_id="12125550199", callback_url="http://example.com/", secret="s")
        self.assertEqual((verdict.code, verdict.words), (ReturnCode.ACCEPTED, "accepted"))
        self.assertEqual(self.store.log, ["find_key", "check", "accept"])
        self.assertEqual(self.library.asked, [("https://example.com/a.mp3", False)])
        self.assertEqual((self.accepted, self.library.pins), (self.store.kept, 1))
        call = self.accepted[0]
        self.assertEqual(verdict.call_id, call.id)
        self.assertEqual((call.key_id, call.country_code, call.phone_number), ("key_1", "1", "2125550100"))
        self.assertEqual((call.caller_id, call.callback_url, call.secret), ("12125550199", "http://example.com/", "s"))
        self.assertEqual((call.audio, call.duration, call.accepted_at), (AUDIO, 3.5, NOW))

    def test_store_a_round_trip_away(self) -> None:
        """Where nothing has to be fetched, a store elsewhere is asked for the acceptance alone, which decides all."""
        self.admission = self.make(check_is_cheap=False)
        self.ask()
        self.library.is_ready = True
        self.ask()
        self.assertEqual(self.store.log, ["find_key", "check", "accept", "find_key", "accept"])
        self.store.wrong = {ReturnCode.FLOOD}
        self.assertEqual((self.ask().code, self.library.pins), (ReturnCode.FLOOD, 2))

    def test_what_was_decided_is_told(self) -> None:
        """Who counts is told each code, and None where there is none."""
        self.ask()
        self.ask(cache="maybe")
        self.obstacle = Unavailable("not now", 5)
        self.unavailable()
        self.assertEqual(self.decided, [ReturnCode.ACCEPTED, ReturnCode.BAD_REQUEST, None])

    def test_leaves_nothing_to_the_collector(self) -> None:
        """Of a request that was answered, whatever the code, nothing holds itself in a circle."""
        gc.disable()
        self.addCleanup(gc.enable)
        gc.collect()
        for changes in ({}, {"api_key": "ck_bad"}, {"cache": "maybe"}):
            self.ask(**changes)
        self.assertEqual(gc.collect(), 0)

    def test_order(self) -> None:
        """With everything wrong, code 4 is the answer; as one thing after the other is put right, the next code is."""
        self.store.key = replace(self.store.key, disabled=True)
        self.store.wrong = {ReturnCode.DO_NOT_CALL, ReturnCode.FLOOD, ReturnCode.NO_CREDITS}
        self.library.error = AudioError(ReturnCode.MP3_UNUSABLE, "404")
        wrong = {"api_key": "ck_bad", "phone_number": "8095550100", "country_code": "999", "mp3": "ftp://x/"}

        def expect(code: ReturnCode) -> None:
            verdict = self.ask(**wrong)
            self.assertEqual((verdict.code, verdict.call_id), (code, None))
            self.assertNotEqual(verdict.words, "")

        expect(ReturnCode.BAD_REQUEST)
        del wrong["mp3"]
        expect(ReturnCode.INVALID_KEY)
        del wrong["api_key"]
        expect(ReturnCode.KEY_DISABLED)
        self.store.key = replace(self.store.key, disabled=False)
        expect(ReturnCode.COUNTRY_NOT_SUPPORTED)
        del wrong["country_code"]
        expect(ReturnCode.AREA_NOT_SUPPORTED)
        del wrong["phone_number"]
        for code in (ReturnCode.DO_NOT_CALL, ReturnCode.FLOOD, ReturnCode.NO_CREDITS):
            expect(code)
            self.store.wrong.remove(code)
        # Up to here nothing was fetched, and nothing taken.
        self.assertEqual((self.library.asked, self.store.log.count("accept")), ([], 0))
        expect(ReturnCode.MP3_UNUSABLE)
        self.library.error = AudioError(ReturnCode.MP3_TOO_LONG, "4 minutes")
        expect(ReturnCode.MP3_TOO_LONG)
        self.library.error = None
        self.assertEqual(self.store.log.count("accept"), 0)
        self.assertEqual(self.ask().code, ReturnCode.ACCEPTED)

    def test_decided_once_more(self) -> None:
        """What changed while the MP3 was fetched is found by the last step: that code, no call, the audio let go."""
        for code in STORE_ORDER:
            self.setUp()
            self.store.wrong_later = {code}
            self.assertEqual(self.ask().code, code)
            self.assertEqual((self.accepted, self.library.pins), ([], 0))

    def test_words(self) -> None:
        """Each code has words for people, and what they say of an MP3 or a parameter is particular."""
        self.assertEqual(set(WORDS), set(ReturnCode))
        self.library.error = AudioError(ReturnCode.MP3_UNUSABLE, "the server says 404")
        self.assertEqual(self.ask().words, "the server says 404")
        self.assertIn("phone_number", self.ask(phone_number="1").words)


class OperatorTests(AdmissionCase):
    def test_for_a_key(self) -> None:
        """An operator names a key by its id and may choose the call's; all rules hold, and each code is counted."""
        request = PlaybackRequest.parse({**GOOD, b"api_key": [b"none"]})
        verdict = self.successResultOf(self.admission.admit_for("key_1", request, "f" * 32))
        self.assertEqual((verdict.code, verdict.call_id), (ReturnCode.ACCEPTED, "f" * 32))
        self.assertEqual([call.id for call in self.accepted], ["f" * 32])
        self.assertEqual(self.successResultOf(self.admission.admit_for("key_2", request)).code, ReturnCode.INVALID_KEY)
        self.store.wrong.add(ReturnCode.FLOOD)
        self.assertEqual(self.successResultOf(self.admission.admit_for("key_1", request)).code, ReturnCode.FLOOD)
        self.obstacle = Unavailable("draining", 10)
        self.failureResultOf(self.admission.admit_for("key_1", request), Unavailable)
        expected = [ReturnCode.ACCEPTED, ReturnCode.INVALID_KEY, ReturnCode.FLOOD, None]
        self.assertEqual(self.decided, expected)

    def test_for_a_key_that_was_found(self) -> None:
        """A batch brings the key itself, and chooses the call's id; all rules hold, and each code is counted."""
        request = PlaybackRequest.parse({**GOOD, b"api_key": [b"none"]})

        def admit(key: Key = self.store.key) -> Deferred[Verdict]:
            return self.admission.admit_for_key(key, request, "f" * 32)

        self.assertEqual(self.successResultOf(admit()).call_id, "f" * 32)
        self.assertEqual([call.id for call in self.accepted], ["f" * 32])
        disabled = self.successResultOf(admit(replace(self.store.key, disabled=True)))
        self.assertEqual(disabled.code, ReturnCode.KEY_DISABLED)
        self.store.away = "check"
        self.failureResultOf(admit(), Unavailable)
        self.obstacle = Unavailable("draining", 10)
        self.failureResultOf(admit(), Unavailable)
        self.assertEqual(self.decided, [ReturnCode.ACCEPTED, ReturnCode.KEY_DISABLED, None, None])


class UnavailableTests(AdmissionCase):
    def test_obstacle(self) -> None:
        """What keeps the daemon from taking work is told before anything is looked at."""
        self.obstacle = Unavailable("shutting down", 10)
        self.assertIs(self.unavailable(), self.obstacle)
        self.assertEqual((self.store.log, self.library.asked), ([], []))

    def test_store_away(self) -> None:
        """A store that is away, at whatever step, is no code; no call is made and no audio stays pinned."""
        for step in ("find_key", "check", "accept"):
            self.setUp()
            self.store.away = step
            error = self.unavailable()
            self.assertEqual(error.words, "the store can't keep calls now")
            self.assertGreater(error.retry_after, 0)
            self.assertEqual((self.accepted, self.library.pins), ([], 0), step)

    def test_slow_servers_of_one_customer(self) -> None:
        """So many requests of one key may wait for their MP3s; another key's are taken, and its own after that."""
        slow: list[Deferred[Prepared]] = []

        def hang(url: str, *, cache: bool) -> Deferred[Prepared]:
            slow.append(Deferred())
            return slow[-1]

        self.patch(self.library, "prepare", hang)
        waiting = [self.admission.admit(GOOD) for _ in range(256)]
        self.assertEqual(self.unavailable().retry_after, 1)
        other = self.store.key = replace(self.store.key, id="key_2")
        waiting.append(self.admission.admit(GOOD))
        self.assertEqual(len(slow), 257)
        for each in slow:
            each.errback(AudioError(ReturnCode.MP3_UNUSABLE, "it was not here"))
        self.assertEqual({self.successResultOf(each).code for each in waiting}, {ReturnCode.MP3_UNUSABLE})
        self.store.key = replace(other, id="key_1")
        self.assertNoResult(self.admission.admit(GOOD))

    def test_library_away(self) -> None:
        """So is a library that can't keep audio."""
        self.library.error = LibraryUnavailable("disk full")
        self.assertEqual(self.unavailable().words, "the audio library can't take an MP3 now")
        self.assertEqual(self.store.log, ["find_key", "check"])


class ObjectionTests(AdmissionCase):
    def objections(self, *, fetch: bool = False, **changes: str) -> list[ReturnCode]:
        args = {**GOOD, **{name.encode(): [value.encode()] for name, value in changes.items()}}
        asking = self.admission.objections(self.store.key, PlaybackRequest.parse(args), fetch=fetch)
        return [verdict.code for verdict in self.successResultOf(asking)]

    def test_all(self) -> None:
        """All that would refuse a request is told, in the contract's order; nothing is taken, asked for or pinned."""
        self.assertEqual(self.objections(), [])
        self.store.wrong = set(STORE_ORDER)
        disabled, *others = STORE_ORDER
        self.assertEqual(self.objections(phone_number="9995550100"), [disabled, ReturnCode.AREA_NOT_SUPPORTED, *others])
        self.assertEqual(
            self.objections(country_code="123456789"), [disabled, ReturnCode.COUNTRY_NOT_SUPPORTED, *others]
        )
        self.assertEqual((self.library.asked, self.library.pins), ([], 0))
        self.assertEqual(set(self.store.log), {"objections"})

    def test_caller_id(self) -> None:
        """A caller id that is not the key's is the first of all, where such are refused."""
        self.store.key = replace(self.store.key, caller_ids=("12125550199",))
        self.assertEqual(self.objections(caller_id="12125550198"), [])
        self.admission.use_calls(Calls(unlisted_caller_id="refuse"))
        self.assertEqual(self.objections(caller_id="12125550198"), [ReturnCode.BAD_REQUEST])

    def test_mp3(self) -> None:
        """The MP3 is fetched and judged where that is asked for, and not kept for anybody."""
        self.assertEqual((self.objections(fetch=True), self.library.pins), ([], 0))
        self.library.error = AudioError(ReturnCode.MP3_TOO_LONG, "long")
        self.assertEqual(self.objections(fetch=True), [ReturnCode.MP3_TOO_LONG])

    def test_unavailable(self) -> None:
        """What is in the way of all requests is in its way, too."""
        request = PlaybackRequest.parse(GOOD)
        self.store.away = "objections"
        self.failureResultOf(self.admission.objections(self.store.key, request, fetch=False), Unavailable)
        self.obstacle = Unavailable("full", 10)
        self.failureResultOf(self.admission.objections(self.store.key, request, fetch=False), Unavailable)

    def test_request_that_may_be_repeated(self) -> None:
        """Its name is kept with the call."""
        asking = self.admission.admit_request(PlaybackRequest.parse(GOOD), idempotency="ab" * 24)
        self.assertIs(self.successResultOf(asking).code, ReturnCode.ACCEPTED)
        self.assertEqual(self.accepted[0].idempotency, "ab" * 24)


class AreaTests(SynchronousTestCase):
    def codes(self, regions: Regions, country_code: str, *numbers: str) -> set[int]:
        area = Area(regions)
        return {int(area.refusal(country_code, number) or 0) for number in numbers}

    def test_country(self) -> None:
        """A country code that is not in the list, or that is no country's, is code 8."""
        for country_code in ("44", "01", "999", "1" * 300):
            self.assertEqual(self.codes(Regions(), country_code, "2125550100"), {8})

    def test_odd_country_codes(self) -> None:
        """A code is a text: zeros in front make another one, and so does any length."""
        area = Area(Regions())
        for code in ("01", "001", "0", "11", "1" * 3000):
            self.assertIs(area.refusal(code, "2125550100"), ReturnCode.COUNTRY_NOT_SUPPORTED)

    def test_north_america(self) -> None:
        """The United States and Canada are called, with area codes old and new, and numbers for show as well."""
        self.assertEqual(self.codes(Regions(), "1", "2125550100", "4165550100", "2045551234", "8005551234"), {0})

    def test_islands(self) -> None:
        """The islands behind +1 are not, however much they look like America."""
        islands = ("8095551234", "8765551234", "2425551234", "2465551234", "4415551234", "3455551234", "6495551234")
        self.assertEqual(self.codes(Regions(), "1", *islands, "7875551234", "3405551234", "6715551234"), {7})

    def test_islands_by_choice(self) -> None:
        """Unless the settings name them."""
        regions = Regions(north_america=("US", "CA", "PR", "JM"))
        self.assertEqual(self.codes(regions, "1", "7875551234", "8765551234", "2125550100"), {0})
        self.assertEqual(self.codes(regions, "1", "8095551234"), {7})

    def test_no_such_area(self) -> None:
        """Area codes that nobody has are code 7."""
        self.assertEqual(self.codes(Regions(), "1", "0000000000", "1115550100", "2225550100", "9995550100"), {7})

    def test_premium(self) -> None:
        """Premium-rate numbers are not called, unless the settings say so."""
        self.assertEqual(self.codes(Regions(), "1", "9005551234"), {7})
        self.assertEqual(self.codes(Regions(premium=True), "1", "9005551234"), {0})
        british = Regions(countries=("44",))
        self.assertEqual(self.codes(british, "44", "9090123456"), {7})
        self.assertEqual(self.codes(british, "44", "2079460000", "7911123456"), {0})

    def test_allow(self) -> None:
        """A list of leading digits lets these through alone, of its own country."""
        regions = Regions(countries=("1", "44"), allow={"1": ("212", "31055")})
        self.assertEqual(self.codes(regions, "1", "2125550100", "3105550100"), {0})
        self.assertEqual(self.codes(regions, "1", "3105650100", "4155550100"), {7})
        self.assertEqual(self.codes(regions, "44", "2079460000"), {0})

    def test_deny(self) -> None:
        """Denied leading digits count before allowed ones, and allowed ones open no island."""
        regions = Regions(allow={"1": ("212", "809")}, deny={"1": ("212555",)})
        self.assertEqual(self.codes(regions, "1", "2125550100", "8095551234"), {7})
        self.assertEqual(self.codes(regions, "1", "2126650100"), {0})


class RegionsChangeTests(AdmissionCase):
    def test_use_regions(self) -> None:
        """New regions count from the next request on, also for numbers that were asked for before."""
        self.assertEqual(self.ask().code, ReturnCode.ACCEPTED)
        self.admission.use_regions(Regions(deny={"1": ("212",)}))
        self.assertEqual(self.ask().code, ReturnCode.AREA_NOT_SUPPORTED)
        self.admission.use_regions(Regions(countries=("44",)))
        self.assertEqual(self.ask().code, ReturnCode.COUNTRY_NOT_SUPPORTED)
