"""timm imported without torchvision, whose builds are for other PyTorches."""

import contextlib
import sys
from collections.abc import Iterator
from unittest import mock

import pytest

# What timm imports of it, all of it for data sets and norms not used here.
TORCHVISION = (
    "torchvision",
    "torchvision.datasets",
    "torchvision.ops.misc",
    "torchvision.transforms",
    "torchvision.transforms.functional",
)


@contextlib.contextmanager
def torchvision() -> Iterator[None]:
    """There seems to be one, while it lasts."""
    with pytest.MonkeyPatch.context() as absent:
        for part in TORCHVISION:
            absent.setitem(sys.modules, part, mock.MagicMock())
        yield


with torchvision():
    import timm as timm
    from timm.layers import HybridEmbed as HybridEmbed
    from timm.layers import StdConv2dSame as StdConv2dSame
    from timm.models.beit import Beit as Beit
    from timm.models.resnetv2 import ResNetV2 as ResNetV2
    from timm.models.swin_transformer import SwinTransformer as SwinTransformer
    from timm.models.vision_transformer import VisionTransformer as VisionTransformer
