#!/usr/bin/env bash
# Makes .venv beside this file and installs the pinned requirements into it; see --help.
set -euo pipefail
cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"

usage() {
  cat <<'TEXT'
usage: bash install_async_deps.sh [--dev] [--no-demo] [--trace]

Makes .venv and installs the pinned wheels of requirements.txt and requirements-demo.txt.

  --dev    also what tests and checks need: requirements-dev.txt, and as root on Debian
           the missing ones of the packages redis-server, postgresql, chromium,
           nginx-light, curl, sqlite3 and rsync; services are neither started nor stopped
  --no-demo  leave out requirements-demo.txt: the demo's avatars then stay mute and unseen,
           and the gateway itself lacks nothing
  --trace  also requirements-trace.txt, for GATEWAY_TRACES; --dev has it anyway
  --help   show this text

Running it again is quick and harmless: what is up to date is left alone.
PYTHON=python3.12 chooses the interpreter, 3.11 or later.
TEXT
}

VENV=.venv
STAMP=$VENV/.installed
DEV_PACKAGES=(redis-server postgresql chromium nginx-light curl sqlite3 rsync)
# Quick proof that the environment works: one import for each compiled package.
IMPORTS="import flask, greenlet, granian, httpx, hypercorn, psycopg, pydantic, pyreqwest, sqlalchemy"

main() {
  local level=run demo=yes trace=no files=(requirements.txt)
  for option in "$@"; do
    case $option in
      --dev) level=dev ;;
      --no-demo) demo=no ;;
      --trace) trace=yes ;;
      -h | --help) usage; exit 0 ;;
      *) usage >&2; fail "unknown option $option" ;;
    esac
  done
  if [[ $demo == yes ]]; then
    files+=(requirements-demo.txt)
    IMPORTS+=", aiortc, av, espeakng_loader, numpy, PIL"
  fi
  if [[ $level == dev || $trace == yes ]]; then files+=(requirements-trace.txt); fi
  if [[ $level == dev ]]; then files+=(requirements-dev.txt); fi
  choose_python
  if [[ $level == dev ]]; then install_packages; fi
  local wanted
  wanted=$(digest "${files[@]}")
  if up_to_date "$level" "$wanted"; then
    say "$VENV is up to date"
  else
    install_wheels "$level" "$wanted" "${files[@]}"
  fi
  say "ready: $("$VENV/bin/python" --version) in $VENV"
}

say() { printf '==> %s\n' "$*"; }
fail() { printf 'install_async_deps.sh: %s\n' "$*" >&2; exit 1; }
as_root_on_debian() { [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; }

choose_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      PYTHON=$candidate
      return
    fi
  done
  local found
  found=$("${PYTHON:-python3}" --version 2>/dev/null) || true
  fail "needs Python 3.11 or later; found: ${found:-none}
Install one (Debian 12 and later: apt-get install python3 python3-venv) or name it: PYTHON=python3.12 bash $0"
}

digest() { cat "$@" | "$PYTHON" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'; }

# covers "A B" A B C: whether every file of the first argument is among the others.
covers() {
  local file wanted=$1
  shift
  for file in $wanted; do [[ " $* " == *" $file "* ]] || return 1; done
}

# The folder belongs into the stamp, because scripts inside a moved environment point to the old place.
stamp() { printf '%s %s %s\n' "$1" "$2" "$PWD"; }

up_to_date() {
  local level=$1 wanted=$2
  [[ -f $STAMP ]] && grep -qxF "$(stamp "$level" "$wanted")" "$STAMP" && works
}

works() { "$VENV/bin/python" -c "$IMPORTS" 2>/dev/null; }

install_wheels() {
  local level=$1 wanted=$2 requirements=() file
  shift 2
  for file in "$@"; do requirements+=(-r "$file"); done
  make_environment
  rm -f "$STAMP"
  say "installing the wheels of $*"
  # Wheels only: nothing is compiled, and no package runs code of its own while it is installed.
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --only-binary :all: "${requirements[@]}"
  say "checking that they fit together"
  "$VENV/bin/python" -m pip check --disable-pip-version-check
  works || fail "$VENV does not work: $("$VENV/bin/python" -c "$IMPORTS" 2>&1 | tail -n 1)"
  record "$level" "$wanted" "${files[@]}"
}

record() {
  {
    stamp "$1" "$2"
    # More than was asked for does not hinder: tools on top of the plain run, the demo's libraries on top of none.
    local files
    for files in requirements.txt "requirements.txt requirements-demo.txt"; do
      # shellcheck disable=SC2086
      if covers "$files" "${@:3}"; then stamp run "$(digest $files)"; fi
    done
  } >"$STAMP"
}

make_environment() {
  if [[ -x $VENV/bin/python ]] && healthy_environment; then
    return
  fi
  if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
    as_root_on_debian ||
      fail "this Python cannot make virtual environments; as root: apt-get install python3-venv"
    say "installing the package python3-venv"
    apt_install python3-venv || fail "python3-venv could not be installed"
  fi
  say "making $VENV with $("$PYTHON" --version)"
  "$PYTHON" -m venv --clear "$VENV"
}

# Made here, not copied or moved from elsewhere, by a Python that is still there and new enough.
healthy_environment() {
  "$VENV/bin/python" -c '
import os, pip, sys
sys.exit(sys.version_info < (3, 11) or not os.path.samefile(sys.prefix, sys.argv[1]))' "$VENV" 2>/dev/null &&
    grep -qsF "$PWD/$VENV" "$VENV/bin/activate"
}

install_packages() {
  local package missing=()
  if ! command -v dpkg-query >/dev/null; then
    say "not Debian: tests that need ${DEV_PACKAGES[*]} skip unless these are here"
    return
  fi
  for package in "${DEV_PACKAGES[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
  done
  if [[ ${#missing[@]} -eq 0 ]]; then
    say "all Debian packages for the tests are here"
  elif as_root_on_debian; then
    say "installing the Debian packages ${missing[*]}"
    apt_install "${missing[@]}" || say "not installed: ${missing[*]}; tests that need them skip"
  else
    say "not installed: ${missing[*]}; tests that need them skip (as root: apt-get install ${missing[*]})"
  fi
}

apt_install() {
  local status=0
  without_starting_services
  DEBIAN_FRONTEND=noninteractive apt-get -qq update >/dev/null || say "the package lists could not be updated"
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$@" >/dev/null || status=$?
  as_services_were
  return "$status"
}

# Debian starts what it installs, unless this file says no: a test needs the program, not port 80.
POLICY=/usr/sbin/policy-rc.d
without_starting_services() {
  if [[ ! -e $POLICY ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
    trap as_services_were EXIT
    policy_is_ours=yes
  fi
}
as_services_were() {
  if [[ ${policy_is_ours:-no} == yes ]]; then rm -f "$POLICY"; fi
  policy_is_ours=no
}

main "$@"
