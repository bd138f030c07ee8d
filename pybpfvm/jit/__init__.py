"""The fast engine: x86-64 machine code from templates, emitted by Python, entered through its
C API.

`engine.JitEngine` is an Engine like the interpreter. A program becomes a unit (`compile`): code
whose memory accesses are unchecked, checked by page or checked exactly (`options.Checks`). What
code can not do by itself it asks Python for through the thunks (`thunks`), over a block of state
(`state`). Code pages and the fault handler are the process's (`pages`, `faults`).
"""
