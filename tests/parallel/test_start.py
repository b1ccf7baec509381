import pytest

from genjax.core.errors import UserError
from genjax.parallel import initialize, start


@pytest.fixture(autouse=True)
def joined(monkeypatch):
    """Records how JAX would be started, without starting it."""
    calls = []
    for name in (start.COORDINATOR, start.PROCESSES, start.PROCESS, "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(start.jax.distributed, "initialize", lambda *args: calls.append(args))
    monkeypatch.setattr(start.jax.distributed, "is_initialized", lambda: bool(calls))
    monkeypatch.setattr(start, "check_workers", lambda: calls.append("checked"))
    return calls


def test_a_single_process_starts_nothing(joined):
    initialize()
    initialize("localhost:1234", 1, 0)
    assert joined == []


def test_flags_and_environment_mix_and_a_second_call_is_ignored(joined, monkeypatch):
    monkeypatch.setenv(start.COORDINATOR, "host0:1234")
    monkeypatch.setenv(start.PROCESSES, "4")
    monkeypatch.setenv(start.PROCESS, "3")
    initialize(process=2)
    initialize()
    assert joined == [("host0:1234", 4, 2), "checked"]


def test_a_slurm_step_of_several_tasks_finds_its_peers(joined, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    initialize()
    assert joined == []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    initialize()
    assert joined == [(), "checked"]


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({start.COORDINATOR: "h:1"}, f"{start.PROCESSES} and {start.PROCESS} is missing"),
        ({start.PROCESSES: "two"}, f"{start.PROCESSES}=two"),
        ({start.COORDINATOR: "h", start.PROCESSES: "2", start.PROCESS: "0"}, "host:port"),
        ({start.COORDINATOR: "h:1", start.PROCESSES: "2", start.PROCESS: "2"}, "count from 0"),
    ],
)
def test_wrong_settings_name_the_variable(monkeypatch, env, words):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        initialize()
