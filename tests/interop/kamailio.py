"""Kamailio as a carrier's registrar and proxy: it asks for a password, stays in the way, and calls a callee."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import SkipTest

from tests.interop.harness import free_udp_port, need, wait_for

DOMAIN = "pbx.example.com"
PASSWORD = "wonder land"
MODULES = sorted(Path("/usr").glob("lib*/**/kamailio/modules"))

# What it writes to its log for the tests begins with "carrier:".
CONFIG = """\
log_stderror=yes
children=2
auto_aliases=no
alias="{domain}"
listen=udp:127.0.0.1:{port}
listen=tcp:127.0.0.1:{port}
mpath="{modules}/"
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
        xlog("L_ERR", "carrier: REGISTER taken, Expires $hdr(Expires), $au, $hdr(Authorization)\\n");
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
            xlog("L_ERR", "carrier: BYE taken, $hdr(Proxy-Authorization)\\n");
            consume_credentials();
        }}
        t_relay();
        exit;
    }}
    if (!is_method("INVITE")) {{
        sl_send_reply("200", "OK");
        exit;
    }}
    if (!pv_proxy_authenticate("{domain}", "{password}", "0")) {{
        xlog("L_ERR", "carrier: INVITE challenged\\n");
        proxy_challenge("{domain}", "{flags}");
        exit;
    }}
    if (!registered("location", "$fu")) {{
        sl_send_reply("403", "Register first");
        exit;
    }}
    xlog("L_ERR", "carrier: INVITE taken, $ru, Route $hdr(Route), $hdr(Proxy-Authorization)\\n");
    consume_credentials();
    loose_route();
    record_route();
    $du = "sip:127.0.0.1:{callee};transport=udp";
    t_relay();
}}
"""


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
    ) -> None:
        program = need("kamailio")
        if not MODULES:
            raise SkipTest("skipped: Kamailio's modules are not installed")
        folder.mkdir()
        self.port = free_udp_port()
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
                service_route=f'append_to_reply("Service-Route: {route}\\r\\n");' if service_route else "",
            )
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, "-DD", "-E", "-f", str(config), "-m", "32", "-M", "4", "-Y", str(folder)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for("Kamailio listens", self._listens)

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
