# shellcheck shell=bash
# Sourced by the other scripts: a virtual environment with genjax in it, made once.
#   PYTHON         interpreter to make it with (default: python3.12, python3.11 or python3)
#   GENJAX_EXTRAS  extras to install, such as "tpu" or "cuda,gcs" (default: found by looking)
#   needs          set by the script that sources this: extras that it needs besides
# An active virtual environment is used as it is; otherwise .venv in the checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.12 python3.11 python3 python3.13}; do
    new_enough "$candidate" && { echo "$candidate"; return; }
  done
  return 1
}

find_extras() {
  if [ -n "${GENJAX_EXTRAS:-}" ]; then echo "$GENJAX_EXTRAS"
  elif compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then echo tpu
  elif command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then echo cuda
  else echo ""; fi
}

if [ -z "${VIRTUAL_ENV:-}" ]; then
  if [ ! -x .venv/bin/python ]; then
    python=$(find_python) || {
      echo "launch: genjax needs Python 3.11 or newer; install it, or let PYTHON name it" >&2
      exit 2
    }
    "$python" -m venv .venv >&2 || {
      rm -rf .venv
      echo "launch: $python makes no virtual environment (Debian: apt-get install python3-venv)" >&2
      exit 1
    }
  fi
  export VIRTUAL_ENV="$PWD/.venv"
fi
export PATH="$VIRTUAL_ENV/bin:$PATH"
new_enough python || {
  echo "launch: $VIRTUAL_ENV has a Python older than 3.11; leave it, or remove it" >&2
  exit 2
}

extras="$(find_extras)${needs:+,$needs}"
extras="${extras#,}"
stamp="$VIRTUAL_ENV/.genjax-$(cksum < setup.py | cut -d' ' -f1)-${extras//,/-}"
if [ ! -f "$stamp" ]; then
  echo "launch: installing genjax${extras:+ with $extras} into $VIRTUAL_ENV"
  log="$VIRTUAL_ENV/genjax-install.log"
  python -m pip install --disable-pip-version-check -e ".${extras:+[$extras]}" >"$log" 2>&1 ||
    { tail -20 "$log" >&2; echo "launch: the installation failed; all of it is in $log" >&2; exit 1; }
  touch "$stamp"
fi
