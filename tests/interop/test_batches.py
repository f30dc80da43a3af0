# mypy: allow-untyped-calls
"""A batch by curl, on a daemon that dies in the middle of it: nobody is called twice, and nobody forgotten."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter

from tests.interop.harness import wait_for
from tests.interop.test_v1 import V1Case

NUMBERS = [f"21255561{index:02d}" for index in range(6)]


class BatchTests(V1Case):
    def test_kill(self) -> None:
        """The daemon dies when a call of the batch is accepted and nobody knows yet; each number is called once."""
        daemon = self.begin()
        daemon.stop()
        daemon.launch(CALLEDIN_CRASH_AT="accept.kept:3")
        wait_for("the daemon is ready", daemon.is_ready)
        body = {"mp3": f"{self.web.url}/short.mp3", "country_code": "1", "rate": 5, "numbers": NUMBERS}
        made = self.curl("/api/v1/batches", "--json", json.dumps(body))
        self.assertEqual((made.status, made.json["state"]), (201, "running"), made)
        where = made.headers["location"]
        self.assertTrue(daemon.has_died(20))
        daemon.start()
        wait_for("it is done", lambda: self.curl(where).json["state"] == "done")
        wait_for("its calls are over", lambda: self.curl(where).json["outcomes"]["running"] == 0)
        shown = self.curl(where).json
        self.assertEqual((shown["accepted"], shown["waiting"], shown["refused"]), (len(NUMBERS), 0, {}))
        results = self.curl(f"{where}/results.csv")
        self.assertEqual(results.headers["content-type"], "text/csv; charset=utf-8")
        ids = {row["phone_number"]: row["call_id"] for row in csv.DictReader(io.StringIO(results.body))}
        calls = self.curl("/api/v1/calls").json["calls"]
        self.assertEqual(Counter(call["phone_number"] for call in calls), Counter(NUMBERS))
        self.assertEqual(ids, {call["phone_number"]: call["id"] for call in calls})
        credits, held, charged = self.credits()
        self.assertEqual((credits + charged, held), (100, 0))
