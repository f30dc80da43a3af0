"""SIP messages: octets in, requests and responses out, and back (RFC 3261 §7).

The rules of this parser:

* Header fields are kept as they came, in their order; only the name is brought to its usual spelling (compact
  forms are expanded) and a folded line is joined by one space. What a field means is worked out when it is asked
  for, and remembered.
* Liberal where people are: LF alone ends a line, empty lines may come first, spaces may stand round the colon,
  Latin-1 may stand where UTF-8 should, a datagram may be longer than Content-Length says or have none.
* Strict where a mistake would let one message be read as another: a lone CR, a line without a colon, a second
  Content-Length that differs, a body that is cut.
* Whatever the octets are, nothing but `ParseError` comes out, after one pass over them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from calledind.model import Address
from calledind.sip.grammar import LWS, ParseError, is_token, number, split_list
from calledind.sip.header import CANONICAL, CSeq, NameAddr, Reason, Via, any_spelling, canonical
from calledind.sip.uri import Uri

LONGEST = 65535
"Octets of a message; no datagram is longer."
MOST_HEADERS = 512
"Header lines of a message."

Headers = list[tuple[str, str]]

PHRASES = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    199: "Early Dialog Terminated",
    200: "OK",
    202: "Accepted",
    204: "No Notification",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    491: "Request Pending",
    493: "Undecipherable",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    580: "Precondition Failure",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
    607: "Unwanted",
    608: "Rejected",
}
"Status -> the phrase that its RFC gives it."


class Message:
    """What requests and responses share. Not changed once made: what was parsed is remembered."""

    __slots__ = ("_by_name", "_parsed", "body", "encoding", "headers")

    def __init__(self, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        self.headers: Headers = [(_own_name(name), value) for name, value in headers]
        self.body = body
        self.encoding = "utf-8"
        '"latin-1" where a message came that way, so that it leaves as it came.'
        self._by_name: dict[str, str | list[str]] | None = None
        "Most are there once: a list for each would be much to keep, and to look through for the collector."
        self._parsed: dict[str, Any] = {}

    # as it was written

    def all(self, name: str) -> list[str]:
        """Return the values of all header lines of this name (any case, or compact), as they were written."""
        by_name = self._by_name
        if by_name is None:
            by_name = self._by_name = {}
            for key, value in self.headers:
                known = key if CANONICAL.get(key) == key else any_spelling(key)
                before = by_name.get(known)
                if before is None:
                    by_name[known] = value
                elif isinstance(before, str):
                    by_name[known] = [before, value]
                else:
                    before.append(value)
        found = by_name.get(name)
        if found is None and CANONICAL.get(name) != name:
            found = by_name.get(any_spelling(name))
        if isinstance(found, str):
            return [found]
        return found or []

    def get(self, name: str) -> str | None:
        """Return the first header line of this name, None where there is none."""
        values = self.all(name)
        return values[0] if values else None

    def values(self, name: str) -> list[str]:
        """Return the elements of a header that is a list, over all its lines. Raises `ParseError`."""
        lines = self.all(name)
        if len(lines) == 1 and "," not in lines[0]:
            element = lines[0].strip(LWS)
            return [element] if element else []
        return [element for value in lines for element in split_list(value)]

    def single(self, name: str) -> str:
        """Return a header that must be there exactly once. Raises `ParseError` otherwise."""
        values = self.all(name)
        if len(values) != 1:
            raise ParseError(f"{name} is there {len(values)} times" if values else f"{name} is missing")
        return values[0]

    # what it means; each raises `ParseError`

    @property
    def via(self) -> Via:
        """The topmost Via: of a request the one who sent it, of a response ourselves."""
        return self.vias[0]

    @property
    def vias(self) -> tuple[Via, ...]:
        """All of the way back, the topmost first; at least one."""
        parsed: tuple[Via, ...] | None = self._parsed.get("Via")
        if parsed is None:
            parsed = tuple(Via.parse(value) for value in self.values("Via"))
            if not parsed:
                raise ParseError("Via is missing")
            self._parsed["Via"] = parsed
        return parsed

    @property
    def from_(self) -> NameAddr:
        return self._address("From")

    @property
    def to(self) -> NameAddr:
        return self._address("To")

    def _address(self, name: str) -> NameAddr:
        parsed = self._parsed.get(name)
        if parsed is None:
            parsed = self._parsed[name] = NameAddr.parse(self.single(name))
        return parsed

    @property
    def call_id(self) -> str:
        call_id = self.single("Call-ID")
        if not call_id or " " in call_id or "\t" in call_id:
            raise ParseError("Call-ID is empty or has a space")
        return call_id

    @property
    def cseq(self) -> CSeq:
        parsed = self._parsed.get("CSeq")
        if parsed is None:
            parsed = self._parsed["CSeq"] = CSeq.parse(self.single("CSeq"))
        return parsed

    @property
    def contacts(self) -> tuple[NameAddr, ...]:
        """All Contacts in their order; none for "*"."""
        values = self.values("Contact")
        return () if values == ["*"] else tuple(NameAddr.parse(value) for value in values)

    @property
    def contact(self) -> NameAddr | None:
        """The first Contact, None where there is none or only "*"."""
        contacts = self.contacts
        return contacts[0] if contacts else None

    @property
    def record_route(self) -> tuple[NameAddr, ...]:
        return self._addresses("Record-Route")

    @property
    def route(self) -> tuple[NameAddr, ...]:
        return self._addresses("Route")

    def _addresses(self, name: str) -> tuple[NameAddr, ...]:
        return tuple(NameAddr.parse(value) for value in self.values(name))

    @property
    def max_forwards(self) -> int | None:
        return number(self.single("Max-Forwards"), 255) if self.all("Max-Forwards") else None

    # what is only good to know: None also where it can't be read, for no call is lost over it

    @property
    def content_type(self) -> str | None:
        """Type and subtype in lower case, such as "application/sdp"."""
        value = self.get("Content-Type")
        if value is None:
            return None
        kind, slash, rest = value.partition(";")[0].partition("/")
        kind, rest = kind.strip(LWS).lower(), rest.strip(LWS).lower()
        return f"{kind}/{rest}" if slash and is_token(kind) and is_token(rest) else None

    @property
    def reason_q850(self) -> int | None:
        """The Q.850 cause of a Reason header (RFC 3326, RFC 6432)."""
        for value in self.all("Reason"):
            try:
                for element in split_list(value):
                    reason = Reason.parse(element)
                    if reason.protocol.upper() == "Q.850" and reason.cause is not None:
                        return reason.cause
            except ParseError:
                continue
        return None

    @property
    def retry_after(self) -> int | None:
        """Seconds, without the comment and parameters that may follow (§20.33)."""
        value = (self.get("Retry-After") or "").partition(";")[0].partition("(")[0].strip(LWS)
        try:
            return number(value)
        except ParseError:
            return None

    def keep_only(self, names: Collection[str]) -> None:
        """Keep the headers of these names, without the body: for a message that something unlikely may still need."""
        self.headers = [pair for pair in self.headers if pair[0] in names]
        self.body = b""
        self._by_name = None
        self._parsed = {}

    # checking and writing

    def check(self) -> None:
        """Raise `ParseError` unless the headers that every message has are there and can be read (§8.1.1)."""
        _ = self.vias, self.from_, self.to, self.call_id, self.cseq

    def _write(self, start: str) -> bytes:
        lines = [start]
        lines += [f"{name}: {value}" for name, value in self.headers if name != "Content-Length"]
        lines.append(f"Content-Length: {len(self.body)}\r\n\r\n")
        head = "\r\n".join(lines)
        # One look at the whole finds a line end that somebody put into a value.
        ends = len(lines) + 1
        if head.count("\r") != ends or head.count("\n") != ends:
            raise ValueError("a header's name or value has a line end")
        try:
            return head.encode(self.encoding) + self.body
        except UnicodeEncodeError:
            return head.encode("utf-8", "backslashreplace") + self.body

    def __bytes__(self) -> bytes:
        return self.serialise()

    def serialise(self) -> bytes:
        """Write the message, Content-Length computed. Raises ValueError (our mistake) for a line end in a value."""
        raise NotImplementedError


class Request(Message):
    """A request; `uri` is its Request-URI as it was written."""

    __slots__ = ("method", "uri")

    def __init__(self, method: str, uri: str, headers: Iterable[tuple[str, str]], body: bytes = b"") -> None:
        super().__init__(headers, body)
        self.method = method
        self.uri = uri

    @property
    def request_uri(self) -> Uri:
        """The Request-URI in its parts. Raises `ParseError`, with status 416 for a scheme that we don't know."""
        parsed = self._parsed.get("uri")
        if parsed is None:
            parsed = self._parsed["uri"] = Uri.parse(self.uri)
        return parsed

    def check(self) -> None:
        """Raise `ParseError` as for any message, and where CSeq names another method or Max-Forwards is none."""
        super().check()
        if self.cseq.method != self.method:
            raise ParseError("CSeq names another method")
        _ = self.max_forwards

    def received_from(self, source: Address) -> Request:
        """Return the same request with its source noted in the topmost Via (§18.2.1). Raises `ParseError`."""
        stamped = str(self.via.with_source(source))
        headers = list(self.headers)
        lines = ((index, split_list(value)) for index, (name, value) in enumerate(headers) if name == "Via")
        topmost, elements = next((index, elements) for index, elements in lines if elements)
        headers[topmost] = ("Via", ", ".join([stamped, *elements[1:]]))
        request = Request(self.method, self.uri, headers, self.body)
        request.encoding = self.encoding
        return request

    def serialise(self) -> bytes:
        if not is_token(self.method) or not self.uri or " " in self.uri:
            raise ValueError("a method or a Request-URI that can't be written")
        return self._write(f"{self.method} {self.uri} SIP/2.0")

    def __repr__(self) -> str:
        return f"<Request {self.method}>"


