#!/bin/sh
# Installs what emulates a 64-bit ARM board (qemu's user mode and a tool that unpacks Debian for it),
# what boots a container with systemd, and what logs every write of a disk.
# Where it may not, it says so; the tests then skip with the same reason (and fail under CI=true).
set -eu

missing=""
command -v qemu-aarch64-static >/dev/null 2>&1 || missing="$missing qemu-user-static"
command -v mmdebstrap >/dev/null 2>&1 || missing="$missing mmdebstrap debian-archive-keyring"
command -v systemd-nspawn >/dev/null 2>&1 || missing="$missing systemd-container"
command -v qemu-storage-daemon >/dev/null 2>&1 || missing="$missing qemu-system-common"
command -v fusermount3 >/dev/null 2>&1 || missing="$missing fuse3"
command -v mke2fs >/dev/null 2>&1 || missing="$missing e2fsprogs"
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "not a Debian system: left out are the tests on boards, disks and containers; they need:$missing"
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo"
else
    echo "neither root nor sudo: left out are the tests on boards, disks and containers; they need:$missing"
    echo "to run them too: sudo apt-get install -y --no-install-recommends$missing"
    exit 0
fi
echo "installing for make test-device:$missing"
$as_root apt-get -o DPkg::Lock::Timeout=300 -qq update
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $as_root apt-get -o DPkg::Lock::Timeout=300 -qq install -y \
    --no-install-recommends $missing >/dev/null
