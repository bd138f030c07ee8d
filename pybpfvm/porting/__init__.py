"""From the prototype of 2021 to the merged ABI: what a program does, what of it must change, and a
skeleton in C of what it becomes. docs/porting.md.
"""