class Response(Message):
    """A response; `phrase` is for people."""

    __slots__ = ("phrase", "status")

    def __init__(self, status: int, phrase: str, headers: Iterable[tuple[str, str]], body: bytes = b"") -> None:
        super().__init__(headers, body)
        self.status = status
        self.phrase = phrase

    def serialise(self) -> bytes:
        return self._write(f"SIP/2.0 {self.status} {self.phrase}")

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


def _own_name(name: str) -> str:
    known = canonical(name)
    if known is None:
        raise ValueError("a header's name that can't be written")
    return known


def response_to(
    request: Request,
    status: int,
    phrase: str | None = None,
    to_tag: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
) -> Response:
    """Build the response to a request as RFC 3261 §8.2.6 says, `headers` following those that are copied.

    What the request lacks is left out; `to_tag` is added only where To has none.
    """
    copied = [("Via", value) for value in request.all("Via")]
    for name in ("From", "To", "Call-ID", "CSeq"):
        value = request.get(name)
        if value is not None:
            copied.append((name, _tagged(value, to_tag) if name == "To" and to_tag else value))
    timestamp = request.get("Timestamp")
    if status == 100 and timestamp is not None:
        copied.append(("Timestamp", timestamp))
    response = Response(status, PHRASES.get(status, "") if phrase is None else phrase, [*copied, *headers], body)
    response.encoding = request.encoding
    return response


