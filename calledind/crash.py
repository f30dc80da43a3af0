"""A switch for tests: the process dies, as by a power cut, at one named point of a call's life.

`CALLEDIN_CRASH_AT=dial.committed` kills it the first time it comes there, `dial.committed:3` the third. Nothing is
done where the variable is not set.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

POINTS: Mapping[str, str] = {
    "audio.fetched": "the MP3 has come; it is not decoded",
    "audio.published": "the audio is on disk; no call is accepted",
    "accept.asked": "all was checked; the store is not asked yet to accept",
    "disk.written": "a group of changes was told to SQLite; there is no COMMIT",
    "disk.committed": "COMMIT has returned; who asked for the changes does not know",
    "redis.accept.sent": "an acceptance is written for Redis, and leaves with the next turn of the reactor",
    "redis.accept.answered": "Redis has accepted the call; who asked does not know",
    "redis.accept.doubtful": "Redis did not say in time whether it accepted; nothing is withdrawn yet",
    "redis.accept.withdrawn": "an acceptance that was answered with 503 is withdrawn; the outbox still has that",
    "accept.kept": "the store has the call; it is not in the queue, and there is no reply",
    "accept.queued": "the call is in the queue, or a trunk took it at once; there is no reply",
    "reply.due": "the reply is about to be written",
    "reply.written": "the reply is written, and leaves with the next turn of the reactor",
    "dial.taken": "a trunk takes the call; nothing was done for it",
    "dial.claimed": "this node has taken the call from the shared queue; nothing was done for it",
    "dial.prepared": "the INVITE is made; the store does not know of it",
    "dial.committed": "the store knows of the attempt; the INVITE has not left",
    "dial.invited": "the INVITE has left",
    "dial.ringing": "a provisional response other than 100 has come",
    "dial.failed": "a trunk has failed the call; the next one is not asked yet",
    "answer.received": "a usable 2xx has come; the store does not know",
    "answer.kept": "the store knows of the answer; there is no ACK",
    "answer.acknowledged": "the ACK has left; nothing is played",
    "stream.begun": "the audio is playing",
    "bye.due": "the call has ended for us; there is no BYE",
    "bye.sent": "the BYE has left; nobody was told how the call ended",
    "cancel.due": "the call is given up before an answer; there is no CANCEL",
    "cancel.sent": "the CANCEL has left; nothing has come back",
    "cancel.confirmed": "the callee has confirmed the CANCEL; nobody was told how the call ended",
    "settle.due": "the outcome is known, and not kept",
    "redis.outbox.written": "what Redis can't be told, or was told at last, was told to the outbox; there is no COMMIT",
    "redis.outbox.kept": "it is in the outbox, or out of it",
    "redis.outbox.told": "Redis has it; the outbox still has it as well",
    "settle.kept": "the outcome is kept and the credit settled; the callback has not begun",
    "callback.due": "a try of a callback is about to be made",
    "callback.answered": "the customer's server has answered; the store does not know",
    "callback.kept": "the store knows how the try went",
    "recovery.read": "after a restart: what was left behind is known, and nothing done about it",
    "recovery.queued": "after a restart: a call that had waited is about to go into the queue",
    "recovery.cancel.due": "after a restart: a call that was being dialled is about to be cancelled",
    "recovery.cancel.sent": "after a restart: its CANCEL has left; its outcome is not kept",
    "recovery.bye.due": "after a restart: a call that was answered is about to get its BYE",
    "recovery.bye.sent": "after a restart: its BYE has left; its outcome is not kept",
    "node.fenced": "others have taken over what this node had; it has let go of nothing yet",
    "node.took-over": "some of another node's calls are this node's, and begin to be ended; the rest is not taken over",
}
"Name -> what has happened by then, and what has not, in the order of a call's life."


class _Switch:
    def __init__(self, wanted: str) -> None:
        self._point, _, times = wanted.partition(":")
        self._left = int(times or 1)

    def __call__(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _nothing(_: str) -> None:
    """Go on."""


crash_at = _Switch(os.environ["CALLEDIN_CRASH_AT"]) if os.environ.get("CALLEDIN_CRASH_AT") else _nothing
"Called at each point with its name."
