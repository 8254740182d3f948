#!/bin/sh
# Becomes a program of an arm64 system, which qemu emulates: enter.sh TREE STATE PROGRAM [ARGUMENT]...
# STATE is a folder that the program finds as /srv/state. Run by board.py under unshare, so that neither the emulation nor
# the mounts reach the rest of this machine.
set -eu
tree=$1 state=$2
shift 2
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
printf '%s' ":argosy-arm64:M::$magic:$mask:$(command -v qemu-aarch64-static):F" >/proc/sys/fs/binfmt_misc/register
mount --rbind /proc "$tree/proc"
mount --rbind /dev "$tree/dev"
mkdir -p "$tree/srv/state"
mount --bind "$state" "$tree/srv/state"
# not by PATH: it is the emulated system's from here on
exec chroot "$tree" "$@"
