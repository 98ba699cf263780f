"""What is looked at between updates: frozen features and held-out loss.

Nothing here touches the training state or its random streams.
"""

import functools
import pathlib
import zlib
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np

from mimjax import batches, data, evaluate, metrics, patches, sharding
from mimjax.config import Config
from mimjax.data.faults import BadDataError
from mimjax.evaluate import features
from mimjax.hosts.agree import first_says, same
from mimjax.train import Plan, State, streams


class Judge:
    """Evaluates a state; images are read when first needed and kept."""

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
        self.num_classes = data.labelled(config.data)

    @functools.cached_property
    def images(self) -> dict[str, evaluate.Labelled]:
        """Labelled images to learn from ("probe_train") and held-out ones ("test").

        Raises evaluate.Interrupted when asked to stop while they are read, and
        BadDataError where one process could not read what others could.
        """
        encoder, wanted = self.config.encoder, self.config.evaluate
        limits: dict[data.Split, int] = {
            "probe_train": wanted.train_images,
            "test": wanted.test_images,
        }
        found = {
            split: data.held_out(
                self.config.data,
                image_size=encoder.image_size,
                channels=encoder.channels,
                split=split,
                limit=limit,
                should_stop=self.should_stop,
                # Every process reads the same; one writes down what it could not.
                workdir=self.workdir if jax.process_index() == 0 else None,
            )
            for split, limit in limits.items()
            if split == "test" or self.num_classes
        }
        if self.should_stop():
            raise evaluate.Interrupted
        seen = 0
        for images, labels in found.values():
            seen = zlib.crc32(images.data, zlib.crc32(labels.data, seen))
        if not same(seen):
            raise BadDataError("the processes did not read the same held-out images")
        return found

    @functools.cached_property
    def test(self) -> dict[str, np.ndarray]:
        """The held-out images as a batch of the data pipeline."""
        images, labels = self.images["test"]
        batch = {"image": images, "label": labels.astype(np.int32)}
        if any(self.config.view_size):
            batch["view"] = data.second_views(images, self.config.view_size)
        return batch

    def put(self, rows: np.ndarray) -> jax.Array:
        """An array every process has whole, cut over the devices."""
        cut = sharding.batch(self.mesh)
        return jax.make_array_from_callback(rows.shape, cut, lambda i: rows[i])

    @functools.cached_property
    def embed(self) -> Any:
        """(parameters, uint8 images) -> features, on every device."""

        def apply(params: Any, image: jax.Array) -> jax.Array:
            image = patches.normalise(image, self.plan.mean, self.plan.std)
            encoder, wanted = self.config.encoder, self.config.evaluate
            after = len(encoder.layer_widths) + 1
            found = encoder.apply(
                {"params": params["encoder"]},
                image,
                wanted.pool,
                tuple(layer % after for layer in wanted.layers),  # -1 is the last
                method="features",
            )
            return cast(jax.Array, found)

        return jax.jit(apply, out_shardings=sharding.replicated(self.mesh))

    @functools.cached_property
    def loss(self) -> Any:
        """(parameters, frozen, uint8 batch, number) -> loss, metrics; fixed masks."""

        def apply(params: Any, frozen: Any, batch: Any, number: jax.Array) -> Any:
            loss, metrics = self.config.objective.apply(
                {"params": params, **frozen},
                batches.prepare(batch, self.plan.mean, self.plan.std),
                train=False,
                rngs=streams(self.config.run.seed, number),
            )
            return {"loss": loss, **metrics}

        return jax.jit(apply, out_shardings=sharding.replicated(self.mesh))

    def evaluate(self, state: State) -> dict[str, float]:
        """Held-out loss and metrics and, where there are labels, frozen accuracy.

        The keys start with "eval/". Raises evaluate.Interrupted when asked to stop.
        """
        values = self.held_out(state)
        if self.num_classes:
            params = state.best_params

            def features_of(images: np.ndarray) -> np.ndarray:
                return features.extract(
                    lambda batch: self.embed(params, batch),
                    images,
                    self.config.evaluate.batch_size,
                    self.put,
                    self.should_stop,
                )

            values |= evaluate.frozen_accuracy(
                features_of,
                self.images["probe_train"],
                self.images["test"],
                self.num_classes,
                self.config.evaluate,
                self.should_stop,
            )
        return {f"eval/{name}": float(value) for name, value in values.items()}

    def held_out(self, state: State) -> dict[str, float]:
        """The objective on held-out images with masks that are always the same."""
        whole = self.test
        length, size = len(whole["label"]), self.config.evaluate.batch_size
        # Whole batches only; fewer images than a batch are repeated to fill it.
        count = max(size, length // size * size)
        order = np.arange(count) % length
        sums: dict[str, float] = {}
        for number, rows in enumerate(order.reshape(-1, size)):
            if self.should_stop():
                raise evaluate.Interrupted
            batch = {name: self.put(values[rows]) for name, values in whole.items()}
            found = self.loss(state.best_params, state.frozen, batch, np.int32(number))
            for name, value in jax.device_get(found).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return {name: total / (count // size) for name, total in sums.items()}

    def evaluated(self, step: int) -> bool:
        """Whether metrics.jsonl holds an evaluation of that step."""
        records = metrics.read_metrics(self.workdir)
        found = any(r["step"] == step and "eval/loss" in r for r in records)
        return first_says(found)
