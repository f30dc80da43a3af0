"""Kamailio as a carrier's registrar and proxy: it asks for a password, stays in the way, and calls a callee."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import SkipTest

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import Daemon, Sipp, free_ports, need, sipp, wait_for

DOMAIN = "pbx.example.com"
PASSWORD = "wonder land"
USER = "alice"
ROUTES = "[last_Record-Route:]\n"
ANSWERS = sc.scenario(
    sc.receive("INVITE"),
    sc.send("180 Ringing", more=ROUTES + sc.CONTACT),
    sc.send("200 OK", more=ROUTES + sc.CONTACT, body=sc.sdp(port="40000"), retrans=500),
    sc.receive("ACK"),
    sc.GOODBYE,
)
MODULES = sorted(Path("/usr").glob("lib*/**/kamailio/modules"))

# What it writes to its log for the tests begins with "carrier:".
CONFIG = """\
log_stderror=yes
# Several would overtake each other: a BYE the ACK before it.
children=1
auto_aliases=no
alias="{domain}"
listen=udp:127.0.0.1:{port}
listen=tcp:127.0.0.1:{port}
mpath="{modules}/"
{tls}
loadmodule "kex.so"
loadmodule "corex.so"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "xlog.so"
loadmodule "auth.so"
loadmodule "ctl.so"
modparam("ctl", "binrpc", "unix:{control}")
modparam("auth", "algorithm", "{algorithm}")
modparam("auth", "qop", "{qop}")
# A nonce goes on serving, each time with a count that is higher.
modparam("auth", "nonce_count", 1)
modparam("auth", "nonce_expire", 300)
modparam("registrar", "max_expires", {expires})

request_route {{
    if (is_method("REGISTER")) {{
        if (!pv_www_authenticate("{domain}", "{password}", "0")) {{
            xlog("L_ERR", "carrier: REGISTER challenged\\n");
            www_challenge("{domain}", "{flags}");
            exit;
        }}
        xlog("L_ERR", "carrier: REGISTER taken, Expires $hdr(Expires), $au, $proto, $hdr(Authorization)\\n");
        {service_route}
        save("location");
        exit;
    }}
    if (is_method("CANCEL")) {{
        xlog("L_ERR", "carrier: CANCEL\\n");
        if (t_check_trans()) t_relay();
        exit;
    }}
    if (has_totag()) {{
        if (!loose_route()) {{
            if (is_method("ACK") && t_check_trans()) t_relay();
            exit;
        }}
        if (is_method("BYE") && $sp != {callee}) {{
            if (!pv_proxy_authenticate("{domain}", "{password}", "0")) {{
                xlog("L_ERR", "carrier: BYE challenged\\n");
                proxy_challenge("{domain}", "{flags}");
                exit;
            }}
            xlog("L_ERR", "carrier: BYE taken, $proto, $hdr(Proxy-Authorization)\\n");
            consume_credentials();
        }}
        t_relay();
        exit;
    }}
    if (!is_method("INVITE")) {{
        sl_send_reply("200", "OK");
        exit;
    }}
    {first}
    if (!pv_proxy_authenticate("{domain}", "{password}", "0")) {{
        xlog("L_ERR", "carrier: INVITE challenged\\n");
        proxy_challenge("{domain}", "{flags}");
        exit;
    }}
    if ({registers} && !registered("location", "$fu")) {{
        sl_send_reply("403", "Register first");
        exit;
    }}
    xlog("L_ERR", "carrier: INVITE taken, $ru, $proto{peer}, Route $hdr(Route), $hdr(Proxy-Authorization)\\n");
    consume_credentials();
    loose_route();
    record_route();
    {fork}
    $du = "sip:127.0.0.1:{callee};transport=udp";
    t_relay();
}}
"""


# A client that names the domain (SNI) is shown the domain's certificate, anybody else another one.
TLS_CONFIG = """\
[server:default]
method = TLSv1.2+
certificate = {other}
private_key = {other_key}
ca_list = {clients}
verify_certificate = {verify}
require_certificate = {verify}

