"""The engine for peak speed: programs as LLVM IR, compiled through llvmlite (the extra `llvm`).

It stands inside the JIT because it is one: `engine.LlvmEngine` is a JitEngine that compiles
differently. State, thunks, fault handler and every answer of Python are the JIT's; what the JIT
does rarely (hooks, recordings, the last few instructions of a budget) its templates do here too.

A program becomes IR (`ir`, `arithmetic`, `liveness`), an object file (`compiler`, kept by
`cache`), and a unit on code pages (`objectfile`, `link`, `unit`).
"""
