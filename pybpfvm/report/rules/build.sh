#!/bin/sh
# Rebuild kernel.btf from kernel.bpf.c. Needs clang 19 and llvm-objcopy 19.
set -eu
cd "$(dirname "$0")"
out=${1:-kernel.btf}
made=$(mktemp)
trap 'rm -f "$made"' EXIT
"${CLANG:-clang-19}" -target bpf -O2 -g -mcpu=v3 -fdebug-compilation-dir=. -c kernel.bpf.c -o "$made"
"${OBJCOPY:-llvm-objcopy-19}" --dump-section .BTF="$out" "$made" /dev/null
