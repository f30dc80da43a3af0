"""What can go wrong between a URL and audio that is ready to be played."""

from __future__ import annotations

from calledind.model import ReturnCode


class AudioError(Exception):
    """The MP3 is at fault (or its server): the caller is answered with `code`, and `words` say why to people."""

    def __init__(self, code: ReturnCode, words: str) -> None:
        super().__init__(words)
        self.code = code
        "MP3_UNUSABLE or MP3_TOO_LONG."
        self.words = words


class LibraryUnavailable(Exception):
    """We are at fault (disk full, no decoder, too much waiting): asking again later may succeed."""


def unusable(words: str) -> AudioError:
    return AudioError(ReturnCode.MP3_UNUSABLE, words)


def too_long(words: str) -> AudioError:
    return AudioError(ReturnCode.MP3_TOO_LONG, words)
