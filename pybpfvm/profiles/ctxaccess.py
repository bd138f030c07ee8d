"""What a program may access of its context, by its profile."""

from __future__ import annotations

from pybpfvm.profiles.base import Profile


def ctx_violation(
    profile: Profile, offset: int, size: int, *, store: bool, plain: bool, strict: bool
) -> str | None:
    """Why a program may not access `size` bytes at `offset` of its context, or None if it may.

    Strict is what the kernels of the ring ABIs enforce: exactly one field, stores from registers
    only (`plain` is False for BPF_ST and atomics), read-only fields. Lenient lets any access
    inside the context pass that changes no read-only field, such as two u32 stores that clang
    merged. abi/iouring-bpf-2021, section 2.3. Ordinary programs may access fields and the parts
    that their type lets them, by any instruction; where a type describes none, all.
    """
    if profile.ring is None:
        return _ordinary_violation(profile, offset, size, store=store)
    if offset < 0 or offset + size > profile.ctx_bytes:
        return f"off={offset} size={size} is outside the {profile.ctx_bytes} bytes of the context"
    overlapped = [
        f for f in profile.ctx_fields if f.offset < offset + size and offset < f.offset + f.size
    ]
    fixed = next((f.name for f in overlapped if not f.writable), None)
    if store and fixed is not None:
        return f"off={offset} size={size} writes {fixed}, which is read-only"
    if strict and profile.ctx_field(offset, size) is None:
        return f"off={offset} size={size} is not exactly one field of {profile.ctx_name}"
    if strict and not plain:
        return f"off={offset} size={size} is stored to by other means than BPF_STX"
    return None


def _ordinary_violation(profile: Profile, offset: int, size: int, *, store: bool) -> str | None:
    if not profile.ctx_fields:
        return None
    named = profile.ctx_field_named(offset, size, store=store)
    if named is None:
        what = "store" if store else "load"
        return (
            f"off={offset} size={size} is no {what} that {profile.ctx_name} offers {profile.name}"
        )
    if store and not named.writable:
        return f"off={offset} size={size} writes {named.name}, which is read-only"
    return None
