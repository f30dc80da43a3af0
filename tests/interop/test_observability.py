"""What operators' own tools make of the daemon: promtool, Kamailio, sngrep, and who reads its log and its records."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import SkipTest

from tests.interop import scenarios as sc
from tests.interop.case import InteropCase, settings, trunk
from tests.interop.harness import Daemon, UnixConnection, free_udp_port, need, sipp, wait_for
from tests.interop.hearing import Ear
from tests.interop.kamailio import MODULES

ANSWERS = sc.scenario(sc.ANSWER, sc.GOODBYE)
BUSY = sc.refuse("486 Busy Here", ringing=True)


def values(text: str) -> dict[str, float]:
    """Read the text format: sample with its labels -> value."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


class ObservabilityCase(InteropCase):
    def begin(self, rest: str = "", *, more: str = "") -> Daemon:
        """A daemon with a trunk that answers, and one that is busy for numbers that end in 1."""
        ear = Ear()
        self.world.callback(ear.close)
        arguments = ("-key", "rtp", str(ear.port))
        answers = self.world.enter_context(sipp(self.folder / "answers", ANSWERS, *arguments))
        busy = self.world.enter_context(sipp(self.folder / "busy", BUSY))
        return self.run_daemon(
            settings(
                trunk(answers.port, name="one", more=more),
                trunk(busy.port, name="two", more='prefixes = ["12125550101"]'),
                rest=rest,
            )
        )

    def two_calls(self, daemon: Daemon) -> tuple[str, str]:
        """One that is answered, one that is not; returns their ids."""
        ids = self.ask(daemon), self.ask(daemon, phone_number="2125550101")
        outcomes = {told.headers["webhook-id"]: self.outcome(told) for told in (self.web.next_callback() for _ in ids)}
        self.assertEqual(outcomes, {ids[0]: ("1", ""), ids[1]: ("0", "5")})
        return ids

    def read(self, daemon: Daemon, path: str) -> tuple[int, str]:
        """GET from the operators' socket, what is no JSON too."""
        connection = UnixConnection(daemon.data / "admin.sock")
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


class MetricsTests(ObservabilityCase):
    def test_figures(self) -> None:
        """After two calls the figures say so, and promtool finds nothing to complain of."""
        daemon = self.begin()
        self.two_calls(daemon)
        self.assertEqual(daemon.playback(api_key="wrong").body, "4")
        sent = 'calledin_rtp_packets_sent_total{trunk="one"}'
        told = 'verdict="delivered"} 2.0'
        wait_for("the media's figures", lambda: sent in daemon.get("/metrics").body)
        wait_for("the callbacks", lambda: told in daemon.get("/metrics").body)
        answer = daemon.get("/metrics")
        self.assertEqual((answer.status, answer.headers["content-type"][:10]), (200, "text/plain"))
        found = values(answer.body)
        for name, value in {
            'calledin_requests_total{code="0",meaning="accepted"}': 2,
            'calledin_requests_total{code="4",meaning="bad_request"}': 1,
            'calledin_requests_total{code="503",meaning="unavailable"}': 0,
            'calledin_calls_total{reason="answered",trunk="one"}': 1,
            'calledin_calls_total{reason="busy",trunk="two"}': 1,
            'calledin_call_setup_seconds_count{trunk="one"}': 1,
            'calledin_call_ring_seconds_count{trunk="two"}': 1,
            "calledin_queue_wait_seconds_count": 2,
            "calledin_queue_calls": 0,
            'calledin_fetch_seconds_count{result="fetched"}': 1,
            'calledin_decode_seconds_count{result="decoded"}': 1,
            'calledin_store_seconds_count{operation="accept",result="kept"}': 2,
            'calledin_store_seconds_count{operation="settle",result="kept"}': 2,
            "calledin_store_healthy": 1,
            "calledin_ready": 1,
            "calledin_nodes_alive": 1,
            'calledin_trunk_healthy{trunk="one"}': 1,
            'calledin_callback_tries_total{verdict="delivered"}': 2,
        }.items():
            self.assertEqual(found.get(name), value, name)
        self.assertGreater(found[sent], 90)
        self.assertGreater(found["process_resident_memory_bytes"], 1e7)
        self.assertNotIn("2125550", answer.body)
        self.assertNotRegex(answer.body, "key_[0-9a-f]{16}")
        self.assertEqual(values(self.read(daemon, "/metrics")[1]).keys(), found.keys())
        promtool(answer.body)

    def test_who_may_see_them(self) -> None:
        """A proxy on this machine does not show them to its clients, and other networks are refused."""
        daemon = self.run_daemon(settings(trunk(free_udp_port()), rest='[metrics]\nallow_networks = ["10.0.0.0/8"]'))
        self.assertEqual(daemon.get("/metrics").status, 403)
        self.assertEqual(self.read(daemon, "/metrics")[0], 200)


