if __name__ == "verifier":
    raise ImportError("import pybpfvm.verifier, not verifier: see ARCHITECTURE.md")
