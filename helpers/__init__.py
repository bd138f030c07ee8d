if __name__ == "helpers":
    raise ImportError("import pybpfvm.helpers, not helpers: see ARCHITECTURE.md")
