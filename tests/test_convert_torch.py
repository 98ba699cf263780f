"""Files that PyTorch and safetensors write, read without them: every bit comes back."""

import argparse
import collections
import pathlib
import sys
import types

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from mimjax.convert.files import BadFileError, read

FORMATS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}


def numpy_of(tensor):
    """The tensor as numpy has it; bfloat16 by its bits."""
    tensor = tensor.detach().contiguous()
    bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    return bits.numpy()


def assert_same(found, wanted):
    """The same names in the same order, shapes and bits."""
    assert list(found) == list(wanted)
    for name, x in found.items():
        y = numpy_of(wanted[name])
        if wanted[name].dtype == torch.bfloat16:
            assert x.dtype.name == "bfloat16"
            x = x.view(np.int16)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y, err_msg=name, strict=True)


def tensors():
    """Every type, and views of all kinds."""
    chance = torch.Generator().manual_seed(0)
    base = torch.randn(6, 8, generator=chance)
    types_ = (torch.float64, torch.float16, torch.bfloat16)
    whole = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    return {
        "base": base,
        "turned": base.T,
        "part": base[2:4, 1::3],
        "last": base[5, 7],
        "parameter": nn.Parameter(base[1]),
        "frozen": nn.Parameter(base * 2, requires_grad=False),
        "none": torch.zeros(0, 3),
        "scalar": torch.tensor(7),
        "truth": base > 0,
        **{str(kind): base.to(kind) for kind in types_},
        **{str(kind): torch.arange(5).to(kind) for kind in whole},
    }


@pytest.fixture(params=FORMATS)
def saved(request, tmp_path):
    """Saves by torch in either format and reads again."""

    def save_and_read(content):
        torch.save(content, tmp_path / "x.pth", **FORMATS[request.param])
        return read(tmp_path / "x.pth")

    return save_and_read


def test_every_type_and_view(saved):
    assert_same(saved(tensors()), tensors())


@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64"])
def test_types_without_a_storage_of_their_own(tmp_path, kind):
    wanted = {"x": torch.arange(4).to(getattr(torch, kind))}
    torch.save(wanted, tmp_path / "x.pt")
    assert_same(read(tmp_path / "x.pt"), wanted)


@pytest.mark.parametrize("key", ["model", "state_dict", "module", "teacher"])
def test_what_releases_hold_beside_the_weights(saved, key, monkeypatch):
    """Namespace, CfgNode, paths, sets, numpy's numbers, a step of training."""
    config = types.ModuleType("yacs.config")
    config.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", config)
    node = config.CfgNode(TRAIN=config.CfgNode(EPOCHS=3))
    node.frozen = True
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    wanted = model.state_dict()
    args = argparse.Namespace(out=pathlib.Path("x"), device=torch.device("cpu"), n={1})
    # As torch.optim has it, which takes seconds to import.
    moments = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(4, 3)}
    groups = [{"params": [0], "betas": (0.9, 0.95), "amsgrad": False}]
    beside = {
        "student": {"x": torch.zeros(2)},
        "optimizer": {"state": {0: moments}, "param_groups": groups},
        "lr_scheduler": {"milestones": collections.Counter([3, 5])},
        "config": node,
        "args": args,
        "epoch": 7,
        "max_accuracy": np.float64(83.2),
        "loss": np.arange(3.0),
        "size": torch.Size([2, 3]),
        "seen": frozenset({("a", 1)}),
    }
    assert_same(saved({**beside, key: wanted}), wanted)


def test_what_wraps_a_model_leaves_no_trace(saved):
    wanted = nn.Linear(2, 2).state_dict()
    wrapped = {f"module._orig_mod.{name}": x for name, x in wanted.items()}
    assert_same(saved({"model": wrapped}), wanted)


class Conv2d(nn.Module):
    """Parameters with names of its own, as in the tokenizer of DALL-E."""

    def __init__(self, n_in, n_out, kw):
        super().__init__()
        self.w = nn.Parameter(torch.randn(n_out, n_in, kw, kw))
        self.b = nn.Parameter(torch.zeros(n_out))
        self.device = torch.device("cpu")
        self.register_buffer("passing", torch.ones(1), persistent=False)
        self.register_buffer("kept", torch.ones(1))
        self.register_parameter("unused", None)


class Encoder(nn.Module):
    """Modules within modules, some without weights."""

    def __init__(self):
        super().__init__()
        conv = ("conv", Conv2d(4, 8, 1))
        output = nn.Sequential(collections.OrderedDict([("relu", nn.ReLU()), conv]))
        layers = [("input", Conv2d(3, 4, 3)), ("pool", nn.MaxPool2d(2))]
        layers += [("norm", nn.BatchNorm2d(4)), ("output", output)]
        self.blocks = nn.Sequential(collections.OrderedDict(layers))
        self.path = nn.Identity()


# The older format looks for the source of every class and warns where there is none.
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source")
def test_a_whole_module(saved, monkeypatch):
    """Its classes need not exist where it is read."""
    package = types.ModuleType("dall_e")
    package.encoder = types.ModuleType("dall_e.encoder")
    with monkeypatch.context() as there:
        for kind in (Conv2d, Encoder):
            setattr(package.encoder, kind.__name__, kind)
            there.setattr(kind, "__module__", "dall_e.encoder")
        there.setitem(sys.modules, "dall_e", package)
        there.setitem(sys.modules, "dall_e.encoder", package.encoder)
        module = Encoder()
        found = saved(module)
    assert "blocks.input.w" in found
    assert_same(found, module.state_dict())


def test_a_tensor_that_claims_more_than_its_storage(saved):
    """Strides of zero make any size of one number."""
    huge = torch.zeros(1).expand(2**40)
    with pytest.raises(BadFileError, match="larger than what it is a view of"):
        saved({"x": huge})


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_tensors_that_are_no_plain_arrays(saved):
    sparse = torch.eye(3).to_sparse()
    with pytest.raises(BadFileError, match="_rebuild_sparse_tensor"):
        saved({"x": sparse})
    complex_ = torch.ones(2, dtype=torch.complex64)
    with pytest.raises(BadFileError, match="ComplexFloatStorage"):
        saved({"x": complex_})
    with pytest.raises(BadFileError, match="negated"):
        saved({"x": torch._neg_view(torch.ones(3))})


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_anywhere_is_refused(tmp_path, kind):
    torch.save({"x": torch.arange(64.0)}, tmp_path / "x.pth", **FORMATS[kind])
    content = (tmp_path / "x.pth").read_bytes()
    for length in range(0, len(content), 7):
        (tmp_path / "y.pth").write_bytes(content[:length])
        with pytest.raises(BadFileError, match=r"y\.pth"):
            read(tmp_path / "y.pth")


def test_safetensors_as_its_library_writes_it(tmp_path):
    wanted = {n: x.detach().contiguous().clone() for n, x in tensors().items()}
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(wanted, path, metadata={"format": "pt"})
    for place in (path, tmp_path):
        found = read(place)
        assert_same({name: found[name] for name in wanted}, wanted)
        assert len(found) == len(wanted)


def test_a_folder_with_a_pickle(tmp_path):
    wanted = {"x": torch.ones(2)}
    torch.save(wanted, tmp_path / "pytorch_model.bin")
    assert_same(read(tmp_path), wanted)
