"""Weights of other projects: what is refused, and that nothing in a file ever runs.

What PyTorch and safetensors write themselves is read in test_convert_torch.py.
"""

import gc
import io
import json
import os
import pickle
import struct
import sys
import time
import tracemalloc
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from mimjax.convert.files import BadFileError, read

SIX = np.arange(6, dtype=np.float32)
DATA = SIX.tobytes()
TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
TYPES["BF16"] = ml_dtypes.bfloat16


class Name(NamedTuple):
    """Something that a pickle imports."""

    module: str
    name: str


class Call(NamedTuple):
    """Something that a pickle calls, and the state it gives to what comes back."""

    name: Any
    args: tuple
    state: Any = None


class Ref(NamedTuple):
    """Something that a pickle refers to by this id."""

    pid: tuple


def raw(x):
    """A pickle's steps to `x`, without PROTO and STOP; bytes are steps themselves."""
    match x:
        case bytes():
            return x
        case Name():
            return f"c{x.module}\n{x.name}\n".encode()
        case Call():
            state = b"" if x.state is None else raw(x.state) + b"b"
            return raw(x.name) + raw(x.args) + b"R" + state
        case Ref():
            return raw(x.pid) + b"Q"
        case tuple():
            return b"(" + b"".join(map(raw, x)) + b"t"
        case list():
            return b"](" + b"".join(map(raw, x)) + b"e"
        case dict():
            return b"}(" + b"".join(raw(k) + raw(v) for k, v in x.items()) + b"u"
    return pickle.dumps(x, 2)[2:-1]


def whole(x):
    """The pickle of `x`."""
    return b"\x80\x02" + raw(x) + b"."


def tensor(size=(2, 3), stride=(3, 1), offset=0, key="0", numel=6, kind="Float"):
    """What torch.save writes of a tensor."""
    storage = Ref(("storage", Name("torch", f"{kind}Storage"), key, "cpu", numel))
    hooks = Call(Name("collections", "OrderedDict"), ())
    args = (storage, offset, size, stride, False, hooks)
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), args)


def zipped(x, packing=zipfile.ZIP_STORED, **storages):
    """A file in the format of torch.save; storage 0 is SIX."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as out:
        out.writestr("x/data.pkl", x if isinstance(x, bytes) else whole(x))
        for key, content in {"0": DATA, **storages}.items():
            out.writestr(f"x/data/{key}", content)
    return file.getvalue()


def legacy(x, keys=("0",), numel=6, magic=0x1950A86A20F9469CFC6C, little=True):
    """The same in the format before PyTorch 1.6."""
    sizes = {"protocol_version": 1001, "little_endian": little}
    parts = [magic, 1001, sizes, x, keys]
    body = b"".join(p if isinstance(p, bytes) else whole(p) for p in parts)
    return body + struct.pack("<q", numel) + DATA


def legacy_tensor(view=None, **fields):
    """What is written of a tensor there, perhaps of a view of a storage."""
    made = tensor(**fields)
    return made._replace(args=(Ref((*made.args[0].pid, view)), *made.args[1:]))


def safetensors(entries, data=DATA, length=None):
    """A file of that format."""
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(dtype="F32", shape=(2, 3), start=0, end=24):
    """One array of such a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def npz(save=np.savez, **arrays):
    """A file of numpy."""
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def written(tmp_path, content, name="x.bin"):
    """A file of that content."""
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def refusal(path):
    """What is said of a bad file; it names it, on one line, and took little to find."""
    # Of this thread alone, and without collecting what earlier tests have left.
    gc.disable()
    start = time.thread_time()
    tracemalloc.start()
    try:
        with pytest.raises(BadFileError) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
        assert time.thread_time() - start < 2
    finally:
        tracemalloc.stop()
        gc.enable()
    said = str(caught.value)
    assert str(path) in said
    assert "\n" not in said and len(said) < 500
    assert caught.value.__cause__ is None
    return said.replace(str(path), "FILE")


def found_in(tmp_path, content):
    """What is read of a file of that content."""
    return read(written(tmp_path, content))


