"""Every code of the contract, as a customer's PHP and curl read it from a running daemon."""

from __future__ import annotations

import json
import socket
import subprocess
from urllib.parse import urlencode

from tests.interop.case import SHORT, InteropCase, settings, trunk
from tests.interop.harness import Answer, Daemon, free_tcp_port, free_udp_port, need, wait_for

PHP = 'echo json_encode([file_get_contents("$argv[1]?$argv[2]"), $http_response_header]);'
DEAF = "213"
"The area code of a trunk of its own."
SAMPLES = SHORT.parent
HEADERS = {"content-type": "text/plain", "cache-control": "no-store"}
REASONS = {
    "0": "accepted",
    "1": "api_key is not known",
    "2": "no call credits",
    "3": "DoNotCall",
    "4": "phone_number",
    "5": "disabled",
    "6": "less than one minute ago",
    "7": "area code",
    "8": "country_code",
    "9": "404",
    "10": "longer than",
}
"Of each code as `worst_first` reaches it: what Calledin-Reason says."


class CodesTests(InteropCase):
    """The trunk's port is closed, so that an accepted call ends at once."""

    daemon: Daemon
    tls_port: int
    deaf_port: int
    "Where calls to DEAF go: closed too, but for the test that opens it."

    def setUp(self) -> None:
        super().setUp()
        self.tls_port = free_tcp_port()
        listen = f'[http]\ntls_listen = ["127.0.0.1:{self.tls_port}"]\n'
        self.deaf_port = free_udp_port()
        deaf = trunk(self.deaf_port, name="deaf", more=f'prefixes = ["1{DEAF}"]')
        self.daemon = self.run_daemon(settings(trunk(free_udp_port()), deaf, rest=listen))
        # 190 s of frames.
        self.web.files["/long.mp3"] = SHORT.read_bytes() * 100

    def make_key(self, *, credits: int = 0, disabled: bool = False) -> str:
        key = self.daemon.admin("POST", "/keys", {"name": "another", "credits": credits})
        if disabled:
            self.daemon.admin("POST", f"/keys/{key['id']}/disable")
        return str(key["api_key"])

    def good(self, **changes: str) -> dict[str, str]:
        return {
            "api_key": self.key,
            "phone_number": "2125550100",
            "country_code": "1",
            "mp3": f"{self.web.url}/short.mp3",
            **changes,
        }

    def code(self, **changes: str) -> str:
        """The code for a request that is good but for these parameters."""
        answer = self.daemon.playback(**self.good(**changes))
        self.assertEqual(answer.status, 200)
        return answer.body

    def by_php(self, parameters: dict[str, str]) -> Answer:
        """What a PHP one-liner gets; it throws the body of a 4xx away."""
        url = f"http://127.0.0.1:{self.daemon.port}/api/playback/"
        command = [need("php"), "-n", "-r", PHP, "--", url, urlencode(parameters)]
        body, lines = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        return Answer(int(lines[0].split()[1]), body, headers)

    def by_curl(self, url: str, parameters: dict[str, str], *options: str) -> Answer:
        command = [need("curl"), "-sS", "-i", *options, "-G", url]
        for name, value in parameters.items():
            command += ["--data-urlencode", f"{name}={value}"]
        text = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode()
        head, _, body = text.partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        return Answer(
            int(first.split()[1]),
            body,
            {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)},
        )

    def worst_first(self) -> list[tuple[str, dict[str, str]]]:
        """Requests that have all faults from one code on, in the contract's order, with the code they get."""
        poor, mp3 = self.make_key(), f"{self.web.url}/missing.mp3"
        flooded, free = "2125550101", "2125550102"
        self.assertEqual(self.code(phone_number=flooded), "0")
        self.daemon.admin("POST", "/dnc/add", {"numbers": ["+498765550100", "+18765550100", f"+1{flooded}"]})
        disabled = self.make_key(disabled=True)
        far = {"phone_number": "8765550100", "country_code": "49", "mp3": mp3}
        return [
            ("4", self.good(**far, api_key="ck_unknown") | {"phone_number": "876555010"}),
            ("1", self.good(**far, api_key="ck_unknown")),
            ("5", self.good(**far, api_key=disabled)),
            ("8", self.good(**far, api_key=poor)),
            ("7", self.good(phone_number="8765550100", api_key=poor, mp3=mp3)),
            ("3", self.good(phone_number=flooded, api_key=poor, mp3=mp3)),
            ("6", self.good(phone_number=flooded, api_key=poor, mp3=mp3)),
            ("2", self.good(phone_number=free, api_key=poor, mp3=mp3)),
            ("9", self.good(phone_number=free, mp3=mp3)),
            ("10", self.good(phone_number=free, mp3=f"{self.web.url}/long.mp3")),
            ("0", self.good(phone_number=free)),
        ]

    def test_php_in_the_contracts_order(self) -> None:
        """A request that is wrong in several ways gets the first code; PHP reads the digits alone, whatever they are.

        Nothing is fetched for what fails above 9, and no refusal takes a credit or leaves a flood mark: the last
        request's number was refused three times.
        """
        requests = self.worst_first()
        wait_for("the first call has ended", lambda: self.credits() == {"credits": 100, "held": 0, "charged": 0})
        fetched = len(self.web.fetched)
        for code, parameters in requests:
            if code == "6":
                self.daemon.admin("POST", "/dnc/remove", {"numbers": ["+12125550101"]})
            answer = self.by_php(parameters)
            self.assertEqual((answer.status, answer.body), (200, code), answer.headers)
            self.assertEqual({name: answer.headers.get(name) for name in HEADERS}, HEADERS)
            self.assertEqual(answer.headers["content-length"], str(len(code)))
            self.assertIn(REASONS[code], answer.headers["calledin-reason"])
            self.assertEqual("calledin-call-id" in answer.headers, code == "0")
            if code not in ("9", "10", "0"):
                self.assertEqual(self.web.fetched[fetched:], [])
            if code != "0":
                self.assertEqual(self.credits(), {"credits": 100, "held": 0, "charged": 0})
        # The short MP3 is in the library since the first call.
        self.assertEqual(self.web.fetched[fetched:], ["/missing.mp3", "/long.mp3"])
        self.assertEqual({code for code, _ in requests}, {str(code) for code in range(11)})

    def credits(self) -> dict[str, int]:
        """Of the key that has some."""
        (key,) = (key for key in self.daemon.admin("GET", "/keys")["keys"] if key["name"] == "test")
        return {name: key[name] for name in ("credits", "held", "charged")}

    def test_credits_run_out(self) -> None:
        """A key of one credit makes one call; while that is up the next request gets 2, and after it no more."""
        lonely = self.make_key(credits=1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", self.deaf_port))
            codes = [self.code(api_key=lonely, phone_number=f"{DEAF}555010{n}") for n in range(2)]
        self.assertEqual(codes, ["0", "2"])
        # The trunk's port is closed now: the call was not answered, and its credit comes back.
        wait_for("the call has ended", lambda: self.daemon.admin("GET", "/status")["store"]["held"] == 0)
        self.assertEqual(self.code(api_key=lonely, phone_number=f"{DEAF}5550101"), "0")

    def test_curl(self) -> None:
        """curl over HTTP and HTTPS, with the certificate that the daemon made for itself; with the last slash or not.

        The body is one octet each time.
        """
        own = str(self.daemon.data / "tls" / "self-signed.crt")
        plain, secure = f"http://127.0.0.1:{self.daemon.port}", f"https://127.0.0.1:{self.tls_port}"
        asked = [
            (f"{plain}/api/playback/", ()),
            (f"{plain}/api/playback", ()),
            (f"{secure}/api/playback/", ("--insecure",)),
            (f"{secure}/api/playback", ("--cacert", own)),
        ]
        for number, (url, options) in enumerate(asked):
            answer = self.by_curl(url, self.good(phone_number=f"212555010{number}"), *options)
            self.assertEqual((answer.status, answer.body), (200, "0"), url)
            self.assertEqual({name: answer.headers.get(name) for name in HEADERS}, HEADERS)

    def test_badly_formed(self) -> None:
        """What is missing, given twice, empty or not as described is code 4."""
        good = self.good()
        wrong = [
            ("phone_number", "212555010"),
            ("phone_number", "21255501000"),
            ("phone_number", "+212555010"),
            ("phone_number", "٢١٢٥٥٥٠١٠٠"),
            ("country_code", "+1"),
            ("country_code", "US"),
            ("mp3", "/speech.mp3"),
            ("mp3", "ftp://127.0.0.1/a.mp3"),
            ("mp3", "http:///a.mp3"),
            ("cache", "true"),
            ("cache", ""),
            ("cache", "1"),
            ("callback_url", "example.com"),
            ("callback_url", "javascript:alert(1)"),
            ("secret", "x" * 31),
            ("caller_id", "nobody"),
        ]
        queries = [urlencode(good | {name: value}) for name, value in wrong]
        for name in good:
            queries.append(urlencode({other: value for other, value in good.items() if other != name}))
            queries.append(urlencode(good | {name: ""}))
            queries.append(urlencode(good) + "&" + urlencode({name: good[name]}))
        queries += ["", "api_key", urlencode(good).replace("phone_number=2", "phone_number=%FF")]
        told = {query: self.daemon.get(f"/api/playback/?{query}") for query in queries}
        self.assertEqual({query: answer.body for query, answer in told.items() if answer.body != "4"}, {})
        self.assertEqual({answer.status for answer in told.values()}, {200})
        self.assertEqual(self.web.fetched, [])

    def test_well_formed(self) -> None:
        """Whatever the contract allows is accepted: every parameter at its edge, and names that it does not know."""
        changes = [
            {"cache": "True"},
            {"cache": "False"},
            {"secret": "ü" * 30},
            {"secret": ""},
            {"caller_id": "12125550199"},
            {"mp3": f"{self.web.url}/short.mp3?name=a%20b&c=d#part"},
            {"unknown": "value"},
            {"callback_url": f"{self.web.url}/callback?x=1#y"},
        ]
        codes = [self.code(phone_number=f"212555012{n}", **change) for n, change in enumerate(changes)]
        self.assertEqual(codes, ["0"] * len(changes))

    def test_unusable_mp3s(self) -> None:
        """What is not MPEG layer 3, cannot be reached or must not be reached is code 9."""
        layer2 = (SAMPLES / "layer2.mp3").read_bytes()
        self.web.files |= {"/layer2.mp3": layer2, "/page.mp3": b"<html>no</html>", "/empty.mp3": b""}
        urls = [f"{self.web.url}{path}" for path in ("/layer2.mp3", "/page.mp3", "/empty.mp3", "/missing.mp3")]
        urls += [
            f"http://127.0.0.1:{free_tcp_port()}/refused.mp3",
            "http://169.254.169.254/latest/meta-data/",
            "http://10.0.0.1/a.mp3",
            f"http://[::ffff:10.0.0.1]:{self.web.port}/short.mp3",
            f"https://127.0.0.1:{self.web.port}/short.mp3",
        ]
        self.assertEqual([(url, self.code(mp3=url)) for url in urls], [(url, "9") for url in urls])
        self.assertEqual(self.code(), "0")

    def test_flood(self) -> None:
        """Of twenty requests at once for one number one is accepted; then it is code 6 for another key too."""
        program, url = need("curl"), f"http://127.0.0.1:{self.daemon.port}/api/playback/?{urlencode(self.good())}"
        running = [subprocess.Popen([program, "-sS", url], stdout=subprocess.PIPE) for _ in range(20)]
        bodies = sorted(process.communicate(timeout=60)[0].decode() for process in running)
        self.assertEqual(bodies, ["0"] + ["6"] * 19)
        other = self.make_key(credits=5)
        self.assertEqual([self.code(api_key=other), self.code(phone_number="2125550199")], ["6", "0"])
