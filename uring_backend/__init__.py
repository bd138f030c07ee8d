if __name__ == "uring_backend":
    raise ImportError("import pybpfvm.uring_backend, not uring_backend: see ARCHITECTURE.md")
