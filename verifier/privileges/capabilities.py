"""What a kernel lets a loader do that lacks CAP_PERFMON, or CAP_BPF as well.

Program types, helpers, maps, fields and forms of code that need a capability, as data, and the
checks of them. What programs may do with addresses is in `leaks`, with offsets in `speculation`.
What goes without CAP_PERFMON was asked of a 6.18 kernel. What goes without CAP_BPF was not, nor
read in a document: it is what is known of kernels, which load nothing then unless
kernel.unprivileged_bpf_disabled is 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.profiles.base import CtxField, CtxHolds, Profile
from pybpfvm.program import MapSpec, MapType
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects.attach import is_btf_typed
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.structure import successors
from pybpfvm.verifier.verdict import Finding, Rule
from pybpfvm.verifier.verdict import Kind as Why

# Types that observe the kernel.
_PERFMON_TYPES = frozenset(
    {"kprobe", "tracepoint", "perf_event", "raw_tracepoint", "raw_tracepoint_writable"}
)
_UNPRIVILEGED_TYPES = frozenset({"socket_filter", "cgroup_skb"})

_PERFMON_NAMES = """
    copy_from_user copy_from_user_task find_vma get_branch_snapshot get_current_comm
    get_current_task get_current_task_btf get_task_stack perf_event_read perf_event_read_value
    probe_read_kernel probe_read_kernel_str probe_read_user probe_read_user_str send_signal
    send_signal_thread skc_to_mptcp_sock skc_to_tcp6_sock skc_to_tcp_request_sock
    skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_udp6_sock skc_to_unix_sock snprintf
    snprintf_btf sys_bpf task_pt_regs trace_printk trace_vprintk
"""
# Offered without CAP_BPF; those that need it; of others it is not known.
_UNPRIVILEGED_NAMES = """
    map_lookup_elem map_update_elem map_delete_elem map_push_elem map_pop_elem map_peek_elem
    get_prandom_u32 get_smp_processor_id get_numa_node_id tail_call ktime_get_ns
    ktime_get_boot_ns ringbuf_output ringbuf_reserve ringbuf_submit ringbuf_discard
    ringbuf_query skb_load_bytes skb_load_bytes_relative get_socket_cookie get_socket_uid
"""
_BPF_NAMES = """
    jiffies64 per_cpu_ptr this_cpu_ptr spin_lock spin_unlock for_each_map_elem loop kptr_xchg
    timer_init timer_set_callback timer_start timer_cancel user_ringbuf_drain
"""
PERFMON_HELPERS = frozenset(_PERFMON_NAMES.split())
_UNPRIVILEGED_HELPERS = frozenset(_UNPRIVILEGED_NAMES.split())
_BPF_HELPERS = frozenset(_BPF_NAMES.split())
_UNPRIVILEGED_MAPS = frozenset(
    {
        MapType.ARRAY,
        MapType.PERCPU_ARRAY,
        MapType.HASH,
        MapType.PERCPU_HASH,
        MapType.PROG_ARRAY,
        MapType.PERF_EVENT_ARRAY,
        MapType.CGROUP_ARRAY,
        MapType.ARRAY_OF_MAPS,
        MapType.HASH_OF_MAPS,
        MapType.RINGBUF,
    }
)
_UNPRIVILEGED_INSNS = 4096
# Since this kernel a speculative path that breaks a rule is cut off instead of refused.
_CUTS_OFF = (6, 17)


@dataclass(frozen=True, slots=True)
class Missing:
    """A rule that a program breaks before it is explored."""

    pc: int
    message: str
    reason: str


def capability_errors(env: Environment) -> tuple[Finding, ...]:
    """What the loader may not load at all."""
    caps = env.options.caps
    found = [] if caps.perfmon else list(_needs_perfmon(env.profile))
    if not caps.bpf:
        found += _needs_bpf(env)
    return tuple(
        Finding(
            Rule.CAPABILITY,
            Why.POLICY,
            one.pc,
            one.message,
            reason=one.reason,
            suggestion="load it with the capability, as root or by setcap",
            source=env.program.line_at(one.pc),
        )
        for one in found
    )


def speculation_feature(env: Environment) -> str:
    """What this verifier has no rules for: on older kernels a path that only speculation takes
    can be refused too, when the loader lacks CAP_PERFMON. "" if nothing."""
    if env.options.caps.perfmon or (env.profile.ring is None and env.rules.version >= _CUTS_OFF):
        return ""
    return "speculative paths, which kernels before 6.17 follow for loaders without CAP_PERFMON"


def _needs_perfmon(profile: Profile) -> Iterator[Missing]:
    if profile.name in _PERFMON_TYPES or is_btf_typed(profile):
        yield Missing(
            0,
            f"{profile.name} programs need CAP_PERFMON",
            "programs that observe the kernel see its memory",
        )


def _needs_bpf(env: Environment) -> Iterator[Missing]:
    profile = env.profile
    if profile.name not in _UNPRIVILEGED_TYPES:
        known = " and ".join(sorted(_UNPRIVILEGED_TYPES))
        yield Missing(
            0, f"{profile.name} programs need CAP_BPF", f"without it, {known} can be loaded"
        )
        return
    if env.program.slots > _UNPRIVILEGED_INSNS:
        yield Missing(
            0,
            f"program has {env.program.slots} insns, at most {_UNPRIVILEGED_INSNS} are allowed",
            "larger programs need CAP_BPF",
        )
    for pc, insn in env.code.items():
        kind = insn.spec.kind
        if kind in (Kind.CALL_LOCAL, Kind.CALL_KFUNC) or (
            kind is Kind.LDDW and insn.src == Pseudo.FUNC
        ):
            yield Missing(
                pc,
                "loading/calling other bpf or kernel functions are allowed for CAP_BPF and "
                "CAP_SYS_ADMIN",
                "calls of functions need CAP_BPF",
            )
            return
    yield from _maps_need_bpf(env)
    yield from _back_edges(env)


def _maps_need_bpf(env: Environment) -> Iterator[Missing]:
    for pc, spec in env.named_maps():
        if spec.type not in _UNPRIVILEGED_MAPS:
            reason = f"a {MapType(spec.type).name.lower()} map can not be made without it"
        elif _has_fields(env, spec):
            reason = "its values have fields that are the kernel's"
        else:
            continue
        yield Missing(pc, f"map {spec.name} needs CAP_BPF", reason)
        return


def _has_fields(env: Environment, spec: MapSpec) -> bool:
    """Whether values have fields of the kernel's; of those not known, `verify` says so itself."""
    try:
        return bool(env.fields(spec))
    except Refused:
        return False