KINDS = {
    "zip": zipped({"x": tensor()}),
    "legacy": legacy({"x": legacy_tensor()}),
    "view": legacy({"x": legacy_tensor(view=("1", 0, 6))}),
    "safetensors": safetensors({"__metadata__": {"a": "b"}, "x": entry()}),
    "npz": npz(x=SIX.reshape(2, 3)),
    "packed": npz(np.savez_compressed, x=SIX.reshape(2, 3)),
    "fortran": npz(x=np.asfortranarray(SIX.reshape(2, 3))),
    "prefix": npz(**{"params/x": SIX.reshape(2, 3), "opt/x": SIX}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_holds_the_same(tmp_path, kind):
    found = found_in(tmp_path, KINDS[kind])
    assert list(found) == ["x"]
    np.testing.assert_array_equal(found["x"], SIX.reshape(2, 3), strict=True)
    assert not found["x"].flags.writeable


def test_names_are_those_of_the_file_without_what_all_begin_with(tmp_path):
    names = ["cls", "Transformer/encoderblock_0/LayerNorm_0/scale"]
    assert list(found_in(tmp_path, npz(**dict.fromkeys(names, SIX)))) == names
    wrapped = {f"module._orig_mod.module.{n}.w": tensor() for n in "ab"}
    assert list(found_in(tmp_path, zipped(wrapped))) == ["a.w", "b.w"]
    some = {"module.a": tensor(), "b": tensor()}
    assert list(found_in(tmp_path, zipped(some))) == list(some)


def test_the_first_wrapper_is_opened(tmp_path):
    both = {"model_ema": {"e": tensor()}, "student": {"s": tensor()}}
    both |= {"teacher": {"t": tensor()}, "epoch": 3}
    assert list(found_in(tmp_path, zipped(both))) == ["t"]
    assert list(found_in(tmp_path, zipped({**both, "model": {"m": tensor()}}))) == ["m"]


def test_bfloat16_in_npz(tmp_path):
    """Numpy writes it as two bytes of nothing."""
    found = found_in(tmp_path, npz(x=SIX.astype(ml_dtypes.bfloat16)))
    assert found["x"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found["x"], SIX)


def test_a_large_file_is_not_held(tmp_path):
    size = 100_000_000
    path = written(tmp_path, safetensors({"x": entry("U8", [size], 0, size)}, b""))
    os.truncate(path, path.stat().st_size + size)
    tracemalloc.start()
    found = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["x"].nbytes == size
    assert peak < 5e6


CODE = {
    "posix.system": Name("posix", "system"),
    "builtins.eval": Name("builtins", "eval"),
    "__builtin__.eval": Name("__builtin__", "eval"),
    "builtins.getattr": Name("builtins", "getattr"),
    "torch.load": Name("torch", "load"),
    "torch.hub.load": Name("torch", "hub.load"),
    "numpy.load": Name("numpy", "load"),
    "copyreg._reconstructor": Name("copyreg", "_reconstructor"),
    "subprocess.Popen": b"\x8c\x0asubprocess\x8c\x05Popen\x93",
}


@pytest.mark.parametrize("name", CODE)
def test_code_is_named_and_refused(tmp_path, name):
    bad = Call(CODE[name], ("1",))
    contents = [zipped({"x": bad, "model": {"x": tensor()}}), whole(bad)]
    contents += [legacy({"x": bad}), legacy({"x": legacy_tensor()}, magic=whole(bad))]
    for content in contents:
        assert f"it would run '{name}'" in refusal(written(tmp_path, content))


class Touch:
    """Makes a file where Python's pickle is believed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_runs(tmp_path, protocol):
    trap = tmp_path / "trap"
    content = pickle.dumps({"model": {"x": Touch(trap)}}, protocol)
    for file in (content, zipped(content), legacy(content)):
        refusal(written(tmp_path, file))
        assert not trap.exists()
    pickle.loads(content)
    assert trap.exists(), "the trap works"


def test_what_is_allowed_is_neither_imported_nor_built(tmp_path):
    """A path that would be made, a class that would be set, a module to import."""
    names = [("pathlib", "Path"), ("torch.nn", "x"), ("dall_e.trap", "X")]
    parts = [Call(Name(*name), ("a",), {"__class__": 1}) for name in names]
    parts.append(Name("argparse", "Namespace"))
    trap = {"args": parts, "model": {"x": tensor()}}
    before = set(sys.modules)
    assert list(found_in(tmp_path, zipped(trap))) == ["x"]
    assert not {n for n in set(sys.modules) - before if "dall_e" in n or "torch" in n}


def test_what_a_training_state_of_aim_holds_beside(tmp_path):
    """apple/ml-l3m: its config, which names types, and a schedule."""
    kinds = ("builtins", "dict"), ("__builtin__", "long"), ("typing", "Any")
    state = {"ref_type": Name(*kinds[2]), "object_type": Name(*kinds[0])}
    meta = Call(Name("omegaconf.base", "ContainerMetadata"), (), state)
    node = Call(Name("omegaconf.nodes", "AnyNode"), (), {"_val": Name(*kinds[1])})
    held = {"_metadata": meta, "_content": {"lr": node}}
    cfg = Call(Name("omegaconf.dictconfig", "DictConfig"), (), held)
    schedule = Call(Name("fvcore.common.param_scheduler", "CosineParamScheduler"), ())
    whole = {"model": {"x": tensor()}, "cfg": cfg, "lr_scheduler": schedule}
    assert list(found_in(tmp_path, zipped(whole))) == ["x"]


def test_the_other_order_of_bytes_is_told(tmp_path):
    for order in (b"little", b"big"):
        content = zipped({"x": tensor()})
        with zipfile.ZipFile(file := io.BytesIO(content), "a") as out:
            out.writestr("x/byteorder", order)
        path = written(tmp_path, file.getvalue())
        if order == b"little":
            np.testing.assert_array_equal(read(path)["x"].ravel(), SIX)
        else:
            assert "big-endian" in refusal(path)


def test_modules_become_names(tmp_path):
    def module(name, inner, **own):
        state = {"_parameters": own, "_buffers": {"none": None}, "_modules": inner}
        return Call(Name("dall_e.encoder", name), (), state)

    conv = module("Conv2d", {}, w=tensor(), b=tensor((3,), (1,)))
    tree = module("Encoder", {"blocks": module("X", {"input": conv, "off": None})})
    found = found_in(tmp_path, zipped(tree))
    assert list(found) == ["blocks.input.w", "blocks.input.b"]
    # Memo 1 is a module that holds itself.
    cycle = b"cdall_e\nX\n)Rq\x01}(X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00ah\x01sub"
    assert "without end" in refusal(written(tmp_path, zipped(whole(cycle))))


TEN = 10_000_000_000
# Tuples of tuples, each twice in the next: to hash the last takes 2^60 steps.
NEST = b"(t" + b"".join(b"q\x01h\x01\x86" for _ in range(60))


def copies(pairs, times, start=b"](", end=b"e"):
    """One list of pairs, made into a dict again and again."""
    listed = start + b"".join(raw((f"{n}", n)) for n in range(pairs)) + end + b"q\x01"
    make = raw(Name("collections", "OrderedDict"))
    return b"\x80\x02" + listed + (make + b"h\x01\x85R0") * times + b"."


def named(length):
    """A module with a parameter of a long name."""
    state = {"_modules": {}, "_parameters": {"x" * length: tensor()}, "_buffers": {}}
    return whole(Call(Name("torch.nn.modules.linear", "Linear"), (), state))


HOSTILE = {
    # Bytes that are set aside before they are read, and a memo as long as it claims.
    "memo": (zipped(b"\x80\x02}r\xff\xff\xff\x7f."), "no weights"),
    "bytearray": (zipped(b"\x80\x05\x96" + struct.pack("<Q", TEN)), "damaged"),
    "bytes": (zipped(b"\x80\x04\x8e" + struct.pack("<Q", TEN)), "damaged"),
    "frame": (zipped(b"\x80\x04\x95" + struct.pack("<Q", TEN)), "damaged"),
    "extension": (zipped(b"\x80\x02\x82\x01."), "damaged"),
    "instance": (zipped(b"\x80\x02(iposix\nsystem\n."), "damaged"),
    "called string": (zipped(b"\x80\x02NNR."), "damaged"),
    "hash": (zipped(b"\x80\x02}" + NEST + b"Ns."), "no weights"),
    "hash set": (zipped(b"\x80\x04\x8f(" + NEST + b"\x90."), "no state dict"),
    "copies": (zipped(copies(2000, 600)), "dicts hold more than any model has"),
    "copies of a tuple": (zipped(copies(2000, 600, b"(", b"t")), "more than any model"),
    "long name": (zipped(named(2000)), "a name in it is without end"),
    "deep": (zipped(b"\x80\x02N" + b"\x85" * 200_000 + b"."), "no state dict"),
    # Tensors that are not where they claim to be.
    "numel": (zipped({"x": tensor(numel=TEN)}), "has 24 bytes of 40000000000"),
    "other type": (zipped({"x": tensor(kind="Double")}), "has 24 bytes of 48"),
    "size": (zipped({"x": tensor((TEN,), (0,))}), "larger than what it is a view"),
    "rows": (zipped({"x": tensor((3, 3))}), "larger than what it is a view"),
    "offset": (zipped({"x": tensor((1,), (1,), 6)}), "larger than what it is a view"),
    "negative": (zipped({"x": tensor((1,), (1,), -1)}), "natural numbers"),
    "stride": (zipped({"x": tensor((2,), (-1,), 3)}), "natural numbers"),
    "fraction": (zipped({"x": tensor((2.0,), (1,))}), "natural numbers"),
    "axes": (zipped({"x": tensor((2, 3), (1,))}), "damaged"),
    "many axes": (zipped({"x": tensor((1,) * 99, (1,) * 99)}), "damaged"),
    "two sizes": (
        zipped({"x": tensor(), "y": tensor((1,), (1,), numel=1)}),
        "two sizes or types",
    ),
    "no member": (zipped({"x": tensor(key="7")}), "'x/data/7' is missing"),
    "outside": (zipped({"x": tensor(key="../../x")}), "is missing"),
    "packed": (zipped({"x": tensor()}, zipfile.ZIP_DEFLATED), "compressed"),
    "bad id": (zipped({"x": Ref(("storage", "a"))}), "no storage"),
    "legacy numel": (legacy({"x": legacy_tensor(numel=TEN)}, numel=TEN), "cut off"),
    "legacy size": (legacy({"x": legacy_tensor()}, numel=5), "another size"),
    "legacy key": (legacy({"x": legacy_tensor()}, keys=["9"]), "no tensor"),
    "legacy nest": (legacy({}, whole([NEST])), "no tensor"),
    "legacy no key": (legacy({"x": legacy_tensor()}, keys=[]), "damaged"),
    "legacy view": (legacy({"x": legacy_tensor(("1", 3, 4))}), "leaves its storage"),
    "legacy order": (legacy({}, little=False), "big-endian"),
    "legacy magic": (legacy({}, magic=1), "not one of torch.save"),
    # Pickles of something else.
    "nested": (zipped({"a": {"b": tensor()}}), "'a' in it is a 'dict', and no tensor"),
    "array": (
        zipped({"model": {"a": Call(Name("numpy.core.multiarray", "scalar"), ())}}),
        "'a' in it is a 'numpy.core.multiarray.scalar', and no tensor",
    ),
    "number": (zipped({"model": {"a": tensor(), "n": 3}}), "'n' in it is a 'int'"),
    "no name": (zipped({3: tensor()}), "3 in it is"),
    "list": (zipped([tensor()]), "holds a 'list', and no state dict"),
    "tensor": (zipped(tensor()), "holds a 'Tensor', and no state dict"),
    "empty dict": (zipped({}), "no weights"),
    "empty model": (zipped({"model": {}, "args": 1}), "no weights"),
    "namespace": (zipped(Call(Name("argparse", "Namespace"), ())), "no module with"),
    # Headers that lie.
    "long header": (safetensors({"x": entry()}, length=2**31), "a header of"),
    "longer header": (safetensors({"x": entry()}, length=2**60), "none of"),
    "short data": (safetensors({"x": entry(end=TEN, shape=[TEN // 4])}), "cut off"),
    "claim": (safetensors({"x": entry(shape=[TEN])}), "not that of its shape"),
    "type": (safetensors({"x": entry("F64")}), "not that of its shape"),
    "new type": (safetensors({"x": entry("F8_E4M3", [24])}), "of type 'F8_E4M3'"),
    "minus": (safetensors({"x": entry(shape=[-2, -3])}), "natural numbers"),
    "truth": (safetensors({"x": entry(shape=[True, 6])}), "natural numbers"),
    "real": (safetensors({"x": entry(shape=[6.0])}), "natural numbers"),
    "backwards": (safetensors({"x": entry(start=24, end=0)}), "not that of its shape"),
    "gap": (safetensors({"x": entry(shape=[2], start=16)}), "leave gaps"),
    "tail": (safetensors({"x": entry(shape=[2], end=8)}), "leave gaps"),
    "overlap": (safetensors({"x": entry(), "y": entry()}), "overlap"),
    "no fields": (safetensors({"x": {}}), "damaged"),
    "no object": (safetensors({"x": 3}), "damaged"),
    "no arrays": (safetensors({"__metadata__": {}}, b""), "no weights"),
    "no JSON": (safetensors(b"{" * 99), "damaged"),
    "deep JSON": (safetensors(b'{"x":' * 100_000), "damaged"),
    "no text": (safetensors(b"{\xff\xfe"), "damaged"),
    # Arrays of numpy that would run code, or are no numbers.
    "object": (npz(x=np.array([print])), "'object', and no numbers"),
    "text": (npz(x=np.array(["a"])), "and no numbers"),
    "record": (npz(x=np.zeros(2, [("a", "f4")])), "and no numbers"),
    "other order": (npz(x=SIX.astype(">f4")), "'>f4', and no numbers"),
    "no array": (npz(), "neither of torch.save nor of numpy.savez"),
    # None of these.
    "nothing": (b"", "empty"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "none of PyTorch's files"),
    "page": (b"<!DOCTYPE html><html>", "none of PyTorch's files"),
    "one byte": (b"\x80", "damaged"),
    "numpy": (SIX.tobytes(), "none of PyTorch's files"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_bad_file_is_refused_in_one_line(tmp_path, kind):
    content, cause = HOSTILE[kind]
    assert cause in refusal(written(tmp_path, content))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_refused(tmp_path, kind):
    for length in range(0, len(KINDS[kind]), 5):
        refusal(written(tmp_path, KINDS[kind][:length]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_or_reads(tmp_path, kind):
    """No error but ours for any byte changed; one in checked values never passes."""
    chance = np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(KINDS[kind])
        content[chance.integers(len(content))] = chance.integers(256)
        try:
            found = found_in(tmp_path, content)
        except BadFileError as error:
            assert "\n" not in str(error)
        else:
            values = next(iter(found.values()))
            if kind in ("zip", "npz", "packed") and values.shape == (2, 3):
                np.testing.assert_array_equal(values, SIX.reshape(2, 3))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", TYPES)
def test_what_is_not_finite_is_named(tmp_path, kind, bad):
    values = np.ones((5, 7), TYPES[kind])
    good, values[3, 4] = values.tobytes(), bad
    size = len(good)
    entries = {
        name: entry(kind, (5, 7), i * size, i * size + size)
        for i, name in enumerate(["a", "b", "c"])
    }
    path = written(tmp_path, safetensors(entries, good + 2 * values.tobytes()))
    assert "'b' holds NaN or infinity" in refusal(path)


def npy(shape, size):
    """An npz file of one array that claims a shape and has so many bytes, packed."""
    body, file = io.BytesIO(), io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(body, header)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("x.npy", body.getvalue() + bytes(size))
    return file.getvalue()


def test_npz_that_claims_too_much(tmp_path):
    said = refusal(written(tmp_path, npy((TEN // 4,), 24)))
    assert f"'x' claims {TEN} bytes of 24" in said
    assert "claims" in refusal(written(tmp_path, npy((-2, -3), 24)))
    bomb = npy((17_500_000,), 70_000_000)
    assert len(bomb) < 100_000
    assert "claims to unpack to 70000" in refusal(written(tmp_path, bomb))
    # The table of contents claims it, of a kilobyte.
    lie = npy((TEN // 4,), 24)
    at = lie.index(b"PK\1\2") + 24
    lie = lie[:at] + struct.pack("<L", 2**32 - 2) + lie[at + 4 :]
    assert "claims to unpack to 4294967294" in refusal(written(tmp_path, lie))


def sharded(folder, places, **shards):
    """An index of shards that hold SIX under each of some names; its path."""
    folder.mkdir(exist_ok=True)
    for shard, names in shards.items():
        content = npz(**dict.fromkeys(names, SIX))
        (folder / f"{shard}.safetensors").write_bytes(content)
    index = folder / "model.safetensors.index.json"
    text = places if isinstance(places, str) else json.dumps({"weight_map": places})
    index.write_text(text)
    return index


def test_shards_are_one(tmp_path):
    places = {"a": "1.safetensors", "b": "2.safetensors"}
    index = sharded(tmp_path / "f", places, **{"1": ["a", "more"], "2": ["b"]})
    assert list(read(index)) == list(read(index.parent)) == ["a", "b"]
    (tmp_path / "x.npz").write_bytes(npz(b=SIX))
    os.remove(index.parent / "2.safetensors")
    os.symlink(tmp_path / "x.npz", index.parent / "2.safetensors")
    assert list(read(index)) == ["a", "b"], "a cache of downloads holds links"


SHARDS = {
    "missing": ({"a": "9.safetensors"}, "shard '9.safetensors' is missing, fetch"),
    "lacking": ({"b": "1.safetensors"}, "shard '1.safetensors' lacks 'b'"),
    "above": ({"a": "../1.safetensors"}, "lies outside its folder"),
    "absolute": ({"a": "/etc/passwd"}, "lies outside its folder"),
    "backslash": ({"a": "..\\1.safetensors"}, "lies outside its folder"),
    "drive": ({"a": "C:x"}, "lies outside its folder"),
    "up": ({"a": ".."}, "lies outside its folder"),
    "empty": ({"a": ""}, "lies outside its folder"),
    "number": ({"a": 3}, "is missing"),
    "nothing": ({}, "no weights"),
    "list": ("[]", "no index of shards"),
    "list inside": ('{"weight_map": []}', "no index of shards"),
    "no JSON": ("{", "no index of shards"),
    "deep": ('{"weight_map":' * 100_000, "no index of shards"),
}


@pytest.mark.parametrize("kind", SHARDS)
def test_bad_shards(tmp_path, kind):
    places, cause = SHARDS[kind]
    (tmp_path / "1.safetensors").write_bytes(npz(a=SIX))
    path = sharded(tmp_path / "f", places, **{"1": ["a"]})
    assert cause in refusal(path)


def test_an_index_is_no_shard_of_itself(tmp_path):
    path = sharded(tmp_path / "f", {"a": "model.safetensors.index.json"})
    assert "none of PyTorch's files" in refusal(path)


def test_what_is_no_file(tmp_path):
    assert refusal(tmp_path / "x").startswith("FILE does not exist")
    assert refusal(tmp_path / "x.index.json").startswith("FILE cannot be read: No such")
    assert "neither model.safetensors nor pytorch_model.bin" in refusal(tmp_path)
    assert "cannot be read: File name too long" in refusal(tmp_path / ("x" * 300))
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refusal(tmp_path / "pipe")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    refusal(tmp_path / "loop")
