"""What is looked at between updates: frozen features, held-out loss, pictures.

Nothing here touches the training state or its random streams.
"""

import functools
import pathlib
import zlib
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np

from mimjax import batches, data, evaluate, grid, metrics, patches, report, sharding
from mimjax.config import Config
from mimjax.data.faults import BadDataError
from mimjax.evaluate import features
from mimjax.hosts.agree import first_says, same
from mimjax.report import pictures
from mimjax.train import Plan, State, streams

# Images of a picture sheet.
SHEET_ROWS = 8


class Judge:
    """Evaluates and draws a state; images are read when first needed and kept."""

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
        self.names: list[str] = []

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
            def of(params: Any) -> dict[str, jax.Array]:
                loss, metrics = self.config.objective.apply(
                    {"params": params, **frozen},
                    batches.prepare(batch, self.plan.mean, self.plan.std),
                    train=False,
                    rngs=streams(self.config.run.seed, number),
                )
                return {"loss": loss, **metrics}

            return grid.each(self.config.optim, of, params)

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
        sums: dict[str, Any] = {}
        for number, rows in enumerate(order.reshape(-1, size)):
            if self.should_stop():
                raise evaluate.Interrupted
            batch = {name: self.put(values[rows]) for name, values in whole.items()}
            found = self.loss(state.best_params, state.frozen, batch, np.int32(number))
            for name, value in jax.device_get(found).items():
                sums[name] = sums.get(name, 0.0) + np.asarray(value, np.float64)
        means = {name: total / (count // size) for name, total in sums.items()}
        return grid.judged(self.config.optim, means)

    @functools.cached_property
    def panels(self) -> Any:
        """(parameters, frozen, uint8 batch) -> the columns of a sheet, masks fixed."""

        def apply(params: Any, frozen: Any, batch: Any) -> tuple[jax.Array, ...]:
            columns = self.config.objective.apply(
                {"params": params, **frozen},
                batches.prepare(batch, self.plan.mean, self.plan.std),
                method="panels",
                rngs=streams(self.config.run.seed, 0),
            )
            # A dict that leaves a jit comes out sorted by name.
            self.names = list(columns)
            return tuple(columns.values())

        return jax.jit(apply, out_shardings=sharding.replicated(self.mesh))

    def picture_of(self, step: int) -> pathlib.Path:
        """Where the sheet of a step goes."""
        return self.workdir / report.PICTURES / f"step_{step:08d}.png"

    def drawn(self, step: int) -> bool:
        """Whether there is nothing to draw, or the sheet of that step is there."""
        return not hasattr(self.config.objective, "panels") or (
            first_says(self.picture_of(step).exists())
        )

    def evaluated(self, step: int) -> bool:
        """Whether metrics.jsonl holds an evaluation of that step."""
        records = metrics.read_metrics(self.workdir)
        found = any(r["step"] == step and "eval/loss" in r for r in records)
        return first_says(found)

    def draw(self, state: State, step: int) -> None:
        """The sheet of fixed held-out images, and the report with all there is.

        Raises evaluate.Interrupted as `images` does.
        """
        whole = self.test
        chosen = np.linspace(0, len(whole["label"]) - 1, SHEET_ROWS).astype(int)
        chosen = np.unique(chosen)
        every = sharding.replicated(self.mesh)
        batch = {
            name: jax.make_array_from_callback(
                (len(chosen), *values.shape[1:]),
                every,
                lambda i, v=values: v[chosen][i],
            )
            for name, values in whole.items()
        }
        columns = self.panels(state.best_params, state.frozen, batch)
        panels = dict(zip(self.names, jax.device_get(columns), strict=True))
        # The constants that make colours of what was drawn.
        pixels = getattr(self.config.objective, "draws_pixels", False)
        mean, std = ((0.0,), (1.0,)) if pixels else (self.plan.mean, self.plan.std)
        if jax.process_index() == 0:
            pictures.sheet(
                panels,
                mean,
                std,
                self.picture_of(step),
                title=f"step {step}",
                note=self.config.objective.panel_note,
            )
        self.report()

    def report(self) -> None:
        """report.html from all there is in the workdir; by the first process."""
        if jax.process_index() == 0:
            report.report(self.workdir)
