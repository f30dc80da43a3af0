"""`calledin` alone at a terminal: a prompt, as `asterisk -r` has one. The commands are the same."""

from __future__ import annotations

import os
import readline
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import ShellComplete

import calledind
from calledind.cli.client import Client, NotReachable, Refused

PROMPT = "calledin> "
MOST_LINES = 1000
"Of the history."
LEAVE = ("exit", "quit", "bye")
FOREIGN = ("demo", "completion")
"Commands that make no sense at the prompt."


def history_file() -> Path:
    """Return where the lines are kept, below $XDG_STATE_HOME."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "calledin" / "history"


class Prompt:
    """Reads lines and runs them. `main`: the command; `options`: of it, for each line, such as --socket."""

    def __init__(self, main: click.Command, options: Sequence[str]) -> None:
        self._main = main
        self._options = list(options)
        self._matches: list[str] = []

    def run(self, client: Client) -> None:
        """Go on until Ctrl-D or `exit`."""
        history = history_file()
        with suppress(OSError):
            history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            readline.read_history_file(history)
        readline.set_completer(self.complete)
        readline.set_completer_delims(" \t\n")
        readline.parse_and_bind("tab: complete")
        click.echo(greeting(client))
        try:
            while self._read_one():
                pass
        finally:
            readline.set_history_length(MOST_LINES)
            with suppress(OSError):
                # Numbers are in it.
                os.close(os.open(history, os.O_WRONLY | os.O_CREAT, 0o600))
                readline.write_history_file(history)

    def _read_one(self) -> bool:
        try:
            line = input(PROMPT)
        except EOFError:
            click.echo()
            return False
        except KeyboardInterrupt:
            click.echo()
            return True
        return self.do(line)

    def do(self, line: str) -> bool:
        """Run one line; False where it wants to leave."""
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            click.echo(f"Error: {error}", err=True)
            return True
        if words[:1] == ["calledin"]:
            words = words[1:]
        if not words:
            return True
        if words[0] in LEAVE:
            return False
        if words[0] in ("help", "?"):
            words = [*words[1:], "--help"]
        try:
            self._main.main([*self._options, *words], prog_name="calledin", standalone_mode=False)
        except click.exceptions.Abort:
            click.echo("stopped", err=True)
        except click.ClickException as error:
            error.show()
        except KeyboardInterrupt:
            click.echo()
        except SystemExit:
            pass  # a command's exit code is for the shell of the system
        return True

    def complete(self, begun: str, state: int) -> str | None:
        """readline asks with 0, 1, 2... until there is no more."""
        if state == 0:
            words = readline.get_line_buffer()[: readline.get_begidx()].split()
            self._matches = self.matches(words, begun)
        return self._matches[state] if state < len(self._matches) else None

    def matches(self, words: Sequence[str], begun: str) -> list[str]:
        """Return what may stand in place of `begun` behind these words."""
        if words[:1] in (["help"], ["?"]):
            words = words[1:]
        asked = ShellComplete(self._main, {}, "calledin", "_CALLEDIN_COMPLETE")
        found = [item.value for item in asked.get_completions([*self._options, *words], begun) if item.type == "plain"]
        if not words:
            found += [each for each in ("help", "exit") if each.startswith(begun)]
            found = [each for each in found if each not in FOREIGN]
        return [f"{each} " for each in sorted(found)]


def greeting(client: Client) -> str:
    """Say which daemon is at the other end, and how it is."""
    try:
        status = client.get("/status")
    except (NotReachable, Refused) as error:
        return f"calledin {calledind.__version__}: {error.message}"
    ready = "ready" if status["ready"] == "yes" else status["ready"]
    simulated = "; the simulator takes all calls" if status["simulator"] else ""
    return (
        f"calledin {calledind.__version__}: {ready}, {status['live']} calls live, {status['queued']} queued"
        f"{simulated}\nhelp shows the commands, Tab completes, exit leaves."
    )
