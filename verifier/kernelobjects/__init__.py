"""Pointers to the kernel's own objects, typed by its BTF, and calls of its functions."""
