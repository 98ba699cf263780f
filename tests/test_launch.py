"""The launch scripts against stand-ins for gcloud, srun and the rest on PATH."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from mimjax import hosts, main

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(p.name for p in LAUNCH.iterdir() if p.suffix in (".sh", ".sbatch"))
RUN = [
    "--config=configs/mae_l16.py",
    "--workdir=/shared/a b",
    "--config.optim.clip=1.0",
]


class Machine:
    """A machine whose commands only write down how they were called."""

    def __init__(self, folder: pathlib.Path):
        self.bin, self.log = folder / "bin", folder / "calls"
        self.bin.mkdir()
        self.folder = folder

    def command(self, name: str, body: str = "exit 0") -> None:
        """A stand-in that notes its name, its arguments and JAX's environment."""
        note = 'printf "%s\\0" "${0##*/}" "$@" >> "$CALLS"; printf "\\n\\0" >> "$CALLS"'
        path = self.bin / name
        path.write_text(
            f'#!/bin/bash\n{note}\nenv | grep -E "^(JAX|XLA|SRUN)_"\n{body}\n'
        )
        path.chmod(0o755)

    def run(self, *command: str, **environment: str) -> tuple[int, str]:
        """Exit status and standard output."""
        done = subprocess.run(
            ["bash", *command],
            env={
                "PATH": f"{self.bin}:/usr/bin:/bin",
                "HOME": str(self.folder),
                "CALLS": str(self.log),
                **environment,
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    def calls(self) -> list[list[str]]:
        """The calls so far, each a name and its arguments."""
        if not self.log.exists():
            return []
        text = self.log.read_text()
        return [call.split("\0")[:-1] for call in text.split("\n\0")[:-1]]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def flags_of(call: list[str]):
    """The flags as the program itself reads them."""
    module = call.index("-m")
    assert call[module + 1] == "mimjax.main"
    return main.parse(call[module + 2 :])


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_bash(script):
    subprocess.run(["bash", "-n", LAUNCH / script], check=True, timeout=30)


def test_gpu_host_runs_the_program_with_its_status(machine):
    machine.command("nvidia-smi")
    machine.command("python", "exit 75")
    status, said = machine.run("launch/gpu_host.sh", *RUN)
    assert status == 75, said
    assert [call[0] for call in machine.calls()] == ["nvidia-smi", "python"]
    flags, changes = flags_of(machine.calls()[1])
    assert (flags.workdir, changes) == ("/shared/a b", [("optim.clip", "1.0")])
    assert "JAX_PLATFORMS=cuda,cpu" in said


def test_gpu_host_without_gpus_starts_nothing(machine):
    machine.command("nvidia-smi", "exit 9")
    machine.command("python")
    assert machine.run("launch/gpu_host.sh", *RUN)[0] == 9
    assert [call[0] for call in machine.calls()] == ["nvidia-smi"]


@pytest.mark.parametrize("status", [0, 70, 75, 78])
def test_slurm_requeues_what_was_stopped_and_saved(machine, status):
    machine.command("srun", f"exit {status}")
    machine.command("scontrol")
    job = {"SLURM_JOB_ID": "42", "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "64"}
    ended, said = machine.run("launch/slurm.sbatch", *RUN, **job)
    assert ended == status, said
    srun, *rest = machine.calls()
    assert rest == ([["scontrol", "requeue", "42"]] if status == 75 else [])
    flags, _ = flags_of(srun)
    assert (flags.distributed, flags.workdir) == ("auto", "/shared/a b")
    assert "JAX_LOCAL_DEVICE_IDS=0,1,2,3\n" in said
    assert "SRUN_CPUS_PER_TASK=64\n" in said
    assert "JAX_PLATFORMS=cuda,cpu\n" in said


def test_slurm_without_gpus_says_nothing_of_devices(machine):
    machine.command("srun")
    said = machine.run("launch/slurm.sbatch", *RUN)[1]
    assert "JAX_LOCAL" not in said
    assert "JAX_PLATFORMS" not in said


TPU = {"TPU": "pod", "ZONE": "us-west4-a", "TYPE": "v5litepod-16"}


def tpu(machine: Machine, *arguments: str) -> list[list[str]]:
    """The calls of gcloud, without what they have in common."""
    machine.command("gcloud")
    status, said = machine.run("launch/tpu_pod.sh", *arguments, **TPU)
    assert status == 0, said
    for call in machine.calls():
        assert call[:4] == ["gcloud", "compute", "tpus", "tpu-vm"]
        assert "--zone=us-west4-a" in call
    return [[x for x in c[4:] if x != "--zone=us-west4-a"] for c in machine.calls()]


def test_tpu_create_and_delete(machine):
    tpu(machine, "create", "--spot")
    create, delete = tpu(machine, "delete")
    assert create[:3] == ["create", "pod", "--accelerator-type=v5litepod-16"]
    assert create[-1] == "--spot"
    assert delete == ["delete", "pod"]


def remote(call: list[str], worker: str) -> str:
    """The command that one call of gcloud would run on these hosts."""
    assert call[:3] == ["ssh", "pod", f"--worker={worker}"]
    (command,) = [x for x in call if x.startswith("--command=")]
    return command.removeprefix("--command=")


def test_tpu_install_copies_and_installs(machine):
    machine.command("git")
    machine.command("gcloud")
    assert machine.run("launch/tpu_pod.sh", "install", **TPU)[0] == 0
    git, scp, ssh = machine.calls()
    archive = git[git.index("-o") + 1]
    assert git[-1] == "HEAD"
    assert scp[4:7] == ["scp", archive, "pod:mimjax.tar.gz"]
    assert not pathlib.Path(archive).exists(), "cleaned up"
    command = remote([x for x in ssh[4:] if not x.startswith("--zone")], "all")
    assert "tar xzf mimjax.tar.gz" in command
    assert '"./mimjax[data,tpu]"' in command
    # Of what is there the code goes and the runs stay.
    for place in ("mimjax/old.py", "configs/old.py", "runs/mae/1", "mine/1"):
        file = machine.folder / "mimjax" / place
        file.parent.mkdir(parents=True)
        file.touch()
    machine.run("-c", f"cd && {command}")  # which ends where there is no archive
    left = [f for f in machine.folder.glob("mimjax/**/*") if f.is_file()]
    assert sorted(file.parent.name for file in left) == ["mae", "mine"]


def test_tpu_train_watch_and_stop_on_the_hosts(machine):
    (call,) = tpu(machine, "train", *RUN)
    command = remote(call, "all")
    # What the hosts would do, done here; `python` writes its flags to the log.
    (machine.folder / "mimjax").mkdir()
    env = machine.folder / "env" / "bin"
    env.mkdir(parents=True)
    machine.command("python", 'printf "%s\\n" "$@"; exec sleep 60')
    (machine.bin / "python").rename(env / "python")
    assert machine.run("-c", command)[0] == 0
    machine.run("-c", "until grep -q clip ~/mimjax.log; do sleep 0.05; done")
    flags, changes = flags_of(machine.calls()[-1])
    assert (flags.distributed, flags.workdir) == ("auto", "/shared/a b")
    assert changes == [("optim.clip", "1.0")]
    machine.log.unlink()
    stop, watch = tpu(machine, "stop")[0], tpu(machine, "watch")[1]
    alive = "kill -0 $(cat ~/mimjax.pid)"
    assert machine.run("-c", alive)[0] == 0
    pid = (machine.folder / "mimjax.pid").read_text()
    status, said = machine.run("-c", command)
    assert status == 1
    assert "a run is at work; stop it first" in said
    assert (machine.folder / "mimjax.pid").read_text() == pid
    assert machine.run("-c", remote(stop, "all"))[0] == 0
    gone = f"for i in {{1..100}}; do {alive} || exit 0; sleep 0.05; done; exit 1"
    assert machine.run("-c", gone)[0] == 0
    log = machine.folder / "mimjax.log"
    before = log.read_text()
    assert machine.run("-c", command)[0] == 0
    machine.run("-c", f"until [[ $(wc -c < {log}) -gt {len(before)} ]]; do :; done")
    assert log.read_text().startswith(before)
    assert machine.run("-c", remote(stop, "all"))[0] == 0
    assert "~/mimjax.log" in remote(watch, "0")


def test_tpu_says_what_it_wants(machine):
    status, said = machine.run("launch/tpu_pod.sh", "create")
    assert status != 0
    assert "TPU: name of the slice" in said
    status, said = machine.run("launch/tpu_pod.sh", "crate", **TPU)
    assert status == 64
    assert "must be create, install, train, watch, stop or delete" in said


def test_the_readme_names_every_script_and_flag():
    readme = (LAUNCH / "README.md").read_text()
    assert SCRIPTS == ["gpu_host.sh", "slurm.sbatch", "tpu_pod.sh"]
    for script in SCRIPTS:
        assert f"`{script}`" in readme
    lines = [line.strip() for line in readme.splitlines() if "--workdir" in line]
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)
        main.parse([word for word in words if word.startswith("--")])
    assert f"give up after {hosts.LIMIT:.0f} seconds" in readme
    assert f"noticed within {hosts.HEARTBEAT} seconds" in readme


@pytest.mark.parametrize("name", [*SCRIPTS, "README.md"])
def test_the_configs_named_exist(name):
    named = re.findall(r"--config=(configs/\w+\.py)", (LAUNCH / name).read_text())
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_a_missing_host_ends_the_command_line_with_70():
    config = f"--config={ROOT / 'configs' / 'quickstart.py'}"
    flags = [config, "--workdir=none", "--distributed=127.0.0.1:1,2,1"]
    code = (
        "import sys; from mimjax import hosts, main\n"
        "hosts.join.__defaults__ = (0.3,)\n"
        f"sys.exit(main.main({flags}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 70, done.stderr
    assert done.stderr.startswith(
        "process 1 of 2 cannot reach process 0 at 127.0.0.1:1 "
    )
    assert done.stderr.count("\n") == 1