def _tagged(to: str, tag: str) -> str:
    try:
        has_tag = NameAddr.parse(to).tag is not None
    except ParseError:
        has_tag = True  # It goes back as it came.
    return to if has_tag else f"{to};tag={tag}"


def parse(data: bytes) -> Request | Response:
    """Read one datagram. Raises `ParseError`, whose `request` is what can be answered."""
    message, length, rest, error = parse_head(data)
    if error is None and length is not None and length > len(rest):
        error = "the body is shorter than Content-Length says"
    if error is not None:
        raise ParseError(error, request=message if isinstance(message, Request) else None)
    message.body = rest if length is None else rest[:length]
    return message


def parse_head(data: bytes) -> tuple[Request | Response, int | None, bytes, str | None]:
    """Read up to the empty line.

    Returns the message without its body, Content-Length (None where it isn't there or is wrong), the octets that
    follow the empty line, and what is wrong with a header line. Raises `ParseError` where the start line or the
    division into lines is wrong.
    """
    if len(data) > LONGEST:
        raise ParseError("the message is too long", status=513)
    if data[:1] in (b"\r", b"\n"):
        data = data.lstrip(b"\r\n")
    lines, rest, encoding = _lines(data)
    headers, error = _headers(lines)
    message = _start_line(lines[0], headers, encoding)
    length = None
    lengths = set(message.all("Content-Length"))
    if lengths:
        try:
            if len(lengths) > 1:
                raise ParseError("two Content-Lengths")
            length = number(lengths.pop())
        except ParseError:
            error = error or "Content-Length is not one number"
    return message, length, rest, error


