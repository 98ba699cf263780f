"""What is looked at between updates: frozen features and held-out loss.

Nothing here touches the training state or its random streams.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from mimjax import batches, data, evaluate, grid, metrics, patches, sharding
from mimjax.config import Config
from mimjax.data import scaled
from mimjax.evaluate import features, health
from mimjax.hosts.agree import first_says
from mimjax.objectives import IGNORED
from mimjax.run import heldout
from mimjax.run.insight import spread
from mimjax.train import Plan, State, streams

# Images read at a time where they are not kept: 0.6 GB at 224 x 224.
BLOCK = 4096


class Judge:
    """Evaluates a state; images are read when first needed and kept.

    But for those to learn from, of an encoder that is not trained. They are those that
    `heldout` gives, with what it raises.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        mesh: jax.sharding.Mesh,
        workdir: pathlib.Path,
        should_stop: Callable[[], bool],
    ):
        self.config, self.plan, self.mesh = config, plan, mesh
        self.workdir, self.should_stop = workdir, should_stop
        wanted = config.evaluate.train_images > 0
        self.num_classes = data.labelled(config.probed) if wanted else 0
        self.still: dict[str, float] = {}  # what no update changes

    @functools.cached_property
    def learned(self) -> tuple[np.ndarray, ...]:
        """Images to learn from, and their labels."""
        how = self.workdir, self.should_stop
        return heldout.read(self.config, "probe_train", *how, probing=True)

    @property
    def looked_at_once(self) -> bool:
        """Whether no update changes the encoder."""
        return "encoder" in self.config.optim.frozen

    def fitting(self, count: int) -> int:
        """How many of so many images at a time."""
        size = self.config.evaluate.batch_size
        return features.fitting(size, count, sharding.shares(self.mesh))

    @functools.cached_property
    def size(self) -> int:
        """Images whose features are taken at a time."""
        learned = 0
        if self.num_classes:
            most = self.config.evaluate.train_images
            learned = most if self.looked_at_once else len(self.learned[0])
        return self.fitting(max(learned, len(self.asked[0])))

    def known(self, params: Any) -> tuple[np.ndarray, np.ndarray]:
        """Features to learn from, and their labels, of images that have one."""
        size, found = self.size, []
        blocks: Iterable[tuple[np.ndarray, ...]]
        if self.looked_at_once:  # not needed again: let go block by block
            how = self.workdir, self.should_stop, size * max(1, BLOCK // size)
            blocks = heldout.blocks(self.config, "probe_train", *how, probing=True)
        else:
            blocks = [self.learned]
        for images, labels in blocks:
            if len(images):
                rows = self.extract(self.embed, params, images, size)
                told = labels >= 0
                found.append((rows[told], labels[told]))
        if not found:
            raise ValueError("no images to take features of")
        rows, labels = zip(*found, strict=True)
        return np.concatenate(rows), np.concatenate(labels)

    @functools.cached_property
    def asked(self) -> tuple[np.ndarray, ...]:
        """Held-out images to probe with, and their labels."""
        if not self.config.evaluate.source:
            return self.test["image"], self.test["label"]
        how = self.workdir, self.should_stop
        return heldout.read(self.config, "test", *how, probing=True)

    @functools.cached_property
    def test(self) -> dict[str, np.ndarray]:
        """The held-out images as a batch of the data pipeline."""
        how = self.workdir, self.should_stop
        images, labels, *masks = heldout.read(self.config, "test", *how)
        batch = {"image": images, "label": labels.astype(np.int32)}
        batch |= dict(zip(("mask",), masks, strict=False))
        if any(self.config.view_size):
            batch["view"] = scaled.second_views(images, self.config.view_size)
        return batch

    def put(self, rows: np.ndarray) -> jax.Array:
        """An array every process has whole, cut over the devices."""
        return sharding.dealt(rows, self.mesh)

    @functools.cached_property
    def embed(self) -> Any:
        """(parameters, uint8 images) -> features, on every device."""
        encoder, wanted = self.config.encoder, self.config.evaluate
        layers = encoder.numbered(wanted.layers)
        how = {"pool": wanted.pool, "chosen": layers, "method": "features"}
        return self.of_encoder(functools.partial(encoder.apply, **how))

    @functools.cached_property
    def inside(self) -> Any:
        """(parameters, uint8 images) -> what is measured in each layer."""
        return self.of_encoder(functools.partial(health.measure, self.config.encoder))

    def of_encoder(self, apply_fn: Any) -> Any:
        """(parameters, uint8 images) -> what `apply_fn` makes of them, everywhere."""

        def apply(params: Any, image: jax.Array) -> jax.Array:
            image = patches.normalise(image, self.plan.mean, self.plan.std)
            return apply_fn({"params": params["encoder"]}, image)

        return jax.jit(apply, out_shardings=sharding.replicated(self.mesh))

    @functools.cached_property
    def loss(self) -> Any:
        """(parameters, frozen, uint8 batch, number) -> loss, metrics; fixed masks."""

        def apply(params: Any, frozen: Any, batch: Any, number: jax.Array) -> Any:
            def of(params: Any) -> dict[str, jax.Array]:
                loss, metrics = self.config.objective.apply(
                    {"params": params, **frozen},
                    batches.prepare(batch, self.plan.mean, self.plan.std),
                    train=False,
                    rngs=streams(heldout.MASKS, number),
                )
                return {"loss": loss, **metrics}

            return grid.each(self.config.optim, of, params)

        return jax.jit(apply, out_shardings=sharding.replicated(self.mesh))

    def evaluate(self, state: State) -> dict[str, float]:
        """Held-out loss, health of the encoder and, with labels, frozen accuracy.

        The keys start with "eval/"; "eval/seconds" is what it took, with the reading of
        images and compiling where it is the first. Of an encoder that is not trained
        the accuracy and health are those found first. Raises evaluate.Interrupted when
        asked to stop.
        """
        begun = time.monotonic()
        frozen = self.still or self.frozen(state.best_params)
        if self.looked_at_once:
            self.still = frozen
        values = self.held_out(state) | frozen
        values["seconds"] = time.monotonic() - begun
        return {f"eval/{name}": float(value) for name, value in values.items()}

    def told(self) -> str:
        """What an evaluation looks at, in words."""
        wanted = self.config.evaluate
        learned = f" and {wanted.train_images:,} to learn from" * bool(self.num_classes)
        other = f" of {wanted.source}" if wanted.source else ""
        if wanted.train_images and not self.num_classes:
            other += ", no kNN or linear probe without labels"
        return f"at most {wanted.test_images:,} held-out images{learned}{other}"

    def frozen(self, params: Any) -> dict[str, float]:
        """What the encoder is worth as it is, and how it does inside."""
        wanted, values = self.config.evaluate, {}
        if not (self.num_classes or wanted.health_images):
            return values
        images, labels = self.asked
        asked = self.extract(self.embed, params, images, self.size)
        # Some sets have classes, but say of no image, or not of all, which it is of.
        known, told = self.known(params) if self.num_classes else None, labels >= 0
        if known and len(known[1]) and told.any():
            values |= evaluate.frozen_accuracy(
                known,
                (asked[told], labels[told]),
                self.num_classes,
                wanted,
                self.mesh,
                self.should_stop,
            )
        if wanted.health_images:
            values["rankme"] = health.rankme(asked)
            # Held-out images may come class by class.
            some = images[spread(len(images), wanted.health_images)]
            one_each = sharding.shares(self.mesh)
            if self.config.encoder.layer_widths:
                inside = self.extract(self.inside, params, some, one_each)
                values |= health.named(inside)
        return values

    def extract(
        self, apply_fn: Any, params: Any, images: np.ndarray, size: int
    ) -> np.ndarray:
        """What `apply_fn` makes of all images, `size` at a time; on every process."""
        apply = functools.partial(apply_fn, params)
        return features.extract(apply, images, size, self.put, self.should_stop)

    def held_out(self, state: State) -> dict[str, float]:
        """The objective on held-out images with masks that are always the same."""
        whole, length = self.test, len(self.test["label"])
        size = self.fitting(length)
        # What finds classes sees every image once: the last batch is filled up by some
        # that are of none. Others see whole batches only; fewer images than a batch are
        # repeated to fill it.
        exact = hasattr(self.config.objective, "num_classes")
        count = -(-length // size) if exact else max(1, length // size)
        judged = heldout.counted(self.config, whole) / size if exact else count
        sums: dict[str, Any] = {}
        for number in range(count):
            if self.should_stop():
                raise evaluate.Interrupted
            places = np.arange(number * size, (number + 1) * size)
            rows = {name: values[places % length] for name, values in whole.items()}
            if exact:
                for name, nothing in (("label", -1), ("mask", IGNORED)):
                    if name in rows:
                        rows[name][places >= length] = nothing
            batch = {name: self.put(values) for name, values in rows.items()}
            found = self.loss(state.best_params, state.frozen, batch, np.int32(number))
            for name, value in jax.device_get(found).items():
                sums[name] = sums.get(name, 0.0) + np.asarray(value, np.float64)
        means = {name: total / judged for name, total in sums.items()}
        means = getattr(self.config.objective, "summary", dict)(means)
        return grid.judged(self.config.optim, means)

    def evaluated(self, step: int) -> bool:
        """Whether metrics.jsonl holds an evaluation of that step."""
        records = metrics.read_metrics(self.workdir)
        found = any(r["step"] == step and "eval/loss" in r for r in records)
        return first_says(found)
