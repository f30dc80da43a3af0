# mypy: allow-untyped-calls
"""The guides, /help/..., as plain pages: written in Markdown below calledind/help, without a script.

They have no secrets, so whoever reaches a listener may read them. A guide is drawn when it is first asked for.
"""

from __future__ import annotations

import hashlib
import html
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

from twisted.web.http import CACHED
from twisted.web.resource import Resource

from calledind.api.answers import Words
from calledind.api.site import Request

FOLDER = Path(__file__).parents[1] / "help"
GUIDES = (
    "getting-started",
    "request",
    "callbacks",
    "install",
    "trunks",
    "nat",
    "machines",
    "backup",
    "monitoring",
    "troubleshooting",
    "security",
)
"In the order of the index; each is a file NAME.md."
STYLE = "style.css"
HEADERS = {
    b"content-security-policy": b"default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-cache",
}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - calledin</title>
<link rel="stylesheet" href="style.css">
</head>
<body>
<a class="skip" href="#text">To the text</a>
<header><a href="./">calledin: help</a></header>
<nav aria-label="Guides">
<ul>
{links}
</ul>
</nav>
<main id="text">
{body}
</main>
</body>
</html>
"""


class Help(Resource):
    """Serves the index, the guides and their style sheet, all below its own path."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        names = [segment.decode("latin-1") for segment in request.postpath or ()]
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        if not names:
            # Without the last slash the links would lead elsewhere.
            request.setHeader(b"location", request.path + b"/")
            request.setHeader(b"content-length", b"0")
            request.setResponseCode(301)
            return b""
        if names == [STYLE]:
            return _give(request, b"text/css; charset=utf-8", style())
        if len(names) == 1 and names[0] in ("", *GUIDES):
            return _give(request, b"text/html; charset=utf-8", page(names[0]))
        body: bytes = Words(404, "there is no such guide; /help/ lists them").render_GET(request)
        return body


def _give(request: Request, kind: bytes, content: bytes) -> bytes:
    request.setHeader(b"content-type", kind)
    if request.setETag(b'"%b"' % hashlib.sha256(content).hexdigest()[:20].encode()) is CACHED:
        return b""
    request.setHeader(b"content-length", b"%d" % len(content))
    return content


@cache
def style() -> bytes:
    return (FOLDER / STYLE).read_bytes()


@cache
def source(name: str) -> str:
    """Return a guide's Markdown."""
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def title(name: str) -> str:
    """Return the words of a guide's first line, which is its heading."""
    return source(name).partition("\n")[0].removeprefix("# ")


def summary(name: str) -> str:
    """Return a guide's first paragraph, on one line."""
    return " ".join(source(name).split("\n\n")[1].split())


@cache
def page(name: str) -> bytes:
    """Return a guide as HTML, with "" the index of all."""
    if name:
        text = source(name)
    else:
        guides = (f"## [{title(each)}]({each})\n\n{summary(each)}" for each in GUIDES)
        text = "\n\n".join(("# Help", *guides))
    links = "\n".join(
        f'<li><a href="{each}"{" aria-current=page" if each == name else ""}>{html.escape(title(each))}</a></li>'
        for each in GUIDES
    )
    whole = PAGE.format(title=html.escape(title(name) if name else "Help"), links=links, body=body_of(text))
    return whole.encode()


def body_of(text: str) -> str:
    """Return Markdown as HTML: headings that can be linked to, and what is too wide reached by the keyboard too."""
    # Imported when somebody asks, since most daemons are never asked.
    from markdown_it import MarkdownIt  # noqa: PLC0415

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    for token, following in pairwise(tokens):
        if token.type == "heading_open" and token.tag != "h1":
            token.attrSet("id", slug("".join(each.content for each in following.children or ())))
    drawn: str = reader.renderer.render(tokens, reader.options, {})
    drawn = drawn.replace("<pre>", '<pre tabindex="0">')
    return drawn.replace("<table>", '<div class="wide" role="group" aria-label="Table" tabindex="0"><table>').replace(
        "</table>", "</table></div>"
    )


def slug(heading: str) -> str:
    """Return what a heading is linked to by: its words in lower case, with hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
