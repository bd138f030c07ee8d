"""What loaders without CAP_BPF or CAP_PERFMON may not do."""
