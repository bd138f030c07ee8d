"""Fuzzing: generators of programs, objects and request sequences, oracles that judge them, and the
campaign that runs both until something is found (docs/fuzzing.md)."""
