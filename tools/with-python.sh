#!/bin/sh
# Run a Python program of this folder with whatever Python 3.11 or newer there is; as root on Debian, install one first.
set -eu

find_python() {
    for name in python3 python3.11 python3.12 python3.13; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
}

python=$(find_python)
if [ -z "$python" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "bootstrap: apt-get install python3 python3-venv" >&2
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv >&2
    python=$(find_python)
fi
if [ -z "$python" ]; then
    echo "bootstrap: no Python 3.11 or newer found; on Debian, as root: apt-get install python3 python3-venv" >&2
    exit 1
fi
exec "$python" "$@"
