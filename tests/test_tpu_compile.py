"""The real TPU compiler takes the step; no TPU is needed."""

from program import CONFIG, Program


def test_the_step_compiles_for_a_tpu_slice(tmp_path):
    program = Program(
        tmp_path / "unused",
        f"--config={CONFIG}:classify",
        "--compile=v5e:2x4",
        "--config.mesh.data=2",
        "--config.mesh.fsdp=4",
        "--config.encoder.dtype=bfloat16",
    )
    assert program.status() == 0, program.stderr()
    *_, parameters, compiled = program.stderr().splitlines()
    assert parameters.startswith("parameters: encoder 103,296, in all ")
    assert "for 8 TPU v5 lite device(s) (data 2 x fsdp 4 x tensor 1); " in compiled
    assert "; memory per device " in compiled
    assert not program.workdir.exists()
