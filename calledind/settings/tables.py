"""The tables of the settings file: each a class, each setting a field with its default and its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from attrs import Factory, field, frozen

from calledind.settings import values

CHECK = "check"
"Key of a field's metadata: what raises ValueError for a value of the right type that is no good."
_addresses = {CHECK: values.check_addresses}
_networks = {CHECK: values.check_networks}
_ip = {CHECK: values.check_ip}
_positive = {CHECK: values.check_positive}
_one_line = {CHECK: values.check_one_line}
_not_negative = {CHECK: values.check_not_negative}
_digits = {CHECK: values.check_digits}
_host = {CHECK: values.check_host}
_domain = {CHECK: values.check_domain}
_template = {CHECK: values.check_template}


@frozen
class Http:
    """The playback API's listeners and the bounds of what they take."""

    listen: tuple[str, ...] = field(default=("127.0.0.1:8080",), metadata=_addresses)
    "Plain HTTP, each ADDRESS:PORT."
    tls_listen: tuple[str, ...] = field(default=(), metadata=_addresses)
    "HTTPS, each ADDRESS:PORT."
    certificate: Path | None = None
    "PEM, the chain from the leaf up. Without it a self-signed one is made under the data folder."
    private_key: Path | None = None
    "PEM."
    max_connections: int = field(default=2000, metadata=_positive)
    max_connections_per_address: int = field(default=200, metadata=_positive)
    "Of one IPv4 address or one IPv6 /64."
    max_requests_in_flight: int = field(default=512, metadata=_positive)
    "More are refused with 503; so are those of one key that would be more than half of them, waiting for MP3s."
    accept_while_draining: bool = True
    """Whether requests are still taken after SIGTERM, for the next process to dial, where systemd holds the sockets
    (socket activation) and so starts it; else they are refused with 503 until this one has ended."""


@frozen
class Audio:
    """Fetching, decoding and keeping MP3s."""

    max_bytes: int = field(default=16 * 1024 * 1024, metadata=_positive)
    max_seconds: float = field(default=180.0, metadata=_positive)
    fetch_timeout: float = field(default=10.0, metadata=_positive)
    "Seconds for one MP3, redirects and all."
    max_redirects: int = field(default=5, metadata=_not_negative)
    allow_networks: tuple[str, ...] = field(default=(), metadata=_networks)
    'Private networks that MP3s and callbacks may be on, such as "127.0.0.0/8"; the internet always is.'
    allow_ports: tuple[int, ...] = (80, 443, 8080, 8443)
    "Ports that MP3s may be fetched from; an empty list allows all."
    fresh_seconds: float = field(default=60.0, metadata=_not_negative)
    "How long a fetched MP3 is used again before its server is asked whether it changed, where it sets no max-age."
    library_bytes: int = field(default=2 * 1024**3, metadata=_positive)
    "Encoded audio kept on disk; oldest unused first out."
    decoders: int = field(default=2, metadata=_positive)
    "Child processes that decode at the same time."
    max_fetches: int = field(default=64, metadata=_positive)
    "At the same time; all hosts of one domain together have a quarter of it."
    max_fetches_per_host: int = field(default=8, metadata=_positive)


@frozen
class Calls:
    """The life of a call."""

    ring_timeout: float = field(default=45.0, metadata=_positive)
    "Seconds from the INVITE to our CANCEL."
    queue_ttl: float = field(default=300.0, metadata=_positive)
    "A call that waited longer is not dialled any more."
    max_queued: int = field(default=100_000, metadata=_positive)
    "More are refused with 503."
    max_live: int = field(default=0, metadata=_not_negative)
    "Calls that this node makes at the same time, whatever its trunks take; 0: no bound of its own."
    lead_in: float = field(default=0.4, metadata=_not_negative)
    "Seconds of silence before the audio."
    lead_out: float = field(default=0.4, metadata=_not_negative)
    "Seconds of silence after the last word, before BYE."
    charge: Literal["answered", "accepted"] = "answered"
    "When a held credit is spent: only by an answer, or by every accepted call."
    drain_timeout: float = field(default=240.0, metadata=_not_negative)
    "Seconds that running calls have to finish after SIGTERM; then they are hung up."
    home_country: str = field(default="1", metadata={CHECK: values.check_country_code})
    "Country code of caller ids that are written without one."
    unlisted_caller_id: Literal["replace", "refuse"] = "replace"
    "A caller_id that is not on the list of its api key: the default stands in for it, or the answer is code 4."
    media_timeout: float = field(default=0.0, metadata=_not_negative)
    "Seconds without a packet from the callee before the call is ended; 0 never."
    hold_timeout: float = field(default=120.0, metadata=_not_negative)
    "Seconds that the callee may hold the call, all holds together, before it is ended: a held call costs as well."


