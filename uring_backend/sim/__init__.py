"""The simulated ring: mainline io_uring in virtual time, decided by one seed."""

from pybpfvm.uring_backend.sim.backend import SimBackend

__all__ = ["SimBackend"]
