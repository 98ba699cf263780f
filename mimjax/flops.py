"""Work of a training step and what a device could do: the two halves of MFU.

Model FLOPs utilisation as in PaLM (arXiv 2204.02311, appendix B): matrix products only,
one multiply-add counted as two, no recomputation. Counted is the loss and its gradient,
which takes two products more for each one of the forward pass, and none where no
gradient is asked for, as in a frozen encoder. Not counted is the model of another run
that an objective asks, a tokenizer or teacher: it is told apart. Attention is counted
as computed, with no discount for a causal mask.

Peaks are the dense bfloat16 figures of the vendors' datasheets (float16 where a device
has no bfloat16), without sparsity and with float32 accumulation: Google Cloud's TPU
documentation (one page a version); NVIDIA's data sheet of each product, and for GeForce
its Ampere, Ada and Blackwell white papers.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.interpreters import partial_eval

from mimjax.frozen import SCOPE
from mimjax.reductions import NO_PRODUCT

# FLOP/s of one device by words of its device_kind; the longest entry that fits wins.
# Up to TPU v3, and again on TPU7x, a chip shows as two devices.
PEAKS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v4 lite": 138e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "V100": 125e12,
    "V100-PCIE": 112e12,
    "T4": 65e12,
    "A10": 125e12,
    "A10G": 70e12,
    "A30": 165e12,
    "A40": 149.7e12,
    "A100": 312e12,
    "A800": 312e12,
    "RTX A6000": 154.8e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165.2e12,
    "RTX 5090": 209.5e12,
    "RTX 6000 Ada": 364.2e12,
    "L4": 121e12,
    "L40": 181e12,
    "L40S": 362e12,
    "H100": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835.5e12,
    "H200": 989.4e12,
    "H200 NVL": 835.5e12,
    "GH200": 989.4e12,
    "B200": 2250e12,
    "GB200": 2500e12,
    "B300": 2250e12,
    "GB300": 2500e12,
}


@runtime_checkable
class Device(Protocol):
    """What is asked of a jax.Device."""

    @property
    def platform(self) -> str: ...

    @property
    def device_kind(self) -> str: ...


def peak_flops(device: Device) -> float | None:
    """Dense bfloat16 peak of one device in FLOP/s; None for CPU and unknown devices."""
    kind = device.device_kind
    # A laptop's part, a slice of one and a variant are not their namesake.
    if device.platform == "cpu" or re.search(r"\b(Laptop|MIG|Ti|D)\b", kind):
        return None
    fits = [words for words in PEAKS if re.search(rf"\b{words}\b", kind)]
    return PEAKS[max(fits, key=len)] if fits else None


def matmul_flops(fn: Callable[..., Any], *args: Any, whole: bool = False) -> int:
    """FLOPs of all matrix products and convolutions in one call of `fn`.

    A product of [M, K] and [K, N] counts 2 M N K. The trace of `fn` is followed into
    calls, scans (times their length), remat (once) and custom derivatives; of the
    branches of a condition the cheapest counts, for the dearer is what happens once,
    such as the start of a codebook. Not counted are products that stand for something
    else (`reductions.exact_product`), and `while` loops, whose rounds are not known.

    Args:
      fn: traced, not run.
      *args: pytrees of arrays or of jax.ShapeDtypeStruct.
      whole: with what the models of other runs take.
    """
    return of_trace(jax.make_jaxpr(fn)(*args).jaxpr, whole)


def of_trace(jaxpr: Jaxpr, whole: bool = False) -> int:
    """The same of a function that is traced already."""
    # Without what no result needs, as the compiler leaves it out.
    used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _count(used, (NO_PRODUCT,) if whole else (NO_PRODUCT, SCOPE))


def _count(jaxpr: Jaxpr, apart: tuple[str, ...]) -> int:
    """What is not in a scope called so."""
    total = 0
    for eqn in jaxpr.eqns:
        found = _equation(eqn, apart)
        # Most have no product, and are not asked for their scope.
        if found and not any(n in str(eqn.source_info.name_stack) for n in apart):
            total += found
    return total


def _equation(eqn: JaxprEqn, apart: tuple[str, ...]) -> int:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        left, out = _shape(eqn.invars[0]), _shape(eqn.outvars[0])
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, out = _shape(eqn.invars[1]), _shape(eqn.outvars[0])
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        # The way back through a stride puts zeros between the values.
        spread = math.prod(params["lhs_dilation"])
        return 2 * math.prod(out) * (math.prod(kernel) // outputs) // spread
    if name == "while":
        return 0
    inner = [_count(jaxpr, apart) for jaxpr in _inner(params)]
    if name == "cond":
        return min(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _shape(operand: Any) -> tuple[int, ...]:
    return operand.aval.shape


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The jaxprs among the parameters of an equation."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item