@frozen
class Regions:
    """Which numbers may be called. Lists of area codes are per country code."""

    countries: tuple[str, ...] = field(default=("1",), metadata=_digits)
    north_america: tuple[str, ...] = ("US", "CA")
    "Regions of country code 1 that may be called (ISO 3166); the others are islands that cost like a satellite."
    premium: bool = False
    "Whether premium-rate and shared-cost numbers may be called."
    allow: Mapping[str, tuple[str, ...]] = Factory(dict)
    "Country code -> leading digits of the number that may be called; none means all."
    deny: Mapping[str, tuple[str, ...]] = Factory(dict)
    "Country code -> leading digits that may not be called."


@frozen
class Sip:
    """Our side of the signalling."""

    bind: tuple[str, ...] = field(default=("0.0.0.0:5060",), metadata=_addresses)
    'UDP and TCP, each ADDRESS:PORT. "[::]:5060" takes IPv4 and IPv6. Port 0 takes any.'
    advertise: str = field(default="", metadata=_ip)
    "Public IP address to name in Via, Contact and SDP; empty: the one that packets to the trunk leave from."
    dns_servers: tuple[str, ...] = field(default=(), metadata=_addresses)
    "Name servers that are asked for trunks, each ADDRESS:PORT; none: those of /etc/resolv.conf."
    user_agent: str = "calledin"
    t1: float = field(default=0.5, metadata=_positive)
    "RFC 3261 T1, the round-trip estimate, in seconds."


@frozen
class Rtp:
    """Our side of the media."""

    bind: str = field(default="0.0.0.0", metadata=_ip)  # noqa: S104 - media comes from anywhere
    "IP address of the RTP sockets."
    ports: tuple[int, int] = (16384, 16639)
    "First and last UDP port; even ones carry RTP, the next odd one its RTCP."
    processes: int = field(default=1, metadata=_positive)
    "Processes that keep the packets' pace."


@frozen
class Stir:
    """What a signed call says of its caller (STIR/SHAKEN: RFC 8224, RFC 8225, RFC 8588)."""

    private_key: Path | None = None
    "PEM, of an EC key on P-256; a relative path is below $CREDENTIALS_DIRECTORY where that is set."
    certificate: Path | None = None
    "PEM, checked against the key at the start."
    certificate_url: str = field(default="", metadata={CHECK: values.check_url})
    "Where the world fetches the certificate (x5u)."
    attestation: Literal["B", "C"] = "B"
    "Of calls whose api key has none of its own: B, you know the customer; C, you don't. A is said of a key."