def promtool(text: str) -> None:
    result = subprocess.run(
        [need("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr


class JsonLogTests(ObservabilityCase):
    def test_every_line(self) -> None:
        """Each line is an object, those of a call have its id, and none has a number, a key or a query."""
        daemon = self.begin('[log]\nformat = "json"\n[node]\nname = "east"')
        ids = self.two_calls(daemon)
        wait_for("the media's figures", lambda: "keys pressed" in daemon.log.read_text())
        wait_for("the callbacks", lambda: daemon.log.read_text().count("try 1: delivered") >= 2)
        text = daemon.log.read_text()
        entries = [json.loads(line) for line in text.splitlines()]
        for entry in entries:
            self.assertRegex(entry["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertLess({"time", "level", "namespace", "message"}, entry.keys())
            self.assertEqual(entry["node"], "east")
            for call_id in re.findall(r"\b[0-9a-f]{32}\b", entry["message"]):
                self.assertEqual(entry.get("call"), call_id, entry)
        spoken = [
            [each["namespace"].split(".")[-2] for each in entries if each.get("call") == call_id] for call_id in ids
        ]
        for modules in spoken:
            self.assertLessEqual({"site", "outcome", "callback"}, set(modules))
        ended = next(each for each in entries if each.get("call") == ids[1] and "not answered" in each["message"])
        self.assertEqual((ended["trunk"], ended["level"]), ("two", "info"))
        access = next(each for each in entries if each.get("call") == ids[0] and "request" in each)
        self.assertEqual((access["status"], access["peer"]), (200, "127.0.0.1"))


class CdrTests(ObservabilityCase):
    def test_csv(self) -> None:
        """A row for each call, also after the file was moved away, and as `/cdr` has them."""
        path = self.folder / "cdr.csv"
        daemon = self.begin(f'[cdr]\nfile = "{path}"\n[node]\nname = "east"')
        ids = self.two_calls(daemon)
        wait_for("two records", lambda: path.exists() and len(rows(path)) == 2)
        found = {row["id"]: row for row in rows(path)}
        one, two = found[ids[0]], found[ids[1]]
        self.assertEqual((one["node"], one["country_code"], one["number"]), ("east", "1", "0100"))
        self.assertEqual(
            (one["outcome"], one["trunk"], one["sip_status"], one["cause"]), ("answered", "one", "200", "played")
        )
        self.assertEqual((two["outcome"], two["reason"], two["rang"], two["ended_by"]), ("busy", "5", "1", "callee"))
        self.assertEqual((two["billed_seconds"], two["answered_at"], two["codec"]), ("0.0", "", ""))
        moments = [one[name] for name in ("accepted_at", "dialled_at", "answered_at", "ended_at")]
        self.assertEqual(moments, sorted(moments))
        self.assertGreater(float(one["billed_seconds"]), 1.9)
        self.assertEqual(one["codec"], "PCMU")
        self.assertGreater(int(one["packets_sent"]), 90)
        path.rename(self.folder / "cdr.csv.1")
        os.kill(daemon.pid, signal.SIGHUP)
        wait_for("the reload", lambda: "were read again" in daemon.log.read_text())
        self.two_calls_more(daemon)
        wait_for("a new file", lambda: path.exists() and len(rows(path)) == 1)
        self.assertEqual(len(rows(self.folder / "cdr.csv.1")), 2)
        status, text = self.read(daemon, "/cdr?numbers=full")
        shown = list(csv.DictReader(text.splitlines()))
        self.assertEqual((status, len(shown)), (200, 3))
        self.assertEqual([row["number"] for row in shown if row["id"] in ids], ["2125550101", "2125550100"])
        for name in ("answered_at", "ended_at", "outcome", "trunk", "packets_sent"):
            self.assertEqual(shown[-1][name], one[name])
        until = shown[0]["accepted_at"]
        lines = self.read(daemon, f"/cdr?format=json&until={until}")[1].splitlines()
        self.assertEqual([json.loads(each)["id"] for each in lines], [ids[1], ids[0]])
        self.assertEqual(self.read(daemon, "/cdr?since=yesterday")[0], 400)

    def two_calls_more(self, daemon: Daemon) -> None:
        """One more, which nobody answers for want of a carrier that listens any more."""
        self.ask(daemon, phone_number="2125550199")
        self.web.next_callback()

    def test_full_disk(self) -> None:
        """A disk that is full costs no call; the log says so, and the records come when there is room."""
        path = self.folder / "cdr.json"
        path.symlink_to("/dev/full")
        daemon = self.begin(f'[cdr]\nfile = "{path}"\nformat = "json"\nnumbers = "full"')
        ids = self.two_calls(daemon)
        wait_for("it is told", lambda: "records of calls can't be written" in daemon.log.read_text())
        path.unlink()
        os.kill(daemon.pid, signal.SIGHUP)
        wait_for("they are written", lambda: path.exists() and len(path.read_text().splitlines()) == 2)
        self.assertIn("are written again", daemon.log.read_text())
        records = [json.loads(line) for line in path.read_text().splitlines()]
        self.assertEqual(
            {each["id"]: each["number"] for each in records}, dict(zip(ids, ("2125550100", "2125550101"), strict=True))
        )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


NAMES = """
date micro_ts method reply_reason ruri ruri_user ruri_domain from_user from_domain from_tag to_user to_domain
to_tag pid_user contact_user auth_user callid callid_aleg via_1 via_1_branch cseq diversion reason
content_type auth user_agent source_ip source_port destination_ip destination_port contact_ip contact_port
originator_ip originator_port expires correlation_id custom_field1 custom_field2 custom_field3 proto family
rtp_stat type node msg
"""
COLUMNS = NAMES.split()
"Of the table that Kamailio keeps captured messages in."
KINDS = {"date": "time", "msg": "blob"} | dict.fromkeys(
    ("micro_ts", "source_port", "destination_port", "contact_port", "originator_port"), "int"
)
KINDS |= dict.fromkeys(("expires", "proto", "family", "type"), "int")
COLLECTOR = """\
log_stderror=yes
children=1
auto_aliases=no
listen=udp:127.0.0.1:{port}
mpath="{modules}/"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "db_text.so"
loadmodule "sipcapture.so"
modparam("db_text", "db_mode", 1)
modparam("sipcapture", "db_url", "text://{tables}")
modparam("sipcapture", "capture_on", 1)
modparam("sipcapture", "hep_capture_on", 1)
modparam("sipcapture", "insert_retries", 0)
modparam("sipcapture", "insert_retry_timeout", 0)
request_route {{
    sip_capture();
    drop;
}}
onreply_route {{
    sip_capture();
    drop;
}}
"""


class HepTests(ObservabilityCase):
    def by_kamailio(self, rest: str = "", *, more: str = "") -> tuple[tuple[str, str], list[dict[str, str]]]:
        """Two calls; returns their ids, and the rows of the table that Kamailio writes of their messages' copies."""
        program, modules = need("kamailio"), next((each for each in MODULES if (each / "sipcapture.so").exists()), None)
        if modules is None:
            raise SkipTest("skipped: kamailio has no module sipcapture")
        port, tables = free_udp_port(), self.folder / "tables"
        tables.mkdir()
        columns = " ".join(f"{name}({KINDS.get(name, 'str')},null)" for name in COLUMNS)
        (tables / "sip_capture").write_text(f"id(int,auto) {columns}\n")
        (tables / "version").write_text("id(int,auto) table_name(string) table_version(int)\n1:sip_capture:4\n")
        config = self.folder / "collector.cfg"
        config.write_text(COLLECTOR.format(port=port, modules=modules, tables=tables))
        command = [program, "-DD", "-E", "-f", str(config), "-w", str(self.folder), "-m", "16", "-M", "4"]
        with ExitStack() as started:
            self.run_beside(started, command, port)
            ids = self.two_calls(self.begin(f'[trace]\nhep = "127.0.0.1:{port}"\n{rest}', more=more))
            time.sleep(0.5)
        # Which it does when it ends.
        return ids, captured(tables / "sip_capture")

    def run_beside(self, started: ExitStack, command: list[str], port: int) -> None:
        """Run a collector until the test is over."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TERM": "xterm"},
        )
        started.callback(process.wait, 30)
        started.callback(process.terminate)
        table = Path("/proc/net/udp")
        wait_for("the collector listens", lambda: f":{port:04X} " in table.read_text() or process.poll() is not None)

    def test_kamailio(self) -> None:
        """A collector finds in the copies what was on the wire: when, from where to where, and of which call."""
        begun = time.time()
        ids, table = self.by_kamailio("hep_capture_id = 77")
        one, two = ([row for row in table if row["correlation_id"] == call_id] for call_id in ids)
        self.assertEqual(len(one) + len(two), len(table))
        sip_port = next(row["source_port"] for row in two if row["method"] == "INVITE")
        for row in table:
            self.assertEqual(row["callid"], f"{row['correlation_id']}-1")
            self.assertEqual((row["source_ip"], row["destination_ip"]), ("127.0.0.1", "127.0.0.1"))
            self.assertIn(sip_port, (row["source_port"], row["destination_port"]))
            self.assertEqual((row["proto"], row["family"], row["node"]), ("1", "2", "homer01:77"))
            self.assertLess(abs(int(row["date"]) - begun), 60)
        busy = [(row["method"], row["source_port"] == sip_port) for row in two]
        self.assertEqual(sorted(busy), [("180", False), ("486", False), ("ACK", True), ("INVITE", True)])
        answered = {(row["method"], row["cseq"]) for row in one}
        self.assertLessEqual(
            {("INVITE", "1 INVITE"), ("200", "1 INVITE"), ("ACK", "1 ACK"), ("200", "2 BYE")}, answered
        )

    def test_keys_of_srtp(self) -> None:
        """What opens a call to who reads it is not copied."""
        ids, table = self.by_kamailio(more='srtp = "offered"\nsrtp_over_plain_sip = true')
        offers = [row["msg"] for row in table if row["method"] == "INVITE" and row["correlation_id"] == ids[0]]
        self.assertEqual(set(re.findall(r"inline:(.)", "".join(offers))), {"."})

    def test_nobody_listens(self) -> None:
        """Without a collector calls go on."""
        daemon = self.begin(f'[trace]\nhep = "127.0.0.1:{free_udp_port()}"')
        self.two_calls(daemon)

    def by_sngrep(self, key: str) -> list[str]:
        """Two calls, copied with this key; returns the CSeq of each message that a sngrep with another keeps."""
        program, port, path = need("sngrep"), free_udp_port(), self.folder / "sngrep.pcap"
        (self.folder / "key").write_text(f"{key}\n")
        config = self.folder / "sngreprc"
        config.write_text("set eep.listen.pass sesame\n")
        command = [program, "-f", str(config), "-N", "-q", "-L", f"udp:127.0.0.1:{port}", "-O", str(path)]
        with ExitStack() as started:
            self.run_beside(started, command, port)
            key_file = f'hep_key_file = "{self.folder / "key"}"'
            self.two_calls(self.begin(f'[trace]\nhep = "127.0.0.1:{port}"\n{key_file}'))
            time.sleep(0.5)
        command = [need("tshark"), "-r", str(path), "-Y", "sip", "-T", "fields", "-e", "sip.CSeq"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.splitlines()

    def test_sngrep(self) -> None:
        """sngrep, which listens for copies, has the calls in its own file."""
        self.assertLessEqual({"1 INVITE", "1 ACK", "2 BYE"}, set(self.by_sngrep("sesame")))

    def test_sngrep_with_another_key(self) -> None:
        """It takes none of those with another key."""
        self.assertEqual(self.by_sngrep("open"), [])


def captured(table: Path) -> list[dict[str, str]]:
    """Read Kamailio's table."""
    lines = table.read_text(errors="replace").splitlines()[1:]
    rows = [[re.sub(r"\\(.)", r"\1", part) for part in re.split(r"(?<!\\):", line)] for line in lines]
    return [dict(zip(["id", *COLUMNS], row, strict=True)) for row in rows]
