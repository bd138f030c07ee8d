"""Random programs in text for single features of the verifier: loops that the kernel bounds, ...

Each generator takes a `Random` and gives the lines of one program, which is nearly right: about
half of what they make is accepted. The running kernel says which half.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Generator = Callable[[Random], str]


class Text:
    """Lines of a program, with labels that no two places share."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.lines: list[str] = []
        self._labels = 0

    def put(self, *lines: str) -> None:
        """Append lines."""
        self.lines += (f"  {line}" for line in lines)

    def label(self, name: str) -> None:
        """The next line is called `name`."""
        self.lines.append(f"{name}:")

    def new_label(self) -> str:
        """A label that stands nowhere yet."""
        self._labels += 1
        return f"label{self._labels}"

    def one_of(self, *choices: str) -> str:
        """One of the texts."""
        return self.random.choice(choices)

    def text(self) -> str:
        """The program."""
        return "\n".join(self.lines) + "\n"


_VALUE = (
    "r6 = r1",
    "*(u64 *)(r10 - 8) = 0",
    "r2 = r10",
    "r2 += -8",
    "r1 = map[table] ll",
    "call map_lookup_elem",
    "if r0 != 0 goto +2",
    "r0 = 0",
    "exit",
    "r9 = r0",
)
_VALUE_BYTES = 64


def bounded_loops(random: Random) -> str:
    """Nested loops through may_goto, whose counters are masked, compared or neither."""
    text = Text(random)
    text.put(*_VALUE, "r7 = 0", "r8 = 0")
    text.put("*(u64 *)(r10 - 16) = 0", "*(u64 *)(r10 - 24) = 0")
    _loop(text, 0, ["r7", "r8"])
    if random.random() < 0.3:
        _loop(text, 0, ["r7", "r8"])
    text.put("r0 = 0", "exit")
    return text.text()


def _loop(text: Text, depth: int, counters: list[str]) -> None:
    random = text.random
    again, out = text.new_label(), text.new_label()
    if random.random() < 0.5:
        text.put(f"{random.choice(counters)} = {random.choice((0, 1, 7))}")
    text.label(again)
    kept = random.random() < 0.97
    if kept:
        text.put(f"may_goto {out}")
    for _ in range(random.randrange(1, 5)):
        _turn(text, depth, counters, again, out)
    counter = random.choice(counters)
    if not kept or random.random() < 0.4:
        text.put(f"{counter} += {random.choice((1, 1, 2, 8))}")
        text.put(
            f"if {counter} {text.one_of('<', 's<', '!=')} {random.choice((5, 16, 64))} goto {again}"
        )
    else:
        text.put(f"goto {again}")
    text.label(out)
    text.put("r0 = 0")


def _turn(text: Text, depth: int, counters: list[str], again: str, out: str) -> None:
    random = text.random
    counter, other = random.choice(counters), random.choice(counters)
    what = random.randrange(9)
    if what == 0 and depth < 2:
        _loop(text, depth + 1, counters)
    elif what <= 2:
        text.put(
            f"{counter} {text.one_of('+=', '^=', '*=', '-=', '|=')} {random.choice((1, 3, 8))}"
        )
    elif what == 3:
        limit = random.choice((3, 60, 64))
        text.put(f"if {counter} {text.one_of('>', '==', 's>', '>=')} {limit} goto {out}")
    elif what == 4:
        _touch(text, counter)
    elif what == 5:
        text.put(f"{counter} {text.one_of('=', '+=')} {other}")
    elif what == 6:
        off = random.choice((-16, -24))
        if random.random() < 0.5:
            text.put(f"*(u64 *)(r10 - {-off}) = {counter}")
        else:
            text.put(f"{counter} = *(u64 *)(r10 - {-off})")
    elif what == 7:
        text.put(f"{counter} = *(u{text.one_of('8', '32', '64')} *)(r9 + 8)")
    else:
        skip = text.new_label()
        text.put(
            f"if {counter} {text.one_of('<', '!=', '&')} {random.choice((2, 9, 33))} goto {skip}"
        )
        text.put(f"{other} {text.one_of('=', '+=', '&=')} {random.choice((1, 15))}")
        text.label(skip)
        text.put("r0 = 0")


def _touch(text: Text, counter: str) -> None:
    """A byte of the map value, at an index that may be bounded."""
    random = text.random
    skip = text.new_label()
    text.put(f"r2 = {counter}")
    bound = random.choice((_VALUE_BYTES - 1, _VALUE_BYTES, 15))
    way = random.randrange(5)
    if way == 0:
        text.put(f"r2 &= {bound}")
    elif way <= 2:
        text.put(f"if r2 > {bound} goto {skip}")
    text.put("r3 = r9", "r3 += r2", "r0 = *(u8 *)(r3 + 0)")
    text.label(skip)
    text.put("r0 = 0")


_TWO_LOCKS = (
    "r6 = r1",
    "r7 = map[guarded][0]+0 ll",
    "*(u32 *)(r10 - 4) = 0",
    "r2 = r10",
    "r2 += -4",
    "r1 = map[locked] ll",
    "call map_lookup_elem",
    "if r0 == 0 goto end",
    "r8 = r0",
    "r9 = r8",
)


