"""Elements of generated programs that only some program types have: fields of their contexts,
sockets with their references, calls of the helpers that they are offered."""

from __future__ import annotations

from pybpfvm.fuzz.typed_writer import NOTHING, NUMBER, Holds, Is, Writer
from pybpfvm.helpers.proto import ArgType, RetType
from pybpfvm.helpers.table import HELPERS
from pybpfvm.profiles.base import CtxField, CtxHolds, CtxPointer
from pybpfvm.profiles.mainline import NUMBERS
from pybpfvm.verifier.kernelobjects.kernelptr import SOCKETS
from pybpfvm.verifier.states.regstate import RegType

_FP = 10
_LETTERS = {1: "b", 2: "h", 4: "w", 8: "dw"}
_SIMPLE = frozenset(
    {
        ArgType.PTR_TO_CTX,
        ArgType.ANYTHING,
        ArgType.PTR_TO_MEM,
        ArgType.PTR_TO_UNINIT_MEM,
        ArgType.CONST_SIZE,
        ArgType.CONST_SIZE_OR_ZERO,
    }
)
_POINTERS = (CtxPointer.SOCK_COMMON_OR_NULL, CtxPointer.SOCKET_OR_NULL, CtxPointer.SOCKET)
_CASTS = ("sk_fullsock", "tcp_sock", "get_listener_sock")
_GIVES = {"tcp_sock": RegType.PTR_TO_TCP_SOCK}
_BUFFER = -200  # 64 bytes of stack that no other element uses
_ENDS = frozenset({"tail_call"})  # what follows is not reached


