"""The running kernel's ring, by raw system calls; what it lacks is played around it."""

from pybpfvm.uring_backend.kernel.backend import KernelBackend

__all__ = ["KernelBackend"]
