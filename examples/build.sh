#!/bin/sh
# Rebuild every committed BPF object from the C source beside it.
#
#   examples/build.sh            in place
#   examples/build.sh DIR        into DIR, with the same relative paths
#
# Needs clang 19 (Debian: apt-get install clang-19); CLANG=... names another one. Objects are the
# same wherever they are built: paths in debug information are relative to the repository.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
out=$root
if [ $# -gt 0 ]; then
    mkdir -p "$1"
    out=$(cd "$1" && pwd)
fi
clang=${CLANG:-$(command -v clang-19 || command -v clang || true)}
if [ -z "$clang" ]; then
    echo "build.sh: no clang that compiles BPF: install clang-19, or set CLANG=path" >&2
    exit 2
fi
cd "$root"

# build SOURCE OBJECT PROFILE [option...]
build() {
    source=$1 object=$out/$2 profile=$3
    shift 3
    mkdir -p "$(dirname "$object")"
    "$clang" -target bpf -O2 -g -mcpu=v3 -std=gnu17 -Wall -Wextra -Wno-unused-parameter -Werror \
        -fdebug-compilation-dir=. -fdebug-prefix-map="$root"=. -Iexamples/include \
        -DIOURING_PROFILE="$profile" "$@" -c "$source" -o "$object"
}

for folder in examples/[0-9]*/; do
    build "${folder}prog.bpf.c" "${folder}prog.v2.bpf.o" 2
    build "${folder}prog.bpf.c" "${folder}prog.v3.bpf.o" 3
    if [ -e "${folder}twin.bpf.c" ]; then
        build "${folder}twin.bpf.c" "${folder}twin.v3.bpf.o" 3
    fi
done

# The merged upstream ABI: one object for all dialects of it.
for folder in examples/loop_*/; do
    build "${folder}prog.bpf.c" "${folder}prog.bpf.o" 0 -mcpu=v4
    if [ -e "${folder}twin.bpf.c" ]; then
        build "${folder}twin.bpf.c" "${folder}twin.bpf.o" 0 -mcpu=v4
    fi
done

# The prototype's open questions: iouring-x.
for folder in examples/x_*/; do
    build "${folder}prog.bpf.c" "${folder}prog.x.bpf.o" 3
    build "${folder}twin.bpf.c" "${folder}twin.x.bpf.o" 3
done

# The server that docs/debugging.md looks into, and its twin that does not hang.
for name in echo fixed; do
    build tests/data/hang/$name.bpf.c tests/data/hang/$name.v3.bpf.o 3
done

# Acceptance programs: every profile, then every way an object of the time may look.
acceptance=tests/acceptance
for name in tables rows load_checks; do
    build $acceptance/$name.bpf.c $acceptance/$name.v2.bpf.o 2
    build $acceptance/$name.bpf.c $acceptance/$name.v2-futex.bpf.o 21
    build $acceptance/$name.bpf.c $acceptance/$name.v3base.bpf.o 30
    build $acceptance/$name.bpf.c $acceptance/$name.v3.bpf.o 3
done
for version in 2 3; do
    base=$acceptance/tables.v$version
    build $acceptance/tables.bpf.c $base.core.bpf.o $version -DIOURING_CORE=1
    build $acceptance/tables.bpf.c $base.legacy.bpf.o $version -DLEGACY_MAPS=1
    build $acceptance/tables.bpf.c $base.legacy-nodebug.bpf.o $version -DLEGACY_MAPS=1 -g0
    build $acceptance/tables.bpf.c $base.named.bpf.o $version -DNAMED_SECTIONS=1
    build $acceptance/tables.bpf.c $base.cpu-v1.bpf.o $version -mcpu=v1
done
build $acceptance/submit_bad.bpf.c $acceptance/submit_bad.v1.bpf.o 1
build $acceptance/submit_bad.bpf.c $acceptance/submit_bad.v2.bpf.o 2
build $acceptance/not_sleepable.bpf.c $acceptance/not_sleepable.v2.bpf.o 2

# Programs with a loop: rows that run, rows that are loaded or not, the programs of the tables.
for name in loop_rows loop_load loop_licence loop_members loop_object loop_tables; do
    build $acceptance/$name.bpf.c $acceptance/$name.bpf.o 0 -mcpu=v4
done

build $acceptance/loop_licence.bpf.c $acceptance/loop_licence.nodebug.bpf.o 0 -mcpu=v4 -g0
build $acceptance/loop_rows.bpf.c $acceptance/loop_rows.nodebug.bpf.o 0 -mcpu=v4 -g0
build $acceptance/loop_object.bpf.c $acceptance/loop_object.be.bpf.o 0 -mcpu=v4 --target=bpfeb

# Twins of the lints: what each warns of, and what it does not.
lints=tests/data/lints
build $lints/twins.bpf.c $lints/twins.v2.bpf.o 2
build $lints/twins.bpf.c $lints/twins.v3.bpf.o 3
build $lints/first_posting.bpf.c $lints/first_posting.v1.bpf.o 1
build $lints/behaviours.bpf.c $lints/behaviours.v2.bpf.o 2
build $lints/behaviours.bpf.c $lints/behaviours.v3.bpf.o 3
build $lints/loop.bpf.c $lints/loop.bpf.o 0 -mcpu=v4
for number in 2506 2511 2606; do
    build $lints/loop_dialect.bpf.c $lints/loop_dialect.$number.bpf.o 0 -mcpu=v4 -DDIALECT=$number
done

# Programs that the native ring loop runs, for comparison with Python's.
loops=tests/data/loops
build $loops/loops.bpf.c $loops/loops.v2.bpf.o 2
build $loops/loops.bpf.c $loops/loops.v3.bpf.o 3
build $loops/steps.bpf.c $loops/steps.bpf.o 0 -mcpu=v4

# Servers that many clients use at a time.
servers=tests/data/servers
build $servers/echo.bpf.c $servers/echo.v2.bpf.o 2
build $servers/echo.bpf.c $servers/echo.v3.bpf.o 3

# Refused programs whose way out is told in the words of the C source.
build tests/verifier/data/advice.bpf.c tests/verifier/data/advice.bpf.o 0

# An SQE that a global function submits.
build tests/verifier/data/sqe_param.bpf.c tests/verifier/data/sqe_param.bpf.o 3

# Programs of an arena, and of functions that take pointers into it.
build tests/verifier/data/arena.bpf.c tests/verifier/data/arena.bpf.o 0

# Global functions whose parameters have tags.
build tests/verifier/data/tagged.bpf.c tests/verifier/data/tagged.bpf.o 0

# Programs that go wrong in some orders.
build tests/data/explore/orders.bpf.c tests/data/explore/orders.v3.bpf.o 3
build tests/data/explore/tries.bpf.c tests/data/explore/tries.v3.bpf.o 3

# Dialects of rings driven from inside an enter, before and after the merged one.
dialects=tests/data/dialects
for name in prototype june november timeout gate xor; do
    build $dialects/$name.bpf.c $dialects/$name.bpf.o 0 -mcpu=v4
done
for number in 81 82 83; do
    build $dialects/op.bpf.c $dialects/op.$number.bpf.o 0 -mcpu=v4 -DDIALECT=$number
done

# Two that libbpf's linker makes one of.
for name in one two; do
    build tests/data/linking/$name.bpf.c tests/data/linking/$name.bpf.o 0 -mcpu=v4
done

# Ring programs with a function, and programs of another object that take its place.
replacing=tests/data/replacing
for name in nops depth; do
    build $replacing/$name.bpf.c $replacing/$name.bpf.o 0 -mcpu=v4
done
build $replacing/request.bpf.c $replacing/request.v3.bpf.o 3
