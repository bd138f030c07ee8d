"""Other people's engines as engines of ours, for comparisons; each where a system has it."""
