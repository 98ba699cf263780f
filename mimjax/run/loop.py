"""The run: everything started in order, then updates until the last step."""

import collections
import contextlib
import functools
import gc
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax

from mimjax import checkpoint, metrics, report, train
from mimjax.config import Config
from mimjax.evaluate import Interrupted
from mimjax.hosts.agree import everywhere, first_says
from mimjax.report.progress import Progress, duration, held_out
from mimjax.run import alike, endings, profile, setup, source, stop, workdir
from mimjax.run.drawing import Drawing
from mimjax.run.judge import Judge
from mimjax.run.session import Session
from mimjax.run.start import first_state

DONE, NOT_FINITE = 0, 77

# Updates handed to the devices before the host waits for the oldest.
IN_FLIGHT = 2


def run(config: Config, folder: pathlib.Path, command: list[str]) -> int:
    """Trains, or goes on training, in the workdir `folder`; returns the exit status.

    Raises ConfigError, data's BadDataError, or checkpoint's StorageError.
    """
    first, began = jax.process_index() == 0, time.monotonic()
    with contextlib.ExitStack() as stack:
        signals = stop.Stop()
        stack.callback(signals.close)
        if first:
            stack.enter_context(workdir.claim(config, folder))
        alike.one_run(config, folder)
        config, mesh = setup.place(config)
        stack.enter_context(jax.set_mesh(mesh))
        found = source.accepted(config, folder)
        plan = setup.make_plan(config, found["length"])
        progress = Progress(plan.steps, silent=not first)
        stack.callback(progress.close)
        keep = config.run.keep_last, config.run.keep_every
        checkpoints = checkpoint.Checkpoints(folder, *keep)
        stack.callback(checkpoints.close)
        progress.note(source.told(config, plan, found["length"]))
        state, start = first_state(config, mesh, checkpoints, progress)
        kept = start if checkpoints.steps() else -1  # asked by all processes together
        judge = Judge(config, plan, mesh, folder, signals.asked)
        drawing = Drawing(config, plan, mesh, folder, signals.asked, lambda: judge.test)
        if start == plan.steps and complete(judge, drawing, progress):
            return DONE
        if first:
            workdir.take(config, folder)
        everywhere(True)  # it has been taken before others read there
        batches = setup.make_feed(config, mesh, plan, start, folder)
        stack.callback(batches.close)
        step, traced = setup.compile_step(config, plan, mesh, progress)
        cost = setup.step_flops(config, plan, mesh, traced)
        writer: Any = metrics.Silent()
        record = None
        if first:
            writer = metrics.Writer(folder, resume_step=kept)
            facts = setup.run_facts(config, plan, mesh, state, found, cost, command)
            record = workdir.Record(folder, facts, start)
        stack.callback(writer.close)
        meter = setup.make_meter(config, cost, mesh, start)
        watched = config.profile.steps, start, folder, meter, progress
        step = stack.enter_context(profile.watching(step, *watched))
        update = functools.partial(step, seed=train.seed_on(config, mesh))
        parts = config, plan, signals, checkpoints, batches, meter, writer, progress
        session = Session(*parts, judge, drawing)
        signals.ready()
        gc.freeze()
        gc.enable()
        with failing(record, drawing):
            status, last = advance(session, update, state, start)
            if record:
                record.finish(status=status, step=last)
                drawing.report()
        if unread := source.unread(folder):
            progress.note(unread)
        if status == DONE:
            took = duration(time.monotonic() - began)
            progress.note(f"done in {took}; see {folder / report.REPORT}")
    return status


@contextlib.contextmanager
def failing(record: workdir.Record | None, drawing: Drawing) -> Iterator[None]:
    """Writes down why a run ends where it fails."""
    try:
        yield
    except Exception as error:
        # With a full disk this may fail too, and the first failure is what to say.
        with contextlib.suppress(Exception):
            if record:
                record.finish(**endings.recorded(error))
                drawing.report()
        raise


def complete(judge: Judge, drawing: Drawing, progress: Progress) -> bool:
    """Whether all of the last step is there, where wanted, and said to be; tells it."""
    last, wanted = drawing.plan.steps, drawing.config.run
    evaluated = not wanted.eval_every or judge.evaluated(last)
    drawn = not wanted.picture_every or drawing.drawn(last)
    page = judge.workdir / report.REPORT
    if not (evaluated and drawn and first_says(workdir.finished(judge.workdir))):
        return False
    if not page.exists():
        drawing.report()
    progress.note(f"finished before, as its config.json says; see {page}")
    return True