def _back_edges(env: Environment) -> Iterator[Missing]:
    """The first jump back along a path from the start: without CAP_BPF there are no loops."""
    if 0 not in env.code:
        return
    state = {0: False}  # pc -> whether all paths from there are done
    work = [(0, iter(_next(env, 0)))]
    while work:
        pc, targets = work[-1]
        target = next(targets, None)
        if target is None:
            state[pc] = True
            work.pop()
        elif target not in state:
            state[target] = False
            work.append((target, iter(_next(env, target))))
        elif not state[target]:
            yield Missing(
                pc, f"back-edge from insn {pc} to {target}", "loops need CAP_BPF: unroll them"
            )
            return


def _next(env: Environment, pc: int) -> tuple[int, ...]:
    return tuple(target for target in successors(env, pc) if target in env.code)


def check_helper(env: Environment, name: str, insn: Insn) -> None:
    """The loader's capabilities suffice for a helper that the type is offered."""
    caps = env.options.caps
    if not caps.perfmon and name in PERFMON_HELPERS:
        needed = "CAP_PERFMON"
    elif not caps.bpf and name in _BPF_HELPERS:
        needed = "CAP_BPF"
    elif not caps.bpf and name not in _UNPRIVILEGED_HELPERS:
        raise unsupported(f"helper {name}#{insn.imm} for a loader without CAP_BPF")
    else:
        return
    raise forbidden(
        Rule.CAPABILITY,
        f"program of this type cannot use helper bpf_{name}#{insn.imm}",
        reason=f"the loader needs {needed} for it",
    )


def check_one_map(env: Environment, pc: int, map_index: int) -> None:
    """A tail call names one map on every path, where the kernel masks its index."""
    if env.options.caps.perfmon or env.tail_call_maps.setdefault(pc, map_index) == map_index:
        return
    raise forbidden(
        Rule.SPECULATION,
        "tail_call abusing map_ptr",
        reason="on another path the map is another one, of another length",
        suggestion="make a tail call of its own for each map",
    )


def check_ctx_field(env: Environment, field: CtxField | None, off: int, size: int) -> None:
    """The loader's capabilities suffice for a field of the context."""
    if env.options.caps.bpf or field is None:
        return
    if field.holds in (CtxHolds.DATA, CtxHolds.DATA_END) or field.name == "tstamp":
        raise _field_refused(field, off, size)


def _field_refused(field: CtxField, off: int, size: int) -> Refused:
    return forbidden(
        Rule.CAPABILITY,
        f"invalid bpf_context access off={off} size={size}",
        reason=f"{field.name} needs CAP_BPF",
        suggestion="read the packet with bpf_skb_load_bytes",
    )
