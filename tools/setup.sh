#!/usr/bin/env bash
# Makes .venv with all that the demo and the tests need, Debian's libraries for Qt included.
# Once everything is there it takes a moment and prints nothing.
#
#   tools/setup.sh                   a library missing for windows is named, the rest goes on
#   tools/setup.sh --needs-display   a library missing for windows ends it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
STAMP=.venv/.setup-stamp
# What napari's window on PyQt6, and the virtual display of the tests, link to.
WINDOW_PACKAGES=(
    xvfb xauth libegl1 libgl1 libglib2.0-0 libfontconfig1 libfreetype6 libdbus-1-3 libx11-xcb1
    libxkbcommon-x11-0 libxcb-cursor0 libxcb-glx0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1
    libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-shm0 libxcb-sync1 libxcb-xfixes0
    libxcb-xinerama0 libxcb-xkb1
)

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
venv_works() { is_new_enough .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }
# Debian 13 renamed some libraries (libglib2.0-0 is libglib2.0-0t64 there); both names count.
installed_packages() {
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" "${@/%/t64}" 2>/dev/null |
        sed -n 's/^installed //p' | sed 's/t64$//'
}

missing_window_packages() {
    command -v dpkg-query >/dev/null || return 0
    local there package
    there=" $(installed_packages "${WINDOW_PACKAGES[@]}" | tr '\n' ' ') "
    for package in "${WINDOW_PACKAGES[@]}"; do
        [[ $there == *" $package "* ]] || echo "$package"
    done
}

can_make_venv() { "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; }

missing_python_packages() {
    if is_new_enough .venv/bin/python; then
        return
    elif ! command -v "$PYTHON" >/dev/null; then
        echo python3 python3-venv
    elif is_new_enough "$PYTHON" && ! can_make_venv; then
        "$PYTHON" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
    fi
}

# MISSING: the packages Debian has still to bring, those of Python first.
find_missing() { MISSING=($(missing_python_packages) $(missing_window_packages)); }

install_system_packages() {
    find_missing
    ((${#MISSING[@]})) || return 0
    command -v apt-get >/dev/null && [[ $(id -u) == 0 ]] || return 0
    say "installing system packages: ${MISSING[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q </dev/null || say "apt-get update failed; going on with the old package lists"
    apt-get install -q -y --no-install-recommends "${MISSING[@]}" </dev/null ||
        say "apt-get could not install everything, see above"
    find_missing
}

name_missing() {
    say "some system packages are missing. This installs them:"
    say "    sudo apt-get update && sudo apt-get install -y --no-install-recommends ${MISSING[*]}"
}

make_venv() {
    venv_works && return
    command -v "$PYTHON" >/dev/null ||
        die "there is no $PYTHON. Install Python 3.11 or newer, or name one: make PYTHON=python3.12 ..."
    is_new_enough "$PYTHON" ||
        die "$PYTHON is $("$PYTHON" --version 2>&1), but 3.11 or newer is needed. Name one: make PYTHON=python3.12 ..."
    can_make_venv ||
        die "$PYTHON cannot make virtual environments. Install its venv module (python3-venv on Debian)."
    say "making .venv with $("$PYTHON" --version)"
    "$PYTHON" -m venv --clear .venv
}

pip_install() {
    .venv/bin/python -m pip install --no-input --disable-pip-version-check "$@" |
        sed '/^Requirement already satisfied/d'
}

install_python_packages() {
    local wanted
    wanted="$(cat pyproject.toml tools/setup.sh | cksum) $PWD"
    if [[ -x .venv/bin/python && -f $STAMP && $(<"$STAMP") == "$wanted" ]]; then
        return
    fi
    make_venv
    rm -f "$STAMP"
    say "installing Python packages into .venv (the first time up to 6 GB and some minutes)"
    # pip 25.1 is the first that installs dependency groups
    pip_install 'pip>=25.1' && pip_install --editable . --group dev 'napari[pyqt6]' ||
        die "pip could not install everything, see above. Mend it and run the same command again."
    echo "$wanted" >"$STAMP"
}

install_system_packages
if ((${#MISSING[@]})) && [[ ${1:-} == --needs-display || ${MISSING[0]} == python* ]]; then
    name_missing
    die "then run the same command again."
fi
install_python_packages
if ((${#MISSING[@]})); then
    name_missing
    say "without them napari's window cannot open; all else works."
fi
