"""May this call be made? The contract's codes, asked in the contract's order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import phonenumbers
from phonenumbers import PhoneNumber, PhoneNumberType
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from calledind.audio.errors import AudioError, LibraryUnavailable
from calledind.audio.library import Prepared
from calledind.crash import crash_at
from calledind.keyring import Keyring
from calledind.model import DEFAULT_CALLER, BadRequest, Call, Key, PlaybackRequest, ReturnCode, new_call_id
from calledind.numbering import same_caller
from calledind.settings.tables import Calls, Regions
from calledind.store.interface import Store, StoreUnavailable

WORDS = {
    ReturnCode.ACCEPTED: "accepted",
    ReturnCode.INVALID_KEY: "this api_key is not known",
    ReturnCode.NO_CREDITS: "this api_key has no call credits left",
    ReturnCode.DO_NOT_CALL: "phone_number is on the DoNotCall list",
    ReturnCode.BAD_REQUEST: "badly formed request",
    ReturnCode.KEY_DISABLED: "this api_key is disabled",
    ReturnCode.FLOOD: "phone_number was accepted less than one minute ago",
    ReturnCode.AREA_NOT_SUPPORTED: "the area code of phone_number is not supported",
    ReturnCode.COUNTRY_NOT_SUPPORTED: "country_code is not supported",
    ReturnCode.MP3_UNUSABLE: "mp3 cannot be fetched or is not MPEG layer 3",
    ReturnCode.MP3_TOO_LONG: "mp3 plays longer than three minutes",
}

T = TypeVar("T")

DEFAULTS = Calls()
NORTH_AMERICA = "1"
LONGEST_COUNTRY_CODE = 8
MOST_AREAS = 65536
"Whose decisions are remembered."
PREMIUM = frozenset({PhoneNumberType.PREMIUM_RATE, PhoneNumberType.SHARED_COST})


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one playback request."""

    code: ReturnCode
    words: str
    "The reason, for people."
    call_id: str | None = None
    "Of the accepted call."


NOT_YOUR_CALLER = Verdict(ReturnCode.BAD_REQUEST, "caller_id is not one that this api_key may use")


class Unavailable(Exception):
    """The daemon itself can't take work now: 503 with Retry-After."""

    def __init__(self, words: str, retry_after: int) -> None:
        super().__init__(words)
        self.words = words
        self.retry_after = retry_after
        "Seconds."


