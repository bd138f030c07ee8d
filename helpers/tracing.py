"""Helpers on kernel objects: known to the verifier; there are no such objects to run on."""

from __future__ import annotations

from pybpfvm.helpers.proto import ArgType, Helper, RetType

ROWS = (
    Helper(
        "get_current_task_btf",
        (),
        RetType.PTR_TO_BTF_ID,
        None,
        "The running task as a pointer that BTF types. bpf-helpers(7).",
        gpl_only=True,
    ),
    Helper(
        "task_pt_regs",
        (ArgType.PTR_TO_BTF_ID,),
        RetType.PTR_TO_BTF_ID,
        None,
        "The saved registers of a task. bpf-helpers(7).",
        gpl_only=True,
    ),
)
