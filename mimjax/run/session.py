"""What a run works with between its updates."""

import dataclasses
from typing import Any

from mimjax import checkpoint, metrics, train
from mimjax.config import Config
from mimjax.report.progress import Progress
from mimjax.run import feed, stop
from mimjax.run.drawing import Drawing
from mimjax.run.judge import Judge


@dataclasses.dataclass
class Session:
    """All of it, and what is due when."""

    config: Config
    plan: train.Plan
    signals: stop.Stop
    checkpoints: checkpoint.Checkpoints
    batches: feed.Feed
    meter: metrics.Meter
    writer: Any
    progress: Progress
    judge: Judge
    drawing: Drawing

    def due(self, period: int, step: int) -> bool:
        """Whether something of that period is due after `step` updates."""
        return period > 0 and (step % period == 0 or step == self.plan.steps)

    def looks(self, step: int) -> bool:
        """Whether there is something to look at after `step` updates."""
        period = self.config.run
        return self.due(period.eval_every, step) or self.due(period.picture_every, step)

    def left(self, period: int, step: int) -> int:
        """How often it will be due after that."""
        last = self.plan.steps
        return period > 0 and -(-last // period) - step // period
