#!/bin/busybox sh
# shellcheck shell=dash
# The init of qemu.sh's guest, in both kernels.
/bin/busybox --install -s /bin
export PATH=/bin

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t debugfs debug /sys/kernel/debug
mount -t tmpfs run /run

end() {
    echo "guest: $1"
    poweroff -f
}

stage=1
grep -q luo_stage=2 /proc/cmdline && stage=2

luo-trace agent --journal serial:/dev/ttyS1 --ready-file /run/ready --format none &
agent=$!
until [ -e /run/ready ]; do
    kill -0 $agent || end "the agent did not get ready"
    sleep 0.1
done

/test -s $stage || end "stage $stage failed"
echo "guest: stage $stage passed"

if [ $stage = 1 ]; then
    kexec -s -l /kernel --initrd=/initrd --command-line="$(cat /proc/cmdline) luo_stage=2" || end "cannot load the next kernel"
    # The agent runs until the jump.
    kexec -e
    end "cannot jump"
fi
kill $agent
wait $agent
end "done"
