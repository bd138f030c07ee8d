"""A stub of GDB's remote serial protocol, by which its frontends drive the debugger."""
