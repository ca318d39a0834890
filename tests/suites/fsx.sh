#!/bin/sh
# Runs fsx, the file system exerciser: random operations on one file, each read verified.
#
# usage: fsx.sh DIRECTORY [OPERATIONS [SEED]]
#
# Exit code: 0 when every operation gave what it must; 1 when one did not (what was done before
# it is printed); 2 when it could not run.
set -u
here=$(cd "$(dirname "$0")" && pwd)
tools=${BRICKYARD_TOOLS:-$HOME/.cache/brickyard/tools/bin}
operations=${2:-20000}
seed=${3:-42}

die() { echo "fsx.sh: $*" >&2; exit 2; }

[ $# -ge 1 ] || die "usage: fsx.sh DIRECTORY [OPERATIONS [SEED]]"
[ -d "$1" ] || die "$1 is not a directory"
PATH=$tools:$PATH
command -v fsx >/dev/null || die "fsx is missing: cargo install --locked --root ${tools%/bin} fsx --version 0.3.2"

# Its artifacts must not lie on what is tested.
artifacts=$(mktemp -d) || die "cannot make a temporary directory"
trap 'rm -rf "$artifacts"' EXIT
trap 'exit 2' INT TERM

if fsx -f "$here/fsx.toml" -N "$operations" -S "$seed" -P "$artifacts" "$1/fsx.$$" >"$artifacts/out" 2>&1; then
    rm -f "$1/fsx.$$"
    echo "fsx: $operations operations from seed $seed, all as they must be"
else
    tail -n 60 "$artifacts/out" >&2
    echo "fsx: FAILED; again: fsx.sh $1 $operations $seed" >&2
    exit 1
fi