def advance(
    session: Session, update: Any, state: train.State, step: int
) -> tuple[int, int]:
    """Updates until the last step or a stop; returns the exit status and the step.

    Evaluation and pictures of a step come before its update; a run that was stopped or
    killed in them makes up for them when it is resumed.
    """
    period, plan = session.config.run, session.plan
    waiting: collections.deque[Any] = collections.deque()
    while True:
        if waiting and session.looks(step):
            waiting[-1].block_until_ready()  # what is under way is no pause
        with session.meter.pause():
            seen = look(session, state, step)
        ends = step == plan.steps
        if ends or session.signals.agreed():
            # It may be new since the last log.
            streak = int(jax.device_get(state.bad_streak))
            if streak >= train.BAD_LIMIT:
                return give_up(session, step, streak), step
            return end(session, state, step, streak, done=ends and seen), step
        while waiting and session.batches.late() and not waiting[-1].is_ready():
            time.sleep(0.001)  # devices are at work: nobody waits for data yet
        with session.meter.waiting():
            batch = session.batches.next(session.signals.asked)
        if batch is None:
            continue
        # Nothing but the feed and the log may move data between host and devices.
        with jax.transfer_guard("disallow"):
            state, values = update(state, batch)
        step += 1
        waiting.append(values["loss"])
        if len(waiting) > IN_FLIGHT:
            waiting.popleft().block_until_ready()
        logs = session.due(period.log_every, step)
        saves = session.due(period.checkpoint_every, step)
        if logs or saves:
            host = {k: float(v) for k, v in jax.device_get(values).items()}
            streak = host.pop("bad_streak")
            if streak >= train.BAD_LIMIT:
                return give_up(session, step, int(streak)), step
            if logs:
                log(session, step, host)
            if saves and not streak:  # as in `end`
                with session.meter.pause():
                    session.checkpoints.save(state, step)


def look(session: Session, state: train.State, step: int) -> bool:
    """Evaluation and pictures of a step, where due and not there yet.

    False where a signal cut it short.
    """
    period, judge, drawing = session.config.run, session.judge, session.drawing
    try:
        if session.due(period.eval_every, step) and not judge.evaluated(step):
            if step == 0:
                told = f"evaluating the encoder before training: {judge.told()}"
                session.progress.note(told)
            values = judge.evaluate(state)
            left = session.left(period.eval_every, step)
            session.progress.aside("evaluation", values["eval/seconds"], left)
            session.writer.write(step, values)
            session.progress.note(f"step {step} held out: {held_out(values)}")
        if session.due(period.picture_every, step) and not drawing.drawn(step):
            begun = time.monotonic()
            drawing.draw(state, step)
            left = session.left(period.picture_every, step)
            session.progress.aside("pictures", time.monotonic() - begun, left)
    except Interrupted:
        return False
    return True


def log(session: Session, step: int, values: dict[str, float]) -> None:
    """One line to the progress bar, one record to the files."""
    values |= {**session.meter.read(step), "skipped": int(values.pop("skipped"))}
    session.writer.write(step, values)
    session.progress.update(step, values)


def end(
    session: Session, state: train.State, step: int, streak: int, *, done: bool
) -> int:
    """Saves the last step, or where a signal came; returns the exit status."""
    note = session.progress.note
    if streak:
        note(f"loss or gradient of the last {streak} update(s) was not finite")
    # Parameters that give no finite loss must not push out the last that do, unless
    # without them a run would not have its end.
    kept, keeps = session.checkpoints.steps(), session.config.run.keep_last
    room = not kept or (keeps > 1 and kept[-1] < step - streak)
    saves = not streak or room or step == session.plan.steps
    if saves:
        session.checkpoints.save(state, step)
    session.checkpoints.wait()
    if done:
        return DONE
    how = "and saved" if saves else "without saving"
    note(f"stopped after step {step} {how}; the same command resumes")
    return stop.STOPPED


def give_up(session: Session, step: int, streak: int) -> int:
    """Says why the run ends; the newest checkpoint left is good, if one is.

    Good is one whose parameters gave a finite update: none of those skipped changed
    them, so that what was saved just before the streak is as bad.
    """
    try:
        session.checkpoints.wait()
    finally:  # where that fails too, this is what to know first
        kept = session.checkpoints.steps()
        good = [number for number in kept if number < step - streak]
        told = f"checkpoint {kept[-1]} is no better" if kept else "nothing is saved"
        again = "config.optim.clip=1.0 in another --workdir"
        if good:
            told = f"checkpoint {good[-1]} is the last good one"
            again += ", from there on with config.init_from and config.init_scope=all"
        session.progress.note(
            f"stopped at step {step}: loss or gradient was not finite {streak} times "
            f"in a row; {told} (try a lower config.optim.base_lr or {again})"
        )
    if good and good != kept:
        session.checkpoints.set_aside(kept[len(good) :])
    return NOT_FINITE
