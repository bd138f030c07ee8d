"""Scenarios that go wrong in some orders only, over tests/data/explore/orders.bpf.c."""

from __future__ import annotations

from pathlib import Path

from pybpfvm.scenario import Scenario
from pybpfvm.scenario.parse import parse_bytes

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/data/explore"
NOTHING, WAITS, SPINS, OVERFLOWS, LEAVES, OVERLAPS, TELLS = range(7)

_HEAD = """
object = "orders.v3.bpf.o"
abi = "iouring-v3"
"""


def job(name: str, **fields: int | str) -> str:
    """A block with a `struct job`."""
    given = ", ".join(f"{key} = {value}" for key, value in fields.items())
    return f'[user.{name}]\nstruct = "job"\nfields = {{ {given} }}\n'


def scenario(text: str) -> Scenario:
    """A scenario of these programs."""
    return parse_bytes((_HEAD + text).encode(), "orders.toml", DATA)


def two(does: int, *, more: str = "", wait: int = 2) -> Scenario:
    """The first of two requests does this if the other one runs before it."""
    return scenario(text_of_two(does, more=more, wait=wait))


def text_of_two(does: int, *, more: str = "", wait: int = 2) -> str:
    """The same as text."""
    return f"""
programs = ["second"]
ring = {{ cq_entries = [2] }}
steps = [
    {{ submit = [
        {{ prog = "second", user_data = {{ block = "wrong" }} }},
        {{ prog = "second", user_data = {{ block = "right" }} }},
    ] }},
    {{ wait = {wait} }},
]
[user.buffer]
zero = 16
[fds.silent]
socketpair = "nobody"
{job("wrong", does=does, fd="{ fd = 'silent' }", buffer="{ block = 'buffer' }")}
{job("right", does=NOTHING)}
{more}
"""


def apart(count: int, *, queues: bool = True) -> Scenario:
    """So many requests that share nothing but, without `queues` of their own, CQ 1."""
    numbers = range(1, count + 1)
    submits = ",".join(
        f'{{ prog = "alone", user_data = {{ block = "job{n}" }}, cq = {n if queues else 1} }}'
        for n in numbers
    )
    blocks = "\n".join(job(f"job{n}", cq=n if queues else 1, value=10 * n) for n in numbers)
    return scenario(
        f"""
programs = ["alone"]
ring = {{ cq_entries = [{", ".join(["16"] * (count if queues else 1))}] }}
steps = [{{ submit = [{submits}] }}, {{ sleep = "1 ms" }}]
{blocks}
"""
    )
