#!/usr/bin/env bash
# Sets up and runs the tests. Arguments go to pytest: `bash launch/test.sh -m slow`.
needs="test" source "$(dirname "$0")/setup.sh"
exec python -m pytest "$@"
