"""Rings that a program drives from inside io_uring_enter: the merged upstream ABI, on any kernel.

abi/iouring-bpf-upstream, sections 1 to 3. `memory` is what programs and hosts see of a ring,
`ring` the system calls and the loop, `attach` how a map of callbacks gets onto a ring.
"""