class Area:
    """Which countries' which numbers may be called."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions
        self._allowed: dict[int, bool] = {}
        "Country code and leading digits as one number, which takes a third of what text would -> whether."

    def refusal(self, country_code: str, phone_number: str) -> ReturnCode | None:
        if country_code not in self._regions.countries:
            return ReturnCode.COUNTRY_NOT_SUPPORTED
        allow = self._regions.allow.get(country_code, ())
        deny = self._regions.deny.get(country_code, ())
        if (allow and not phone_number.startswith(allow)) or (deny and phone_number.startswith(deny)):
            return ReturnCode.AREA_NOT_SUPPORTED
        # Numbering plans tell regions and types apart by no more than the leading seven digits.
        leading = phone_number[:7]
        place = int("1" + country_code + leading)
        allowed = self._allowed.get(place)
        if allowed is None:
            if len(self._allowed) >= MOST_AREAS:
                self._allowed.clear()
            allowed = self._allowed[place] = self._decide(country_code, leading)
        return None if allowed else ReturnCode.AREA_NOT_SUPPORTED

    def _decide(self, country_code: str, leading: str) -> bool:
        number = _number(country_code, leading.ljust(10, "0"))
        if not self._regions.premium and phonenumbers.number_type(number) in PREMIUM:
            return False
        if country_code != NORTH_AMERICA:
            return True
        # Country code 1 is twenty-odd countries; the area code alone says which.
        region = phonenumbers.region_code_for_number(number) or phonenumbers.region_code_for_number(
            _number(country_code, leading[:3] + "5550100")
        )
        return region in self._regions.north_america


def _number(country_code: str, national: str) -> PhoneNumber:
    return PhoneNumber(
        country_code=int(country_code),
        national_number=int(national),
        italian_leading_zero=national.startswith("0"),
    )


class Library(Protocol):
    """What admission wants of `audio.library`."""

    def ready(self, url: str, *, cache: bool) -> bool: ...

    def prepare(self, url: str, *, cache: bool) -> Deferred[Prepared]: ...

    def unpin(self, name: str) -> None: ...


class Admission:
    """Answers one playback request; an accepted call goes to `accepted`, already on stable storage."""

    log = Logger()

    def __init__(
        self,
        *,
        store: Store,
        keyring: Keyring,
        library: Library,
        regions: Regions,
        calls: Calls = DEFAULTS,
        accepted: Callable[[Call], None],
        obstacle: Callable[[], Unavailable | None],
        now: Callable[[], float],
        most_waiting: int = 256,
        check_is_cheap: bool = True,
        decided: Callable[[ReturnCode | None], None] = lambda code: None,
    ) -> None:
        """`most_waiting`: requests of one key that may wait for their MP3s at the same time.

        `check_is_cheap`: whether the store checks in this process, and not a round trip away.

        `decided` is told each code, None where the answer is 503 instead; it must not raise.
        """
        self._check_is_cheap = check_is_cheap
        self._store = store
        self._keyring = keyring
        self._library = library
        self._area = Area(regions)
        self._calls = calls
        self._accepted = accepted
        self._obstacle = obstacle
        self._now = now
        self._most_waiting = most_waiting
        self._decided = decided
        self._waiting: Counter[str] = Counter()
        "Key id -> its requests that wait for their MP3s."

    def use_regions(self, regions: Regions) -> None:
        """Decide by these from now on."""
        self._area = Area(regions)

    def use_calls(self, calls: Calls) -> None:
        """Judge caller ids by these from now on."""
        self._calls = calls

    def admit(self, args: Mapping[bytes, Sequence[bytes]]) -> Deferred[Verdict]:
        """Decide. `args` as `twisted.web` gives a query's arguments. Fails with `Unavailable` alone."""
        return _Run(self._admit(args)).done

    def admit_for(self, key_id: str, request: PlaybackRequest, call_id: str = "") -> Deferred[Verdict]:
        """Decide for an operator, who names a key by its id, and may choose the call's. Fails with `Unavailable`."""
        return Deferred.fromCoroutine(self._admit_for(key_id, request, call_id))

    def admit_request(self, request: PlaybackRequest, *, idempotency: str = "") -> Deferred[Verdict]:
        """Decide on a request that was read already; `idempotency` as of a `Call`. Fails with `Unavailable`."""
        return Deferred.fromCoroutine(self._admit_for("", request, "", idempotency))

    def admit_for_key(self, key: Key, request: PlaybackRequest, call_id: str) -> Deferred[Verdict]:
        """Decide for a key that the store has just told of; the call gets this id. Fails with `Unavailable`."""
        return Deferred.fromCoroutine(self._admit_for_key(key, request, call_id))

    def objections(self, key: Key, request: PlaybackRequest, *, fetch: bool) -> Deferred[Sequence[Verdict]]:
        """Return every refusal that such a request would meet now, in the contract's order; none: it would be accepted.

        Takes nothing. With `fetch`, the MP3 is fetched and judged too, unless it is here already; without, it is not
        asked for. Fails with `Unavailable`.
        """
        return Deferred.fromCoroutine(self._objections(key, request, fetch))

    async def _objections(self, key: Key, request: PlaybackRequest, fetch: bool) -> Sequence[Verdict]:
        obstacle = self._obstacle()
        if obstacle is not None:
            raise obstacle
        found: list[Verdict] = []
        if not self._is_listed(request.caller_id, key) and self._calls.unlisted_caller_id == "refuse":
            found.append(NOT_YOUR_CALLER)
        region = self._area.refusal(request.country_code, request.phone_number)
        # A store knows no numbers of a country code that is none.
        country_code = request.country_code if len(request.country_code) <= LONGEST_COUNTRY_CODE else "0"
        try:
            codes = await self._store.objections(key.id, country_code, request.phone_number, self._now())
            order = [code for code in (ReturnCode.KEY_DISABLED, region, *codes) if code is not None]
            found += [_refusal(code) for code in dict.fromkeys(order) if code is region or code in codes]
            if fetch:
                self._library.unpin((await self._prepare(request, key)).name)
        except AudioError as error:
            found.append(Verdict(error.code, error.words))
        except (StoreUnavailable, LibraryUnavailable) as error:
            raise self._away(error) from error
        return found

    async def _admit_for(self, key_id: str, request: PlaybackRequest, call_id: str, idempotency: str = "") -> Verdict:
        code = None
        try:
            obstacle = self._obstacle()
            if obstacle is not None:
                raise obstacle
            verdict = await self._weigh(request, key_id, call_id, idempotency)
            code = verdict.code
        finally:
            self._decided(code)
        return verdict

    async def _admit_for_key(self, key: Key, request: PlaybackRequest, call_id: str) -> Verdict:
        code = None
        try:
            obstacle = self._obstacle()
            if obstacle is not None:
                raise obstacle
            verdict = await self._decide(request, key, call_id, "")
            code = verdict.code
        except (StoreUnavailable, LibraryUnavailable) as error:
            raise self._away(error) from error
        finally:
            self._decided(code)
        return verdict

    async def _admit(self, args: Mapping[bytes, Sequence[bytes]]) -> Verdict:
        code = None
        try:
            verdict = await self._judge(args)
            code = verdict.code
        finally:
            self._decided(code)
        return verdict

    async def _judge(self, args: Mapping[bytes, Sequence[bytes]]) -> Verdict:
        obstacle = self._obstacle()
        if obstacle is not None:
            raise obstacle
        try:
            request = PlaybackRequest.parse(args)
        except BadRequest as error:
            return Verdict(ReturnCode.BAD_REQUEST, str(error))
        return await self._weigh(request)

    async def _weigh(
        self, request: PlaybackRequest, key_id: str = "", call_id: str = "", idempotency: str = ""
    ) -> Verdict:
        try:
            key = await self._find_key(request.api_key, key_id)
            return (
                _refusal(ReturnCode.INVALID_KEY)
                if key is None
                else await self._decide(request, key, call_id, idempotency)
            )
        except (StoreUnavailable, LibraryUnavailable) as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> Unavailable:
        # What exactly is wrong is the operator's business: the log has it, strangers don't get it.
        self.log.warn("a call is refused with 503: {error}", error=error)
        store = isinstance(error, StoreUnavailable)
        return Unavailable("the store can't keep calls now" if store else "the audio library can't take an MP3 now", 5)

    async def _find_key(self, api_key: str, key_id: str) -> Key | None:
        if key_id:
            return next((key for key in await self._store.keys() if key.id == key_id), None)
        return await self._store.find_key(self._keyring.digest(api_key))

    async def _decide(self, request: PlaybackRequest, key: Key, call_id: str, idempotency: str) -> Verdict:
        listed = self._is_listed(request.caller_id, key)
        if not listed and self._calls.unlisted_caller_id == "refuse":
            return NOT_YOUR_CALLER
        if key.disabled:
            return _refusal(ReturnCode.KEY_DISABLED)
        region = self._area.refusal(request.country_code, request.phone_number)
        if region is not None:
            return _refusal(region)
        # Nothing is fetched for a request that would be refused. Where nothing is, the acceptance decides it as well.
        if self._check_is_cheap or not self._library.ready(request.mp3, cache=request.cache):
            code = await self._store.check(key.id, request.country_code, request.phone_number, self._now())
            if code is not ReturnCode.ACCEPTED:
                return _refusal(code)
        try:
            prepared = await self._prepare(request, key)
        except AudioError as error:
            return Verdict(error.code, error.words)
        asked = request if listed else replace(request, caller_id=DEFAULT_CALLER)
        call = self._call(asked, key, prepared, call_id, idempotency)
        try:
            crash_at("accept.asked")
            code = await self._store.accept(call)
            crash_at("accept.kept")
        except BaseException:
            self._library.unpin(prepared.name)
            raise
        if code is not ReturnCode.ACCEPTED:
            self._library.unpin(prepared.name)
            return _refusal(code)
        self._accepted(call)
        crash_at("accept.queued")
        return Verdict(code, WORDS[code], call.id)

    def _prepare(self, request: PlaybackRequest, key: Key) -> Deferred[Prepared]:
        """Have the MP3 fetched. A customer whose servers are slow must not take the place of all the others."""
        if self._waiting.get(key.id, 0) >= self._most_waiting:
            raise Unavailable("too many requests of this api_key wait for their MP3s", 1)
        preparing = self._library.prepare(request.mp3, cache=request.cache)
        if not preparing.called:
            self._waiting[key.id] += 1
            preparing.addBoth(self._waited, key.id)
        return preparing

    def _waited(self, result: T, key_id: str) -> T:
        self._waiting[key_id] -= 1
        if not self._waiting[key_id]:
            del self._waiting[key_id]
        return result

    def _is_listed(self, caller_id: str, key: Key) -> bool:
        """Whether a key may use a caller id; one without a list may use any, and each may leave it to the trunk."""
        if not key.caller_ids or caller_id == DEFAULT_CALLER or caller_id in key.caller_ids:
            return True
        home = self._calls.home_country
        return any(same_caller(caller_id, each, home) for each in key.caller_ids)

    def _call(self, request: PlaybackRequest, key: Key, prepared: Prepared, call_id: str, idempotency: str) -> Call:
        now = self._now()
        # Full attestation speaks of the right to a number: one of the list, or the trunk's own, the operator's.
        sure = bool(key.caller_ids) or request.caller_id == DEFAULT_CALLER
        return Call(
            id=call_id or new_call_id(now),
            key_id=key.id,
            phone_number=request.phone_number,
            country_code=request.country_code,
            caller_id=request.caller_id,
            audio=prepared.name,
            duration=prepared.duration,
            callback_url=request.callback_url,
            secret=request.secret,
            accepted_at=now,
            attestation="B" if key.attestation == "A" and not sure else key.attestation,
            idempotency=idempotency,
        )


class _Run(Generic[T]):
    """Does what `Deferred.fromCoroutine` does, for work that nobody cancels, at a third of its price.

    Of what is over nothing refers to itself: a function in here that calls itself would be left to the collector.
    """

    __slots__ = ("_work", "done")

    def __init__(self, work: Coroutine[Deferred[Any], Any, T]) -> None:
        self._work = work
        self.done: Deferred[T] = Deferred()
        self._go_on(None)

    def _go_on(self, result: Any) -> None:
        try:
            if isinstance(result, Failure):
                waiting = result.throwExceptionIntoGenerator(self._work)  # type: ignore[no-untyped-call]
            else:
                waiting = self._work.send(None)
        except StopIteration as end:
            self.done.callback(end.value)
        except BaseException:  # noqa: BLE001 - it is handed on, whatever it is
            self.done.errback()
        else:
            waiting.addBoth(self._go_on)


def _refusal(code: ReturnCode) -> Verdict:
    return Verdict(code, WORDS[code])
