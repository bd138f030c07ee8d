"""The debugger on a terminal: commands with gdb's names, driven by lines of text."""