@frozen
class Trunk:
    """A carrier or PBX that takes our calls."""

    name: str
    host: str = field(metadata=_host)
    "Domain or address of the Request-URI."
    port: int = field(default=0, metadata={CHECK: values.check_port})
    "0: what DNS says (SRV), else 5060, with TLS 5061."
    outbound_proxy: str = ""
    'Where the packets go instead, "host" or "host:port".'
    transport: Literal["udp", "tcp", "tls", "auto"] = "udp"
    '"auto": what DNS says (NAPTR, SRV; RFC 3263), else UDP.'
    large_by_tcp: bool = False
    "Whether a request of more than 1,300 octets may go by TCP instead of UDP (RFC 3261 §18.1.1)."
    sips: bool = False
    "Whether URIs are of sips, which asks for TLS at every hop."
    tls_name: str = field(default="", metadata={CHECK: values.check_domain})
    "Name that the certificate must be for; empty: that of `outbound_proxy`, else `host`."
    tls_ca: Path | None = None
    "PEM, the certificates to believe; empty: the system's."
    tls_certificate: Path | None = None
    "PEM, ours, the chain from the leaf up, for carriers that ask for one."
    tls_private_key: Path | None = None
    "PEM."
    bind: str = field(default="", metadata={CHECK: values.check_bind})
    "ADDRESS:PORT that its messages leave from; empty: one of `sip.bind`."
    advertise: str = field(default="", metadata={CHECK: values.check_advertise})
    """Behind a NAT, the address to name to it: an IP address, "received" (what its responses say), or
    "stun:HOST:PORT" (what a STUN server says, RFC 8489); empty: `sip.advertise`."""
    username: str = field(default="", metadata=_one_line)
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    "Read instead of `password`; a relative path is below $CREDENTIALS_DIRECTORY where that is set."
    digest_md5: bool = True
    "Whether a challenge may be answered by MD5 where nothing stronger is offered (RFC 8760)."
    register: bool = False
    "Whether it is told where we are (RFC 3261 §10), and asked for calls only while it knows."
    register_expires: int = field(default=3600, metadata=_positive)
    "Seconds that a registration shall last; the carrier decides."
    register_user: str = field(default="", metadata=_one_line)
    "User part of the address that is registered, where it isn't `username`."
    register_required: bool = True
    "Whether it gets no calls while it does not know where we are."
    caller_id: str = field(default="", metadata={CHECK: values.check_caller_id})
    'Used in place of a request\'s caller_id 0000000000; "anonymous" tells the callee none.'
    from_user: str = field(default="{caller}", metadata=_template)
    'Before the @ of From; a template such as "+{e164}", "{national}" or "{username}".'
    from_domain: str = field(default="", metadata=_domain)
    "Behind the @ of From; empty: `host` where there is a username, else our own address."
    display_name: str = field(default="", metadata=_template)
    "The caller's name, a template."
    asserted_identity: str = field(default="", metadata=_template)
    'User part of P-Asserted-Identity (RFC 3325), a template; "tel:+{e164}" makes a tel URI; empty: not sent.'
    remote_party_id: str = field(default="", metadata=_template)
    "User part of Remote-Party-ID, a template; empty: not sent."
    diversion: str = field(default="", metadata=_template)
    "User part of Diversion (RFC 5806), a template; empty: not sent."
    privacy: str = field(default="id", metadata={CHECK: values.check_privacy})
    "Privacy of anonymous calls (RFC 3323, RFC 3325); empty: not sent."
    anonymous_uri: str = field(default="sip:anonymous@anonymous.invalid", metadata={CHECK: values.check_sip_uri})
    "From of anonymous calls (RFC 3323 §4.1.1.3)."
    user_phone: bool = False
    "Whether URIs with a telephone number say user=phone."
    stir: bool = True
    "Whether calls are signed, where [stir] has a key."
    prefixes: tuple[str, ...] = ()
    'Leading digits, country code first, of the numbers it takes, such as "1212"; none means all. The longest wins.'
    dial_prefix: str = "+"
    "Written before country code and number in the Request-URI."
    priority: int = 10
    "The lowest is asked first, where prefixes are equally long."
    channels: int = field(default=100, metadata=_positive)
    "Calls at the same time."
    calls_per_second: float = field(default=10.0, metadata=_positive)
    calls_per_second_per_address: float = field(default=0.0, metadata=_not_negative)
    "New calls to one of the addresses that its name has; 0: no limit of their own."
    codecs: tuple[Literal["PCMU", "PCMA", "G722", "opus"], ...] = ("PCMU", "PCMA")
    "In the order of preference. Each that any trunk names is encoded for every MP3; Opus takes the longest."
    srtp: Literal["off", "offered", "required"] = "off"
    """Encrypted media with keys in the SDP (RFC 3711, RFC 4568): "offered", where the callee takes it, which is asked
    with RTP/AVP; "required", or there is no call, which is asked with RTP/SAVP."""
    srtp_suites: tuple[
        Literal["AEAD_AES_256_GCM", "AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32"], ...
    ] = ("AEAD_AES_256_GCM", "AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32")
    "In the order of preference."
    srtp_over_plain_sip: bool = False
    "Whether the keys may travel without TLS, where whoever reads the signalling can listen."
    follow_redirects: int = field(default=3, metadata=_not_negative)
    "Times that a 3xx is followed in one call, to another Request-URI of this trunk's; 0: never."
    prack: bool = True
    "Whether provisional responses may come reliably (100rel, RFC 3262)."
    session_expires: int = field(default=0, metadata={CHECK: values.check_session})
    "Seconds after which a session is to be refreshed (RFC 4028), 90 at least; 0: only where the carrier asks for it."
    nat: bool = False
    """Whether media that comes from another port than the SDP says is followed, as a callee behind a NAT needs it:
    within the first seconds, once, and only from the address of the signalling or of the SDP."""
    inband_dtmf: bool = False
    "Whether keys are listened for in the callee's sound too (PCMU and PCMA); it costs for every received packet."
    reasons: Mapping[str, int] = Factory(dict)
    "SIP status -> reason of the callback (0, 1, 3, 5 or 8), where this carrier means something else by it."
    failover: Mapping[str, Literal["final", "next", "slow", "pause"]] = Factory(dict)
    "SIP status -> what it says of this carrier, where it is not the usual; see `dialing.trunks`."
    pause: float = field(default=5.0, metadata=_positive)
    'Seconds without calls after a status of failover "pause" that has no Retry-After.'