def spin_locks(random: Random) -> str:
    """Locks of two values taken and given back, on some paths, around accesses and calls."""
    text = Text(random)
    text.put(*_TWO_LOCKS)
    for _ in range(random.randrange(1, 4)):
        _section(text, 0)
    text.label("end")
    text.put("r0 = 0", "exit")
    if any("call taker" in line for line in text.lines):
        text.label("taker")
        text.put("r1 += 8", "call spin_lock", "r0 = 0", "exit")
    return text.text()


def _section(text: Text, depth: int) -> None:
    """A lock is taken, something is done, it is given back; or nearly so."""
    random = text.random
    value = text.one_of("r7", "r8")
    skip = text.new_label()
    wrong = random.randrange(24)
    if wrong == 0:
        value = "r9"
    if random.random() < 0.2:
        text.put(f"r1 = {value}", "call taker")
    else:
        text.put(f"r1 = {value}", f"r1 += {12 if wrong == 1 else 8}", "call spin_lock")
    for _ in range(random.randrange(3)):
        _guarded(text, depth)
    if wrong == 2:
        text.put(f"r2 = *(u64 *)({value} + 0)", f"if r2 == 1 goto {skip}")
    if wrong == 3:
        value = text.one_of("r7", "r8", "r9")
    if wrong != 4:
        text.put(f"r1 = {value}", "r1 += 8", "call spin_unlock")
    text.label(skip)
    text.put("r0 = 0")
    if random.random() < 0.2:
        text.put("*(u32 *)(r10 - 4) = 1", "r2 = r10", "r2 += -4", "r1 = map[locked] ll")
        text.put("call map_lookup_elem", "if r0 == 0 goto end", f"{text.one_of('r8', 'r9')} = r0")
    if random.random() < 0.2:
        text.put("call taker" if random.random() < 0.1 else "call get_prandom_u32")


def _guarded(text: Text, depth: int) -> None:
    random = text.random
    value = text.one_of("r7", "r8", "r9")
    what = random.randrange(12)
    if what < 4:
        off = random.choice((0, 16, 24, 56, 0, 16, 24, 56, 0, 24, 56, 8, 12, 4))
        text.put(f"r2 = *(u64 *)({value} + {off})", f"*(u32 *)({value} + 16) = r2")
    elif what < 6:
        text.put(
            "r2 = 1", f"lock *(u64 *)({value} + {random.choice((0, 16, 24, 0, 16, 24, 8))}) += r2"
        )
    elif what < 8:
        skip = text.new_label()
        text.put(f"r2 = *(u64 *)({value} + 0)", f"if r2 > 7 goto {skip}", f"r2 += {value}")
        text.put(f"r3 = *(u8 *)(r2 + {random.choice((0, 0, 1, 12))})")
        text.label(skip)
        text.put("r0 = 0")
    elif what == 8 and depth == 0:
        out, again = text.new_label(), text.new_label()
        text.label(again)
        text.put(f"may_goto {out}")
        if random.random() < 0.3:
            _section(text, 1)
        text.put(f"goto {again}")
        text.label(out)
        text.put("r0 = 0")
    elif what == 9:
        text.put(f"r9 = {text.one_of('r7', 'r8')}")
    else:
        skip = text.new_label()
        text.put(f"r2 = *(u32 *)({value} + 0)", f"if r2 == 3 goto {skip}")
        if random.random() < 0.2:
            text.put("r9 = r7")
        text.label(skip)
        text.put("r0 = 0")


def iterators(random: Random) -> str:
    """Loops over numbers, one in the other, with counters and elements as indexes."""
    text = Text(random)
    text.put(*_VALUE, "r7 = 0", "r8 = 0")
    text.put("*(u64 *)(r10 - 16) = 0", "*(u64 *)(r10 - 24) = 0")
    _drawn_loop(text, 0)
    if random.random() < 0.3:
        _drawn_loop(text, 0)
    text.put("r0 = 0", "exit")
    return text.text()


def _iterator_call(text: Text, name: str, off: int) -> None:
    text.put("r1 = r10", f"r1 += {off}")
    if name == "new":
        text.put("r2 = 0", f"r3 = {text.random.choice((1, 10, 1000))}")
    text.put(f"call kfunc bpf_iter_num_{name}")


