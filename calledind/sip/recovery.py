"""Ending what a process that died has begun: a call that may be ringing, a dialog that may be talking.

Only what is on disk is known. An INVITE's branches are the one kept and the number of the try, so a CANCEL can be
made for each; and whoever picked up in between repeats its 2xx until it gets an ACK, and gets a BYE with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from calledind.model import Address
from calledind.sip.auth import Authenticator, Credentials
from calledind.sip.client import TransactionFailure, acknowledgement
from calledind.sip.dialog import Dialog
from calledind.sip.endpoint import Endpoint
from calledind.sip.invite import cancellation
from calledind.sip.message import Request, Response
from calledind.sip.target import Target
from calledind.sip.timers import TimerSet
from calledind.sip.transactions import via
from calledind.sip.usage import InviteUsage

LateResponses = dict[str, Callable[[Response], None]]
"Branch of an INVITE of the process before -> who takes its responses."

SKIPPED: Final = 1000
"By how much CSeq goes on: the process before may have sent requests that were not kept (§12.2.1.1 allows gaps)."
REASON: Final = 'SIP;cause=487;text="restarted"'


class InvitationRecovery:
    """CANCEL for each INVITE that may have left, then ACK, or ACK and BYE, for what comes of it.

    How many did leave is not kept, so each is asked for when the one before was not it: a CANCEL for an INVITE that
    never was is met with a 481 at best, and with confusion where calls are told apart by their Call-ID alone. At worst
    it is met with silence, as proxies do with an INVITE that they challenged without keeping it.
    """

    def __init__(self, endpoint: Endpoint, late: LateResponses, snapshot: str, finished: Callable[[], None]) -> None:
        """Raises ValueError where `snapshot` isn't one of `InviteSession`. `finished` is called once, within 64*T1
        (where a BYE had to follow, within twice that)."""
        try:
            kept = json.loads(snapshot)
            self._target: Address = Target.restore(kept["target"])
            self._local: Address = Target.restore(kept["local"])
            self._invites = {
                f"{kept['branch']}.{number}": _invite(kept, self._local, number)
                for number in range(1, int(kept["tries"]) + 1)
            }
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"not an invitation: {error}") from None
        self._endpoint = endpoint
        self._late = late
        self._finished = finished
        self._usages: dict[tuple[str, str], InviteUsage] = {}
        "Branch and To tag -> whoever picked up."
        self._waiting = set(self._invites)
        self._untried = list(self._invites)
        self._asked = ""
        "The branch of the last CANCEL."
        self._timers = TimerSet(endpoint.layer.timers)

    def start(self) -> None:
        layer = self._endpoint.layer
        self._timers.start("timeout", layer.intervals.timeout, self._stop_listening)
        for branch in self._invites:
            self._late[branch] = partial(self._heard, branch)
        self._cancel_next()

    def _cancel_next(self) -> None:
        if self._usages or not self._untried or self._untried[0] not in self._waiting:
            return  # it is known which one was the last, or all were tried
        branch = self._asked = self._untried.pop(0)
        cancel = cancellation(self._invites[branch], [("Reason", REASON)])
        self._timers.start("next", 4 * self._endpoint.layer.intervals.t1, self._cancel_next)
        self._endpoint.layer.request(cancel, self._target, partial(self._cancelled, branch))

    def _cancelled(self, branch: str, news: Response | TransactionFailure) -> None:
        intervals = self._endpoint.layer.intervals
        if self._is_leaving(branch):
            pass  # somebody had picked up: what counts is the BYE
        elif isinstance(news, TransactionFailure):
            self._done(branch)
            self._go_on(branch, 0)
        elif news.status >= 300:
            # It isn't ringing there. Had it been answered, its 2xx would come again within T2; one may be lost.
            self._timers.start(branch, 2 * intervals.t2, lambda: self._done(branch))
            self._go_on(branch, 0)
        else:
            # The 487 comes with it, unless this INVITE was refused lately: a challenge (§9.2).
            self._go_on(branch, intervals.t1)

    def _go_on(self, branch: str, after: float) -> None:
        if branch == self._asked:
            self._timers.start("next", after, self._cancel_next)

    def _heard(self, branch: str, response: Response) -> None:
        invite = self._invites[branch]
        layer = self._endpoint.layer
        if response.status >= 300:
            layer.try_transmit(bytes(acknowledgement(invite, response)), self._target)
            # A CANCEL was what ended this one, so no further INVITE had followed it.
            for ended in tuple(self._waiting) if response.status == 487 else (branch,):
                self._done(ended)
        elif response.status >= 200:
            leg = branch, response.to.tag or ""
            if leg in self._usages:
                self._usages[leg].success_repeated()
                return
            self._timers.stop(branch)
            # Once it was answered, no further INVITE had followed it either.
            self._waiting.add(branch)
            for other in self._waiting - {branch}:
                if not self._is_leaving(other):
                    self._done(other)
            dialog = Dialog.of_caller(invite, response, self._target)
            dialog.local_cseq += SKIPPED
            usage = InviteUsage(self._endpoint, dialog, self._local, ended=lambda by, q850, detail: self._done(branch))
            self._usages[leg] = usage
            usage.acknowledge()
            usage.bye(REASON)

    def _done(self, branch: str) -> None:
        if branch not in self._waiting:
            return
        self._waiting.discard(branch)
        if not self._waiting:
            finished, self._finished = self._finished, lambda: None
            finished()

    def _stop_listening(self) -> None:
        # Until now, repeats were acknowledged. What is still open is a BYE, which ends by itself.
        for branch in self._invites:
            self._late.pop(branch, None)
        self._timers.stop_all()
        for branch in tuple(self._waiting):
            if not self._is_leaving(branch):
                self._done(branch)

    def _is_leaving(self, branch: str) -> bool:
        return any(leg[0] == branch and not usage.is_over for leg, usage in self._usages.items())


class DialogRecovery:
    """ACK, which the 2xx may not have had, and BYE."""

    def __init__(
        self,
        endpoint: Endpoint,
        late: LateResponses,
        snapshot: str,
        finished: Callable[[], None],
        credentials: Credentials | None = None,
    ) -> None:
        """Raises ValueError where `snapshot` isn't one of `Dialog`. `finished` is called once, within 64*T1."""
        self._late = late
        self._finished = finished
        self._dialog = Dialog.restore(snapshot)
        self._dialog.local_cseq += SKIPPED
        self._usage = InviteUsage(
            endpoint,
            self._dialog,
            endpoint.local(self._dialog.peer),
            ended=lambda by, q850, detail: self._end(),
            authenticator=Authenticator(credentials) if credentials else None,
        )

    def start(self) -> None:
        self._late[self._dialog.invite_branch] = self._heard
        self._usage.acknowledge()
        self._usage.bye(REASON)

    def _heard(self, response: Response) -> None:
        if 200 <= response.status < 300 and (response.to.tag or "") == self._dialog.remote_tag:
            self._usage.success_repeated()

    def _end(self) -> None:
        self._late.pop(self._dialog.invite_branch, None)
        self._finished()


def _invite(kept: dict[str, Any], local: Address, number: int) -> Request:
    "As much of the INVITE as CANCEL and ACK have of it."
    headers = [
        via(local, f"{kept['branch']}.{number}"),
        *(("Route", str(route)) for route in kept.get("route", ())),
        ("From", str(kept["from"])),
        ("To", str(kept["to"])),
        ("Call-ID", str(kept["call_id"])),
        ("CSeq", f"{int(str(kept['cseq'])) + number - 1} INVITE"),
    ]
    return Request("INVITE", str(kept["uri"]), headers)
