"""Who a call is from, as each trunk wants to be told."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.dialing.identity import Identity, callee_uri, identify
from calledind.model import Call
from calledind.settings.tables import Trunk
from calledind.sip.header import NameAddr
from calledind.sip.message import Request, parse


def make_call(caller_id: str = "2125550199", *, country_code: str = "1", phone_number: str = "2125550100") -> Call:
    return Call(
        id="call1",
        key_id="key_1",
        phone_number=phone_number,
        country_code=country_code,
        caller_id=caller_id,
        audio="a" * 64,
        duration=1.0,
        callback_url=None,
        secret="",
        accepted_at=0.0,
    )


def make_trunk(**values: Any) -> Trunk:
    return Trunk(name="carrier", host=values.pop("host", "sip.example.com"), **values)


def told(caller: str = "2125550199", /, *, home: str = "1", **trunk: Any) -> Identity:
    return identify(make_call(caller), make_trunk(**trunk), host="192.0.2.1", home=home)


class FromTests(SynchronousTestCase):
    def test_as_the_request_gave_it(self) -> None:
        """A trunk that wants nothing else is told the caller id as it is, at our own address, and no other header."""
        self.assertEqual(told(), Identity("sip:2125550199@192.0.2.1", "", (), "12125550199"))

    def test_domain(self) -> None:
        """The domain is the carrier's where there is a username, and any other where the trunk says so."""
        self.assertEqual(told(username="bob").from_uri, "sip:2125550199@sip.example.com")
        self.assertEqual(told(username="bob", from_domain="a.example").from_uri, "sip:2125550199@a.example")
        self.assertEqual(told(from_domain="[2001:db8::1]").from_uri, "sip:2125550199@[2001:db8::1]")

    def test_templates(self) -> None:
        """The user part is with or without +, national or E.164, or the username; a number abroad keeps its code."""
        for template, caller_id, user in (
            ("+{e164}", "2125550199", "+12125550199"),
            ("{e164}", "+12125550199", "12125550199"),
            ("{national}", "+12125550199", "2125550199"),
            ("{national}", "+442079460000", "+442079460000"),
            ("00{e164}", "+442079460000", "00442079460000"),
            ("{username}", "2125550199", "bob"),
            ("8{caller}", "+12125550199", "8+12125550199"),
            ("+{e164}", "7001", "7001"),
        ):
            uri = told(caller_id, from_user=template, username="bob").from_uri
            self.assertEqual(uri, f"sip:{user}@sip.example.com", template)

    def test_home_country(self) -> None:
        """A caller id without a country code has that of the settings."""
        self.assertEqual(told("02079460000", home="44", from_user="+{e164}").from_uri, "sip:+442079460000@192.0.2.1")

    def test_default_caller(self) -> None:
        """A request that names no caller gets the trunk's own; without one, it stays what it is and is no number."""
        self.assertEqual(told("0000000000", caller_id="+12125550111").number, "12125550111")
        nobody = told("0000000000", from_user="+{e164}", asserted_identity="{caller}", display_name="{caller}")
        self.assertEqual(nobody, Identity("sip:0000000000@192.0.2.1", "", (), None))

    def test_display_name(self) -> None:
        """The name is the trunk's, or made of the number."""
        self.assertEqual(told(display_name='The "Shop"').display_name, 'The "Shop"')
        self.assertEqual(told(display_name="+{e164}").display_name, "+12125550199")
        self.assertEqual(told("7001", display_name="+{e164}").display_name, "")

    def test_sips(self) -> None:
        """Where every hop is to be safe, the URIs that name the caller are of sips too."""
        wanted = told(sips=True, asserted_identity="{caller}")
        self.assertEqual(wanted.from_uri, "sips:2125550199@192.0.2.1")
        self.assertEqual(wanted.headers, (("P-Asserted-Identity", "<sips:2125550199@192.0.2.1>"),))

    def test_user_phone(self) -> None:
        """Where wanted, URIs with a telephone number say so, and others don't."""
        wanted = told(user_phone=True, asserted_identity="{username}", username="bob", from_domain="a.example")
        self.assertEqual(wanted.from_uri, "sip:2125550199@a.example;user=phone")
        self.assertEqual(wanted.headers, (("P-Asserted-Identity", "<sip:bob@a.example>"),))


class HeaderTests(SynchronousTestCase):
    def test_headers(self) -> None:
        """P-Asserted-Identity, Remote-Party-ID and Diversion are sent where the trunk has a template for them."""
        headers = dict(
            told(
                display_name="Shop",
                asserted_identity="+{e164}",
                remote_party_id="{national}",
                diversion="+12125550111",
                from_domain="a.example",
            ).headers
        )
        self.assertEqual(
            headers,
            {
                "P-Asserted-Identity": '"Shop" <sip:+12125550199@a.example>',
                "Remote-Party-ID": '"Shop" <sip:2125550199@a.example>;party=calling;screen=yes;privacy=off',
                "Diversion": "<sip:+12125550111@a.example>;reason=unconditional;counter=1",
            },
        )

    def test_tel_uri(self) -> None:
        """P-Asserted-Identity may be a tel URI (RFC 3325 §9.1)."""
        self.assertEqual(
            told(asserted_identity="tel:+{e164}").headers, (("P-Asserted-Identity", "<tel:+12125550199>"),)
        )

    def test_nothing_to_say(self) -> None:
        """A header that would name nobody is left out."""
        self.assertEqual(told("7001", asserted_identity="+{e164}", remote_party_id="{national}").headers, ())

    def test_number_is_the_asserted_one(self) -> None:
        """Where From is a username, the number that the carrier is told is that of P-Asserted-Identity."""
        for template in ("+{e164}", "{caller}", "tel:+{e164}"):
            identity = told(from_user="{username}", username="bob", asserted_identity=template)
            self.assertEqual(identity.number, "12125550199")
        self.assertEqual(told(asserted_identity="+12125550111").number, "12125550111")