def _lines(data: bytes) -> tuple[list[str], bytes, str]:
    """Return the start line and the header lines, unfolded, then what follows the empty line, and the encoding."""
    end = data.find(b"\r\n\r\n")
    head = data[: max(end, 0)]
    count = head.count(b"\n")
    if end >= 0 and head.count(b"\r") == count == head.count(b"\r\n"):
        rest = data[end + 4 :]
    else:
        head, rest = _head_with_bare_line_feeds(data)
    try:
        text, encoding = head.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        text, encoding = head.decode("latin-1"), "latin-1"
    lines = text.split("\r\n")
    if len(lines) > MOST_HEADERS + 1:
        raise ParseError("too many header lines", status=513)
    if "\n " in text or "\n\t" in text:
        lines = _unfold(lines)
    return lines, rest, encoding


def _head_with_bare_line_feeds(data: bytes) -> tuple[bytes, bytes]:
    """Return what stands before and after the empty line, the line ends before it made CRLF."""
    ends = [(at, len(end)) for end in (b"\n\n", b"\n\r\n") if (at := data.find(end)) >= 0]
    if not ends:
        raise ParseError("no empty line ends the headers")
    at, length = min(ends)
    head = data[:at].removesuffix(b"\r").replace(b"\r\n", b"\n")
    if b"\r" in head:
        raise ParseError("a CR without its LF")
    return head.replace(b"\n", b"\r\n"), data[at + length :]


def _unfold(lines: list[str]) -> list[str]:
    groups: list[list[str]] = []
    for line in lines:
        if line[:1] in (" ", "\t") and groups:
            groups[-1].append(line.strip(LWS))
        else:
            groups.append([line.rstrip(LWS)])
    return [" ".join(group) for group in groups]


def _headers(lines: list[str]) -> tuple[Headers, str | None]:
    """Return the headers of all lines but the first, and what is wrong with the first wrong one."""
    headers = []
    error = None
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        known = CANONICAL.get(name) or canonical(name)
        if known is None or not colon:
            error = "a header line has no proper name"
            continue
        headers.append((known, value.strip(LWS)))
    return headers, error


def _start_line(line: str, headers: Headers, encoding: str) -> Request | Response:
    message: Request | Response
    if line[:4].upper() == "SIP/":
        version, _, rest = line.partition(" ")
        status, _, phrase = rest.partition(" ")
        if version.upper() != "SIP/2.0" or len(status) != 3 or not "100" <= status <= "699":
            raise ParseError("not a status line of SIP/2.0")
        message = Response(number(status), phrase, (), b"")
        message.headers, message.encoding = headers, encoding
        return message
    method, _, rest = line.partition(" ")
    trimmed = rest.rstrip(LWS)
    uri, _, version = trimmed.rpartition(" ")
    if not is_token(method) or version[:4].upper() != "SIP/":
        raise ParseError("not a request line")
    message = Request(method, uri, (), b"")
    message.headers, message.encoding = headers, encoding
    if version.upper() != "SIP/2.0":
        raise ParseError("not SIP/2.0", status=505, request=message)
    if trimmed != rest or not uri or " " in uri or "\t" in uri or "<" in uri or ">" in uri:
        raise ParseError("the Request-URI is missing, or has spaces or brackets", request=message)
    return message
