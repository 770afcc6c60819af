#!/usr/bin/env bash
# One command on a bare machine: sets up what is missing, then becomes Python (README.md lists the verbs).
#   ./run.sh fold=0        ./run.sh test -k loader        bash /elsewhere/run.sh runs
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
unset CDPATH

# Where the command was typed: relative paths among its words count from there (src/words.py).
export KFOLD_TYPED_IN=$PWD

# Work in the checkout this file belongs to, also when called from another folder or through a symlink.
script=${BASH_SOURCE[0]}
while [ -L "$script" ]; do
    target=$(readlink "$script")
    case $target in /*) script=$target ;; *) script=$(dirname "$script")/$target ;; esac
done
cd -P "$(dirname "$script")"

extra=
if [ "${1:-}" = test ]; then extra=dev; fi
stamp=.venv/.ready${extra:+-$extra}
supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'

# albumentations asks its maker's server for a newer version at import: seconds lost, more where the internet is off.
export NO_ALBUMENTATIONS_UPDATE=1

# The everyday check starts no Python: the stamp holds the checksum of the pyproject.toml that was installed last.
ready() { [ -x .venv/bin/python ] && [ -f "$stamp" ] && [ "$(cksum <pyproject.toml)" = "$(<"$stamp")" ]; }

# `runs PYTHON CODE`: a name on the PATH proves nothing (a version manager's shim may only complain), so really run it.
runs() { "$1" -c "$2; $supported" >/dev/null 2>&1; }

setup() {
    # The lock lies on pyproject.toml itself: no file to clean up, and it ends with its holders however they end.
    exec 9<pyproject.toml
    if command -v flock >/dev/null && ! flock -n 9; then
        echo "another start is setting up .venv; waiting for it …" >&2
        flock 9 || true
    fi
    if ! ready; then
        echo "setting up .venv (a few minutes, once) …" >&2
        local sum name base="" output complete=
        sum=$(cksum <pyproject.toml)
        [ -f .venv/.ready ] || complete=--complete
        rm -f .venv/.ready .venv/.ready-dev
        if ! runs .venv/bin/python 'import pip._internal.cli.main'; then # absent, half-made, or its Python is gone
            for name in python3 python3.12 python3.11 python3.13 python; do
                if runs "$name" 'import venv, ensurepip'; then base=$name && break; fi
            done
            if [ -z "$base" ]; then
                echo "error: no Python 3.11, 3.12 or 3.13 with the venv module here; install one" \
                    "(Debian, Ubuntu: apt-get install python3-venv) and start again" >&2
                exit 2
            fi
            if ! output=$("$base" -m venv --clear .venv 2>&1); then
                printf '%s\n' "$output" "error: '$base -m venv .venv' failed (its output is above)" >&2
                exit 2
            fi
        fi
        .venv/bin/python -P src/bootstrap.py --log .venv/install.log $complete ${extra:+--extra "$extra"}
        if [ -n "$extra" ]; then echo "$sum" >"$stamp"; fi
        echo "$sum" >.venv/.ready
    fi
    exec 9<&-
}

# A Kaggle notebook brings a torch built for its accelerator: keep that interpreter, add only what it lacks.
# (find_spec, because really importing torch costs seconds)
if [ -n "${KAGGLE_KERNEL_RUN_TYPE:-}" ] && runs python3 'import importlib.util as u; u.find_spec("torch") or exit(1)'; then
    python=python3
    verb=train
    case ${1:-} in '' | -* | *=*) ;; *) verb=$1 ;; esac
    # what is missing does not keep the doctor away, who says it too
    "$python" -P src/bootstrap.py --kaggle --verb "$verb" ${extra:+--extra "$extra"} || { code=$?; [ "$verb" = doctor ] || exit $code; }
else
    python=.venv/bin/python
    if ! ready; then setup; fi
fi

# exec: signals reach Python, which saves a checkpoint when it is told to stop.
if [ "${1:-}" = test ]; then
    shift
    # The whole suite is spread over the cores (at most four: each worker holds a gigabyte). A selection is over sooner
    # in one process, which loads torch once; `-n 2` asks for workers all the same, `-n 0` for the whole suite in one.
    # worksteal: neighbours share what their module has made, and who is idle takes over half of what another has left.
    if [ $# -eq 0 ]; then set -- -n logical --maxprocesses 4 --dist worksteal; fi
    exec "$python" -m pytest "$@"
fi
exec "$python" -m src.cli "$@"
