"""What kind of problem a broken rule is: a category, and the problem in a few words.

The headline of a report is "category: problem". Both are part of the JSON output and only added to.
"""

from __future__ import annotations

from collections.abc import Mapping

from pybpfvm.verifier.verdict import Finding, Kind, Rule

_FLOW = "Control flow"
_REGISTERS = "Registers"
_POINTERS = "Pointers"
_MEMORY = "Memory safety"
_STACK = "Stack"
_CALLS = "Calls"
_RESOURCES = "Resources"
_KERNEL = "Kernel objects"
_USER = "User memory"
_RING = "Ring requests"
_WAITS = "Waiting and completions"
_LIMITS = "Limits"
_OTHER = "Rules"

# rule -> (category, problem)
PROBLEMS: Mapping[Rule, tuple[str, str]] = {
    Rule.UNREACHABLE: (_FLOW, "code that can not be reached"),
    Rule.BAD_JUMP: (_FLOW, "jump to where it must not lead"),
    Rule.FALL_THROUGH: (_FLOW, "execution runs past the end"),
    Rule.INFINITE_LOOP: (_FLOW, "loop that never ends"),
    Rule.RECURSION: (_FLOW, "function that calls itself"),
    Rule.CALL_DEPTH: (_LIMITS, "too many nested calls"),
    Rule.STACK_DEPTH: (_LIMITS, "too much stack"),
    Rule.UNINIT_REG: (_REGISTERS, "register read before it is written"),
    Rule.ILLEGAL_INSN: (_REGISTERS, "instruction that is not allowed here"),
    Rule.FRAME_POINTER: (_REGISTERS, "frame pointer written"),
    Rule.POINTER_ARITH: (_POINTERS, "arithmetic that this pointer does not allow"),
    Rule.POINTER_BOUNDS: (_POINTERS, "offset of a pointer not bounded"),
    Rule.POINTER_LEAK: (_POINTERS, "address leaks"),
    Rule.RETURN_VALUE: (_CALLS, "return value out of range"),
    Rule.NOT_A_POINTER: (_MEMORY, "access through something that is no pointer"),
    Rule.POSSIBLY_NULL: (_MEMORY, "pointer may be NULL"),
    Rule.STACK_ACCESS: (_STACK, "access outside the stack frame"),
    Rule.STACK_UNINIT: (_STACK, "stack read before it is written"),
    Rule.CTX_ACCESS: (_MEMORY, "context access that is not allowed"),
    Rule.MAP_VALUE_ACCESS: (_MEMORY, "access outside a map value"),
    Rule.PACKET_ACCESS: (_MEMORY, "access outside the checked part of the packet"),
    Rule.MEM_ACCESS: (_MEMORY, "access outside a memory block"),
    Rule.READ_ONLY: (_MEMORY, "write to read-only memory"),
    Rule.MISALIGNED: (_MEMORY, "misaligned access"),
    Rule.CAPABILITY: (_OTHER, "capability that the loader lacks"),
    Rule.SPECULATION: (_POINTERS, "pointer that speculation could lead out of bounds"),
    Rule.UNKNOWN_HELPER: (_CALLS, "helper that does not exist here"),
    Rule.HELPER_ARG: (_CALLS, "wrong argument"),
    Rule.HELPER_NOT_ALLOWED: (_CALLS, "helper that is not allowed here"),
    Rule.REFERENCE_LEAK: (_RESOURCES, "reference not released"),
    Rule.RELEASE_UNOWNED: (_RESOURCES, "release of what is not held"),
    Rule.LOCK: (_RESOURCES, "lock used wrongly"),
    Rule.KPTR: (_KERNEL, "kernel pointer used wrongly"),
    Rule.TIMER: (_CALLS, "timer or work queue used wrongly"),
    Rule.OBJECT: (_RESOURCES, "own object used wrongly"),
    Rule.ITERATOR: (_RESOURCES, "iterator used wrongly"),
    Rule.DYNPTR: (_RESOURCES, "dynptr used wrongly"),
    Rule.ARENA: (_MEMORY, "arena used wrongly"),
    Rule.BTF_ACCESS: (_KERNEL, "access that the object's type does not allow"),
    Rule.KFUNC_NOT_ALLOWED: (_KERNEL, "kernel function that is not allowed here"),
    Rule.KFUNC_ARG: (_KERNEL, "wrong argument of a kernel function"),
    Rule.TRUST: (_KERNEL, "pointer that can not be trusted"),
    Rule.REGION: (_RESOURCES, "critical section not left, or not entered"),
    Rule.ATTACH_TARGET: (_KERNEL, "nothing that it can be attached to"),
    Rule.USER_POINTER: (_USER, "user pointer that no contract declares"),
    Rule.USER_RANGE: (_USER, "user memory outside the contract"),
    Rule.USER_UNPROVEN: (_USER, "user memory that nothing bounds"),
    Rule.DOUBLE_FETCH: (_USER, "shared memory read twice after a check"),
    Rule.FORGED_POINTER: (_USER, "number from user space used as an address"),
    Rule.POINTER_EXPOSED: (_USER, "kernel address shown to user space"),
    Rule.FAILED_REAP: (_WAITS, "completion used although none was reaped"),
    Rule.ERRNO_AS_COUNT: (_WAITS, "error number used as a count"),
    Rule.RESULT_IGNORED: (_WAITS, "result of a completion not looked at"),
    Rule.SUBMIT_UNCHECKED: (_RING, "result of a submission not looked at"),
    Rule.FILE_OFFSET: (_RING, "file offset of 32 bits"),
    Rule.USER_DATA_SHARED: (_RING, "user_data that requests of others have too"),
    Rule.BUFFER_IN_FLIGHT: (_RING, "buffer reused while a request is in flight"),
    Rule.CQ_INDEX: (_RING, "completion queue that does not exist"),
    Rule.CQ_OWNERSHIP: (_WAITS, "completion queue that belongs to somebody else"),
    Rule.WAIT_NEVER: (_WAITS, "wait that can never be satisfied"),
    Rule.WAIT_NO_PROGRESS: (_WAITS, "wait with nothing in flight"),
    Rule.WAIT_STALE: (_WAITS, "wait fields left from an earlier step"),
    Rule.LINK_DANGLING: (_RING, "link without a successor"),
    Rule.DRAIN: (_RING, "drain that waits for requests of others"),
    Rule.SQE_OPCODE: (_RING, "request that the ring does not take"),
    Rule.SQE_FLAGS: (_RING, "flags that the ring does not take"),
    Rule.SQE_FIELD: (_RING, "field of a request that must be zero, or set"),
    Rule.SQE_BUFFER: (_RING, "buffer of a request outside the contract"),
    Rule.RING_OWNER: (_RING, "word of the ring that the kernel writes"),
    Rule.HEAD_STALE: (_WAITS, "head of the CQ that is out of date"),
    Rule.CQ_MASK: (_RING, "index of a CQE masked for another size"),
    Rule.SUBMIT_COUNT: (_RING, "number of submissions that can not be meant"),
    Rule.RING_REGION: (_RING, "region that the ring does not give"),
    Rule.RING_SETUP: (_RING, "ring set up in another way"),
    Rule.REQUEUE_UNLINKED: (_WAITS, "requeue behind a chain that is not open"),
    Rule.BUDGET: (_LIMITS, "program too complex"),
    Rule.UNSUPPORTED: (_LIMITS, "not supported by this verifier"),
}

