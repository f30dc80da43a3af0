"""Which trunks are registered, who waits for it, and which way their calls take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from calledind.model import Address
from calledind.net.registrations import Registrations, account, credentials, through
from calledind.settings.tables import Trunk
from calledind.sip.auth import Credentials
from calledind.sip.grammar import ParseError
from calledind.sip.message import Request, Response, parse, response_to
from calledind.sip.registration import Account
from calledind.sip.useragent import UserAgent
from tests.sip.network import Network
from tests.sip.parties import THEM, US

OTHER: Address = ("127.0.0.3", 5060)


def trunk(**changes: Any) -> Trunk:
    return Trunk(**{"name": "carrier", "host": "sip.example.com", "username": "alice", "register": True, **changes})


class AccountTests(SynchronousTestCase):
    def test_account(self) -> None:
        """Whom the carrier knows: the user name at its domain; the registrar is asked by domain, and port where one is
        given."""
        self.assertEqual(
            account(trunk(port=5080, password="secret", register_expires=60, digest_md5=False)),
            Account(
                "sip:sip.example.com:5080",
                "sip:alice@sip.example.com",
                Credentials("alice", "secret", md5=False),
                60,
                "alice",
            ),
        )
        other = account(trunk(host="[2001:db8::1]", register_user="+1 212", sips=True, transport="tls"))
        self.assertEqual(
            (other.registrar, other.address_of_record), ("sips:[2001:db8::1]", "sips:+1%20212@[2001:db8::1]")
        )
        self.assertEqual(other.contact_user, "+1%20212")

    def test_odd_names(self) -> None:
        """The user name is escaped where it is in a URI, and nowhere else."""
        found = account(trunk(username='a b@"c" #é;d'))
        self.assertEqual(found.address_of_record, "sip:a%20b%40%22c%22%20%23%C3%A9;d@sip.example.com")
        assert found.credentials is not None
        self.assertEqual(found.credentials.username, 'a b@"c" #é;d')

    def test_without_a_user_name(self) -> None:
        """Who is known by its address needs no credentials."""
        self.assertIsNone(credentials(trunk(username="", register_user="pbx")))
        self.assertEqual(account(trunk(username="", register_user="pbx")).address_of_record, "sip:pbx@sip.example.com")

    def test_through(self) -> None:
        """A Route's host, port and transport are the next hop; the Request-URI's host stays."""
        found = through(trunk(), "<sip:edge.example.com:5070;lr;transport=TCP>")
        self.assertEqual(
            (found.outbound_proxy, found.transport, found.host), ("edge.example.com:5070", "tcp", "sip.example.com")
        )
        self.assertNotEqual(found.name, "carrier")
        found = through(trunk(), "<sip:[2001:db8::1];lr>")
        self.assertEqual((found.outbound_proxy, found.transport), ("[2001:db8::1]", "udp"))
        self.assertRaises(ParseError, through, trunk(), "<mailto:a@b>")


class RegistrationsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.network = Network()
        self.status = 200
        self.headers: list[tuple[str, str]] = []
        self.heard: list[Request] = []
        self.located: list[str] = []
        self.failures: list[tuple[Address, int | None]] = []
        self.working: list[Address] = []
        self.routed = 0
        self.error: Exception | None = None
        self.other_status = 200
        "Of the server that is asked second."
        self.answer = self.network.attach(THEM, self.receive)
        self.other_answer = self.network.attach(OTHER, self.other_receive)
        self.agent = UserAgent(
            send=self.network.attach(US),
            timers=self.network.clock,
            local=lambda target: US,
            user_agent="calledin",
            trusted=lambda ip: True,
        )
        self.network.listen(US, self.agent.datagram_received)
        self.told: list[tuple[str, Mapping[str, object]]] = []
        self.registrations = Registrations(
            self.agent, self, routed=self.count, trunk_changed=lambda name, details: self.told.append((name, details))
        )

    # the trunks' addresses

    def locate(self, trunk: Trunk, tried: Collection[Address] = ()) -> Deferred[Address]:
        self.located.append(trunk.name)
        if self.error is not None:
            return fail(self.error)
        return succeed(OTHER if THEM in tried else THEM)

    def has_more(self, trunk: Trunk, tried: Collection[Address]) -> bool:
        if trunk.name == "double":
            return OTHER not in tried
        return trunk.name != "carrier" and THEM not in tried

    def failed(self, target: Address, retry_after: int | None = None) -> None:
        self.failures.append((target, retry_after))

    def works(self, target: Address) -> None:
        self.working.append(target)

    # the carrier

    def count(self) -> None:
        self.routed += 1

    def receive(self, data: bytes, source: Address) -> None:
        request = parse(data)
        assert isinstance(request, Request)
        self.heard.append(request)
        if self.status:
            self.answer(bytes(self.response(request, self.status)), source)

    def other_receive(self, data: bytes, source: Address) -> None:
        request = parse(data)
        assert isinstance(request, Request)
        if self.other_status:
            self.other_answer(bytes(self.response(request, self.other_status)), source)

    def response(self, request: Request, status: int) -> Response:
        kept = [("Contact", value) for value in request.all("Contact")] if status == 200 else []
        return response_to(request, status, headers=[*kept, *self.headers])

    def use(self, *trunks: Trunk, seconds: float = 1.0) -> None:
        self.registrations.use_trunks(trunks)
        self.network.pass_time(seconds)

    def expiries(self) -> list[str]:
        return [request.get("Expires") or "" for request in self.heard]

    def test_only_those_that_want_it(self) -> None:
        """A trunk that knows our address isn't told, and is ready at once."""
        plain = trunk(name="plain", register=False)
        self.use(trunk(), plain)
        self.assertEqual(self.located, ["carrier"])
        self.successResultOf(self.registrations.ready(plain))
        self.assertEqual((self.registrations.obstacle(plain), self.registrations.status(plain)), ("", ""))
        self.assertEqual(self.registrations.route(plain), ())
        self.assertEqual(self.registrations.way(plain), plain)
        self.assertEqual(self.registrations.status(trunk()), "registered for 3599 s")
        self.successResultOf(self.registrations.ready(trunk()))

    def test_who_is_early_waits(self) -> None:
        """A call that comes before the first answer waits for it, and is told when it is a refusal."""
        self.use(trunk(), seconds=0)
        ready = self.registrations.ready(trunk())
        self.assertNoResult(ready)
        self.network.pass_time(1)
        self.successResultOf(ready)
        self.status = 403
        self.use(trunk(name="other"), seconds=0)
        ready = self.registrations.ready(trunk(name="other"))
        self.network.pass_time(1)
        self.assertEqual(str(self.failureResultOf(ready, OSError).value), "not registered: 403 Forbidden")
        self.failureResultOf(self.registrations.ready(trunk(name="other")), OSError)
        self.assertEqual(self.registrations.obstacle(trunk(name="other")), "not registered: 403 Forbidden")
        self.assertEqual(self.registrations.status(trunk(name="other")), "not registered: 403 Forbidden")

    def test_not_required(self) -> None:
        """Where the setting says so, calls go there all the same."""
        self.status = 403
        lax = trunk(register_required=False)
        self.use(lax)
        self.successResultOf(self.registrations.ready(lax))
        self.assertEqual(self.registrations.obstacle(lax), "")
        self.assertEqual(self.registrations.status(lax), "not registered: 403 Forbidden")

    def test_who_waits_while_it_ends(self) -> None:
        """A call that waits is told when its trunk goes."""
        self.status = 0
        self.use(trunk())
        ready = self.registrations.ready(trunk())
        self.registrations.use_trunks([])
        self.failureResultOf(ready, OSError)

    def test_stop(self) -> None:
        """All bindings are taken back, and that is waited for."""
        self.use(trunk(), trunk(name="other", username="bob"))
        stopped = self.registrations.stop()
        self.assertNoResult(stopped)
        self.network.pass_time(1)
        self.successResultOf(stopped)
        self.assertEqual(sorted(self.expiries()), ["0", "0", "3600", "3600"])
        self.successResultOf(self.registrations.stop())

    def test_other_settings(self) -> None:
        """What is about calls changes no registration; another account follows when the old one is taken back."""
        self.use(trunk())
        self.use(trunk(channels=5, prefixes=("1",), reasons={"403": 8}))
        self.assertEqual(self.expiries(), ["3600"])
        self.use(trunk(register_expires=60))
        self.assertEqual(self.expiries(), ["3600", "0", "60"])
        self.status = 0
        self.use(trunk(register_expires=61))
        self.use(seconds=10)
        self.assertEqual(self.expiries()[3], "0")
        self.assertNotIn("61", self.expiries())

    def test_nobody_answers(self) -> None:
        """Where nobody answers, that place is left alone, and the next try looks for another."""
        self.status = 0
        self.use(trunk(), seconds=33)
        self.assertEqual((self.failures, self.working), ([(THEM, None)], []))
        self.network.pass_time(6)
        self.assertEqual(self.located, ["carrier", "carrier"])
        self.assertIn("no final response", self.registrations.obstacle(trunk()))

    def test_not_found(self) -> None:
        """A registrar without an address is told about in the words of who looked, whatever it was."""
        for error, words in ((OSError("no such host"), "no such host"), (RuntimeError("a bug"), "a bug")):
            self.error = error
            self.use(trunk())
            self.assertEqual(self.registrations.obstacle(trunk()), f"not registered: {words}")
            self.assertEqual(self.failures, [])
            self.use()

    def test_service_route(self) -> None:
        """Calls go by the first of it, under a name of its own; an outbound proxy stays what it is."""
        self.headers = [("Service-Route", "<sip:edge.example.com:5070;lr>, <sip:core.example.com;lr>")]
        routes = ("<sip:edge.example.com:5070;lr>", "<sip:core.example.com;lr>")
        self.use(trunk(), trunk(name="proxied", outbound_proxy="10.0.0.1"))
        self.assertEqual(self.registrations.route(trunk()), routes)
        way = self.registrations.way(trunk())
        self.assertEqual((way.outbound_proxy, self.registrations.by_route), ("edge.example.com:5070", (way,)))
        proxied = trunk(name="proxied", outbound_proxy="10.0.0.1")
        self.assertEqual(self.registrations.route(proxied), routes)
        self.assertEqual(self.registrations.way(proxied), proxied)
        self.assertEqual(self.routed, 1)
        self.located.clear()
        self.assertEqual(self.successResultOf(self.registrations.locate(trunk())), THEM)
        self.assertEqual(self.located, ["carrier by its service route"])
        self.assertTrue(self.registrations.has_more(trunk(), ()))
        self.assertFalse(self.registrations.has_more(trunk(), [THEM]))
        self.headers = []
        self.network.pass_time(3600)
        self.assertEqual((self.registrations.by_route, self.routed), ((), 2))

    def test_targets(self) -> None:
        """Who dials is handed the trunk's own target when the registration stands; what it learns is passed on."""
        self.status = 503
        self.use(trunk())
        self.failureResultOf(self.registrations.locate(trunk()), OSError)
        self.status = 200
        self.network.pass_time(10)
        self.assertEqual(self.successResultOf(self.registrations.locate(trunk())), THEM)
        self.assertEqual((self.working, self.located[-1]), ([THEM], "carrier"))
        self.registrations.failed(THEM, 5)
        self.registrations.works(THEM)
        self.assertEqual((self.failures, self.working), ([(THEM, None), (THEM, 5)], [THEM, THEM]))

    def test_other_servers(self) -> None:
        """Where a server of the registrar's is out of order the next one is asked at once, and calls wait for that;
        the next time all of them may be asked again."""
        self.status = 503
        self.headers = [("Retry-After", "9")]
        double = trunk(name="double")
        self.use(double, seconds=0)
        ready = self.registrations.ready(double)
        self.network.pass_time(1)
        self.successResultOf(ready)
        self.assertEqual((self.failures, self.working), ([(THEM, 9)], [OTHER]))
        self.network.pass_time(3600)
        self.assertEqual(self.failures, [(THEM, 9), (THEM, 9)])
        self.status = 0
        self.other_status = 0
        self.use(trunk(name="double", register_expires=60), seconds=120)
        self.assertEqual(self.failures[2:4], [(THEM, None), (OTHER, None)])
        self.assertIn("no final response", self.registrations.obstacle(double))

    def test_addresses(self) -> None:
        """News of our address reaches all of them; where nothing changed, nothing is sent."""
        self.use(trunk())
        self.registrations.check_addresses()
        self.network.pass_time(1)
        self.assertEqual(len(self.heard), 1)

    def test_runs_out(self) -> None:
        """A registration that can't be refreshed lasts for its time, and then calls don't go there any more."""
        self.use(trunk())
        self.status = 0
        self.network.pass_time(3500)
        self.successResultOf(self.registrations.ready(trunk()))
        self.network.pass_time(200)
        self.failureResultOf(self.registrations.ready(trunk()), OSError)

    def test_changes_are_told_once(self) -> None:
        """A trunk is told of when its registration has run out, and when it stands again: once each; a failure that
        leaves the last one standing is none."""
        self.use(trunk())
        self.status = 403
        self.network.pass_time(3500)
        self.assertEqual(self.told, [])
        self.network.pass_time(7200)
        lapsed = ("carrier", {"registered": False, "registration": "not registered: 403 Forbidden"})
        self.assertEqual(self.told, [lapsed])
        self.status = 200
        self.network.pass_time(7200)
        [_, (name, details)] = self.told
        self.assertEqual((name, details["registered"]), ("carrier", True))
        self.assertIn("registered for", str(details["registration"]))

    def test_changes_across_new_settings(self) -> None:
        """A trunk that failed is well again by other settings; of one that was taken away nothing more is told."""
        self.status = 403
        self.use(trunk(), trunk(name="other", username="bob"))
        self.use(trunk(register_expires=60), trunk(name="other", username="bob"))
        told = sorted((name, each["registered"]) for name, each in self.told)
        self.assertEqual(told, [("carrier", False), ("other", False)])
        self.status = 200
        self.use(trunk(register_expires=61))
        self.assertEqual([(name, each["registered"]) for name, each in self.told[2:]], [("carrier", True)])
        self.use(trunk(name="other", username="bob"))
        self.assertEqual(len(self.told), 3)
