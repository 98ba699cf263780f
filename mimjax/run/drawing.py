"""Pictures of a model: what it predicts and, at the end, what its encoder sees.

Nothing here touches the training state or its random streams.
"""

import functools
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mimjax import batches, data, patches, report, sharding
from mimjax.config import Config
from mimjax.hosts.agree import first_says
from mimjax.report import pictures, sights
from mimjax.run import heldout
from mimjax.run.insight import FEW, ROWS, Insight, drawable, spread
from mimjax.train import Plan, State, streams

# Shares of patches to hide, as far as whole ones allow.
RATIOS = 0.5, 0.75, 0.9


class Drawing:
    """Draws a state into a workdir, of images that are read when first needed.

    Args:
        should_stop: asked between pictures, equally often on every process.
        batch: gives "image" uint8 [n, H, W, C], "label" [n], -1 for none, and "view"
            where the objective asks for one; every process has them whole.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        mesh: jax.sharding.Mesh,
        workdir: pathlib.Path,
        should_stop: Callable[[], bool],
        batch: Callable[[], dict[str, np.ndarray]],
    ):
        self.config, self.plan, self.mesh = config, plan, mesh
        self.workdir, self.batch = workdir, batch
        once = config.quickly_compiled()
        self.objective = once.objective
        self.insight = Insight(once, plan.mean, plan.std, mesh, should_stop)

    def asking(self, objective: Any, method: str) -> Any:
        """(parameters, frozen, uint8 batch) -> a method's answer; masks are fixed.

        A dict comes as its names and its values: out of a jit it would be sorted.
        """
        names: list[str] = []

        def apply(params: Any, frozen: Any, batch: Any) -> Any:
            found = objective.apply(
                {"params": params, **frozen},
                batches.prepare(batch, self.plan.mean, self.plan.std),
                method=method,
                rngs=streams(heldout.MASKS, 0),
            )
            if not isinstance(found, dict):
                return found
            names[:] = found
            return tuple(found.values())

        compiled = jax.jit(apply, out_shardings=sharding.replicated(self.mesh))

        def ask(params: Any, frozen: Any, batch: Any) -> Any:
            found = jax.device_get(compiled(params, frozen, batch))
            return dict(zip(names, found, strict=True)) if names else found

        return ask

    @functools.cached_property
    def panels(self) -> Any:
        """(parameters, frozen, uint8 batch) -> the columns of a sheet by name."""
        return self.asking(self.config.objective, "panels")

    @property
    def constants(self) -> tuple[Any, Any]:
        """Those that make colours of what was drawn."""
        pixels = getattr(self.config.objective, "draws_pixels", False)
        return ((0.0,), (1.0,)) if pixels else (self.plan.mean, self.plan.std)

    def rows(self, most: int) -> dict[str, jax.Array]:
        """Some images of the batch, on every device."""
        batch = self.batch()
        chosen = spread(len(batch["label"]), most)
        return {
            name: sharding.copied(x[chosen], self.mesh) for name, x in batch.items()
        }

    def picture_of(self, step: int) -> pathlib.Path:
        """Where the sheet of a step goes."""
        return self.workdir / report.PICTURES / f"step_{step:08d}.png"

    def folder_of(self, step: int) -> pathlib.Path:
        """Where the pictures of what the encoder sees go."""
        return self.workdir / report.PICTURES / f"{report.ENCODER}_{step:08d}"

    def missing(self, step: int) -> tuple[bool, bool]:
        """Whether the sheet of a step is to be drawn, and what the encoder sees then.

        That is drawn once, after the last step.
        """
        sheet = hasattr(self.config.objective, "panels")
        last = step == self.plan.steps
        return (
            sheet and not first_says(self.picture_of(step).exists()),
            last and not first_says(self.folder_of(step).exists()),
        )

    def drawn(self, step: int) -> bool:
        """Whether all pictures of that step are there."""
        return not any(self.missing(step))

    def draw(self, state: State, step: int) -> None:
        """The pictures of a step that are not there, and the report with all there is.

        That of the last step is left to the end of the run. Raises evaluate.Interrupted
        as `heldout.read` does, and between pictures.
        """
        sheet, encoder = self.missing(step)
        if sheet:
            self.sheet(state.best_params, state.frozen, step)
        if encoder:
            self.show(state.best_params, state.frozen, step, f"step {step}")
        if step < self.plan.steps:
            self.report()

    def sheet(self, params: Any, frozen: Any, step: int) -> None:
        """Predictions for fixed held-out images."""
        panels = self.panels(params, frozen, self.rows(ROWS))
        if jax.process_index() == 0:
            objective = self.config.objective
            found = objective.legend(panels) if hasattr(objective, "legend") else {}
            names = dict(enumerate(data.mask_names(self.config.data)))
            pictures.sheet(
                panels,
                *self.constants,
                self.picture_of(step),
                title=f"step {step}",
                note=objective.panel_note,
                legend={names.get(n, str(n)): colour for n, colour in found.items()},
            )

    def show(self, params: Any, frozen: Any, step: int, when: str) -> None:
        """What the encoder sees: pictures in a folder that appears with the last.

        Args:
            params: of the whole objective, or of the encoder alone.
            frozen: the other variables; None where there is the encoder alone.
            step: names the folder.
            when: says in titles what the parameters are.
        """
        folder, first = self.folder_of(step), jax.process_index() == 0
        made = folder.with_name(f".{folder.name}")
        if first:
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir(parents=True)
        batch = self.batch()
        encoder, images, labels = params["encoder"], batch["image"], batch["label"]
        self.insight.inside(encoder, images, made, when)
        self.insight.alike(encoder, images, labels, made, when)
        if frozen is not None:
            self.losses(params, frozen, made, when)
            self.ratios(params, frozen, made, when)
        if first:
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)

    def losses(self, params: Any, frozen: Any, folder: pathlib.Path, when: str) -> None:
        """The loss of every patch beside what was predicted."""
        objective, encoder = self.objective, self.config.encoder
        if not hasattr(objective, "patch_losses"):
            return
        self.insight.pause()
        chosen = self.rows(ROWS)
        panels = self.panels(params, frozen, chosen)
        losses = self.asking(objective, "patch_losses")(params, frozen, chosen)
        # Not a number is what nothing is predicted of, as long as something is.
        known = losses[~np.isnan(losses)] if not np.isnan(losses).all() else losses
        if jax.process_index() == 0 and drawable(known, "losses"):
            grid = patches.grid_of(encoder.image_size, encoder.cell)
            sights.losses(
                {n: pictures.to_uint8(x, *self.constants) for n, x in panels.items()},
                losses.reshape(-1, *grid),
                folder / "losses.png",
                title=f"loss of each patch, {when}",
                note=objective.panel_note,
            )

    def ratios(self, params: Any, frozen: Any, folder: pathlib.Path, when: str) -> None:
        """Predictions where less and more is hidden than in training."""
        objective, found = self.objective, {}
        if not hasattr(objective, "mask_ratio"):
            return
        for ratio in RATIOS:
            self.insight.pause()
            other = objective.clone(parent=None, mask_ratio=ratio)
            if other.problems():
                continue
            panels = self.asking(other, "panels")(params, frozen, self.rows(FEW))
            found[other.share_hidden] = panels
        if not found or jax.process_index():
            return
        flat = [x.ravel() for panels in found.values() for x in panels.values()]
        if drawable(np.concatenate(flat), "ratios"):
            sights.ratios(
                {
                    share: {
                        n: pictures.to_uint8(x, *self.constants)
                        for n, x in panels.items()
                    }
                    for share, panels in found.items()
                },
                folder / "ratios.png",
                title=f"predictions from more and less of the image, {when}",
                note=f"trained with {objective.share_hidden:.0%} hidden; "
                + objective.panel_note,
            )

    def report(self) -> None:
        """report.html from all there is in the workdir; by the first process."""
        if jax.process_index() == 0:
            report.report(self.workdir)
