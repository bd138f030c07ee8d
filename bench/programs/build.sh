#!/bin/sh
# Rebuild the objects of this folder from the C sources beside them.
#
#   bench/programs/build.sh            in place
#   bench/programs/build.sh DIR        into DIR
#
# Needs clang 19 (Debian: apt-get install clang-19); CLANG=... names another one.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
folder=bench/programs
out=$root/$folder
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

mkdir -p "$out/experiments"
for source in "$folder"/*.bpf.c "$folder"/experiments/*.bpf.c; do
    name=${source#"$folder"/}
    name=${name%.bpf.c}
    "$clang" -target bpf -O2 -g -mcpu=v3 -std=gnu17 -Wall -Wextra -Werror -Wno-unused-parameter \
        -Wno-unused-variable -fdebug-compilation-dir=. -fdebug-prefix-map="$root"=. \
        -Itests/ordinary -Iexamples/include -DIOURING_PROFILE=3 \
        -c "$source" -o "$out/$name.bpf.o"
done

# What engines are timed with: for them, and once more for a kernel.
mkdir -p "$out/engines"
for made in speed:speed: speed.kernel:speed:-DIN_KERNEL hundred:hundred:; do
    target=${made%%:*} rest=${made#*:}
    # shellcheck disable=SC2086
    "$clang" -target bpf -O2 -g -mcpu=v3 -std=gnu17 -Wall -Wextra -Werror -Wno-unused-parameter \
        -Wno-unused-variable -fno-strict-aliasing -fno-builtin-memcpy \
        -fdebug-compilation-dir=. -fdebug-prefix-map="$root"=. ${rest#*:} \
        -c "$folder/engines/${rest%%:*}.bpf.c" -o "$out/engines/$target.bpf.o"
done
