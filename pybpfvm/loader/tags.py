"""Declaration tags of functions that concern loading."""

from __future__ import annotations

from pybpfvm.btf.types import Btf, BtfKind, DeclTag

_CALLBACK = "exception_callback:"


def exception_callbacks(btf: Btf, func_id: int) -> tuple[str, ...]:
    """Names of the exception callbacks that tags give the function `func_id`; one is right."""
    tags = (btf.type(type_id) for type_id in btf.ids_of(BtfKind.DECL_TAG))
    return tuple(
        tag.name.removeprefix(_CALLBACK)
        for tag in tags
        if isinstance(tag, DeclTag)
        and tag.type_id == func_id
        and tag.component < 0
        and tag.name.startswith(_CALLBACK)
    )
