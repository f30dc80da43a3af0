"""What schemathesis can't guess: an MP3 that is there, a country that is served, a number that was not just called.

It is run by schemathesis, with SCHEMATHESIS_HOOKS; CALLEDIN_MP3 is the MP3's URL.
"""

from __future__ import annotations

import os
from itertools import count
from typing import Any

import schemathesis

numbers = count()


def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make two of three valid requests for a call ones that are accepted; what is invalid on purpose stays so."""
    if case.path.startswith("/api/v1/batches"):
        fill_batch(case)
        return
    body = case.body
    is_valid = case.meta is not None and case.meta.generation.mode.value == "positive"
    if case.method == "POST" and is_valid and isinstance(body, dict):
        index = next(numbers)
        if index % 3:
            body |= {
                "mp3": os.environ["CALLEDIN_MP3"],
                "country_code": "1",
                "phone_number": f"212556{index % 10000:04d}",
            }
            body.pop("caller_id", None)
            body.pop("callback_url", None)


def fill_batch(case: Any) -> None:
    """Make a valid request for a batch one whose numbers differ, and a CSV one: OpenAPI can't say that."""
    is_valid = case.meta is not None and case.meta.generation.mode.value == "positive"
    if case.method != "POST" or not is_valid or case.path != "/api/v1/batches":
        return
    own = [f"212557{next(numbers) % 10000:04d}" for _ in range(2)]
    if case.media_type == "text/csv":
        case.body = "phone_number\n" + "".join(f"{number}\n" for number in own)
        case.query = {"mp3": os.environ["CALLEDIN_MP3"], "country_code": "1"}
    elif isinstance(case.body, dict):
        case.body |= {"mp3": os.environ["CALLEDIN_MP3"], "country_code": "1", "numbers": own}
        case.body.pop("caller_id", None)
        case.body.pop("callback_url", None)


schemathesis.hook(before_call)
