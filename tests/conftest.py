"""Eight virtual CPU devices for every test, and programs that compile in half the time."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
_FLAG = "--xla_force_host_platform_device_count=8"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
# Most of a test is compiling programs that run once; 0 is right for slow tests that train.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