def _drawn_loop(text: Text, depth: int) -> None:
    random = text.random
    again, out = text.new_label(), text.new_label()
    off = -32 - 8 * depth
    wrong = random.randrange(40)
    counters = ["r7", "r8"]
    if random.random() < 0.3:
        text.put(f"{random.choice(counters)} = {random.choice((0, 1, 7))}")
    if wrong != 0:
        _iterator_call(text, "new", off)
    text.label(again)
    _iterator_call(text, "next", off if wrong != 1 else off + 8)
    if wrong != 2:
        text.put(f"if r0 == 0 goto {out}")
    if random.random() < 0.6:
        text.put(f"{random.choice(counters)} = *(u{random.choice((8, 32))} *)(r0 + 0)")
    for _ in range(random.randrange(3)):
        if random.random() < 0.15 and depth < 2:
            _drawn_loop(text, depth + 1)
        else:
            _turn(text, 2, counters, again, out)
    if wrong == 3:
        text.put(f"r2 = *(u8 *)(r10 - {-off - 3})")
    if wrong == 4:
        text.put(f"*(u8 *)(r10 - {-off - 3}) = 0")
    if wrong == 5:
        _iterator_call(text, "destroy", off)
    if wrong == 6:
        text.put("r0 = 0", "exit")
    text.put(f"goto {again}")
    text.label(out)
    if wrong != 7:
        _iterator_call(text, "destroy", off)
    text.put("r0 = 0")


_PLACES = (-16, -32, -48)


def dynptrs(random: Random) -> str:
    """Dynptrs to map values and records made, used, overwritten and given back."""
    text = Text(random)
    text.put("r9 = *(u32 *)(r1 + 0)", "r7 = 0", "r8 = 0", "*(u64 *)(r10 - 72) = 0")
    held: list[int] = []
    made: list[int] = []
    for _ in range(random.randrange(2, 8)):
        _with_dynptr(text, made, held)
    for place in held:
        if random.random() < 0.95:
            _release(text, place)
    text.put("r0 = 0", "exit")
    return text.text()


def _with_dynptr(text: Text, made: list[int], held: list[int]) -> None:
    random = text.random
    free = [place for place in _PLACES if place not in held]
    what = random.randrange(16)
    place = random.choice(made or list(_PLACES))
    if not made or what < 3:
        place = random.choice(free or list(_PLACES))
        if random.random() < 0.06:
            place = random.choice((-12, -24, -40, *_PLACES))
        if random.random() < 0.5:
            text.put("r1 = map[single][0]+0 ll", f"r2 = {random.choice((0, 8, 64, 64, 65))}")
            text.put("r3 = 0", "r4 = r10", f"r4 += {place}", "call dynptr_from_mem")
        else:
            text.put("r1 = map[ring] ll", f"r2 = {text.one_of('32', 'r9', '0')}")
            text.put("r3 = 0", "r4 = r10", f"r4 += {place}", "call ringbuf_reserve_dynptr")
            held.append(place)
        made.append(place)
    elif what < 5:
        text.put("r1 = r10", "r1 += -72", f"r2 = {random.choice((0, 8, 8))}", "r3 = r10")
        text.put(f"r3 += {place}", f"r4 = {text.one_of('0', 'r9')}", "r5 = 0", "call dynptr_read")
    elif what < 7:
        text.put("r1 = r10", f"r1 += {place}", "r2 = 0", "r3 = r10", "r3 += -72")
        text.put("r4 = 8", "r5 = 0", "call dynptr_write")
    elif what < 10:
        _slice(text, place)
    elif what == 10 and held:
        _release(text, held.pop(random.randrange(len(held))))
    elif what == 11:
        if random.random() < 0.5:
            target = random.choice(free or list(_PLACES))
            at = -target - random.choice((0, 8))
            text.put(f"*(u{text.one_of('64', '8')} *)(r10 - {at}) = 1")
    elif what == 12:
        skip = text.new_label()
        text.put(f"if r7 == 0 goto {skip}", "r2 = *(u8 *)(r7 + 0)")
        text.label(skip)
        text.put("r0 = 0")
    elif what == 13 and random.random() < 0.3:
        text.put(f"r2 = *(u64 *)(r10 - {-place})")
    elif what == 14 and held and random.random() < 0.3:
        skip = text.new_label()
        text.put(f"if r9 == 5 goto {skip}")
        _release(text, random.choice(held))
        text.label(skip)
        text.put("r0 = 0")
    elif what == 15 and free:
        text.put("r9 &= 8", "r1 = r10", "r1 += r9", f"*(u8 *)(r1 - {-random.choice(free)}) = 1")


def _slice(text: Text, place: int) -> None:
    random = text.random
    size = random.choice((0, 1, 8, 8, 8))
    text.put("r1 = r10", f"r1 += {place}", "r2 = 0", f"r3 = {size}", "call dynptr_data")
    if random.random() < 0.3:
        text.put("r7 = r0")
        return
    skip = text.new_label()
    if random.random() < 0.9:
        text.put(f"if r0 == 0 goto {skip}")
    width = text.one_of("8", "8", "64")
    text.put(f"r2 = *(u{width} *)(r0 + 0)", f"*(u{width} *)(r0 + 0) = 1")
    if random.random() < 0.3:
        text.put("r7 = r0")
    text.label(skip)
    text.put("r0 = 0")


def _release(text: Text, place: int) -> None:
    text.put("r1 = r10", f"r1 += {place}", "r2 = 0")
    text.put(f"call ringbuf_{text.one_of('submit', 'discard')}_dynptr")


FEATURES: dict[str, Generator] = {
    "may_goto": bounded_loops,
    "spin_lock": spin_locks,
    "iterator": iterators,
    "dynptr": dynptrs,
}
