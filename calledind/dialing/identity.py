"""Who calls, and whom, in the words that a trunk wants (RFC 3261 §20.20, RFC 3323, RFC 3325, RFC 5806).

Each trunk has a template for the user part of every header that names the caller, such as "+{e164}":

    {caller}    as the request gave it, or the trunk's own where it gave none
    {e164}      country code and number, without a plus
    {national}  without the country code where that is the home country's, else "+" and the country code too
    {username}  of the trunk's digest credentials

A name that has nothing to stand for (a short code has no E.164 form) empties the whole template; From then
takes the caller as it is, and a header that would say nothing is not sent.

The caller of an anonymous call is nobody in From, and only those headers say more that a carrier takes away before
the callee: P-Asserted-Identity and Remote-Party-ID, with the trunk's own number.

Whatever the values are, each header stays one header: user parts are escaped (RFC 3261 §25.1), display names
quoted and rid of control characters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from calledind.model import ANONYMOUS, DEFAULT_CALLER, Call
from calledind.numbering import e164
from calledind.settings.tables import Trunk
from calledind.settings.values import PLACEHOLDER
from calledind.sip.header import NameAddr
from calledind.sip.uri import Uri, escape_user

ANONYMOUS_NAME = "Anonymous"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_TELEPHONE = re.compile(r"\+?[0-9]+")


@dataclass(frozen=True)
class Identity:
    """Who an INVITE says that it is from."""

    from_uri: str
    display_name: str
    headers: tuple[tuple[str, str], ...]
    "P-Asserted-Identity, Remote-Party-ID, Diversion, Privacy; as the trunk wants them."
    number: str | None
    "The caller's country code and number as the trunk's carrier is told, None where it is not told one."


def callee_uri(call: Call, trunk: Trunk) -> str:
    """Return the Request-URI; its host is the trunk's, wherever the packets go."""
    user = escape_user(f"{trunk.dial_prefix}{call.country_code}{call.phone_number}")
    host, port = trunk.host.strip("[]"), None if trunk.port in (0, 5060) else trunk.port
    return str(Uri(_scheme(trunk), user, host, port, _parameters(trunk)))


def identify(call: Call, trunk: Trunk, *, host: str, home: str) -> Identity:
    """Return who the call is from.

    `host`: ours, as the trunk sees it. `home`: country code of caller ids that have none.
    """
    caller = trunk.caller_id if call.caller_id == DEFAULT_CALLER and trunk.caller_id else call.caller_id
    anonymous = caller == ANONYMOUS
    # Nobody's number may be told but the operator's own.
    known = (trunk.caller_id if trunk.caller_id != ANONYMOUS else "") if anonymous else caller
    names = _names(known, trunk, home)
    domain = (trunk.from_domain or (trunk.host if trunk.username else host)).strip("[]")
    name = _printable(_fill(trunk.display_name, names) or "")
    headers = []
    asserted = _address(trunk.asserted_identity, names, trunk, domain)
    if asserted is not None:
        headers.append(("P-Asserted-Identity", str(NameAddr(name, asserted))))
    remote_party = _address(trunk.remote_party_id, names, trunk, domain)
    if remote_party is not None:
        parameters = (("party", "calling"), ("screen", "yes"), ("privacy", "full" if anonymous else "off"))
        headers.append(("Remote-Party-ID", str(NameAddr(name, remote_party, parameters))))
    diversion = _address(trunk.diversion, names, trunk, domain)
    if diversion is not None:
        privacy = (("privacy", "full"),) if anonymous else ()
        parameters = (("reason", "unconditional"), *privacy, ("counter", "1"))
        headers.append(("Diversion", str(NameAddr("", diversion, parameters))))
    if anonymous and trunk.privacy:
        headers.append(("Privacy", trunk.privacy))
    if anonymous:
        return Identity(trunk.anonymous_uri, ANONYMOUS_NAME, tuple(headers), _number_of(asserted, home))
    user = _fill(trunk.from_user, names) or caller
    number = _number_of(asserted, home) or names.get("e164")
    return Identity(str(_uri(user, domain, trunk)), name, tuple(headers), number)


def _names(caller: str, trunk: Trunk, home: str) -> Mapping[str, str]:
    names = {"username": trunk.username, "caller": caller if caller != DEFAULT_CALLER else ""}
    number = e164(caller, home) if caller else None
    if number is not None:
        names["e164"] = number
        names["national"] = number.removeprefix(home) if number.startswith(home) else f"+{number}"
    return names


def _fill(template: str, names: Mapping[str, str]) -> str | None:
    """Return the template with its names resolved; None where it, or one of them, is empty."""
    if any(not names.get(name) for name in PLACEHOLDER.findall(template)):
        return None
    return PLACEHOLDER.sub(lambda found: names[found[1]], template) or None


def _address(template: str, names: Mapping[str, str], trunk: Trunk, domain: str) -> str | None:
    """Return the URI of a header that names somebody, None where there is nobody to name."""
    filled = _fill(template, names)
    if filled is None:
        return None
    if filled.startswith("tel:"):
        number = filled.removeprefix("tel:")
        return str(Uri("tel", number)) if _TELEPHONE.fullmatch(number) else None
    return str(_uri(filled, domain, trunk))


def _uri(user: str, domain: str, trunk: Trunk) -> Uri:
    return Uri(
        _scheme(trunk), escape_user(user), domain, None, _parameters(trunk) if _TELEPHONE.fullmatch(user) else ()
    )


def _scheme(trunk: Trunk) -> str:
    return "sips" if trunk.sips else "sip"


def _parameters(trunk: Trunk) -> tuple[tuple[str, str | None], ...]:
    return (("user", "phone"),) if trunk.user_phone else ()


def _number_of(uri: str | None, home: str) -> str | None:
    """Return the E.164 digits of the telephone number that a URI names."""
    if uri is None:
        return None
    user = Uri.parse(uri).username
    return e164(user, home) if _TELEPHONE.fullmatch(user) else None


def _printable(text: str) -> str:
    return _CONTROL.sub(" ", text).strip()
