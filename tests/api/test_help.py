# mypy: allow-untyped-calls
from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from calledind.api.answers import Folder
from calledind.api.help import FOLDER, GUIDES, Help, body_of, page, slug
from calledind.api.site import Site
from tests.api.wire import Connection, Response, Served


class Reader(HTMLParser):
    """Collects what a page links to, and what can be linked to on it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)
        self.links += [value for name in ("href", "src") if (value := values.get(name))]
        self.ids += [value for name, value in attrs if name == "id" and value]


class GuideTests(SynchronousTestCase):
    def test_all(self) -> None:
        """Each file is a guide of the index, and the other way round."""
        self.assertEqual({path.stem for path in FOLDER.glob("*.md")}, set(GUIDES))

    def test_links(self) -> None:
        """What a guide links to is there: another guide, a heading of it, or an address of the world; no file of it."""
        pages = {name: Reader(page(name).decode()) for name in ("", *GUIDES)}
        for name, read in pages.items():
            for link in read.links:
                target, _, heading = link.partition("#")
                if target in ("style.css", "./") or target.startswith("https://"):
                    continue
                there = pages[target or name]
                self.assertTrue(not heading or heading in there.ids, f"{name}: {link}")

    def test_headings(self) -> None:
        """One first heading a page, none is left out below it, and no two are linked to by the same words."""
        for name in ("", *GUIDES):
            read = Reader(page(name).decode())
            self.assertEqual(read.headings.count("h1"), 1, name)
            levels = [int(heading[1]) for heading in read.headings]
            self.assertTrue(all(after <= before + 1 for before, after in pairwise(levels)), name)
            self.assertEqual(len(set(read.ids)), len(read.ids), name)

    def test_no_markup(self) -> None:
        """HTML in a guide is shown, not obeyed."""
        self.assertNotIn("<script", body_of("<script>alert(1)</script>"))
        self.assertEqual(slug("What calledin may fetch?"), "what-calledin-may-fetch")


class ResourceTests(SynchronousTestCase):
    def setUp(self) -> None:
        root = Folder()
        root.putChild(b"help", Help())
        self.site = Site(root, reactor=Clock())

    def get(self, target: bytes, *fields: bytes) -> Response:
        client = Connection(self.site, Served().connect().channel.getPeer())
        lines = (b"GET %b HTTP/1.1" % target, b"Host: a", *fields, b"", b"")
        return Response(client.send(b"\r\n".join(lines)))

    def test_pages(self) -> None:
        """The index, each guide and the style sheet are there, and run nothing."""
        for name in ("", *GUIDES):
            response = self.get(b"/help/" + name.encode())
            self.assertEqual((response.status, response.headers["content-type"]), (200, "text/html; charset=utf-8"))
            self.assertIn("default-src 'none'", response.headers["content-security-policy"])
            self.assertEqual(response.body, page(name))
        self.assertEqual(self.get(b"/help/style.css").headers["content-type"], "text/css; charset=utf-8")

    def test_kept(self) -> None:
        """A browser that has a guide is told that it is still the same."""
        etag = self.get(b"/help/nat").headers["etag"]
        client = Connection(self.site, Served().connect().channel.getPeer())
        request = b"GET /help/nat HTTP/1.1\r\nHost: a\r\nIf-None-Match: %b\r\n\r\n" % etag.encode()
        self.assertTrue(client.send(request).startswith(b"HTTP/1.1 304 "))

    def test_slash(self) -> None:
        """Without its last slash the index is asked for again with it, so that links lead to the guides."""
        response = self.get(b"/help")
        self.assertEqual((response.status, response.headers["location"]), (301, "/help/"))

    def test_others(self) -> None:
        """Nothing else is there, no file and no folder above."""
        for target in (b"/help/none", b"/help/nat.md", b"/help/nat/", b"/help/..%2Fsettings.py", b"/help/../x"):
            self.assertEqual(self.get(target).status, 404, target)