@frozen
class Simulator:
    """The built-in carrier."""

    recordings: Path | None = None
    "Folder for what the callees heard, as WAV; default: below the data folder."


@frozen
class Callbacks:
    """Telling customers' servers."""

    timeout: float = field(default=15.0, metadata=_positive)
    "Seconds for one try."
    max_in_flight: int = field(default=64, metadata=_positive)
    "Tries at the same time; all hosts of one domain together have a quarter of it."
    max_in_flight_per_host: int = field(default=8, metadata=_positive)
    allow_ports: tuple[int, ...] = ()
    "Ports that callbacks may go to; an empty list allows all."


@frozen
class Store:
    """Where keys, credits, calls and callbacks are kept."""

    kind: Literal["embedded", "redis"] = "embedded"
    '"redis": on a Redis that several nodes share, see [redis]; else below the data folder, for this daemon alone.'
    retention: float = field(default=30.0, metadata=_positive)
    "Days that calls, once all is over, and rows of the ledger are kept."


@frozen
class Redis:
    """The Redis that nodes share, 7 or newer, one master; where [store] kind is "redis"."""

    address: str = field(default="127.0.0.1:6379", metadata={CHECK: values.check_host_port})
    '"HOST:PORT"; not asked where there are `sentinels`.'
    sentinels: tuple[str, ...] = field(default=(), metadata={CHECK: values.check_host_ports})
    'Each "HOST:PORT": they say which is the master.'
    sentinel_master: str = field(default="calledin", metadata=_one_line)
    "The name by which the sentinels know it."
    sentinel_username: str = field(default="", metadata=_one_line)
    sentinel_password_file: Path | None = None
    "Of the sentinels; a relative path is below $CREDENTIALS_DIRECTORY where that is set."
    database: int = field(default=0, metadata=_not_negative)
    prefix: str = field(default="calledin:", metadata=_one_line)
    "What all its names begin with."
    username: str = field(default="", metadata=_one_line)
    "Of the ACL; empty: the default user."
    password_file: Path | None = None
    """Read again at each connection, so that a password may be changed while calls are up; a relative path is below
    $CREDENTIALS_DIRECTORY where that is set."""
    tls: bool = False
    "Whether Redis and its sentinels are spoken to by TLS; their certificates are checked."
    tls_ca: Path | None = None
    "PEM, the certificates to believe; empty: the system's."
    tls_name: str = field(default="", metadata={CHECK: values.check_domain})
    "Name that the certificates must be for; empty: the host that is connected to."
    tls_certificate: Path | None = None
    "PEM, ours, the chain from the leaf up, where Redis asks for one."
    tls_private_key: Path | None = None
    "PEM."
    replicas: int = field(default=0, metadata=_not_negative)
    "Replicas that must have a change (WAIT) before code 0 is answered, and before an INVITE leaves."
    timeout: float = field(default=1.0, metadata=_positive)
    "Seconds until a command that was not answered is given up."


