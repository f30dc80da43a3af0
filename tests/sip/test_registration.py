"""Registrations: a registrar that plays a script, on a network in memory."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Address
from calledind.sip.auth import Credentials
from calledind.sip.message import Request, Response, parse, response_to
from calledind.sip.registration import (
    FIRST_RETRY,
    FIRST_RETRY_REFUSED,
    LEAVE_WITHIN,
    SETTLE,
    Account,
    Lapsed,
    NotRegistered,
    Registered,
    Registration,
    RegistrationEvent,
    State,
)
from calledind.sip.useragent import UserAgent
from tests.sip.network import Network
from tests.sip.parties import QUIET, THEM, US

ACCOUNT = Account(
    registrar="sip:carrier.example.com",
    address_of_record="sip:alice@carrier.example.com",
    credentials=Credentials("alice", "secret"),
    contact_user="alice",
)
OURS = "<sip:alice@127.0.0.1:5060>"

Script = Callable[[Request], "Response | None"]


def granted(seconds: int = 3600, *headers: tuple[str, str]) -> Script:
    """200 that keeps the first Contact for so many seconds."""

    def play(request: Request) -> Response:
        contact = request.contact
        assert contact is not None
        kept = [("Contact", f"<{contact.uri}>;expires={seconds}")] if contact.parameter("expires") != "0" else []
        return response_to(request, 200, to_tag="r", headers=[*kept, *headers])

    return play


def says(status: int, *headers: tuple[str, str]) -> Script:
    return lambda request: response_to(request, status, to_tag="r", headers=headers)


def challenged(nonce: str = "n", then: Script = granted()) -> Script:  # noqa: B008
    """401 until the answer is from this nonce."""

    def play(request: Request) -> Response | None:
        if f'nonce="{nonce}"' in (request.get("Authorization") or ""):
            return then(request)
        return response_to(
            request, 401, headers=[("WWW-Authenticate", f'Digest realm="r", nonce="{nonce}", qop="auth"')]
        )

    return play


def silent(request: Request) -> None:
    return None


class RegistrationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.network = Network()
        self.clock = self.network.clock
        self.heard: list[Request] = []
        self.events: list[RegistrationEvent] = []
        self.script: Script = granted()
        self.where: Address | OSError = THEM
        self.local: Address | OSError = US
        self.done = 0
        self.others = 0
        "Further servers of the registrar's."
        self.unfit: list[tuple[str, int | None]] = []
        answer = self.network.attach(THEM, self.receive)
        self.answer = answer
        self.agent = UserAgent(
            send=self.network.attach(US),
            timers=self.clock,
            local=self.our_address,
            user_agent="calledin",
            trusted=lambda ip: True,
        )
        self.network.listen(US, self.agent.datagram_received)
        self.registration = self.register(ACCOUNT)

    def register(self, account: Account) -> Registration:
        return self.agent.registration(
            account,
            locate=lambda found: found(self.where),
            report=self.events.append,
            elsewhere=self.elsewhere,
            chance=lambda: 1.0,
        )

    def elsewhere(self, words: str, retry_after: int | None) -> bool:
        self.unfit.append((words, retry_after))
        self.others -= 1
        return self.others >= 0

    def our_address(self, target: Address) -> Address:
        if isinstance(self.local, OSError):
            raise self.local
        return self.local

    def receive(self, data: bytes, source: Address) -> None:
        request = parse(data)
        assert isinstance(request, Request)
        self.heard.append(request)
        response = self.script(request)
        if response is not None:
            self.answer(bytes(response), source)

    def start(self, script: Script, seconds: float = 1.0) -> None:
        self.script = script
        self.registration.start()
        self.network.pass_time(seconds)

    def stop(self, seconds: float = QUIET) -> None:
        def done() -> None:
            self.done += 1

        self.registration.stop(done)
        self.network.pass_time(seconds)

    def quiet(self) -> None:
        """Nothing is left: no transaction, no timer."""
        self.assertEqual((len(self.agent), self.clock.getDelayedCalls(), self.done), (0, [], 1))

    # what goes well

    def test_registers(self) -> None:
        """The REGISTER of §10.2: a domain as Request-URI, From and To alike, Contact and Expires."""
        self.assertTrue(self.registration.is_undecided)
        self.assertEqual(self.registration.obstacle, "not registered: no answer yet")
        self.start(granted())
        (request,) = self.heard
        self.assertEqual((request.method, request.uri), ("REGISTER", "sip:carrier.example.com"))
        self.assertEqual(request.to.uri, "sip:alice@carrier.example.com")
        self.assertEqual((request.from_.uri, request.to.tag), (request.to.uri, None))
        self.assertEqual(request.get("Contact"), f"{OURS};expires=3600")
        self.assertEqual((request.get("Expires"), request.get("Supported")), ("3600", "path"))
        self.assertEqual(self.events, [Registered(3600, renewed=False)])
        self.assertTrue(self.registration.is_registered)
        self.assertFalse(self.registration.is_undecided)
        self.assertEqual(self.registration.obstacle, "")
        self.assertEqual(round(self.registration.lifetime), 3599)

    def test_secure(self) -> None:
        """Who registers at a sips domain is reached by sips."""
        self.registration = self.register(Account("sips:c.example.com", "sips:alice@c.example.com"))
        self.start(granted())
        self.assertEqual(self.heard[0].get("Contact"), "<sips:calledin@127.0.0.1:5060>;expires=3600")

    def test_refreshes(self) -> None:
        """Before the time has run out, with the same Call-ID and the next CSeq."""
        self.start(granted(600))
        self.network.pass_time(0.85 * 600 - 2)
        self.assertEqual(len(self.heard), 1)
        self.network.pass_time(3)
        first, second = self.heard
        self.assertEqual((first.call_id, first.from_.tag), (second.call_id, second.from_.tag))
        self.assertEqual((first.cseq.number, second.cseq.number), (1, 2))
        self.assertNotEqual(first.via.branch, second.via.branch)
        self.assertEqual(self.events[1:], [Registered(600, renewed=True)])
        self.network.pass_time(5000)
        self.assertEqual([type(event) for event in self.events], [Registered] * len(self.events))

    def test_refreshes_early_enough(self) -> None:
        """Early enough for a transaction that fails, or at half time where the binding lasts no longer than that."""
        for seconds, due in ((120, 88.0), (60, 30.0), (10, 5.0), (1, 1.0)):
            self.registration = self.register(ACCOUNT)
            self.heard.clear()
            self.start(granted(seconds), due - 0.1)
            self.assertEqual(len(self.heard), 1)
            self.network.pass_time(0.3)
            self.assertEqual(len(self.heard), 2)
            self.stop(1)

    def test_digest(self) -> None:
        """A challenge is answered, and its nonce goes on serving the refreshes."""
        self.start(challenged())
        self.network.pass_time(3600)
        found = [request.get("Authorization") or "" for request in self.heard]
        self.assertEqual(found[0], "")
        self.assertIn("nc=00000001", found[1])
        self.assertIn('uri="sip:carrier.example.com"', found[1])
        self.assertIn("nc=00000002", found[2])
        self.assertEqual([request.cseq.number for request in self.heard[:3]], [1, 2, 3])
        self.assertEqual(self.events[:2], [Registered(3600, renewed=False), Registered(3600, renewed=True)])

    def test_what_the_registrar_gives(self) -> None:
        """Our Contact's expires among others', else the only Contact's, else Expires, else what was asked for."""
        contacts = {
            ("<sip:bob@10.0.0.1>;expires=5, <sip:alice@127.0.0.1:5060>;expires=500", ""): 500,
            ("<sip:bob@10.0.0.1>;expires=5, <sip:ALICE@127.0.0.1>;expires=6", "50"): 50,
            ("<sip:alice@198.51.100.1:1024>;expires=70", "3600"): 70,
            ("<sip:%61lice@127.0.0.1>", "700"): 700,
            ("<sip:alice@127.0.0.1>;expires=soon", ""): 3600,
            ("<not a uri>;expires=5", "60"): 60,
            ("<mailto:a@b>;expires=7, <sip:c@d>", "61"): 61,
            ("", "never"): 3600,
            ("<sip:alice@127.0.0.1>;expires=4000000000", ""): 7 * 86400,
        }
        for (contact, expires), seconds in contacts.items():
            headers = [(name, value) for name, value in (("Contact", contact), ("Expires", expires)) if value]
            self.registration = self.register(ACCOUNT)
            self.start(says(200, *headers))
            self.assertEqual(self.events[-1], Registered(seconds, renewed=False), contact)
            self.stop()

    def test_routes(self) -> None:
        """Path and Service-Route are those of the last 2xx; what can't be read is none."""
        routes = (
            ("Service-Route", "<sip:edge.example.com;lr>, <sip:core.example.com;lr>"),
            ("Path", "<sip:p.example.com;lr>"),
        )
        self.start(granted(100, *routes))
        self.assertEqual(self.registration.service_route, ("<sip:edge.example.com;lr>", "<sip:core.example.com;lr>"))
        self.assertEqual(self.registration.path, ("<sip:p.example.com;lr>",))
        self.script = granted(100, ("Service-Route", "<sip:edge.example.com;lr>, <edge>"))
        self.network.pass_time(90)
        self.assertEqual((self.registration.service_route, self.registration.path), ((), ()))

    def test_leaves(self) -> None:
        """At the end the binding is taken back, with the answer to the challenge that was learned."""
        self.start(challenged())
        self.stop()
        last = self.heard[-1]
        self.assertEqual((last.get("Contact"), last.get("Expires")), (f"{OURS};expires=0", "0"))
        self.assertIn("nc=00000002", last.get("Authorization") or "")
        self.assertEqual(last.cseq.number, 3)
        self.assertFalse(self.registration.is_registered)
        self.quiet()
        self.assertRaises(RuntimeError, self.registration.stop, lambda: None)
        self.assertRaises(RuntimeError, self.registration.start)

    def test_leaves_without_an_answer(self) -> None:
        """Nobody answers: it is over after its time, and nothing is sent any more."""
        self.start(granted())
        self.script = silent
        self.stop(LEAVE_WITHIN - 0.1)
        self.assertEqual(self.done, 0)
        self.network.pass_time(0.2)
        self.assertEqual(self.done, 1)
        before = len(self.heard)
        self.network.pass_time(QUIET)
        self.assertEqual(len(self.heard), before)
        self.quiet()

    def test_leaves_where_refused(self) -> None:
        """A refusal, and an ICMP message, are ends as good as any."""
        for act in (lambda: None, lambda: self.agent.transport_failed(THEM)):
            self.done = 0
            self.registration = self.register(ACCOUNT)
            self.start(granted())
            self.script = says(403)
            self.registration.stop(self.count)
            act()
            self.network.pass_time(QUIET)
            self.quiet()

    def count(self) -> None:
        self.done += 1

    def test_leaves_before_the_answer(self) -> None:
        """A REGISTER without an answer may have arrived: it isn't repeated, and what it asked for is taken back."""
        self.start(silent)
        before = len(self.heard)
        self.script = granted()
        self.stop()
        self.assertEqual([request.get("Expires") for request in self.heard[before:]], ["0"])
        self.quiet()

    def test_leaves_with_nothing_to_take_back(self) -> None:
        """Not begun, refused, or still looking for the registrar: there is nothing to say."""
        self.stop()
        self.assertEqual(self.heard, [])
        self.quiet()
        self.done, self.registration = 0, self.register(ACCOUNT)
        self.start(says(403))
        self.stop()
        self.assertEqual(len(self.heard), 1)
        self.quiet()
        late: list[Callable[[Address | OSError], None]] = []
        self.done = 0
        self.registration = self.agent.registration(ACCOUNT, locate=late.append, report=self.events.append)
        self.start(granted())
        self.stop()
        late[0](THEM)
        self.network.pass_time(1)
        self.assertEqual(len(self.heard), 1)
        self.quiet()

    # what goes wrong

    def test_too_brief(self) -> None:
        """423 is answered at once with what it asks for, which is kept."""

        def play(request: Request) -> Response | None:
            brief = int(request.get("Expires") or 0) < 7200
            return says(423, ("Min-Expires", "7200"))(request) if brief else granted(7200)(request)

        self.start(play)
        self.network.pass_time(7000)
        self.assertEqual([request.get("Expires") for request in self.heard], ["3600", "7200", "7200"])
        self.assertEqual(self.events, [Registered(7200, renewed=False), Registered(7200, renewed=True)])

    def test_never_long_enough(self) -> None:
        """A registrar that raises its price each time, or names none, or one beyond reason, is waited for."""
        asked: list[int] = []

        def more(request: Request) -> Response:
            asked.append(int(request.get("Expires") or 0))
            return response_to(request, 423, headers=[("Min-Expires", str(asked[-1] + 1))])

        self.start(more, 10)
        self.assertEqual(asked, [3600, 3601])
        for script in (says(423), says(423, ("Min-Expires", "much")), says(423, ("Min-Expires", "4000000000"))):
            self.heard.clear()
            self.registration = self.register(ACCOUNT)
            self.start(script, 10)
            self.assertEqual(len(self.heard), 1)
            self.assertEqual(self.events[-1], NotRegistered("423 Interval Too Brief", FIRST_RETRY_REFUSED, still=False))

    def test_refused(self) -> None:
        """An opinion about us is asked for again after minutes, each time twice as many, up to an hour."""
        for script, words in ((says(403), "403 Forbidden"), (says(404), "404 Not Found"), (says(603), "603 Decline")):
            self.events.clear()
            self.registration = self.register(ACCOUNT)
            self.start(script)
            self.network.pass_time(20_000)
            waits = [event.retry_in for event in self.events if isinstance(event, NotRegistered)]
            self.assertEqual(waits[:6], [300, 600, 1200, 2400, 3600, 3600])
            self.assertEqual(self.registration.obstacle, f"not registered: {words}")
            self.stop()

    def test_wrong_password(self) -> None:
        """A nonce that is refused twice is an opinion about us."""
        self.start(says(401, ("WWW-Authenticate", 'Digest realm="r", nonce="n"')), 100)
        self.assertEqual(len(self.heard), 2)
        self.assertEqual(self.events, [NotRegistered("401 Unauthorized", FIRST_RETRY_REFUSED, still=False)])

    def test_without_credentials(self) -> None:
        """Without credentials a challenge is a refusal."""
        self.registration = self.register(Account("sip:c", "sip:a@c"))
        self.start(challenged(), 100)
        self.assertEqual(len(self.heard), 1)
        self.assertEqual(self.events, [NotRegistered("401 Unauthorized", FIRST_RETRY_REFUSED, still=False)])

    def test_trouble(self) -> None:
        """A registrar in trouble is asked again soon, each time after twice as long, up to five minutes."""
        for status in (503, 500, 408, 480):
            self.events.clear()
            self.registration = self.register(ACCOUNT)
            self.start(says(status))
            self.network.pass_time(2000)
            waits = [event.retry_in for event in self.events if isinstance(event, NotRegistered)]
            self.assertEqual(waits[:8], [5, 10, 20, 40, 80, 160, 300, 300])
            self.stop()

    def test_recovers(self) -> None:
        """The first success puts an end to it: the next failure is a first one again."""
        self.start(says(503), 8)
        self.script = granted()
        self.network.pass_time(10)
        self.assertTrue(self.registration.is_registered)
        self.script = says(503)
        self.network.pass_time(3600)
        failures = [event for event in self.events if isinstance(event, NotRegistered)]
        self.assertEqual([failure.retry_in for failure in failures[:3]], [5, 10, 5])
        self.assertTrue(failures[2].still)

    def test_chance(self) -> None:
        """The waits vary, by half at most."""
        chances = iter([0.0, 0.5])
        self.registration = self.agent.registration(
            ACCOUNT, locate=lambda found: found(THEM), report=self.events.append, chance=lambda: next(chances, 0.0)
        )
        self.start(says(503), 4)
        waits = [event.retry_in for event in self.events if isinstance(event, NotRegistered)]
        self.assertEqual(waits, [2.5, 7.5])

    def test_retry_after(self) -> None:
        """It is honoured, up to an hour."""
        for value, wait in (("120", 120.0), ("4000000", 3600.0), ("1", FIRST_RETRY), ("soon", FIRST_RETRY)):
            self.registration = self.register(ACCOUNT)
            self.start(says(503, ("Retry-After", value)))
            self.assertEqual(self.events[-1], NotRegistered("503 Service Unavailable", wait, still=False))

    def test_other_servers(self) -> None:
        """Where a server says 503 or nothing the next one is asked at once, until there is none; any other refusal
        stands."""
        self.others = 2
        servers = [says(503, ("Retry-After", "7")), silent, granted()]

        def script(request: Request) -> Response | None:
            return servers[len(self.unfit)](request)

        self.start(script, 31)
        self.assertTrue(self.registration.is_undecided)
        self.network.pass_time(2)
        self.assertEqual(self.unfit, [("503 Service Unavailable", 7), ("no final response within 32 s", None)])
        self.assertEqual(self.events, [Registered(3600, renewed=False)])
        for status in (500, 403, 503):
            self.registration = self.register(ACCOUNT)
            self.others = 5 if status != 503 else 0
            self.start(says(status))
            self.assertIsInstance(self.events[-1], NotRegistered)
        self.assertEqual(len(self.unfit), 3)

    def test_nobody_answers(self) -> None:
        """No response is a trouble like others; what may have arrived is taken back at the end."""
        self.start(silent, 33)
        self.assertEqual(self.events, [NotRegistered("no final response within 32 s", 5.0, still=False)])
        self.script = granted()
        self.stop()
        self.assertEqual(self.heard[-1].get("Expires"), "0")
        self.quiet()

    def test_trying(self) -> None:
        """A 100 is no answer."""
        self.start(says(100), 10)
        self.assertTrue(self.registration.is_undecided)

    def test_icmp(self) -> None:
        """A port where nobody listens is known at once."""
        self.start(silent)
        self.agent.transport_failed(THEM)
        self.assertEqual(self.events, [NotRegistered("nobody listens there (ICMP)", 5.0, still=False)])

    def test_nowhere(self) -> None:
        """No address of the registrar's, or no way there, is told and tried again, never before `start` returns."""
        self.where = OSError("no such host")
        self.registration.start()
        self.assertEqual(self.events, [])
        self.network.pass_time(1)
        self.where, self.local = THEM, OSError("no way there")
        self.network.pass_time(6)
        words = [event.words for event in self.events if isinstance(event, NotRegistered)]
        self.assertEqual(words, ["no such host", "no way there"])
        self.local = US
        self.network.pass_time(11)
        self.assertTrue(self.registration.is_registered)

    def test_not_kept(self) -> None:
        """A 200 that gives us no time is no success."""
        self.start(granted(0))
        self.assertEqual(
            self.events, [NotRegistered("the registrar keeps no binding of ours", FIRST_RETRY_REFUSED, still=False)]
        )

    def test_lapses(self) -> None:
        """A binding outlives the failure of its refresh, until its time has run out; the tries go on."""
        self.start(granted(120))
        self.script = silent
        self.network.pass_time(118)
        self.assertTrue(self.registration.is_registered)
        self.network.pass_time(2)
        self.assertFalse(self.registration.is_registered)
        self.assertEqual(self.registration.service_route, ())
        self.assertEqual(self.registration.lifetime, 0.0)
        self.assertIn("no final response", self.registration.obstacle)
        self.assertIn(Lapsed(), self.events)
        self.script = granted(120)
        self.network.pass_time(40)
        self.assertEqual(self.events[-1], Registered(120, renewed=False))

    def test_lapses_while_waiting(self) -> None:
        """The same where the time runs out between two tries."""
        self.start(granted(120))
        self.script = says(403)
        self.network.pass_time(125)
        self.assertEqual([type(event) for event in self.events], [Registered, NotRegistered, Lapsed])

    # where we are

    def test_moves(self) -> None:
        """Where others see us at another address, that is registered and the old one taken back, in one REGISTER."""

        def play(request: Request) -> Response | None:
            self.local = ("198.51.100.7", 1024)
            return granted()(request)

        self.start(play)
        first, second = self.heard
        self.assertEqual(first.all("Contact"), [f"{OURS};expires=3600"])
        moved = "<sip:alice@198.51.100.7:1024>"
        self.assertEqual(second.all("Contact"), [f"{moved};expires=3600", f"{OURS};expires=0"])
        self.network.pass_time(3600)
        self.assertEqual(self.heard[2].all("Contact"), [f"{moved};expires=3600"])
        self.stop()
        self.assertEqual(self.heard[-1].all("Contact"), [f"{moved};expires=0"])

    def test_stopped_while_moving(self) -> None:
        """Both addresses are taken back where the REGISTER for the new one has no answer yet."""
        self.start(granted())
        self.script, self.local = silent, ("198.51.100.7", 1024)
        self.registration.check_address()
        self.network.pass_time(1)
        self.stop(1)
        moved = "<sip:alice@198.51.100.7:1024>"
        self.assertEqual(self.heard[-1].all("Contact"), [f"{OURS};expires=0", f"{moved};expires=0"])

    def test_moves_with_the_challenge(self) -> None:
        """What the challenge tells of us is used at once: the first binding is the right one."""

        def play(request: Request) -> Response | None:
            self.local = ("198.51.100.7", 1024)
            return challenged()(request)

        self.start(play)
        self.assertEqual([len(request.all("Contact")) for request in self.heard], [1, 1])
        self.assertIn("198.51.100.7:1024", self.heard[1].get("Contact") or "")

    def test_a_nat_that_changes_its_mind(self) -> None:
        """It isn't chased: after one move the next has to wait."""
        ports = iter(range(1024, 2000))

        def play(request: Request) -> Response | None:
            self.local = ("198.51.100.7", next(ports))
            return granted()(request)

        self.start(play, 10)
        self.assertEqual(len(self.heard), 2)
        self.network.pass_time(SETTLE)
        self.registration.check_address()
        self.network.pass_time(1)
        self.assertEqual(len(self.heard), 3)

    def test_moves_between_refreshes(self) -> None:
        """Who learns of a new address may say so at any time; before there is a binding it changes nothing."""
        self.registration.check_address()
        self.start(granted())
        self.registration.check_address()
        self.local = OSError("the network is down")
        self.registration.check_address()
        self.network.pass_time(1)
        self.assertEqual(len(self.heard), 1)
        self.local = ("127.0.0.5", 5060)
        self.registration.check_address()
        self.network.pass_time(1)
        self.assertEqual(len(self.heard), 2)
        self.assertEqual(self.registration.state, State.REGISTERED)

    def test_lossy(self) -> None:
        """With two of five messages lost, it is registered, refreshed and taken back all the same."""
        self.network.rule = lambda datagram: [] if datagram.number % 5 in (1, 2) else [0.01]
        self.start(challenged(then=granted(300)), 60)
        self.network.pass_time(1000)
        self.assertTrue(self.registration.is_registered)
        self.assertNotIn(Lapsed(), self.events)
        self.stop()
        self.quiet()
