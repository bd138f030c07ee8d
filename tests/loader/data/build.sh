#!/bin/sh
# Rebuild the objects beside this script. Needs clang 19; CLANG names another one.
set -eu
cd "$(dirname "$0")"
CLANG=${CLANG:-clang-19}
OUT=${1:-.}
build() { # target, cpu, source, extra flags
	target=$1 cpu=$2 name=$3
	shift 3
	suffix=
	[ "$target" = bpf ] || suffix=.be
	"$CLANG" -target "$target" -mcpu="$cpu" -O2 -g -Wall -ffile-prefix-map="$PWD"=. \
		-fdebug-compilation-dir=. "$@" -c "$name.c" -o "$OUT/$name$suffix.o"
	llvm-strip-19 -g "$OUT/$name$suffix.o" 2>/dev/null || true
}
for name in legacy20 legacy28 legacy36; do build bpf v2 "$name"; done
for name in typed_maps typed_more globals calls calls_more externs ksyms core core_target core_kernel; do
	build bpf v3 "$name"
done
for name in typed_maps globals calls core core_target; do build bpfeb v3 "$name"; done
