if __name__ == "examples":
    raise ImportError("import pybpfvm.examples, not examples: see ARCHITECTURE.md")
