"""Certificates that certbot renews: its deploy hook brings them to the daemon."""

from __future__ import annotations

import grp
import os
import subprocess
from pathlib import Path

from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import free_tcp_port, free_udp_port, wait_for
from tests.interop.test_signals import connect, name_of, status_of, write_certificate

HOOK = Path(__file__).parents[2] / "etc" / "certbot-hook.sh"


class HookTests(InteropCase):
    def setUp(self) -> None:
        super().setUp()
        self.lineage = self.folder / "live" / "calls.example.com"
        self.lineage.mkdir(parents=True)
        self.target = self.folder / "tls"

    def renew(self, name: str) -> None:
        """Do what certbot does before it runs its hooks."""
        write_certificate(name, self.lineage / "fullchain.pem", self.lineage / "privkey.pem")

    def run_hook(self, **environment: str) -> None:
        own = {"RENEWED_LINEAGE": str(self.lineage), "CALLEDIN_TLS": str(self.target)}
        group = {"CALLEDIN_GROUP": grp.getgrgid(os.getgid()).gr_name}
        subprocess.run(["sh", str(HOOK)], check=True, env={**os.environ, **own, **group, **environment})

    def test_renewal(self) -> None:
        """The daemon serves a renewed certificate at once, open connections go on; the key is its group's alone."""
        self.renew("one")
        self.run_hook()
        port = free_tcp_port()
        files = f'certificate = "{self.target}/fullchain.pem"\nprivate_key = "{self.target}/privkey.pem"\n'
        http_table = f'[http]\ntls_listen = ["127.0.0.1:{port}"]\n{files}'
        daemon = self.run_daemon(settings(trunk(free_udp_port()), rest=http_table))
        old = connect(port)
        self.addCleanup(old.close)
        self.assertEqual(name_of(old), "one")
        self.renew("two")
        self.run_hook(CALLEDIN_PID=str(daemon.pid))
        wait_for("the new certificate", lambda: name_of(connect(port)) == "two")
        self.assertEqual((name_of(old), status_of(old)), ("one", 200))
        self.assertEqual((self.target / "privkey.pem").stat().st_mode & 0o777, 0o640)
        self.assertEqual(sorted(path.name for path in self.target.iterdir()), ["fullchain.pem", "privkey.pem"])

    def test_other_certificate(self) -> None:
        """Of a host's certificates only the one that is named is taken."""
        self.renew("mail")
        self.run_hook(CALLEDIN_DOMAIN="mail.example.com")
        self.assertFalse(self.target.exists())
