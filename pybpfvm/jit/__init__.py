"""The fast engine: x86-64 machine code from templates, emitted by Python, entered through its
C API.

`engine.JitEngine` is an Engine like the interpreter. A program becomes a unit (`unit`): code made
by `emit`, whose memory accesses are unchecked, checked by page or checked exactly
(`options.Checks`). What code can not do by itself it asks Python for through the thunks
(`thunks`), over a block of state (`state`). Code pages and the fault handler are the process's
(`pages`, `faults`).

Some helpers are BPF of our own, in `code/`: `bytecode` compiles a source of it, `natives` binds the
map lookups, `ringcode` the ring helpers and the loop that runs a BPF request by itself, `looping`
gives that loop to a ring. `llvm/` makes units with LLVM instead of templates.
"""
