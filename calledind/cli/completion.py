"""Completion: `calledin completion bash`, and the ids that commands take."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from calledind.cli.client import Client, NotReachable, Refused, find_socket
from calledind.settings.reading import SettingsError, load

MOST = 50
"Calls that are offered, the newest."


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands and ids.

    \b
    bash  calledin completion bash > /etc/bash_completion.d/calledin
    zsh   calledin completion zsh > "${fpath[1]}/_calledin"
    fish  calledin completion fish > ~/.config/fish/completions/calledin.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "calledin", "_CALLEDIN_COMPLETE").source())


def _client(ctx: click.Context) -> Client:
    """Return the daemon that the line so far means. Raises `NotReachable`, SettingsError."""
    given: dict[str, Any] = ctx.find_root().params
    if given.get("socket"):
        return Client(Path(given["socket"]))
    return Client(load(Path(given["config"])).admin_socket if given.get("config") else find_socket())


def _offered(ctx: click.Context, path: str, table: str, name: str, words: str, begun: str) -> Iterable[CompletionItem]:
    try:
        rows = _client(ctx).get(path)[table]
    except (NotReachable, Refused, SettingsError):
        return []
    return [CompletionItem(row[name], help=str(row.get(words, ""))) for row in rows if row[name].startswith(begun)]


def key_ids(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    return list(_offered(ctx, "/keys", "keys", "id", "name", begun))


def call_ids(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    return list(_offered(ctx, f"/calls?most={MOST}", "calls", "id", "state", begun))


def trunk_names(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    return list(_offered(ctx, "/trunks", "trunks", "name", "health", begun))
