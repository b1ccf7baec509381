"""Joins a run of which process 1 differs in what the argument names."""

import json
import os
import sys
import time

if os.environ["GENJAX_PROCESS_ID"] == "1":
    if sys.argv[1] == "devices":
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=3"
    if sys.argv[1] == "clock":
        right = time.time
        time.time = lambda: right() - 95

from genjax.core.errors import UserError
from genjax.parallel import initialize

try:
    initialize()
    print(json.dumps("joined"))
except UserError as error:
    print(json.dumps(str(error)))
