"""API keys: made here, told once, and kept by their keyed hash alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NewKey:
    """What an operator is told, once."""

    id: str
    api_key: str
    '"ck_" and 43 characters of base64url: 256 random bits.'
    digest: bytes
    webhook_secret: str
    '"whsec_" and base64, as Standard Webhooks writes it.'


class Keyring:
    """Derives from one secret of the installation (the pepper, at least 32 octets) all that must not be kept."""

    def __init__(self, pepper: bytes) -> None:
        if len(pepper) < 32:
            raise ValueError("the pepper needs at least 32 octets")
        self._pepper = pepper

    def new(self) -> NewKey:
        key_id = f"key_{secrets.token_hex(8)}"
        api_key = "ck_" + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
        return NewKey(key_id, api_key, self.digest(api_key), self.webhook_secret(key_id))

    def digest(self, api_key: str) -> bytes:
        """Return the 32 octets under which the store keeps this key."""
        return hmac.digest(self._pepper, b"api key\0" + api_key.encode(), hashlib.sha256)

    def webhook_key(self, key_id: str) -> bytes:
        """Return the 32 octets that sign the callbacks of this key; the same for as long as the pepper is."""
        return hmac.digest(self._pepper, b"webhook\0" + key_id.encode(), hashlib.sha256)

    def webhook_secret(self, key_id: str) -> str:
        """Return the same as Standard Webhooks writes it."""
        return "whsec_" + base64.b64encode(self.webhook_key(key_id)).decode()

    def fingerprint(self) -> str:
        """Return what tells this pepper from others, and nothing of it."""
        return hmac.digest(self._pepper, b"fingerprint", hashlib.sha256).hex()[:16]
