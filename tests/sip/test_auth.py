"""Digest authentication, the client's side."""

from __future__ import annotations

import hashlib
import re
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.sip.auth import Authenticator, Challenge, Credentials, parse_challenges
from calledind.sip.message import Response

URI = "sip:+12125550100@carrier.example.com"


def refusal(*challenges: str, status: int = 407) -> Response:
    """A response with these challenges in the header that its status calls for."""
    name = "Proxy-Authenticate" if status == 407 else "WWW-Authenticate"
    return Response(status, "No", [(name, challenge) for challenge in challenges])


def authenticator(username: str = "alice", password: str = "secret", realm: str | None = None) -> Authenticator:
    """One whose client nonces are c1, c2, c3..."""
    numbers = count(1)
    return Authenticator(Credentials(username, password, realm), cnonce=lambda: f"c{next(numbers)}")


def fields(value: str) -> dict[str, str]:
    """The parameters of an Authorization header, without their quotes."""
    assert value.startswith("Digest ")
    return {name: quoted or plain for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^",\s]+))', value)}


def one(headers: list[tuple[str, str]] | None) -> dict[str, str]:
    """The parameters of the only header."""
    assert headers is not None
    ((_, value),) = headers
    return fields(value)


class ChallengeTests(SynchronousTestCase):
    def test_the_parts(self) -> None:
        """Names in any case, values quoted or not, spaces where they may be."""
        (challenge,) = parse_challenges(
            refusal('digest Realm="a, b" ,NONCE="n=1",algorithm=sha-256 , qop = "auth , AUTH-INT",stale=TRUE,opaque=""')
        )
        self.assertEqual(
            challenge, Challenge("a, b", "n=1", "sha-256", ("auth", "auth-int"), "", stale=True, proxy=True)
        )

    def test_several_in_one_line_and_over_lines(self) -> None:
        """Their order is kept; other schemes are left out."""
        challenges = parse_challenges(
            refusal(
                'Basic realm="x", Digest realm="a", nonce="1", Digest realm="b", nonce="2"',
                'Digest realm="c",nonce="3"',
                "Negotiate",
                status=401,
            )
        )
        self.assertEqual(
            [(c.realm, c.nonce, c.proxy) for c in challenges], [("a", "1", False), ("b", "2", False), ("c", "3", False)]
        )

    def test_broken_ones_are_left_out(self) -> None:
        """What can't be cut into words, or lacks realm or nonce, keeps nobody from the challenge of another line."""
        for text in (
            *("Digest", 'Digest realm="a"', 'Digest nonce="a"', 'realm="a"', 'Digest realm="a', "Digest realm=a, =b"),
            *('"Digest"', "Digest realm=a, nonce=b, é=c", 'Digest realm="a" nonce="b" "c"', "Negotiate abc=="),
        ):
            found = parse_challenges(refusal(text, 'Digest realm="r", nonce="n"'))
            self.assertEqual([challenge.realm for challenge in found], ["r"], text)

    def test_a_value_may_be_missing(self) -> None:
        """A name with nothing behind its = has the value nothing."""
        (challenge,) = parse_challenges(refusal("Digest realm=, nonce=x"))
        self.assertEqual(challenge.realm, "")

    @settings(deadline=None, derandomize=True)
    @given(st.text(st.sampled_from('Digest realm=nonce",\\ \t=a')))
    def test_any_text_is_read_or_left_out(self, text: str) -> None:
        """Nothing is raised."""
        found = parse_challenges(refusal(text))
        self.assertTrue(all(isinstance(challenge, Challenge) for challenge in found))


class DigestTests(SynchronousTestCase):
    def test_the_examples_of_rfc_7616(self) -> None:
        """The digests printed there, by SHA-256 and by MD5."""
        for algorithm, digest in (
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ):
            answering = Authenticator(
                Credentials("Mufasa", "Circle of Life"), cnonce=lambda: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
            )
            challenge = (
                'Digest realm="http-auth@example.org", qop="auth, auth-int", '
                f'algorithm={algorithm}, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
                'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
            )
            headers = answering.answer(refusal(challenge, status=401), method="GET", uri="/dir/index.html", body=b"")
            assert headers is not None
            self.assertEqual(headers[0][0], "Authorization")
            found = one(headers)
            self.assertEqual((found["response"], found["algorithm"]), (digest, algorithm))
            self.assertEqual((found["qop"], found["nc"]), ("auth", "00000001"))
            self.assertEqual(found["opaque"], "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS")
            self.assertEqual(found["uri"], "/dir/index.html")

    def test_the_example_of_rfc_2617(self) -> None:
        """The digest printed there."""
        answering = Authenticator(Credentials("Mufasa", "Circle Of Life"), cnonce=lambda: "0a4f113b")
        challenge = 'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"'
        found = one(answering.answer(refusal(challenge), method="GET", uri="/dir/index.html", body=b""))
        self.assertEqual(found["response"], "6629fae49393a05397450978507c4ef1")
        self.assertNotIn("algorithm", found)

    def test_without_qop(self) -> None:
        """Servers of the days before qop get neither nonce count nor client nonce."""
        found = one(authenticator().answer(refusal('Digest realm="r",nonce="n"'), method="INVITE", uri=URI, body=b""))
        first, second = (hashlib.md5(text.encode()).hexdigest() for text in ("alice:r:secret", f"INVITE:{URI}"))
        self.assertEqual(found["response"], hashlib.md5(f"{first}:n:{second}".encode()).hexdigest())
        self.assertEqual(set(found), {"username", "realm", "nonce", "uri", "response"})

    def test_auth_int_alone(self) -> None:
        """Where only auth-int is offered, the body is in the digest."""
        challenge = 'Digest realm="r",nonce="n",qop="auth-int",algorithm=SHA-256'
        found = one(authenticator().answer(refusal(challenge), method="INVITE", uri=URI, body=b"v=0"))

        def hashed(text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()

        second = hashed(f"INVITE:{URI}:{hashed('v=0')}")
        self.assertEqual(found["response"], hashed(f"{hashed('alice:r:secret')}:n:00000001:c1:auth-int:{second}"))
        self.assertEqual(found["qop"], "auth-int")

    def test_sessions(self) -> None:
        """The algorithms ending in -sess hash nonce and client nonce into the key, once for the nonce's life."""
        challenge = 'Digest realm="r",nonce="n",qop="auth",algorithm=MD5-sess'
        answering = authenticator()

        def hashed(text: str) -> str:
            return hashlib.md5(text.encode()).hexdigest()

        key = hashed(f"{hashed('alice:r:secret')}:n:c1")
        found = one(answering.answer(refusal(challenge), method="INVITE", uri=URI, body=b""))
        self.assertEqual(found["response"], hashed(f"{key}:n:00000001:c1:auth:{hashed(f'INVITE:{URI}')}"))
        self.assertEqual(found["algorithm"], "MD5-sess")
        found = one(answering.authorization("BYE", URI, b""))
        self.assertEqual(found["response"], hashed(f"{key}:n:00000002:c1:auth:{hashed(f'BYE:{URI}')}"))
        without_qop = 'Digest realm="r",nonce="n",algorithm=SHA-256-sess'
        self.assertEqual(
            one(authenticator().answer(refusal(without_qop), method="BYE", uri=URI, body=b""))["cnonce"], "c1"
        )

    def test_names_are_quoted(self) -> None:
        """A quote in the user's name doesn't end it."""
        headers = authenticator('a"b').answer(refusal('Digest realm="r",nonce="n"'), method="BYE", uri=URI, body=b"")
        assert headers is not None
        self.assertIn(r'username="a\"b"', headers[0][1])

    def test_the_password_is_not_shown(self) -> None:
        """Neither the credentials' text nor any header has it."""
        self.assertNotIn("secret", repr(Credentials("alice", "secret")))


class ChoiceTests(SynchronousTestCase):
    def answered(self, *challenges: str, realm: str | None = None) -> list[dict[str, str]]:
        """The answers to these challenges."""
        headers = authenticator(realm=realm).answer(refusal(*challenges), method="INVITE", uri=URI, body=b"")
        return [fields(value) for _, value in headers or []]

    def test_the_strongest_is_answered(self) -> None:
        """Of one realm's challenges the strongest that we know, whatever their order."""
        offers = [
            f'Digest realm="r",nonce="{algorithm}",algorithm={algorithm}'
            for algorithm in ("MD5", "SHA-256", "SHA-512-256", "SHA-3000")
        ]
        for order in (offers, offers[::-1]):
            self.assertEqual([found["nonce"] for found in self.answered(*order)], ["SHA-512-256"])
        self.assertEqual([found["nonce"] for found in self.answered(offers[0], offers[3])], ["MD5"])

    def test_the_first_of_equals_is_answered(self) -> None:
        """The server's order decides between equals."""
        found = self.answered('Digest realm="r",nonce="1"', 'Digest realm="r",nonce="2",algorithm=md5')
        self.assertEqual([answer["nonce"] for answer in found], ["1"])

    def test_each_realm_is_answered(self) -> None:
        """A request that forked meets several proxies."""
        found = self.answered('Digest realm="a",nonce="1"', 'Digest realm="b",nonce="2"')
        self.assertEqual([(answer["realm"], answer["nonce"]) for answer in found], [("a", "1"), ("b", "2")])

    def test_only_the_configured_realm(self) -> None:
        """A password is for one realm where one was given."""
        found = self.answered('Digest realm="a",nonce="1"', 'Digest realm="b",nonce="2"', realm="b")
        self.assertEqual([answer["realm"] for answer in found], ["b"])

    def test_what_cannot_be_answered(self) -> None:
        """Unknown algorithms and qualities, other schemes, broken or no challenges, other realms and statuses."""
        for challenges in (
            ['Digest realm="r",nonce="n",algorithm=SHA-1'],
            ['Digest realm="r",nonce="n",qop="auth-conf"'],
            ['Basic realm="r"'],
            ['Digest realm="r'],
            [],
        ):
            self.assertEqual(self.answered(*challenges), [])
        self.assertEqual(self.answered('Digest realm="r",nonce="n"', realm="s"), [])
        for status in (200, 403):
            response = Response(status, "", [("Proxy-Authenticate", 'Digest realm="r",nonce="n"')])
            self.assertIsNone(authenticator().answer(response, method="INVITE", uri=URI, body=b""))

    def test_without_md5(self) -> None:
        """Where MD5 is forbidden, it isn't answered, whatever its form, and SHA-256 is."""
        answering = Authenticator(Credentials("alice", "secret", md5=False))
        for algorithm in ("", ",algorithm=MD5", ",algorithm=md5-sess"):
            challenge = f'Digest realm="r",nonce="n",qop="auth"{algorithm}'
            self.assertIsNone(answering.answer(refusal(challenge), method="INVITE", uri=URI, body=b""))
        offers = ['Digest realm="r",nonce="1"', 'Digest realm="r",nonce="2",algorithm=SHA-256']
        found = one(answering.answer(refusal(*offers), method="INVITE", uri=URI, body=b""))
        self.assertEqual(found["nonce"], "2")

    def test_a_fork_gathers_challenges(self) -> None:
        """A 401 or 407 that has challenges of servers and of proxies is answered to all of them."""
        for status in (401, 407):
            headers = authenticator().answer(
                Response(
                    status,
                    "",
                    [
                        ("WWW-Authenticate", 'Digest realm="r",nonce="1"'),
                        ("Proxy-Authenticate", 'Digest realm="r",nonce="2"'),
                    ],
                ),
                method="INVITE",
                uri=URI,
                body=b"",
            )
            found = [(name, fields(value)["nonce"]) for name, value in headers or []]
            self.assertEqual(found, [("Authorization", "1"), ("Proxy-Authorization", "2")])


class RepetitionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.authenticator = authenticator()

    def answer(self, challenge: str, status: int = 407) -> list[tuple[str, str]] | None:
        """Answer a refused INVITE."""
        return self.authenticator.answer(refusal(challenge, status=status), method="INVITE", uri=URI, body=b"")

    def test_the_same_nonce_refused_is_final(self) -> None:
        """The password is wrong: trying again locks accounts."""
        self.assertIsNotNone(self.answer('Digest realm="r",nonce="n",qop="auth"'))
        self.assertIsNone(self.answer('Digest realm="r",nonce="n",qop="auth"'))

    def test_a_stale_nonce_is_replaced(self) -> None:
        """The next nonce starts a count of its own, with a client nonce of its own."""
        self.assertEqual(one(self.answer('Digest realm="r",nonce="1",qop="auth"'))["cnonce"], "c1")
        found = one(self.answer('Digest realm="r",nonce="2",qop="auth",stale=true'))
        self.assertEqual((found["nonce"], found["nc"], found["cnonce"]), ("2", "00000001", "c2"))

    def test_the_same_nonce_said_to_be_stale(self) -> None:
        """A server that goes by the count, and has lost it, is answered once more with the next one."""
        self.assertIsNotNone(self.answer('Digest realm="r",nonce="n",qop="auth"'))
        self.assertEqual(one(self.answer('Digest realm="r",nonce="n",qop="auth",stale=true'))["nc"], "00000002")

    def test_tries_are_bounded(self) -> None:
        """A server that finds every nonce stale is asked no third time."""
        for nonce in ("1", "2"):
            self.assertIsNotNone(self.answer(f'Digest realm="r",nonce="{nonce}",stale=true'))
        self.assertIsNone(self.answer('Digest realm="r",nonce="3",stale=true'))

    def test_a_proxy_and_then_the_server(self) -> None:
        """The answer to the first goes along with the answer to the second, its nonce counted on."""
        self.answer('Digest realm="p",nonce="1",qop="auth"')
        headers = self.answer('Digest realm="s",nonce="2",qop="auth"', status=401)
        assert headers is not None
        self.assertEqual([name for name, _ in headers], ["Proxy-Authorization", "Authorization"])
        self.assertEqual([fields(value)["nc"] for _, value in headers], ["00000002", "00000001"])

    def test_later_requests_go_with_an_answer(self) -> None:
        """The nonce count goes on; before the first challenge there is nothing to say."""
        self.assertEqual(self.authenticator.authorization("OPTIONS", URI, b""), [])
        self.answer('Digest realm="r",nonce="n",qop="auth"')
        for number in ("00000002", "00000003"):
            self.assertEqual(one(self.authenticator.authorization("BYE", URI, b""))["nc"], number)

    def test_later_requests_have_their_own_tries(self) -> None:
        """A BYE minutes later may meet a stale nonce, too."""
        for nonce in ("1", "2"):
            self.answer(f'Digest realm="r",nonce="{nonce}",stale=true')
        self.authenticator.authorization("BYE", URI, b"")
        self.assertIsNotNone(self.answer('Digest realm="r",nonce="3",stale=true'))

    def test_one_refused_realm_is_enough(self) -> None:
        """Where one of several realms refuses for good, the others aren't tried again."""
        both = ['Digest realm="a",nonce="1"', 'Digest realm="b",nonce="1"']
        answering = authenticator()
        self.assertIsNotNone(answering.answer(refusal(both[0]), method="INVITE", uri=URI, body=b""))
        self.assertIsNone(answering.answer(refusal(*both), method="INVITE", uri=URI, body=b""))

    def test_realms_are_bounded(self) -> None:
        """A server that names itself anew each time makes our requests no longer; the last realms are kept."""
        for number in range(50):
            self.authenticator.authorization("REGISTER", URI, b"")
            self.answer(f'Digest realm="{number}",nonce="n"')
        found = self.authenticator.authorization("REGISTER", URI, b"")
        self.assertEqual([fields(value)["realm"] for _, value in found], [str(number) for number in range(42, 50)])

    def test_client_nonces_are_random(self) -> None:
        """No two are alike where the test doesn't say otherwise."""
        nonces = {
            one(
                Authenticator(Credentials("a", "b")).answer(
                    refusal('Digest realm="r",nonce="n",qop="auth"'), method="BYE", uri=URI, body=b""
                )
            )["cnonce"]
            for _ in range(8)
        }
        self.assertEqual(len(nonces), 8)

    def test_the_same_nonce_may_challenge_a_later_request(self) -> None:
        """A server that wants a new answer for each request gets it, counted on; refused twice is refused for good."""
        challenge = 'Digest realm="r",nonce="n",qop="auth"'
        self.answer(challenge)
        self.assertEqual(one(self.authenticator.authorization("BYE", URI, b""))["nc"], "00000002")
        found = one(self.answer(challenge))
        self.assertEqual((found["nc"], found["cnonce"]), ("00000003", "c1"))
        self.assertIsNone(self.answer(challenge))

    def test_another_algorithm_for_the_same_nonce(self) -> None:
        """It is a challenge of its own, with a key of its own."""
        self.answer('Digest realm="r",nonce="n",qop="auth",algorithm=MD5')
        found = one(self.answer('Digest realm="r",nonce="n",qop="auth",algorithm=MD5-sess'))
        self.assertEqual((found["nc"], found["cnonce"], found["algorithm"]), ("00000001", "c2", "MD5-sess"))


class NextNonceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.authenticator = authenticator()

    def learn(self, name: str, value: str) -> None:
        self.authenticator.learn(Response(200, "OK", [(name, value)]))

    def nonces(self) -> list[tuple[str, str, str]]:
        """Nonce, count and client nonce that the next request goes with."""
        found = [fields(value) for _, value in self.authenticator.authorization("BYE", URI, b"")]
        return [(each["nonce"], each["nc"], each["cnonce"]) for each in found]

    def challenge(self, status: int = 401, realm: str = "r") -> None:
        self.authenticator.answer(
            refusal(f'Digest realm="{realm}",nonce="n",qop="auth"', status=status), method="INVITE", uri=URI, body=b""
        )

    def test_the_next_nonce(self) -> None:
        """It replaces the nonce, with a count of its own; the same news once more doesn't start the count again."""
        self.challenge()
        for _ in range(2):
            self.learn("Authentication-Info", 'qop=auth, nextnonce="m", rspauth="00"')
        self.assertEqual(self.nonces(), [("m", "00000001", "c2")])
        self.learn("Authentication-Info", 'nextnonce="m"')
        self.assertEqual(self.nonces(), [("m", "00000002", "c2")])

    def test_of_a_proxy(self) -> None:
        """Server and proxy have headers of their own."""
        self.challenge(407)
        self.learn("Authentication-Info", 'nextnonce="x"')
        self.learn("Proxy-Authentication-Info", 'nextnonce="m"')
        self.assertEqual(self.nonces(), [("m", "00000001", "c2")])

    def test_what_says_nothing(self) -> None:
        """No nonce, nothing that can be read, nothing that was asked for: all stays as it is."""
        self.learn("Authentication-Info", 'nextnonce="m"')
        self.assertEqual(self.nonces(), [])
        self.challenge()
        for value in ("", "qop=auth", 'nextnonce="m', 'nextnonce=""'):
            self.learn("Authentication-Info", value)
        self.assertEqual(self.nonces(), [("n", "00000002", "c1")])

    def test_whose_is_not_said(self) -> None:
        """With answers to two realms, it could be meant for either."""
        for realm in "ab":
            self.challenge(realm=realm)
        self.learn("Authentication-Info", 'nextnonce="m"')
        self.assertEqual([nonce for nonce, *_ in self.nonces()], ["n", "n"])