# What a kind says about the program, for people.
KIND_NOTES: Mapping[Kind, str] = {
    Kind.UNSAFE: "inputs exist under which it does harm: see the witness",
    Kind.UNPROVEN: "it may be safe, but nothing in the program shows it",
    Kind.POLICY: "the kernel forbids it, harmful or not",
    Kind.LIMIT: "too complex to be judged within the limits",
    Kind.UNSUPPORTED: "this verifier can not judge it, so it decides nothing",
    Kind.LINT: "allowed, and probably a mistake",
}
# Where that would be wrong of a rule.
_RULE_NOTES: Mapping[tuple[Rule, Kind], str] = {
    (Rule.USER_RANGE, Kind.POLICY): "the contract forbids it, whatever the kernel says",
    (Rule.INFINITE_LOOP, Kind.UNPROVEN): "no inputs that lead into the loop are known",
}


def kind_note(finding: Finding) -> str:
    """What the kind of a finding says about the program, for people."""
    return _RULE_NOTES.get((finding.rule, finding.kind), KIND_NOTES[finding.kind])


def category(rule: Rule) -> str:
    """The category of a rule."""
    return PROBLEMS[rule][0] if rule in PROBLEMS else _OTHER


def problem(rule: Rule) -> str:
    """What is wrong where the rule is broken, in a few words."""
    return PROBLEMS[rule][1] if rule in PROBLEMS else rule.value.replace("-", " ")
