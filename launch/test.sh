#!/usr/bin/env bash
# Sets up and runs the tests. Arguments go to pytest: `bash launch/test.sh -m slow`.
source "$(dirname "$0")/setup.sh" test
exec python -m pytest "$@"
