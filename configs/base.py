"""What every config starts from: all keys of the schema with their defaults.

The schema itself, with a line of meaning a key, is `genjax.cli.schema.Run`; print it with
`genjax train --help-config`. A choice is `dict(name=..., fields...)`; fields left out keep the
defaults of the class registered under that name.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from genjax.cli.schema import Run


def get_base() -> Any:
    """Returns the defaults; a key that the schema does not have is refused when a run is built."""
    defaults = {f.name: getattr(Run(), f.name) for f in dataclasses.fields(Run)}
    return ConfigDict(_plain(defaults))


def _plain(value):
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value
