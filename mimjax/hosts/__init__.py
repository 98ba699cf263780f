"""Joining the processes of several hosts into one program, without a silent wait.

`jax.distributed.initialize` waits five minutes for a missing host without a word, then
aborts the process from C++. So the processes first meet by themselves (meeting.py).
"""

import os
import re

from mimjax.hosts.meeting import JoinError, Place, meet, say
from mimjax.schema import ConfigError

INTERNAL = 70
# Seconds: for all to come; of silence before JAX calls a host dead and ends all others
# (its own default is 100).
LIMIT = 60.0
HEARTBEAT = 60
FORM = "'auto' or HOST:PORT,COUNT,INDEX, for example 10.0.0.1:1234,4,0"


def join(spec: str, limit: float = LIMIT) -> None:
    """Starts jax.distributed; to be called before JAX touches a device.

    Where a host stays away, says so on standard error and ends the program with
    status 70.

    Args:
        spec: "auto" (TPU pod, Slurm, Open MPI, Kubernetes: as JAX finds out itself) or
            "HOST:PORT,COUNT,INDEX".
        limit: seconds for all to come.

    Raises:
        ConfigError: `spec` is malformed, or "auto" finds nothing to join.
    """
    try:
        place = detect(limit) if spec == "auto" else parse(spec)
        if place is None:
            say(f"joining; aborted where a host is missing after {limit:g} s")
        elif place.size > 1:
            meet(place, limit)
    except JoinError as error:
        say(str(error))
        raise SystemExit(INTERNAL) from None
    import jax

    # A place that is given stays as given: asked under Slurm or Open MPI, JAX would use
    # one GPU of a host (`auto` does: JAX_LOCAL_DEVICE_IDS names more).
    jax.distributed.initialize(
        f"{place.host}:{place.port}" if place else None,
        place.size if place else None,
        place.index if place else None,
        cluster_detection_method=None if spec == "auto" else "deactivate",
        initialization_timeout=max(1, round(limit)),
        heartbeat_timeout_seconds=HEARTBEAT,
    )


def parse(spec: str) -> Place:
    """HOST:PORT,COUNT,INDEX; an IPv6 address stands in brackets."""
    address, *numbers = spec.split(",")
    host, _, port = address.rpartition(":")
    numbers = [port, *numbers]
    plain = all(re.fullmatch("[0-9]{1,9}", n) for n in numbers)
    if not host or len(numbers) != 3 or not plain:
        raise ConfigError([f"--distributed: {spec!r} must be {FORM}"])
    place = Place(host, *map(int, numbers))
    problems = []
    if not 0 < place.port < 65536:
        problems.append(f"--distributed: PORT {place.port} must be in 1..65535")
    if place.size < 1:
        problems.append(f"--distributed: COUNT {place.size} must be at least 1")
    elif place.index >= place.size:
        problems.append(
            f"--distributed: INDEX {place.index} must be in 0..{place.size - 1}, "
            f"as COUNT is {place.size}"
        )
    if problems:
        raise ConfigError(problems)
    return place


def detect(limit: float) -> Place | None:
    """What JAX finds out about the cluster; None where this JAX cannot be asked.

    JAX has no public way to ask without joining.

    Raises:
        ConfigError: this is no cluster that JAX knows.
        JoinError: it is one, but it does not tell what is needed.
    """
    given = os.environ.get("JAX_COORDINATOR_ADDRESS")
    try:
        from jax._src.clusters import ClusterEnv

        ask = ClusterEnv.auto_detect_unset_distributed_params
        address, count, index = ask(given, None, None, None, None, round(limit))[:3]
    except (ImportError, AttributeError, TypeError):
        return None
    except Exception as error:
        # Whatever the environment, a metadata server or the name service came up with.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise JoinError(
            f"--distributed=auto: cannot find the others: {reason}"
        ) from error
    if address is None or count is None or index is None:
        raise ConfigError(
            [
                "--distributed: 'auto' finds no TPU pod, Slurm, Open MPI or Kubernetes "
                f"job here; must be {FORM}"
            ]
        )
    try:
        return parse(f"{address},{count},{index}")
    except ConfigError:
        told = f"the address of the first process, {address!r}, must be HOST:PORT"
        raise ConfigError([f"--distributed: {told}"]) from None
