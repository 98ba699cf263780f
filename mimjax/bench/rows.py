"""The rows of `all` and the variants of `growth`, by kind of machine."""

import dataclasses
import pathlib

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"

# What transformers has of SimMIM on a plain vision transformer.
PLAIN = {"position": "learned", "qkv_bias": "all", "layer_scale": "0"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A recipe at a size, on one device."""

    name: str
    config: str
    batch_size: int
    encoder: dict[str, str]
    more: dict[str, str] = dataclasses.field(default_factory=dict)
    against: str = "torch"
    options: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def path(self) -> str:
        """Its file."""
        return str(CONFIGS / f"{self.config}.py")

    @property
    def changes(self) -> list[tuple[str, str]]:
        """What is changed in it."""
        encoder = {f"encoder.{name}": value for name, value in self.encoder.items()}
        given = {"batch_size": str(self.batch_size), **encoder, **self.more}
        return list(given.items())


def on_cpu() -> list[Row]:
    """Minutes each, on any machine."""
    found = []
    small = {"size": "S"}
    for dtype, said in (("bfloat16", "bf16"), ("float32", "fp32")):
        found += [
            Row(f"{name} {said}", config, batch, {**encoder, "dtype": dtype}, more)
            for name, config, batch, encoder, more in (
                ("MAE-S", "mae_b16", 16, small, {}),
                ("MAE-B", "mae_b16", 8, {}, {}),
                ("ViT-S", "vit_b16", 16, small, {}),
                ("BEiT-S", "beit_b16", 16, small, {}),
                ("SimMIM-S", "simmim_b16", 16, {**small, **PLAIN}, {}),
            )
        ]
    return found


def on_gpu() -> list[Row]:
    """For one device of 80 GiB, which none has been measured on yet.

    What is beside a peer comes first, for a run of `all` that is cut short.
    """
    large, fused = {"size": "L"}, {"attention": "cudnn"}
    whole = {"remat": "none"}
    # What ours gains by other kernels, one at a time.
    no_triton = {"xla_gpu_enable_triton_gemm": "false"}
    return [
        Row("MAE-L bf16", "mae_l16", 256, {}),
        Row("SimMIM-L bf16", "simmim_b16", 128, {**large, **PLAIN}),
        Row("BEiT-L bf16", "beit_l16", 128, {}),
        Row("AIM-600M bf16", "aim_600m", 64, whole, against=""),
        Row("MAE-L bf16, cuDNN", "mae_l16", 256, fused, against=""),
        Row("MAE-L bf16, cuBLAS", "mae_l16", 256, {}, against="", options=no_triton),
        Row("AIM-600M bf16, cuDNN", "aim_600m", 64, {**whole, **fused}, against=""),
        Row("AIM-600M float8", "aim_600m", 64, {**whole, "float8": "True"}, against=""),
    ]


def growth(platform: str) -> dict[str, list[Row]]:
    """What is compared with its FLOPs: by what changes, the first row is the least."""
    cpu = platform == "cpu"
    sizes = ("Ti", "S", "B") if cpu else ("B", "L", "H")
    batch, middle = (8, "S") if cpu else (64, "L")

    def mae(name: str, encoder: dict[str, str], **more: str) -> Row:
        fields = {"dtype": "bfloat16", **encoder}
        changes = {f"objective.{field}": value for field, value in more.items()}
        return Row(name, "mae_b16", batch, fields, changes, against="")

    def deep(**encoder: str) -> list[Row]:
        return [
            mae(f"{depth} layers", {"size": sizes[0], "depth": str(depth), **encoder})
            for depth in (12, 24, 32)
        ]

    found = {
        "hidden patches": [
            mae(f"MAE-{middle}", {"size": middle}),
            mae(f"MAE-{middle}, all patches", {"size": middle}, mask_in_encoder="True"),
        ],
        "size": [mae(f"MAE-{size}", {"size": size}) for size in sizes],
        "patches": [
            mae(f"{n} patches", {"size": middle, "image_size": f"({side}, {side})"})
            for n, side in ((196, 224), (784, 448))
        ],
        "depth": deep(),
    }
    # Only for a TPU are layers scanned without being told.
    tpu = platform == "tpu"
    return found | ({} if tpu else {"depth, scanned": deep(unroll="1")})
