"""The board and the alerts speak of figures that there are, in expressions that Prometheus reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from calledind.observability.metrics import Metrics
from tests.observability.test_metrics import everything, promtool

ETC = Path(__file__).parents[2] / "etc"
ALERTS = ETC / "alerts.yml"
NAME = re.compile(r"\b(?:calledin|process)_[a-z0-9_]+")
INTERVAL = "$__rate_interval"


def board() -> dict[str, Any]:
    return dict(json.loads((ETC / "grafana-board.json").read_text()))


def expressions() -> Iterator[str]:
    for panel in board()["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def names() -> set[str]:
    """Every name that a sample of ours has."""
    lines = [line for line in everything(Metrics()).splitlines() if not line.startswith("#")]
    return {re.split(r"[{ ]", line, maxsplit=1)[0] for line in lines}


class BoardTests(SynchronousTestCase):
    def test_importable(self) -> None:
        """It asks for the data source, and no two panels have one place or one id."""
        told = board()
        self.assertIsNone(told["id"])
        self.assertEqual([each["name"] for each in told["templating"]["list"]], ["source", "instance", "trunk"])
        panels = told["panels"]
        self.assertEqual(len({each["id"] for each in panels}), len(panels))
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            self.assertFalse(cells & taken, panel["title"])
            self.assertLessEqual(place["x"] + place["w"], 24)
            taken |= cells
            for target in panel.get("targets", ()):
                self.assertEqual(target["datasource"]["uid"], "${source}")

    def test_names(self) -> None:
        """Each figure that it asks for is there, and hardly one is there that it does not show."""
        asked = {name for expression in expressions() for name in NAME.findall(expression)}
        there = names()
        self.assertEqual(asked - there, set())
        shown = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in asked}
        ours = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in there if name.startswith("calledin_")}
        self.assertEqual(
            ours - shown, {"calledin_draining", "calledin_cdr_lost", "calledin_hep_sent", "calledin_hep_dropped"}
        )

    def test_expressions(self) -> None:
        """Prometheus's own tool reads each of them."""
        rules = []
        for number, expression in enumerate(expressions()):
            text = expression.replace(INTERVAL, "5m").replace("$instance", ".*").replace("$trunk", ".*")
            rules.append(f"      - record: board:panel:{number}\n        expr: {json.dumps(text)}\n")
        path = Path(self.mktemp())
        path.write_text("groups:\n  - name: board\n    rules:\n" + "".join(rules))
        promtool("check", "rules", str(path))


class AlertTests(SynchronousTestCase):
    def test_rules(self) -> None:
        """Prometheus's own tool reads the alerts."""
        promtool("check", "rules", str(ALERTS))

    def test_names(self) -> None:
        """Each figure that they look at is there."""
        expressions = re.findall(r"expr: (.*?)\n +(?:for|labels):", ALERTS.read_text(), re.S)
        asked = {name for expression in expressions for name in NAME.findall(expression)}
        self.assertGreater(len(asked), 15)
        self.assertEqual(asked - names(), set())

    def test_what_to_do(self) -> None:
        """Each says in a sentence or more what to do."""
        text = ALERTS.read_text()
        alerts = text.split("- alert: ")[1:]
        self.assertGreater(len(alerts), 15)
        for alert in alerts:
            description = " ".join(alert.split("description: >-")[1].split())
            self.assertTrue(description.endswith(".") and len(description) > 60, alert)
            self.assertIn("summary: ", alert)
            self.assertRegex(alert, r"severity: (page|warn)")