@frozen
class Node:
    """This daemon among those that share a Redis."""

    name: str = field(default="", metadata={CHECK: values.check_node_name})
    "A name of its own; empty: the machine's."
    lease: float = field(default=10.0, metadata={CHECK: values.check_lease})
    "Seconds without a heartbeat after which other nodes take over what this one had."


@frozen
class Admin:
    """The operator's side."""

    socket: Path | None = None
    "Unix socket of the `calledin` command; default: admin.sock below the data folder."


@frozen
class Page:
    """The page in the browser, for operators and for who tries calledin."""

    listen: tuple[str, ...] = field(default=("127.0.0.1:8081",), metadata=_addresses)
    "Plain HTTP, each ADDRESS:PORT; none: there is no page."
    token_file: Path | None = None
    """What opens it, 16 characters or more; default: page-token below the data folder, made at the first start.
    A relative path is below $CREDENTIALS_DIRECTORY where that is set."""
    hosts: tuple[str, ...] = ()
    "Names that it goes by beside localhost and the addresses it listens on, such as that of a proxy in front of it."


@frozen
class Metrics:
    """The figures for Prometheus, at /metrics of the API's listeners."""

    allow_networks: tuple[str, ...] = field(default=("127.0.0.0/8", "::1/128"), metadata=_networks)
    "Whose requests are answered, unless they come by a proxy; an empty list: nobody's."


@frozen
class Log:
    """The daemon's log; where it goes is twistd's --logfile."""

    format: Literal["text", "json"] = "text"
    '"json": each line is an object, with the call id of every line that speaks of a call.'


@frozen
class Trace:
    """Copies of SIP messages for Homer, sngrep and their like."""

    hep: str = field(default="", metadata={CHECK: values.check_collector})
    'HEP3 by UDP to "HOST:PORT"; empty: none.'
    hep_capture_id: int = field(default=1, metadata={CHECK: values.check_capture_id})
    "What tells this daemon from others there."
    hep_key_file: Path | None = None
    "The collector's authentication key; a relative path is below $CREDENTIALS_DIRECTORY where that is set."


@frozen
class Cdr:
    """Records of the calls that have ended."""

    file: Path | None = None
    "Added to, a line for each call; opened anew at SIGHUP. Empty: none is written."
    format: Literal["csv", "json"] = "csv"
    '"json": an object a line.'
    numbers: Literal["last4", "full"] = "last4"
    "What is written of the number that was called."


@frozen
class Settings:
    """Everything; each table of the file is one field."""

    data: Path = Path("calledin-data")
    "Folder of the store, the library and the secrets."
    simulator: bool = False
    "Let the built-in carrier take all calls: nobody's phone rings."
    http: Http = Http()
    audio: Audio = Audio()
    calls: Calls = Calls()
    regions: Regions = Regions()
    sip: Sip = Sip()
    rtp: Rtp = Rtp()
    stir: Stir = Stir()
    callbacks: Callbacks = Callbacks()
    store: Store = Store()
    redis: Redis = Redis()
    node: Node = Node()
    admin: Admin = Admin()
    page: Page = Page()
    simulation: Simulator = Simulator()
    metrics: Metrics = Metrics()
    log: Log = Log()
    trace: Trace = Trace()
    cdr: Cdr = Cdr()
    trunks: tuple[Trunk, ...] = ()

    @property
    def admin_socket(self) -> Path:
        return self.admin.socket or self.data / "admin.sock"


TABLES = (
    *(Http, Audio, Calls, Regions, Sip, Rtp, Stir, Trunk, Simulator, Callbacks, Store, Redis, Node, Admin, Page),
    *(Metrics, Log, Trace, Cdr),
    Settings,
)
