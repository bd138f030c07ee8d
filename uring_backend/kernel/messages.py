"""What MSG_RING requests carry between real rings of this process.

A message's user_data is the sender's choice, and could be a token of the ring that gets it. So it
travels under a token of its own, and the real one is kept here until the message arrives.
"""

from __future__ import annotations

from itertools import count

FIRST_TOKEN = 1 << 63

_user_data: dict[int, int] = {}
_tokens = count(FIRST_TOKEN)


def post(user_data: int) -> int:
    """The token under which a message travels."""
    token = next(_tokens)
    _user_data[token] = user_data
    return token


def take(token: int) -> int | None:
    """The user_data of the message with this token, once; None for anything else."""
    return _user_data.pop(token, None)
