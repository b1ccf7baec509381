# Sourced by the other scripts: a virtual environment with genjax in it, made once.
#   PYTHON         interpreter to make it with (default: python3.12, python3.11 or python3)
#   GENJAX_EXTRAS  extras to install, such as "tpu" or "cuda,gcs" (default: found by looking)
# An active virtual environment is used as it is; otherwise .venv in the checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.12 python3.11 python3 python3.13; do
    [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null && { echo "$candidate"; return; }
  done
  echo "launch: genjax needs Python 3.11 or newer; install it, or set PYTHON" >&2
  return 2
}

find_extras() {
  if [ -n "${GENJAX_EXTRAS:-}" ]; then echo "$GENJAX_EXTRAS"
  elif compgen -G '/dev/accel*' >/dev/null; then echo tpu
  elif command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then echo cuda
  else echo ""; fi
}

if [ -z "${VIRTUAL_ENV:-}" ]; then
  [ -x .venv/bin/python ] || "$(find_python)" -m venv .venv
  export VIRTUAL_ENV="$PWD/.venv"
fi
export PATH="$VIRTUAL_ENV/bin:$PATH"

extras="$(find_extras)${1:+,$1}"
extras="${extras#,}"
stamp="$VIRTUAL_ENV/.genjax-$(cksum < setup.py | cut -d' ' -f1)-${extras//,/-}"
if [ ! -f "$stamp" ]; then
  echo "launch: installing genjax${extras:+ with $extras} into $VIRTUAL_ENV"
  log="$VIRTUAL_ENV/genjax-install.log"
  python -m pip install --disable-pip-version-check -e ".${extras:+[$extras]}" >"$log" 2>&1 ||
    { tail -20 "$log" >&2; echo "launch: the installation failed; all of it is in $log" >&2; exit 1; }
  touch "$stamp"
fi
