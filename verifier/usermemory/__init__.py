"""Numbers from user space, and contracts about what they point to."""
