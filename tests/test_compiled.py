"""Compiled programs are kept, change no bit, and never stand in the way."""

import os
import re
import warnings

import jax
import jax.numpy as jnp
import pytest
import tiny
from jax.experimental.compilation_cache import compilation_cache

from mimjax import cores, main
from mimjax.run import compiled, loop

PLACE = "jax_compilation_cache_dir"
LEAST = "jax_persistent_cache_min_compile_time_secs"
ENABLED = "jax_enable_compilation_cache"


@pytest.fixture
def heard():
    """What the cache of JAX reports."""
    names = []

    def hear(event, **_):
        names.append(event)

    jax.monitoring.register_event_listener(hear)
    yield names
    jax.monitoring.unregister_event_listener(hear)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Nothing says where to keep programs; the cache of the user is an empty folder."""
    before = {name: jax.config.values[name] for name in (PLACE, LEAST, ENABLED)}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(LEAST.upper())
    jax.config.update(PLACE, None)
    jax.config.update(ENABLED, True)
    compilation_cache.reset_cache()
    with warnings.catch_warnings():
        # As outside of the tests.
        warnings.simplefilter("default")
        yield tmp_path / "mimjax" / "compiled" / f"{len(cores.usable())}_cores"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_kept_programs_change_no_bit(elsewhere, heard):
    compiled.keep()
    found = []
    for event in ("cache_misses", "cache_hits"):
        run = tiny.Run(tiny.resolve())
        assert f"/jax/compilation_cache/{event}" in heard
        values = [run.step() for _ in range(3)]
        found.append((tiny.bits(run.state), values))
        heard.clear()
        jax.clear_caches()
    assert found[0] == found[1]
    assert list(elsewhere.glob("jit_step-*"))


@pytest.mark.parametrize("given", [None, "", "there"])
def test_a_run_keeps_them_where_it_should(given, elsewhere, monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "run", lambda *_: 0)
    jax.config.update(PLACE, given)
    flags = [f"--config={tiny.CONFIG}", f"--workdir={tmp_path / 'run'}"]
    assert main.main([*flags, "--config.batch_size=8"]) == 0
    where = {None: str(elsewhere), "": None, "there": "there"}[given]
    assert jax.config.values[PLACE] == where
    assert elsewhere.exists() == (given is None)


@pytest.mark.parametrize(
    ("caches", "why"), [("file", "Not a directory"), ("", "it is no absolute path")]
)
def test_where_they_cannot_be_kept_a_line_says_so(
    caches, why, elsewhere, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    place = tmp_path / caches if caches else "caches"
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    compiled.keep()
    kept = f"{place}/mimjax/compiled/{len(cores.usable())}_cores"
    told = f"what is compiled is not kept in {kept}: {why}\n"
    assert capsys.readouterr().err == told
    assert jax.config.values[PLACE] is None


def test_a_broken_one_is_compiled_anew_and_kept_again(elsewhere, heard, capsys):
    compiled.keep()
    jax.config.update(LEAST, 0.0)

    def ask():
        heard.clear()
        assert jax.jit(lambda x: x * 3 + 1)(jnp.arange(4.0)).tolist() == [1, 4, 7, 10]
        jax.clear_caches()

    ask()
    (kept,) = elsewhere.glob("jit__lambda-*")
    kept.write_bytes(kept.read_bytes()[:100])
    os.utime(kept, (0, 0))  # nobody is in the middle of writing it
    ask()
    told = capsys.readouterr().err
    assert re.fullmatch(r"some of what was kept in \S+ is broken, [^\n]+\n", told)
    assert len(kept.read_bytes()) > 100
    ask()
    assert "/jax/compilation_cache/cache_hits" in heard
    assert capsys.readouterr().err == ""


def test_what_was_used_last_stays(tmp_path):
    for number in range(4):
        path = tmp_path / f"jit_step-{number}-cache"
        path.write_bytes(bytes(10))
        os.utime(path, (1000 - number, 1))
    compiled.trim(tmp_path, 25)
    assert sorted(p.name[9] for p in tmp_path.iterdir()) == ["0", "1"]


def test_another_number_of_cores_has_programs_of_its_own(elsewhere, monkeypatch):
    """The compiler cuts loops into as many pieces, which JAX's key does not tell."""
    monkeypatch.setattr(cores, "usable", lambda: [0, 1, 2])
    compiled.keep()
    assert jax.config.values[PLACE] == str(elsewhere.with_name("3_cores"))
