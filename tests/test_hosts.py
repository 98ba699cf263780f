"""Processes join over the loopback; who stays away is named in time."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from mimjax import hosts
from mimjax.hosts import meeting
from mimjax.hosts.meeting import JoinError, Place
from mimjax.schema import ConfigError

ROOT = pathlib.Path(__file__).parents[1]

WORKER = """
import sys
import jax
import jax.numpy as jnp
from mimjax import hosts

jax.config.update("jax_num_cpu_devices", 2)
hosts.join(sys.argv[1], limit=60)
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
cut = jax.sharding.NamedSharding(mesh, jax.P("data"))
x = jax.make_array_from_callback((4,), cut, lambda i: jnp.arange(4.0)[i] ** 2)
total = jax.jit(jnp.sum, out_shardings=jax.sharding.NamedSharding(mesh, jax.P()))(x)
print(jax.process_index(), jax.process_count(), jax.device_count(), float(total))
"""

# What a run asks: are workdir and config one, what is saved, can all read it, do all
# stop?
AGREE = """
import json, os, pathlib, signal, sys, time
import jax
import jax.numpy as jnp
from mimjax import checkpoint, config, hosts
from mimjax.hosts.agree import one_workdir
from mimjax.run import stop
from mimjax.run.alike import one_run
from mimjax.schema import ConfigError
from mimjax.train import State

jax.config.update("jax_num_cpu_devices", 1)
top = pathlib.Path(sys.argv[2])
hosts.join(sys.argv[1], limit=60)
told = {}
own = top / f"own_{jax.process_index()}"
own.mkdir()
one_workdir(top)
try:
    one_workdir(own)
except ConfigError as error:
    told["own"] = str(error)

def given(name, *values):
    changes = [("data.source", "synthetic"), (name, values[jax.process_index()])]
    return config.resolve(sys.argv[3], changes, None, with_data=False)

one_run(given("data.workers", "1", "2"), top)
try:
    one_run(given("optim.base_lr", "1e-3", "2e-3"), top)
except ConfigError as error:
    told["runs"] = error.problems

mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
cut = jax.sharding.NamedSharding(mesh, jax.P("data"))
spread = jax.jit(lambda step: jnp.full((2,), step), out_shardings=cut)
checkpoints = checkpoint.Checkpoints(top, 9, 0)
for step in (5000, 5001):
    empty = {name: {} for name in State.__dataclass_fields__}
    state = State(**{**empty, "params": spread(float(step))})
    checkpoints.save(state, step)
checkpoints.wait()
if jax.process_index():
    restore = checkpoint.ocp.CompositeCheckpointHandler.restore
    def torn(self, path, **how):
        if path.name == "5001":
            raise OSError("torn")
        return restore(self, path, **how)
    checkpoint.ocp.CompositeCheckpointHandler.restore = torn
    # As over the network, where it was not there yet.
    checkpoints.manager._checkpoints.delete_if(lambda info: info.step == 5001)
like = jax.ShapeDtypeStruct((2,), jnp.float32, sharding=cut)
found, remarks = checkpoints.restore(jax.tree.map(lambda x: like, state))
told["value"] = float(found.params.addressable_data(0)[0])
told["remarks"], told["steps"] = remarks, checkpoints.steps()

signals = stop.Stop()
signals.ready()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(3)  # it is noticed within a second
told["asked"] = 1
while not signals.agreed() and told["asked"] < 50:
    told["asked"] += 1
    time.sleep(0.05)
