"""bpf(2) of the running kernel through ctypes: the oracle that tests and campaigns ask.

Nothing here is needed to load, verify or run anything. Numbers are those of the kernel's UAPI.
"""
