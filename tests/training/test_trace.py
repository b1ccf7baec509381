import jax.numpy as jnp
import pytest

from genjax.checkpoint import Workdir
from genjax.training.trace import Trace


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_trace_of_some_images(tmp_path, scheme):
    workdir = Workdir(f"memory://{tmp_path.name}/trace" if scheme else str(tmp_path))
    trace = Trace(workdir, (10, 20))
    trace.before_step(0)
    assert not workdir.exists("trace")
    for images in (10, 15, 20, 25):
        trace.before_step(images)
        jnp.ones(3) + 1
    trace.close()
    files = workdir.fs.find(workdir.at("trace"))
    assert len([f for f in files if f.endswith(".xplane.pb")]) == 1


def test_no_trace_unless_asked(tmp_path):
    trace = Trace(Workdir(str(tmp_path)), ())
    trace.before_step(0)
    trace.close()
    assert list(tmp_path.iterdir()) == []