class AnonymousTests(SynchronousTestCase):
    def test_anonymous(self) -> None:
        """The callee is told nobody; the carrier is told to keep the number to itself, which is the trunk's own."""
        identity = told("anonymous", caller_id="+12125550111", asserted_identity="+{e164}", display_name="Shop")
        self.assertEqual(identity.from_uri, "sip:anonymous@anonymous.invalid")
        self.assertEqual(identity.display_name, "Anonymous")
        self.assertEqual(
            dict(identity.headers),
            {"P-Asserted-Identity": '"Shop" <sip:+12125550111@192.0.2.1>', "Privacy": "id"},
        )
        self.assertEqual(identity.number, "12125550111")

    def test_headers_say_so(self) -> None:
        """Remote-Party-ID and Diversion ask for privacy too."""
        headers = dict(
            told("anonymous", caller_id="2125550111", remote_party_id="{caller}", diversion="{caller}").headers
        )
        self.assertTrue(headers["Remote-Party-ID"].endswith(";privacy=full"))
        self.assertIn(";privacy=full;", headers["Diversion"])

    def test_trunk_that_is_anonymous(self) -> None:
        """A trunk whose caller id is "anonymous" makes calls so that name no caller."""
        identity = told("0000000000", caller_id="anonymous", asserted_identity="+{e164}", privacy="header;id")
        self.assertEqual(identity.headers, (("Privacy", "header;id"),))
        self.assertEqual((identity.from_uri, identity.number), ("sip:anonymous@anonymous.invalid", None))
        self.assertEqual(told("2125550199", caller_id="anonymous").from_uri, "sip:2125550199@192.0.2.1")

    def test_as_the_trunk_wants_it(self) -> None:
        """From and Privacy of anonymous calls are the trunk's."""
        identity = told("anonymous", anonymous_uri="sip:anonymous@sip.example.com", privacy="")
        self.assertEqual(identity, Identity("sip:anonymous@sip.example.com", "Anonymous", (), None))


class CalleeTests(SynchronousTestCase):
    def test_request_uri(self) -> None:
        """The Request-URI has the trunk's prefix, escaped as RFC 3261 §25 has it, and the trunk's host."""
        for trunk, uri in (
            (make_trunk(), "sip:+12125550100@sip.example.com"),
            (make_trunk(port=5080, dial_prefix=""), "sip:12125550100@sip.example.com:5080"),
            (make_trunk(dial_prefix="12345678*+"), "sip:12345678*+12125550100@sip.example.com"),
            (make_trunk(dial_prefix="1234#"), "sip:1234%2312125550100@sip.example.com"),
            (make_trunk(user_phone=True, host="2001:db8::1"), "sip:+12125550100@[2001:db8::1];user=phone"),
            (make_trunk(sips=True), "sips:+12125550100@sip.example.com"),
            (make_trunk(outbound_proxy="192.0.2.9:5090"), "sip:+12125550100@sip.example.com"),
        ):
            self.assertEqual(callee_uri(make_call(), trunk), uri)


texts = st.text() | st.text('{}%\r\n"\\\\<>@;,:* \x00+123abc')
templates = st.lists(st.sampled_from(["{caller}", "{e164}", "{national}", "{username}", "+", "tel:"]) | texts).map(
    "".join
)


class InjectionTests(SynchronousTestCase):
    @settings(deadline=None, derandomize=True, max_examples=300)
    @given(
        caller_id=texts | st.sampled_from(["2125550199", "anonymous", "0000000000"]),
        own=texts,
        from_user=templates,
        display_name=templates,
        asserted=templates,
        remote_party=templates,
        diversion=templates,
        username=texts,
        prefix=texts,
        user_phone=st.booleans(),
    )
    def test_whatever_the_values(
        self,
        caller_id: str,
        own: str,
        from_user: str,
        display_name: str,
        asserted: str,
        remote_party: str,
        diversion: str,
        username: str,
        prefix: str,
        user_phone: bool,
    ) -> None:
        """No value of a request or a setting adds a header, a parameter, or another address to the INVITE."""
        trunk = make_trunk(
            caller_id=own,
            from_user=from_user,
            display_name=display_name,
            asserted_identity=asserted,
            remote_party_id=remote_party,
            diversion=diversion,
            username=username,
            dial_prefix=prefix,
            user_phone=user_phone,
        )
        call = make_call(caller_id)
        identity = identify(call, trunk, host="192.0.2.1", home="1")
        written = [("From", str(NameAddr(identity.display_name, identity.from_uri).with_tag("t"))), *identity.headers]
        request = parse(
            bytes(Request("INVITE", callee_uri(call, trunk), [("Via", "SIP/2.0/UDP a;branch=z9"), *written]))
        )
        self.assertIsInstance(request, Request)
        assert isinstance(request, Request)
        self.assertEqual([name for name, _ in request.headers[1:]], [*(name for name, _ in written), "Content-Length"])
        for name, _ in written:
            if name == "Privacy":
                continue
            (value,) = request.values(name)
            address = NameAddr.parse(value)
            known = {"tag", "party", "screen", "privacy", "reason", "counter"}
            self.assertLessEqual({key for key, _ in address.parameters}, known)
            uri = address.parsed_uri
            self.assertIn(uri.host, ("192.0.2.1", "sip.example.com", "anonymous.invalid", ""))
            self.assertIn(uri.parameters, ((), (("user", "phone"),)))
            self.assertEqual((uri.headers, uri.password, uri.port), ((), None, None))
        target = request.request_uri
        self.assertEqual((target.host, target.password, target.headers), ("sip.example.com", None, ()))
