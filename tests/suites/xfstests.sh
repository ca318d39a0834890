#!/bin/sh
# Runs xfstests' generic tests on two mounts of Brickyard, as root.
#
# usage: xfstests.sh CHECKOUT TEST SCRATCH CREDENTIAL [REPORT] [-- WHAT...]
#
# CHECKOUT   xfstests, built there with make; nothing is fetched
# TEST       what the tests get as their filesystem, as mount.brickyard takes it: ADDR:PORT:/DIR
# SCRATCH    what they may empty: another directory, or another cluster
# CREDENTIAL that both are mounted with
# REPORT     file for the whole output
# WHAT       arguments of xfstests' check [default: -g quick]
#
# Prints "FAILED generic/N" for each test that failed, and then "N passed, N failed, N not run".
# Exit code: 0 when the tests ran to their end, whatever they found; 2 when they could not run.
set -u
die() { echo "xfstests.sh: $*" >&2; exit 2; }

[ $# -ge 4 ] || die "usage: xfstests.sh CHECKOUT TEST SCRATCH CREDENTIAL [REPORT] [-- WHAT...]"
checkout=$1 test=$2 scratch=$3 credential=$4
shift 4
report=
if [ $# -gt 0 ] && [ "$1" != -- ]; then report=$1; shift; fi
[ "${1:-}" = -- ] && shift
[ $# -gt 0 ] || set -- -g quick
[ "$(id -u)" = 0 ] || die "must run as root"
[ -x "$checkout/check" ] && [ -x "$checkout/ltp/fsstress" ] || die "$checkout is no xfstests that was built: run make there"
mounter=$(command -v mount.brickyard) || die "mount.brickyard is not in PATH"
[ -r "$credential" ] || die "$credential can't be read"
credential=$(readlink -f "$credential")
for user in fsgqa fsgqa2 123456-fsgqa; do
    id "$user" >/dev/null 2>&1 || die "there is no user $user, whom the tests work as: useradd --badname -m $user"
done

work=$(mktemp -d) || die "cannot make a directory"
chmod 755 "$work"
mkdir "$work/test" "$work/scratch"
# mount(8) hands a filesystem with a subtype to a program of its name.
helper=/sbin/mount.fuse.brickyard
[ -e "$helper" ] && die "$helper is there already: another run may be under way"
clean() {
    umount -l "$work/test" "$work/scratch" 2>/dev/null
    rm -f "$helper"
    rmdir "$work/test" "$work/scratch" && rm -rf "$work"
}
trap clean EXIT
trap 'exit 2' INT TERM
# The tests know filesystems of type fuse, without a subtype.
mkdir "$work/bin"
printf '#!/bin/sh\n%s "$@" | sed "s/fuse[.]brickyard/fuse/"\n' "$(command -v df)" >"$work/bin/df" && chmod 755 "$work/bin/df"
PATH=$work/bin:$PATH
printf '#!/bin/sh\nexec %s "$@"\n' "$mounter" >"$helper" && chmod 755 "$helper" || die "cannot write $helper"

cat >"$work/config" <<CONFIG
export FSTYP=fuse
export FUSE_SUBTYP=.brickyard
export TEST_DEV=$test
export TEST_DIR=$work/test
export TEST_FS_MOUNT_OPTS="-o cred=$credential,log=$work/test.log"
export SCRATCH_DEV=$scratch
export SCRATCH_MNT=$work/scratch
export MOUNT_OPTIONS="-o cred=$credential,log=$work/scratch.log"
export RESULT_BASE=$work/results
CONFIG
: "${report:=$work/report}"
(cd "$checkout" && HOST_OPTIONS=$work/config ./check "$@") >"$report" 2>&1

ran=$(sed -n 's/^Ran: //p' "$report" | tail -n 1)
[ -n "$ran" ] || { tail -n 20 "$report" >&2; die "the tests did not come to their end"; }
list() { sed -n "s/^$1: //p" "$report" | tail -n 1; }
for name in $(list Failures); do echo "FAILED $name"; done
count() { echo "$#"; }
all=$(count $ran) failed=$(count $(list Failures)) skipped=$(count $(list 'Not run'))
echo "$((all - failed - skipped)) passed, $failed failed, $skipped not run"
