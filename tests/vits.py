"""A vision transformer in PyTorch, and the models of it that no package has.

Written from papers and the facts of the official code, under the official names;
nothing is taken from this package but the sizes of a `vit.Encoder`.
"""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from mimjax.backbones import vit

EPS = 1e-6


class Attention(nn.Module):
    """Rows of `qkv` are all queries, all keys, all values, each head by head.

    With biases "qv" that of the keys is zero (BEiT).
    """

    def __init__(self, width: int, heads: int, biases: str):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=biases == "all")
        if biases == "qv":
            self.q_bias = nn.Parameter(torch.empty(width))
            self.v_bias = nn.Parameter(torch.empty(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        qkv = self.qkv(x)
        if self.qkv.bias is None:
            none = torch.zeros_like(self.q_bias)
            qkv = qkv + torch.cat([self.q_bias, none, self.v_bias])
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(x.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, encoder: vit.Encoder):
        super().__init__()
        width, inside = encoder.width, round(encoder.width * encoder.mlp_ratio)
        self.norm1 = nn.LayerNorm(width, EPS)
        self.attn = Attention(width, encoder.heads, encoder.qkv_bias)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(width, inside),
                gelu=nn.GELU("tanh" if encoder.gelu_tanh else "none"),
                fc2=nn.Linear(inside, width),
            )
        )
        for name in ("gamma_1", "gamma_2"):
            scale = nn.Parameter(torch.empty(width)) if encoder.layer_scale else 1.0
            setattr(self, name, scale)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        x = x + self.gamma_1 * self.attn(self.norm1(x), bias)
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class RelativePositions(nn.Module):
    """BEiT's: a row of the table for every offset, three more for the class token."""

    def __init__(self, rows: int, columns: int, heads: int):
        super().__init__()
        count = (2 * rows - 1) * (2 * columns - 1) + 3
        self.relative_position_bias_table = nn.Parameter(torch.empty(count, heads))
        place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        apart = place[:, None] - place + torch.tensor([rows - 1, columns - 1])
        index = apart[..., 0] * (2 * columns - 1) + apart[..., 1]
        index = functional.pad(index, (1, 0, 1, 0))
        index[0], index[:, 0], index[0, 0] = count - 3, count - 2, count - 1
        self.register_buffer("index", index, persistent=False)

    def forward(self) -> torch.Tensor:
        return self.relative_position_bias_table[self.index].permute(2, 0, 1)[None]


