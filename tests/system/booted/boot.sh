#!/bin/sh
# Becomes systemd, as process 1 of new namespaces, in a copy of a system that costs no disk: boot.sh TREE FOLDER.
# The copy is an overlay whose changes stay in memory. Run by machine.py, as root, under unshare.
set -eu
tree=$1 folder=$2 root=$2/root

mount --make-rprivate /
mount -t tmpfs -o size=2g tmpfs "$folder"
mkdir "$folder/changes" "$folder/work" "$root"
mount -t overlay -o "lowerdir=$tree,upperdir=$folder/changes,workdir=$folder/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

# control groups as this kernel has them: the one hierarchy, or the several of old
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/systemd" "$root/sys/fs/cgroup/unified"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
    for controller in memory pids cpu; do
        mkdir "$root/sys/fs/cgroup/$controller"
        mount -t cgroup -o $controller cgroup "$root/sys/fs/cgroup/$controller" || rmdir "$root/sys/fs/cgroup/$controller"
    done
fi

hostname booted
echo booted >"$root/etc/hostname"
printf '127.0.0.1 localhost booted\n' >"$root/etc/hosts"
: >"$root/etc/machine-id"

mkdir "$root/old"
cd "$root"
pivot_root . old
umount -l /old
rmdir /old
mount --make-rshared /
exec env -i container=argosy-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --log-target=journal
