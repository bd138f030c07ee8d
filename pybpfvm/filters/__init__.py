"""Filters of requests: classic BPF programs that allow or deny SQEs (IORING_REGISTER_BPF_FILTER).

abi/iouring-bpf-upstream, section 6. They share nothing with the BPF programs of a ring but the
ring: `cbpf` is their instruction set, `check` the kernel's rules, `context` what they see, `table`
which of them apply.
"""
