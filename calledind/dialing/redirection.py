"""Where a 3xx leads, as far as we follow it (RFC 3261 §8.1.3.4).

A trunk may send us on to another Request-URI of its own, a number rewritten or a routing parameter added, as often
as `follow_redirects` says. It can't send us to anybody else: whom our calls reach and who is paid for them is
the operator's to say, in [[trunks]]. Nor does a URI come twice in one call.
"""

from __future__ import annotations

from collections.abc import Iterable

from calledind.model import Address
from calledind.settings.tables import Trunk
from calledind.sip.grammar import ParseError
from calledind.sip.target import with_port
from calledind.sip.uri import Uri

_FOLLOWED = frozenset({300, 301, 302})
"305 wants another proxy, 380 says that the call can't be made this way."


class Redirections:
    """Those of one call on one trunk."""

    def __init__(self, trunk: Trunk, request_uri: str) -> None:
        self._trunk = trunk
        self._left = trunk.follow_redirects
        self._asked = {request_uri}

    def follow(self, status: int, contacts: Iterable[str], target: Address) -> tuple[str, Address] | None:
        """Return the next Request-URI and where to send it; None where nothing is to be followed.

        `target`: where the INVITE went that was redirected.
        """
        if status not in _FOLLOWED or self._left == 0:
            return None
        for text in contacts:
            found = self._permitted(text, target)
            if found is not None and found[0] not in self._asked:
                self._asked.add(found[0])
                self._left -= 1
                return found
        return None

    def _permitted(self, text: str, target: Address) -> tuple[str, Address] | None:
        try:
            uri = Uri.parse(text)
        except ParseError:
            return None
        trunk, host = self._trunk, uri.host.strip("[]").lower()
        if uri.scheme != ("sips" if trunk.sips else "sip") or not uri.user:
            return None
        if host not in (trunk.host.strip("[]").lower(), target[0].lower()):
            return None
        # What a Request-URI may not have (§19.1.1).
        parameters = tuple(pair for pair in uri.parameters if pair[0].lower() != "method")
        way = target if trunk.outbound_proxy or uri.port is None else with_port(target, uri.port)
        return str(Uri(uri.scheme, uri.user, uri.host, uri.port, parameters)), way
