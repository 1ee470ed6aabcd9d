#!/bin/sh
# Installs the Debian packages that some tests need: a real broker, a real registry, a real browser,
# a real PKCS#11 library.
# Where it may not, it says what is missing; those tests then skip with the same reason (and fail
# under CI=true, where nothing may be left out).
set -eu

need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }

missing=""
need mosquitto mosquitto
[ -x /usr/sbin/mosquitto ] && missing=$(echo "$missing" | sed 's/ mosquitto//')
need skopeo skopeo
need docker-registry docker-registry
need chromium chromium
need softhsm2-util softhsm2
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "not a Debian system: left out are the tests that need:$missing"
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo"
else
    echo "neither root nor sudo: left out are the tests that need:$missing"
    echo "to run them too: sudo apt-get install -y --no-install-recommends$missing"
    exit 0
fi
echo "installing for the tests:$missing"
$as_root apt-get -o DPkg::Lock::Timeout=300 -qq update
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $as_root apt-get -o DPkg::Lock::Timeout=300 -qq install -y \
    --no-install-recommends $missing >/dev/null
