#!/bin/busybox sh
# shellcheck shell=dash
# The first process of a guest: mounts its root file system, adds what this run brings, and starts the init that the
# kernel's command line names (privbind.init=).
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
while read -r module; do
    insmod "$module" || echo "guest: $module cannot be loaded"
done </to-start
init=/sbin/init
read -r line </proc/cmdline
for word in $line; do
    case $word in
    privbind.init=*) init=${word#*=} ;;
    esac
done
tries=0
until [ -b /dev/vda ] || [ $tries -ge 200 ]; do
    usleep 50000
    tries=$((tries + 1))
done
mount -t ext4 /dev/vda /root || exec poweroff -f
mkdir -p /root/lib/modules
cp -a /lib/modules/* /root/lib/modules/
[ ! -b /dev/vdb ] || tar -xf /dev/vdb -C /root
# The users that the payload brings.
for file in passwd group; do
    [ ! -f /root/opt/guest/tests/kernels/inside/$file ] ||
        cat /root/opt/guest/tests/kernels/inside/$file >>/root/etc/$file
done
umount /proc /sys
mount --move /dev /root/dev
exec switch_root /root "$init"
