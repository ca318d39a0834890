#!/bin/sh
# Runs pjdfstest, a POSIX conformance suite, as root in a directory.
#
# usage: pjdfstest.sh DIRECTORY [REPORT]
#
# Prints the name of each test that failed, one a line after "FAILED ", and then
# "N passed, N failed, N skipped". The whole output goes to REPORT if that is given.
# Exit code: 0 when the suite ran to its end, whatever it found; 2 when it could not run.
set -u
here=$(cd "$(dirname "$0")" && pwd)
tools=${BRICKYARD_TOOLS:-$HOME/.cache/brickyard/tools/bin}

die() { echo "pjdfstest.sh: $*" >&2; exit 2; }

[ $# -ge 1 ] || die "usage: pjdfstest.sh DIRECTORY [REPORT]"
[ -d "$1" ] || die "$1 is not a directory"
[ "$(id -u)" = 0 ] || die "must run as root: the suite makes devices and changes users"
PATH=$tools:$PATH
command -v pjdfstest >/dev/null ||
    die "pjdfstest is missing: cargo install --locked --root ${tools%/bin} pjdfstest --version 0.2.2"

work=$1/pjdfstest.$$
# Links and renames between two filesystems must fail: the other one is a tmpfs.
other=/dev/shm/pjdfstest.$$
mkdir -m 755 "$work" "$other" || die "cannot make $work and $other"
report=${2:-$other.report}
clean() {
    rm -rf "$work" "$other"
    [ "$report" = "$other.report" ] && rm -f "$report"
}
trap clean EXIT
trap 'exit 2' INT TERM

# The path of a socket may have 108 bytes only: in a mount namespace of its own the suite works on
# the short path /mnt.
NO_COLOR=1 unshare --mount sh -c 'mount --bind "$1" /mnt && shift && exec "$@"' sh "$work" \
    pjdfstest --configuration-file "$here/pjdfstest.toml" --path /mnt \
    --secondary-fs "$other" >"$report" 2>&1

sed -n 's/^\([a-z][A-Za-z0-9_:]*\)  *FAILED$/FAILED \1/p' "$report" | sort
summary=$(sed -n 's/^Summary: \([0-9]*\) failed, \([0-9]*\) skipped, \([0-9]*\) passed.*/\3 passed, \1 failed, \2 skipped/p' "$report")
[ -n "$summary" ] || { tail -n 20 "$report" >&2; die "the suite did not come to its end"; }
echo "$summary"