class TypedWriter(Writer):
    """Adds what a program type has of its own. Registers 7, 8 and 9 outlive calls."""

    def typed_element(self) -> None:
        """One of them, of those that the type has."""
        makes = [self.any_field, self.any_field, self.offered_call, self.offered_call]
        if self._socket_field() is not None:
            makes += [self.context_socket, self.context_socket]
        if "sk_lookup_tcp" in self.profile.helpers.values():
            makes.append(self.looked_up_socket)
        self.random.choice(makes)()

    def any_field(self) -> None:
        """A load of, or store to, a field or a part of one, mostly as the type allows."""
        self.features.add("context field")
        fields = [one for one in self.profile.ctx_fields if one.pointer is None]
        if not fields:
            return
        field = self.random.choice(fields)
        if field.holds in (CtxHolds.DATA, CtxHolds.DATA_END, CtxHolds.DATA_META):
            return
        size = self.random.choice([size for size in _LETTERS if size <= field.size])
        if self.random.random() < 0.9:
            places = [
                (at, size)
                for at in range(field.offset, min(field.offset + field.size, field.offset + 64))
                if field.named_by(at, size, store=False)
            ]
            place, size = self.random.choice(places or [(field.offset, min(field.size, 8))])
        else:
            place = field.offset + self.random.choice((0, 1, 2, 4))
        if (field.writable or self.random.random() < 0.03) and self.random.random() < 0.5:
            store = self._store_size(field)
            self.emit(f"stx{_LETTERS[store]}", 6, self.number(), field.offset)
            return
        target = self.free()
        self.emit(f"ldx{_LETTERS[size]}", target, 6, place)
        self.regs[target] = NUMBER

    def _store_size(self, field: CtxField) -> int:
        return field.size if field.size in _LETTERS else 4

    def _socket_field(self) -> CtxField | None:
        return next((one for one in self.profile.ctx_fields if one.pointer in _POINTERS), None)

    def context_socket(self) -> None:
        """The socket of the context, its fields, what it can be cast to."""
        self.features.add("socket")
        field = self._socket_field()
        assert field is not None
        reg = self.random.choice((7, 8, 9))
        if self.regs[reg].kind is Is.RECORD:
            return
        self.regs[reg] = NOTHING
        before = list(self.regs)
        skip = self.new_label()
        self.emit("ldxdw", reg, 6, field.offset)
        if field.pointer is not CtxPointer.SOCKET or self.random.random() < 0.2:
            self.jump("jeq64_k", skip, reg, imm=0, null=True)
        full = field.pointer is not CtxPointer.SOCK_COMMON_OR_NULL
        self.socket_field(reg, RegType.PTR_TO_SOCKET if full else RegType.PTR_TO_SOCK_COMMON)
        if self.random.random() < 0.6:
            self.cast(reg)
        self.join_with(before)
        self.place(skip)

    def looked_up_socket(self) -> None:
        """Looked up, used, released."""
        self.features.add("socket reference")
        if not self.in_main or self.holding(Is.RECORD):
            return
        for off in range(_BUFFER, _BUFFER + 16, 8):
            self.emit("stdw", _FP, off=off, imm=0)
        self.emit("mov64_x", 1, 6)
        self.emit("mov64_x", 2, _FP)
        self.emit("add64_k", 2, imm=_BUFFER)
        self.emit("mov64_k", 3, imm=12)
        self.emit("mov64_k", 4, imm=-1)
        self.emit("mov64_k", 5, imm=0)
        name = self.random.choice(("sk_lookup_tcp", "sk_lookup_udp", "skc_lookup_tcp"))
        self.emit("call", imm=NUMBERS[name])
        self.clobber()
        reg = self.random.choice((7, 8, 9))
        self.regs[reg] = NOTHING
        self.emit("mov64_x", reg, 0)
        before = list(self.regs)
        skip = self.new_label()
        self.jump("jeq64_k", skip, reg, imm=0, null=True)
        common = name == "skc_lookup_tcp"
        self.socket_field(reg, RegType.PTR_TO_SOCK_COMMON if common else RegType.PTR_TO_SOCKET)
        if self.random.random() < 0.5:
            self.cast(reg)
        self.emit("mov64_x", 1, reg)
        self.emit("call", imm=NUMBERS["sk_release"])
        self.clobber()
        if self.random.random() < 0.05:
            self.emit("ldxw", 0, reg, 4)
        self.join_with(before)
        self.place(skip)

    def cast(self, reg: int) -> None:
        """A full socket, TCP socket or listener of the socket in `reg`, and a field of that."""
        names = [name for name in _CASTS if name in self.profile.helpers.values()]
        if not names:
            return
        name = self.random.choice(names)
        self.emit("mov64_x", 1, reg)
        self.emit("call", imm=NUMBERS[name])
        self.clobber()
        over = self.new_label()
        self.jump("jeq64_k", over, 0, imm=0, null=True)
        self.socket_field(0, _GIVES.get(name, RegType.PTR_TO_SOCKET))
        self.clobber()
        self.place(over)

    def socket_field(self, reg: int, kind: RegType) -> None:
        """Load a field of a socket, into a register that nobody needs."""
        field = self.random.choice(SOCKETS[kind])
        size = self.random.choice([size for size in _LETTERS if size <= field.size])
        if self.random.random() < 0.9 and not field.named_by(field.offset, size, store=False):
            size = field.size
        self.emit(f"ldx{_LETTERS[size]}", 5, reg, field.offset)
        self.regs[5] = NOTHING

    def offered_call(self) -> None:
        """A helper with plain arguments; now and then one that the type is not offered."""
        self.features.add("helper of the type")
        names = [name for name in self.profile.helpers.values() if self._plain(name)]
        if self.random.random() < 0.03:
            names = [name for name in NUMBERS if name in HELPERS and self._plain(name)]
        name = self.random.choice(names)
        helper = HELPERS[name]
        for off in range(_BUFFER, _BUFFER + 64, 8):
            self.emit("stdw", _FP, off=off, imm=0)
        for number, kind in enumerate(self._args(name), 1):
            if kind is ArgType.PTR_TO_CTX:
                self.emit("mov64_x", number, 6)
            elif kind is ArgType.ANYTHING:
                self.emit("mov64_k", number, imm=self.random.choice((0, 0, 1, 14, -1)))
            elif kind in (ArgType.CONST_SIZE, ArgType.CONST_SIZE_OR_ZERO):
                self.emit("mov64_k", number, imm=self.random.choice((8, 16, 64, 65, 0)))
            else:
                self.emit("mov64_x", number, _FP)
                self.emit("add64_k", number, imm=_BUFFER)
        self.emit("call", imm=NUMBERS[name])
        self.clobber()
        if helper.moves_packet:
            packets = self.holding(Is.PACKET)
            for reg in packets:
                self.regs[reg] = NOTHING
            for slot, holds in list(self.stack.items()):
                if holds.kind is Is.PACKET:
                    del self.stack[slot]
        elif self.random.random() < 0.3:
            # What the helper filled is a number of which nothing is known any more.
            self.emit("ldxdw", 0, _FP, _BUFFER)
            self.regs[0] = NUMBER

    def _args(self, name: str) -> tuple[ArgType, ...]:
        return HELPERS[name].args_for(self.profile.name, self.profile.attach_type)

    def _plain(self, name: str) -> bool:
        helper = HELPERS[name]
        return (
            helper.ret is RetType.INTEGER and set(self._args(name)) <= _SIMPLE and name not in _ENDS
        )

    def join_with(self, other: list[Holds]) -> None:
        """Only what both ways agree on is known after them."""
        self.regs = [
            one if one == before else NOTHING for one, before in zip(self.regs, other, strict=True)
        ]
