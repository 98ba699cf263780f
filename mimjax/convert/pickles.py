"""The pickles of PyTorch without PyTorch: nothing that stands in them is ever executed.

Python's own reader walks the pickle, with those steps replaced that would import, call
or alter something: a name stays a name, the call that rebuilds a tensor becomes a
`Tensor`, and any other a `StandIn`.
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np


class Flaw(Exception):
    """What is wrong with a file, and what would be right, without the file's name."""


class Storage(NamedTuple):
    """`length` elements of a type, from element `start` of the raw array `key`."""

    key: str
    dtype: str
    start: int
    length: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements of `dtype`."""

    storage: Storage
    offset: int
    size: Sequence[int]
    stride: Sequence[int]
    dtype: str


class StandIn:
    """Stands for an object of another project; `state` is what it would be set to."""

    def __init__(self, name: str):
        self.name = name
        self.state: Any = None

    def append(self, item: Any) -> None:
        """Drops what would be added to it."""

    extend = append


WHOLE = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "bool"]
WHOLE += ["uint64", "uint32", "uint16", "uint8"]
DTYPES = {name: np.dtype(name) for name in WHOLE}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)

KINDS = {"Double": "float64", "Float": "float32", "Half": "float16", "Long": "int64"}
KINDS |= {"BFloat16": "bfloat16", "Int": "int32", "Short": "int16", "Char": "int8"}
KINDS |= {"Byte": "uint8", "Bool": "bool", "Untyped": "uint8"}
STORAGES = {f"{name}Storage": dtype for name, dtype in KINDS.items()}

# What releases hold: MAE and BEiT a Namespace and SimMIM and Swin a CfgNode beside the
# weights, AIM of ml-l3m a DictConfig and a scheduler, the tokenizer of DALL-E whole
# modules, and training states the rest.
FAMILIES = ("torch.nn.", "dall_e.", "omegaconf.", "fvcore.", "l3m.")
NAMES = {f"{p}.{s}" for p in ("torch", "torch.cuda", "torch.storage") for s in STORAGES}
NAMES |= {f"torch.{name}" for name in DTYPES}
# The types that a DictConfig names are beside the two that are made.
BUILTINS = ("set", "frozenset", "dict", "list", "tuple", "str", "int", "long", "float")
BUILTINS += ("bool",)
NAMES |= {f"{p}.{s}" for p in ("builtins", "__builtin__") for s in BUILTINS}
NAMES |= {
    f"{package}.multiarray.{name}"
    for package in ("numpy.core", "numpy._core")
    for name in ("scalar", "_reconstruct")
}
NAMES |= {
    f"{module}.{pure}{system}Path"
    for module in ("pathlib", "pathlib._local")
    for pure in ("", "Pure")
    for system in ("", "Posix", "Windows")
}
NAMES |= {f"collections.{name}" for name in ("Counter", "OrderedDict", "defaultdict")}
NAMES |= {
    "_codecs.encode",
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.ndarray",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch.device",
    "torch.storage.TypedStorage",
    "typing.Any",
    "yacs.config.CfgNode",
}

# The steps of the binary protocols that only move plain values about. BYTEARRAY8 is
# left out: it sets aside what the file claims before it reads.
STEPS = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE BININT BININT1 "
    "BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING "
    "SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 "
    "TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT GLOBAL STACK_GLOBAL BINPERSID BINGET "
    "LONG_BINGET BINPUT LONG_BINPUT MEMOIZE"
)
CODES = [getattr(pickle, step)[0] for step in STEPS.split()]


# Python's reader in Python: its memo is a dict, where the one in C sets aside an array
# as long as the file claims. Its steps are not in what type checkers know of it.
READER: Any = pickle._Unpickler
MOST_PAIRS = 1_000_000


class Inspector(READER):
    """Reads one pickle; `storages` are those that it names, by key."""

    def __init__(self, file: Any):
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, Storage] = {}
        self.pairs = 0  # that calls are given

    def find_class(self, module: str, name: str) -> str:
        """The name itself, if it is one of those allowed."""
        whole = f"{module}.{name}"
        if whole not in NAMES and not whole.startswith(FAMILIES):
            raise Flaw(f"it would run {short(whole)}, which weights have no need of")
        return whole

    def persistent_load(self, pid: Any) -> Any:
        """A storage, or the name of a module class in the older format."""
        match pid:
            case ("module", str(name), *_):
                return name
            case ("storage", str(kind), str(key), _, int(count), *view) if count >= 0:
                dtype = STORAGES[kind.rpartition(".")[2]]
                whole = Storage(key, dtype, 0, count)
                if self.storages.setdefault(key, whole) != whole:
                    raise Flaw(f"it names storage {short(key)} with two sizes or types")
                if not view or view[0] is None:
                    return whole
                _, start, part = view[0]
                if not 0 <= start <= start + part <= count:
                    raise Flaw(f"a view leaves its storage {short(key)}")
                return Storage(key, dtype, start, part)
        raise Flaw("it refers to something that is no storage")

    def call(self) -> None:
        """What a call or a construction leaves, without making it."""
        args, name = self.stack.pop(), self.stack[-1]
        if name == "collections.OrderedDict":
            # Pairs that are read once can be made into any number of them.
            self.pairs += sum(map(len, args))
            if self.pairs > MOST_PAIRS:
                raise Flaw("its dicts hold more than any model has")
        self.stack[-1] = rebuilt(name, args)

    def build(self) -> None:
        """Keeps the state of a stand-in; what else has one, needs none."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], StandIn):
            self.stack[-1].state = state

    def set_item(self) -> None:
        """Puts one entry into a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        put(self.stack[-1], [key], [value])

    def set_items(self) -> None:
        """Puts entries into a dict."""
        items = self.pop_mark()
        put(self.stack[-1], items[::2], items[1::2])

    def new_set(self) -> None:
        """A list stands for a set, for to hash a nest of tuples may take forever."""
        self.stack.append([])

    def frozen_set(self) -> None:
        """The same with its items."""
        items = self.pop_mark()
        self.stack.append(items)

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{code: READER.dispatch[code] for code in CODES},
        pickle.REDUCE[0]: call,
        pickle.NEWOBJ[0]: call,
        pickle.BUILD[0]: build,
        pickle.SETITEM[0]: set_item,
        pickle.SETITEMS[0]: set_items,
        pickle.EMPTY_SET[0]: new_set,
        pickle.ADDITEMS[0]: READER.dispatch[pickle.APPENDS[0]],
        pickle.FROZENSET[0]: frozen_set,
    }


def rebuilt(name: str, args: Any) -> Any:
    """What stands for the call of `name`."""
    match name.rpartition(".")[2], args:
        case "OrderedDict", _:
            entries: dict[Any, Any] = {}
            pairs = args[0] if args else []
            put(entries, [key for key, _ in pairs], [value for _, value in pairs])
            return entries
        case "set" | "frozenset", (list(items),):
            return items
        case (
            "_rebuild_tensor" | "_rebuild_tensor_v2",
            (Storage() as storage, offset, size, stride, *rest),
        ):
            # The metadata say that its values are to be negated.
            if any(rest[2:]):
                raise Flaw("it holds a lazily negated tensor: save a copy of it")
            return Tensor(storage, offset, size, stride, storage.dtype)
        case (
            "_rebuild_tensor_v3",
            (Storage() as storage, offset, size, stride, _, _, str(dtype), *_),
        ):
            return Tensor(storage, offset, size, stride, dtype.rpartition(".")[2])
        case "_rebuild_parameter" | "_rebuild_parameter_with_state", (Tensor(), *_):
            return args[0]
    return StandIn(name)


def put(target: Any, keys: list[Any], values: list[Any]) -> None:
    """Fills a dict, from plain keys alone (see `new_set`)."""
    plain = (str, int, float, bytes, bool, type(None))
    if isinstance(target, dict):
        pairs = zip(keys, values, strict=True)
        target.update((key, value) for key, value in pairs if type(key) in plain)


def kind_of(value: Any) -> str:
    """What an object is, for people."""
    name = value.name if isinstance(value, StandIn) else type(value).__name__
    return f"a {short(name)}"


def short(name: object) -> str:
    """A name as the file has it, on one line."""
    text = repr(name[:80] if isinstance(name, str) else name)
    return text if len(text) < 100 else f"{text[:90]}..."
