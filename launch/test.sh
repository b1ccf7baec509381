#!/usr/bin/env bash
# Sets up and runs the tests. Arguments go to pytest: `bash launch/test.sh -m slow -n 0`.
needs="test" source "$(dirname "$0")/setup.sh"
# Two workers: most of a test is compiling, which uses one core.
exec python -m pytest -n 2 --dist worksteal "$@"