class Vit(nn.Module):
    """Images to tokens of every layer; `last` is the name of the last norm."""

    def __init__(self, encoder: vit.Encoder, masks: bool = False, last: str = "norm"):
        super().__init__()
        width, patch, self.grid = encoder.width, encoder.patch_size, encoder.grid
        conv = nn.Conv2d(encoder.channels, width, patch, patch)
        self.patch_embed = nn.ModuleDict({"proj": conv})
        if encoder.cls:
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        if masks:
            self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        if encoder.position == "learned":
            rows = encoder.num_tokens + encoder.cls
            self.pos_embed = nn.Parameter(torch.empty(1, rows, width))
        else:
            self.rel_pos_bias = RelativePositions(*encoder.grid, encoder.heads)
        self.blocks = nn.ModuleList(Block(encoder) for _ in range(encoder.depth))
        self.last = last
        setattr(self, last, nn.LayerNorm(width, EPS))

    def embed(
        self, image: torch.Tensor, hidden: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embeddings of the patches; hidden ones are the mask token."""
        x = self.patch_embed["proj"](image).flatten(2).transpose(1, 2)
        if hidden is None:
            return x
        hide = hidden[..., None].to(x.dtype)
        return x * (1 - hide) + self.mask_token * hide

    def bias(self) -> torch.Tensor | None:
        """What every layer adds to its scores."""
        return self.rel_pos_bias() if hasattr(self, "rel_pos_bias") else None

    def layers(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What comes out of each layer, given embeddings."""
        if hasattr(self, "cls_token"):
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        if hasattr(self, "pos_embed"):
            x = x + self.pos_embed
        bias, found = self.bias(), []
        for block in self.blocks:
            x = block(x, bias)
            found.append(x)
        return found

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings through all layers and the last norm."""
        return getattr(self, self.last)(self.layers(x)[-1])


class Simmim(nn.Module):
    """microsoft/SimMIM on its vision transformer."""

    def __init__(self, encoder: vit.Encoder):
        super().__init__()
        side, channels = encoder.patch_size[0], encoder.channels
        self.encoder = Vit(encoder, masks=True)
        self.decoder = nn.Sequential(
            nn.Conv2d(encoder.width, side * side * channels, 1), nn.PixelShuffle(side)
        )
        self.side = side

    def forward(
        self, image: torch.Tensor, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and the image as it is drawn."""
        x = self.encoder.normed(self.encoder.embed(image, hidden))[:, 1:]
        drawn = self.decoder(x.transpose(1, 2).unflatten(2, self.encoder.grid))
        mask = hidden.unflatten(1, self.encoder.grid).long()[:, None]
        mask = mask.repeat_interleave(self.side, 2).repeat_interleave(self.side, 3)
        errors = functional.l1_loss(drawn, image, reduction="none") * mask
        return errors.sum() / (mask.sum() + 1e-5) / image.shape[1], drawn


class Beit2(Vit):
    """microsoft/unilm beit2 `modeling_pretrain.py`: both heads are one."""

    def __init__(self, encoder: vit.Encoder, early: int, branch: int, codes: int):
        super().__init__(encoder, masks=True)
        self.early = early
        self.cls_pt_layers = nn.ModuleList(Block(encoder) for _ in range(branch))
        self.lm_head = nn.Linear(encoder.width, codes)

    def forward(
        self, image: torch.Tensor, hidden: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of the last layer and of the branch: normed tokens, scores where hidden."""
        every = self.layers(self.embed(image, hidden))
        last, bias = every[-1], self.bias()
        x = torch.cat([last[:, :1], every[self.early - 1][:, 1:]], 1)
        for block in self.cls_pt_layers:
            x = block(x, bias)
        both = [self.norm(last), self.norm(x)]
        return [(x, self.lm_head(x[:, 1:][hidden])) for x in both]


class VqKd(nn.Module):
    """microsoft/unilm beit2 `modeling_vqkd.py` and `norm_ema_quantizer.py`."""

    def __init__(
        self, encoder: vit.Encoder, decoder: vit.Encoder, codes: int, teacher: int
    ):
        super().__init__()
        narrow, width, inner = decoder.channels, encoder.width, decoder.width
        self.encoder = Vit(encoder, last="fc_norm")
        self.decoder = Vit(decoder, last="fc_norm")
        self.encode_task_layer = nn.Sequential(
            nn.Linear(width, width), nn.Tanh(), nn.Linear(width, narrow)
        )
        self.decode_task_layer = nn.Sequential(
            nn.Linear(inner, inner), nn.Tanh(), nn.Linear(inner, teacher)
        )
        unit = functional.normalize(
            torch.randn((codes, narrow), generator=torch.manual_seed(2))
        )
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding.from_pretrained(unit)})

    def forward(
        self, image: torch.Tensor, wanted: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss, the unit vectors of all patches, and what the decoder predicts."""
        x = self.encoder.normed(self.encoder.embed(image))[:, 1:]
        vectors = functional.normalize(self.encode_task_layer(x), dim=-1)
        chosen = self.quantize["embedding"](self.nearest(vectors))
        commitment = functional.mse_loss(chosen, vectors)
        through = vectors + (chosen - vectors).detach()
        picture = through.transpose(1, 2).unflatten(2, self.decoder.grid)
        x = self.decoder.normed(self.decoder.embed(picture))[:, 1:]
        predicted = self.decode_task_layer(x)
        cosine = functional.cosine_similarity(predicted, wanted, dim=-1)
        return (1 - cosine).mean() + commitment, vectors, predicted

    def nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        distance = torch.cdist(vectors.detach(), self.quantize["embedding"].weight)
        return distance.argmin(-1)

    @torch.no_grad()
    def move(self, vectors: torch.Tensor, decay: float) -> None:
        """The codebook a step later: codes that nobody has chosen stay."""
        codes, flat = self.quantize["embedding"].weight, vectors.flatten(0, 1)
        ids = self.nearest(flat)
        for code in ids.unique():
            mean = functional.normalize(flat[ids == code].mean(0), dim=0)
            moved = decay * codes[code] + (1 - decay) * mean
            codes[code] = functional.normalize(moved, dim=0)


class VitJax(Vit):
    """google-research/vision_transformer `models_vit.py`, under timm's names.

    Without a class token the head sees the mean of all tokens.
    """

    def __init__(self, encoder: vit.Encoder, representation: int):
        super().__init__(encoder)
        if representation:
            self.pre_logits = nn.Linear(encoder.width, representation)
        self.head = nn.Linear(representation or encoder.width, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.normed(self.embed(image))
        x = x[:, 0] if hasattr(self, "cls_token") else x.mean(1)
        if hasattr(self, "pre_logits"):
            x = self.pre_logits(x).tanh()
        return self.head(x)


class PatchPrediction(Vit):
    """arXiv 2010.11929, appendix B.1.2, where nothing official was published."""

    def __init__(self, encoder: vit.Encoder, outputs: int):
        super().__init__(encoder, masks=True)
        self.head = nn.Linear(encoder.width, outputs)

    def forward(
        self,
        image: torch.Tensor,
        ids: torch.Tensor,
        masked: torch.Tensor,
        swapped: torch.Tensor,
        other: torch.Tensor,
    ) -> torch.Tensor:
        """Of each patch of `ids` what is predicted; they are masked or swapped."""
        tokens, rows = self.embed(image), torch.arange(len(ids))[:, None]
        put = torch.where(swapped[..., None], tokens[rows, other], tokens[rows, ids])
        put = torch.where(masked[..., None], self.mask_token, put)
        x = tokens.clone()
        x[rows, ids] = put
        return self.head(self.normed(x)[:, 1:][rows, ids])
