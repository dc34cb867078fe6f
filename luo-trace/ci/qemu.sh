#!/bin/sh
# A live update in QEMU, recorded in both kernels: no disk, no network, no root. See README.md beside this file.
#
#   qemu.sh KERNEL AGENT TEST OUTPUT
#
# KERNEL  a bzImage with what the agent needs
# AGENT   a static luo-trace
# TEST    a static program, run as `TEST -s 1` in the first kernel and as `TEST -s 2` in the second: luo_kexec_simple and the
#         others of tools/testing/selftests/liveupdate are such
# OUTPUT  where console.log and serial.log are left; the latter is for luo-trace check
#
# ACCEL   how QEMU runs the guest: tcg or kvm; unless set, kvm where it works
# TIMEOUT when it has failed, in seconds
# CMDLINE more words for the kernel's command line
#
# It exits with 0 when both stages passed. Whether the update kept its promises is for luo-trace check to say.
set -eu

[ $# -eq 4 ] || { sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 2; }
kernel=$1 agent=$2 test=$3 output=$4
for program in busybox cpio gzip kexec ldd timeout qemu-system-x86_64; do
    command -v "$program" >/dev/null || { echo "qemu.sh needs $program (Debian: busybox-static cpio kexec-tools qemu-system-x86)" >&2; exit 2; }
done

here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$output" "$work/root/bin" "$work/root/dev" "$work/root/proc" "$work/root/sys" "$work/root/run" "$work/root/tmp"

# pack DIRECTORY > INITRAMFS
pack() { (cd "$1" && find . | cpio --quiet --create --format=newc --owner=0:0 | gzip -1); }

cp "$(command -v busybox)" "$work/root/bin/busybox"
cp "$agent" "$work/root/bin/luo-trace"
cp "$test" "$work/root/test"
install -m 755 "$here/guest-init.sh" "$work/root/init"
# kexec is not static: it takes its libraries along.
for file in "$(command -v kexec)" $(ldd "$(command -v kexec)" | grep -o '/[^ ]*'); do
    mkdir -p "$work/root$(dirname "$file")"
    cp -L "$file" "$work/root$file"
done
ln -s "$(command -v kexec)" "$work/root/bin/kexec"

# The second kernel's initramfs lies in the first one's, with the kernel.
pack "$work/root" >"$work/second"
cp "$kernel" "$work/root/kernel"
mv "$work/second" "$work/root/initrd"
pack "$work/root" >"$work/first"

: >"$output/console.log"
: >"$output/serial.log"
accel="-accel kvm -accel tcg"
[ -z "${ACCEL:-}" ] || accel="-accel $ACCEL"
# shellcheck disable=SC2086 # two words for each
timeout "${TIMEOUT:-300}" qemu-system-x86_64 \
    $accel -cpu max -smp 2 -m 1G -nodefaults -display none -no-reboot \
    -serial "file:$output/console.log" -serial "file:$output/serial.log" \
    -kernel "$kernel" -initrd "$work/first" \
    -append "console=ttyS0 kho=on liveupdate=on panic=-1 ${CMDLINE:-}" || true

for stage in 1 2; do
    grep -q "guest: stage $stage passed" "$output/console.log" ||
        { echo "stage $stage did not pass; the end of $output/console.log:" >&2; tail -n 20 "$output/console.log" >&2; exit 1; }
done
