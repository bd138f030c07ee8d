"""Recordings of runs, and their exact replay: docs/decisions/0007-recordings.md.

`format` is the file, `records` what stands in it, `recorder` and `asking` write it while programs
run, `objects` what of an object a replay needs, `digest` what both sides compare; `replay` and
`answering` run the programs again.
"""
