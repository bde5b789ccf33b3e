"""A hook's webhook: a record as the body of a POST. Imports aiohttp, and is therefore imported late."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

AGAIN = frozenset({408, 425, 429})
"""Of the client's own errors (4xx), those after which the same request may succeed."""


async def post(url: str, record: bytes, headers: Mapping[str, str], within: float) -> tuple[str, bool]:
    """POST it within so many seconds: what went wrong ("" for nothing) and whether trying again is of use.

    Redirects are not followed: a record goes where the configuration says and nowhere else. Of the answer only the
    status is read.
    """
    sent = {"Content-Type": "application/json", "User-Agent": "rankd", **headers}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within)) as session,
            session.post(url, data=record, headers=sent, allow_redirects=False) as answer,
        ):
            status = answer.status
    except TimeoutError:
        return f"no answer within {within:g} s", True
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return f"no answer: {type(error).__name__}", True
    if 200 <= status < 300:
        return "", False
    return f"answered {status}", status >= 500 or status in AGAIN