checkpoints.close()
print(json.dumps(told))
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def meet_all(places: list[Place], limit: float) -> list[str]:
    """What becomes of each process, all meeting at once: "" or why not."""
    ends = ["never ended"] * len(places)

    def one(number: int, place: Place) -> None:
        try:
            meeting.meet(place, limit)
            ends[number] = ""
        except JoinError as error:
            ends[number] = str(error)

    threads = [threading.Thread(target=one, args=x) for x in enumerate(places)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return ends


def places(size: int, indices: list[int]) -> list[Place]:
    port = free_port()
    return [Place("127.0.0.1", port, size, index) for index in indices]


def both(code: str, *arguments: object) -> list[tuple[str, str]]:
    """The last line of what each of two processes prints, and its errors."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    address = f"127.0.0.1:{free_port()}"
    words = [str(argument) for argument in arguments]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"{address},2,{index}", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for index in range(2)
    ]
    try:
        ends = [worker.communicate(timeout=100) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    said = "\n".join(err for _, err in ends)
    assert [worker.returncode for worker in workers] == [0, 0], said
    # Gloo reports its connections on standard output before.
    return [(out.splitlines()[-1], err) for out, err in ends]


def test_two_processes_join_and_a_sum_agrees():
    (first, said), (second, _) = both(WORKER)
    assert [first, second] == ["0 2 4 14.0", "1 2 4 14.0"]
    assert "2 of 2 hosts joined" in said


def test_two_processes_agree_on_folders_checkpoints_and_signals(tmp_path):
    given = tmp_path, ROOT / "configs" / "quickstart.py"
    first, second = (json.loads(line) for line, _ in both(AGREE, *given))
    assert first.pop("remarks") == [
        "checkpoint 5001 is not usable: another process cannot read it"
    ]
    assert second.pop("remarks") == ["checkpoint 5001 is not usable: torn"]
    line = "/own_0 must be one folder that all hosts see, on a file system they share"
    assert line in first["own"]
    assert first.pop("own") == second.pop("own").replace("own_1", "own_0")
    for told, value in ((first, "0.001"), (second, "0.002")):
        line, more = told.pop("runs")
        assert line == f"config.optim.base_lr: {value} is not what all were told"
        assert "start all processes by one command" in more
    assert first == second
    assert (first["value"], first["steps"]) == (5000.0, [5000])
    assert first["asked"] == 1, "a signal before the first step is not lost"
    assert [*tmp_path.glob(".all_see_*")] == []


def test_all_meet_whoever_comes_first():
    here = places(5, [3, 1, 0, 4, 2])
    assert meet_all(here, 20) == [""] * 5
    assert meet_all(here, 20) == [""] * 5, "the port is free again"


def test_the_missing_are_named_to_all_in_time(monkeypatch, capfd):
    monkeypatch.setattr(meeting, "SAY_EVERY", 0.3)
    start = time.monotonic()
    ends = meet_all(places(5, [0, 2, 4]), 3.0)
    assert time.monotonic() - start < 13
    name = socket.gethostname()
    expected = (
        "3 of 5 hosts joined; missing: 1, 3; "
        f"here: 0 ({name}), 2 ({name}), 4 ({name}), after 3 s"
    )
    assert ends == [expected] * 3
    said = capfd.readouterr().err.splitlines()
    assert said.count(expected.removesuffix(", after 3 s")) >= 3, "all say so meanwhile"


def test_a_missing_first_process_is_named():
    (place,) = places(2, [1])
    (end,) = meet_all([place], 0.5)
    assert f"cannot reach process 0 at 127.0.0.1:{place.port} after 0.5 s" in end


def test_a_long_list_of_missing_hosts_is_cut():
    line = meeting.count(Place("h", 1, 256, 0), {})
    assert line.startswith(
        "1 of 256 hosts joined; missing: 1, 2, 3, 4, 5, 6, 7, 8, ...;"
    )


def test_processes_that_disagree_about_the_size_all_end_at_once():
    first, second = places(3, [0, 1])
    other = Place(second.host, second.port, 4, 2)
    start = time.monotonic()
    ends = meet_all([first, other], 20)
    assert time.monotonic() - start < 10
    assert ends[0] == ends[1]
    assert "is process 2 of 4, but" in ends[0]
    assert "is process 0 of 3" in ends[0]


def test_strangers_and_returners_do_no_harm():
    here = places(2, [0, 1])
    done: list[list[str]] = []
    host = threading.Thread(target=lambda: done.append(meet_all(here[:1], 20)))
    host.start()
    address = (here[0].host, here[0].port)
    deadline = time.monotonic() + 20
    while True:
        try:
            stranger = socket.create_connection(address)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        try:
            said = stranger.recv(100)
        except ConnectionResetError:
            said = b""
        assert said == b"", "sent away"
    assert done == []
    assert meet_all(here[1:], 20) == [""]
    host.join(30)
    assert done == [[""]]


def test_a_taken_port_is_named():
    (place,) = places(2, [0])
    with socket.create_server(("", place.port)):
        (end,) = meet_all([place], 5)
    assert f"cannot listen on port {place.port} of this host" in end


def test_join_ends_the_program_when_a_host_is_missing(capfd):
    with pytest.raises(SystemExit) as end:
        hosts.join(f"127.0.0.1:{free_port()},2,0", limit=0.2)
    assert end.value.code == 70
    said = capfd.readouterr().err
    assert said.startswith("1 of 2 hosts joined; missing: 1; ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("nonsense", "'nonsense' must be 'auto' or HOST:PORT,COUNT,INDEX"),
        ("host:1234,4", "must be 'auto'"),
        ("host:1234,4,0,0", "must be 'auto'"),
        ("host,4,0", "must be 'auto'"),
        (":1234,4,0", "must be 'auto'"),
        ("host:1234,4,-1", "must be 'auto'"),
        ("host:99999,4,0", "PORT 99999 must be in 1..65535"),
        ("host:1234,0,0", "COUNT 0 must be at least 1"),
        ("host:1234,4,4", "INDEX 4 must be in 0..3, as COUNT is 4"),
    ],
)
def test_a_malformed_place_is_one_line(spec, told):
    with pytest.raises(ConfigError) as error:
        hosts.join(spec)
    (problem,) = error.value.problems
    assert problem.startswith("--distributed: ")
    assert told in problem


def test_places_are_read():
    assert hosts.parse("node-1:1234,4,3") == Place("node-1", 1234, 4, 3)
    assert hosts.parse("[fd00::1]:1234,1,0") == Place("[fd00::1]", 1234, 1, 0)


CLUSTER = ("SLURM_", "OMPI_", "KUBERNETES_", "JAX_COORD", "TPU_WORKER", "TPU_PROC")


@pytest.fixture
def no_cluster(monkeypatch):
    for name in list(os.environ):
        if name.startswith(CLUSTER):
            monkeypatch.delenv(name)


def test_auto_reads_slurm(no_cluster, monkeypatch):
    job = {
        "SLURM_JOB_ID": "4097",
        "SLURM_STEP_NODELIST": "node[003-005]",
        "SLURM_NTASKS": "3",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
    }
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    assert hosts.detect(1) == Place("node003", 61441, 3, 2)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "node003")
    with pytest.raises(ConfigError, match="'node003', must be HOST:PORT"):
        hosts.detect(1)
    monkeypatch.setenv("SLURM_NTASKS", "three")
    with pytest.raises(JoinError, match="cannot find the others: ValueError"):
        hosts.detect(1)


def test_auto_without_a_cluster_is_one_line(no_cluster):
    with pytest.raises(ConfigError) as error:
        hosts.join("auto")
    (problem,) = error.value.problems
    assert "finds no TPU pod, Slurm, Open MPI or Kubernetes job here" in problem


def test_auto_with_a_jax_that_cannot_be_asked_still_joins(monkeypatch, capfd):
    import jax
    import jax._src.clusters as clusters

    monkeypatch.delattr(clusters, "ClusterEnv")
    asked = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *a, **k: asked.append((a, k))
    )
    hosts.join("auto")
    ((places_given, limits),) = asked
    assert places_given == (None, None, None)
    assert limits["initialization_timeout"] == 60
    assert "aborted where a host is missing after 60 s" in capfd.readouterr().err


def test_a_place_that_is_given_is_not_detected(no_cluster, monkeypatch):
    import jax

    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: asked.append(k))
    hosts.join(f"127.0.0.1:{free_port()},1,0")
    # Under Slurm, JAX would take one GPU.
    assert asked[0]["cluster_detection_method"] == "deactivate"
    assert asked[0]["heartbeat_timeout_seconds"] == hosts.HEARTBEAT == 60