[server:127.0.0.1:{port}]
server_name = {domain}
method = TLSv1.2+
certificate = {certificate}
private_key = {key}
ca_list = {clients}
verify_certificate = {verify}
require_certificate = {verify}
"""


@dataclass(frozen=True)
class Tls:
    """What a Kamailio secures its connections with; pairs are of a certificate's file and its key's."""

    own: tuple[Path, Path]
    "For who asks for `DOMAIN`."
    other: tuple[Path, Path]
    "For who names nobody."
    authority: Path
    "Of the clients' certificates."
    ask: bool = False
    "Whether clients must have one."


class Kamailio:
    """One that takes calls for anybody with the password and a registration, to the callee at a port."""

    def __init__(
        self,
        folder: Path,
        callee: int,
        *,
        algorithm: str = "MD5",
        qop: str = "auth",
        expires: int = 3600,
        service_route: bool = False,
        tls: Tls | None = None,
        first: str = "",
        registers: bool = True,
        second: int = 0,
    ) -> None:
        """`first`: what it does with an INVITE before it looks at it, in its own language. `registers`: whether it
        wants a registration. `second`: the port of another callee, that rings at the same time."""
        if not MODULES:
            raise SkipTest("skipped: Kamailio's modules are not installed")
        folder.mkdir()
        self.port = free_ports(2)
        self.secure_port = self.port + 1
        self.control = folder / "control"
        self.log = folder / "kamailio.log"
        config = folder / "kamailio.cfg"
        route = f"<sip:127.0.0.1:{self.port};lr;gate=1>"
        config.write_text(
            CONFIG.format(
                domain=DOMAIN,
                port=self.port,
                modules=MODULES[0],
                control=self.control,
                algorithm=algorithm,
                qop=qop,
                flags={"auth": 1, "auth-int": 2}[qop],
                expires=expires,
                password=PASSWORD,
                callee=callee,
                first=first,
                fork=f'append_branch("sip:second@127.0.0.1:{second}");' if second else "",
                registers=int(registers),
                tls="" if tls is None else self._secured(folder, tls),
                peer=", by $tls_peer_subject_cn" if tls is not None and tls.ask else "",
                service_route=f'append_to_reply("Service-Route: {route}\\r\\n");' if service_route else "",
            )
        )
        self._command = [need("kamailio"), "-DD", "-E", "-f", str(config), "-m", "32", "-M", "4", "-Y", str(folder)]
        self.start()

    def start(self) -> None:
        """Begin, at first or again: it remembers nothing."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for("Kamailio listens", self._listens)

    def _secured(self, folder: Path, tls: Tls) -> str:
        """Return the lines that have it listen for TLS."""
        if not (MODULES[0] / "tls.so").exists():
            raise SkipTest("skipped: Kamailio's TLS module is not installed")
        path = folder / "tls.cfg"
        path.write_text(
            TLS_CONFIG.format(
                port=self.secure_port,
                domain=DOMAIN,
                certificate=tls.own[0],
                key=tls.own[1],
                other=tls.other[0],
                other_key=tls.other[1],
                clients=tls.authority,
                verify="yes" if tls.ask else "no",
            )
        )
        return f"""enable_tls=yes
listen=tls:127.0.0.1:{self.secure_port}
loadmodule "tls.so"
modparam("tls", "config", "{path}")"""

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"Kamailio ended:\n{self.log.read_text(errors='replace')[-3000:]}")
        return self.control.exists() and self._ask("core.uptime").returncode == 0

    def _ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        arguments = [need("kamcmd"), "-s", f"unix:{self.control}", *command]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=10, check=False)

    def bindings(self) -> dict[str, str]:
        """Contact -> address of record, of all that are registered."""
        text = self._ask("ul.dump").stdout
        found = {}
        name = ""
        for key, value in re.findall(r"^\s*(AoR|Address): (.*)$", text, re.MULTILINE):
            if key == "AoR":
                name = value
            else:
                found[value] = name
        return found

    def said(self) -> list[str]:
        """What it wrote for us, one line for each request that it took or challenged."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line.partition("carrier: ")[2] for line in lines if "carrier: " in line]

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def kamailio(folder: Path, callee: int, **options: object) -> Iterator[Kamailio]:
    carrier = Kamailio(folder, callee, **options)  # type: ignore[arg-type]
    try:
        yield carrier
    finally:
        carrier.close()


class KamailioCase(InteropCase):
    """Each test has Kamailio as its one trunk, with a callee behind it."""

    carrier: Kamailio
    callee: Sipp

    def start(self, scenario: str = ANSWERS, *, calls: int = 1, **options: Any) -> Daemon:
        need("kamailio")
        need("sipp")
        self.callee = self.world.enter_context(sipp(self.folder / "sipp", scenario, calls=calls))
        return self.register(self.callee.port, **options)

    def register(
        self,
        callee: int,
        *,
        user: str = USER,
        password: str = PASSWORD,
        more: str = "",
        tls: Tls | None = None,
        registers: bool = True,
        sip_port: int = 0,
        **options: object,
    ) -> Daemon:
        self.carrier = self.world.enter_context(
            kamailio(self.folder / "kamailio", callee, tls=tls, registers=registers, **options)
        )
        port = self.carrier.port if tls is None else self.carrier.secure_port
        quoted = user.replace("\\", "\\\\").replace('"', '\\"')
        settled = f"""username = "{quoted}"
password = "{password}"
outbound_proxy = "127.0.0.1:{port}"
from_user = "{{username}}"
register = {str(registers).lower()}
{more}"""
        return self.run_daemon(settings(trunk(0, name="carrier", host=DOMAIN, more=settled), sip_port=sip_port))

    def is_called(self, daemon: Daemon) -> None:
        """A call goes through and is heard of."""
        told = self.call(daemon)
        self.assertEqual(self.outcome(told), ("1", ""), (self.carrier.said(), daemon.log.read_text()[-2000:]))
        self.assertEqual(self.callee.wait(), 0, self.callee.explain())

    def of(self, method: str) -> list[str]:
        """What Kamailio says of the requests of one method."""
        return [line.removeprefix(f"{method} ") for line in self.carrier.said() if line.startswith(method)]
