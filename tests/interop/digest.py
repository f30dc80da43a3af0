"""What a digest must be (RFC 7616 §3.4), worked out anew, for programs on the other side that don't look."""

from __future__ import annotations

import hashlib
import re

HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}


def parameters(answer: str) -> dict[str, str]:
    """The parts of an Authorization or Proxy-Authorization header's value, without quotes and escapes."""
    found = re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^",\s]+))', answer)
    return {name: re.sub(r"\\(.)", r"\1", quoted) or plain for name, quoted, plain in found}


def expected(said: dict[str, str], method: str, password: str, body: bytes = b"") -> str:
    """Return the response that these parameters call for."""
    algorithm, session, _ = said.get("algorithm", "MD5").partition("-sess")

    def hashed(octets: bytes) -> str:
        return hashlib.new(HASHES[algorithm], octets).hexdigest()

    secret = hashed(f"{said['username']}:{said['realm']}:{password}".encode())
    if session:
        secret = hashed(f"{secret}:{said['nonce']}:{said['cnonce']}".encode())
    request = f"{method}:{said['uri']}"
    if said.get("qop") == "auth-int":
        request += f":{hashed(body)}"
    middle = [said["nonce"], said["nc"], said["cnonce"], said["qop"]] if "qop" in said else [said["nonce"]]
    return hashed(":".join([secret, *middle, hashed(request.encode())]).encode())
