"""When a path needs no more following: comparison of states, and what of them matters."""
