"""A server of the Debug Adapter Protocol, by which editors drive the debugger."""
