"""Sheets, curves and the report page."""

import base64
import html.parser
import json
import re
import shutil
from urllib import parse

import numpy as np
import pytest
from PIL import Image

from mimjax import report
from mimjax.report import curves, health, pictures

MEAN, STD = (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_to_uint8_undoes_the_normalisation():
    wanted = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    normal = (wanted / 255 - np.array(MEAN)) / np.array(STD)
    shown = pictures.to_uint8(normal.astype(np.float32), np.array(MEAN), STD)
    np.testing.assert_array_equal(shown, wanted)


def test_to_uint8_clips_and_shows_nan_black():
    pixels = np.array([-9, 9, np.nan, np.inf, 0], np.float32).reshape(1, 1, 5, 1)
    shown = pictures.to_uint8(pixels, [0.5], [0.5])
    assert shown.shape == (1, 1, 5, 3)
    assert shown[0, 0].tolist() == [[v] * 3 for v in (0, 255, 0, 255, 128)]


@pytest.mark.parametrize(("channels", "taken"), [(2, [0, 0, 0]), (5, [0, 1, 2])])
def test_to_uint8_of_other_numbers_of_channels(channels, taken):
    pixels = np.arange(channels, dtype=np.float32).reshape(1, 1, 1, -1) / 255
    shown = pictures.to_uint8(pixels, [0.0] * channels, [1.0] * channels)
    assert shown[0, 0, 0].tolist() == taken


def test_a_sheet_has_every_pixel_of_every_image_in_its_place(tmp_path):
    panels = {"original": noise(2, 8, 16, 3)}
    panels["a rather long name"] = noise(2, 8, 16, 3, seed=1)
    path = tmp_path / "pictures" / "step_00000010.png"
    pictures.sheet(panels, MEAN, STD, path, title="Title", note="A note. " * 20)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    page = pixels_of(path)
    scale = pictures.CELL // 16
    found = {}
    for name, images in panels.items():
        for row, image in enumerate(pictures.to_uint8(images, MEAN, STD)):
            large = image.repeat(scale, 0).repeat(scale, 1)
            windows = np.lib.stride_tricks.sliding_window_view(page, (1, 16 * scale, 3))
            starts = (windows[:, :, 0, 0] == large[0]).all((-1, -2))
            ((top, left),) = np.argwhere(starts[: -8 * scale])[:1]
            np.testing.assert_array_equal(
                page[top : top + 8 * scale, left : left + 16 * scale], large
            )
            found[name, row] = top, left
    assert len({top for (_, row), (top, _) in found.items() if row == 0}) == 1
    assert found["original", 0][1] < found["a rather long name", 0][1]
    assert found["original", 0][0] < found["original", 1][0]
    # Ink above the first row (names) and below the last (the note).
    top, bottom = found["original", 0][0], found["original", 1][0] + 8 * scale
    assert (page[:top] < 128).any() and (page[bottom:] < 128).any()
    assert (page[:, -pictures.MARGIN] == pictures.FRAME).all(-1).any()
    assert (page[:, 1 - pictures.MARGIN :] == 255).all()


def test_a_legend_has_a_square_for_each_colour_in_lines_that_fit(tmp_path):
    legend = {"ground": (10, 200, 30), "the sky": (255, 255, 255), "7": (0, 0, 0)}
    found, wide = pictures.key(legend, 120), pictures.key(legend, 300)
    assert wide.shape == (pictures.LINE, 300, 3)
    assert found.shape == (2 * pictures.LINE, 120, 3)
    for page, corner in ((wide, 0), (found, 0), (found[pictures.LINE :], 1)):
        assert (page[4:14, 1:11] == [*legend.values()][corner]).all()
    path = tmp_path / "a.png"
    shown = {"a": noise(1, 8, 100, 3), "b": noise(1, 8, 100, 3)}
    pictures.sheet(shown, MEAN, STD, path, title="t", note="n", legend=legend)
    page, found = pixels_of(path), pictures.key(legend, 406)
    inner = page[:, pictures.MARGIN : -pictures.MARGIN]
    windows = np.lib.stride_tricks.sliding_window_view(inner, found.shape)
    assert (windows == found).all((-1, -2, -3)).sum() == 1


def test_large_images_are_not_enlarged(tmp_path):
    path = tmp_path / "a.png"
    pictures.sheet({"a": noise(1, 200, 224, 3)}, MEAN, STD, path, title="t")
    assert pixels_of(path).shape[1] == 224 + 2 * pictures.MARGIN


def test_panels_of_different_shapes_are_refused(tmp_path):
    panels = {"a": noise(1, 8, 8, 3), "b": noise(2, 8, 8, 3)}
    with pytest.raises(ValueError, match="one shape"):
        pictures.sheet(panels, MEAN, STD, tmp_path / "a.png", title="t")
    with pytest.raises(ValueError, match="one shape"):
        pictures.sheet({}, MEAN, STD, tmp_path / "a.png", title="t")
    assert list(tmp_path.iterdir()) == []


def test_series_takes_the_last_of_several_values_at_a_step():
    records = [{"step": 2, "a": 1}, {"step": 1, "a": 5}, {"step": 2, "a": 3}]
    steps, values = curves.series([*records, {"step": 9, "b": 1}], "a")
    assert (steps.tolist(), values.tolist()) == ([1, 2], [5, 3])


def test_smoothing_is_a_centred_mean_without_lag():
    line = np.arange(50.0)
    np.testing.assert_allclose(curves.smooth(line, 9), line)
    spike = np.zeros(21)
    spike[10] = 1
    expected = np.where(abs(np.arange(21) - 10) <= 2, 0.2, 0)
    np.testing.assert_allclose(curves.smooth(spike, 5), expected, atol=1e-12)
    huge = np.full(60, 0.5)
    huge[0] = 1e18
    np.testing.assert_allclose(curves.smooth(huge, 5)[3:], 0.5)
    for count in range(4):
        assert len(curves.smooth(huge[:count], 5)) == count


def run_records():
    records = [{"step": 0, "eval/knn": 0.2, "eval/linear": 0.25}]
    for step in range(10, 310, 10):
        values = {"loss": 1 / step, "lr": 1e-3, "images_per_sec": 100.0 + step}
        records.append({"step": step, "data_wait": 0.5, **values})
    records[7] |= {"loss": "nan", "skipped": 2}
    records.append({"step": 300, "eval/knn": 0.5, "eval/linear": 0.625})
    return records


def colours(path):
    page = pixels_of(path).reshape(-1, 3)
    return {tuple(pixel) for pixel in np.unique(page, axis=0).tolist()}


def test_curves_draw_what_the_records_hold(tmp_path):
    purple, red, orange = (142, 68, 173), (192, 57, 43), (217, 130, 43)
    records = [{**r, "loss": float(r.get("loss", 1))} for r in run_records()]
    bare = [r | {"loss": 1.0} for r in records]
    path = tmp_path / "loss.png"
    assert curves.loss_curve(bare, path)
    assert colours(path).isdisjoint({purple, red, orange})
    records[9] |= {"eval/loss": 0.5}
    assert curves.loss_curve(records, path, warmup_step=50, resumed=[100])
    assert {purple, red, orange} <= colours(path)
    assert curves.accuracy_curve(records, path)
    assert orange in colours(path)


def test_what_an_objective_measures_is_drawn_if_it_is(tmp_path):
    path, (blue, orange) = tmp_path / "metrics.png", ((31, 95, 168), (217, 130, 43))
    records = run_records()
    assert not curves.metric_curves(records, path)
    records = [{**r, "codes_used": 0.5} for r in records]
    assert curves.metric_curves(records, path), "of runs that hold nothing out as well"
    assert blue in colours(path) and orange not in colours(path)
    assert curves.metric_curves([*records, {"step": 300, "eval/codes_used": 0.6}], path)
    assert {blue, orange} <= colours(path)


def test_layers_are_drawn_first_and_last_and_are_no_metrics(tmp_path):
    path, (blue, orange) = tmp_path / "health.png", ((31, 95, 168), (217, 130, 43))
    first = {"step": 0, "eval/rankme": 3.0, "eval/seconds": 1.0, "eval/knn_10": 0.5}
    for name in ("norm", "attention_distance"):
        first |= {f"eval/health/{name}_{i:02d}": i / 2 for i in range(1, 12)}
    told = health.depth_curves([first], path)
    assert told.endswith("(RankMe) 3.0")
    assert blue in colours(path) and orange not in colours(path)
    last = {**first, "step": 9, "eval/rankme": 7.25, "eval/health/norm_02": 9.0}
    assert health.depth_curves([first, last], path).endswith("3.0 to 7.2")
    assert {blue, orange} <= colours(path)
    assert not curves.metric_curves([first, last], tmp_path / "metrics.png")
    assert health.depth_curves(run_records(), path) == ""


@pytest.mark.parametrize(
    ("depth", "ticks"),
    [(1, [1]), (2, [1, 2]), (12, range(1, 13)), (24, range(4, 25, 4))],
)
def test_layers_are_whole_and_all_of_the_line_is_seen(
    tmp_path, monkeypatch, depth, ticks
):
    drawn, save = [], curves._save
    monkeypatch.setattr(
        curves, "_save", lambda figure, path: (drawn.append(figure), save(figure, path))
    )
    name = "eval/health/attention_distance"
    values = {f"{name}_{i:02d}": 50.0 + i for i in range(1, depth + 1)}
    health.depth_curves([{"step": 0, **values}], tmp_path / "health.png")
    axes = drawn[0].axes[1]
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert [x for x in axes.get_xticks() if low <= x <= high] == [*ticks]
    assert low < 1 and high > depth and bottom == 0 and top > 50 + depth


def test_nothing_is_drawn_of_nothing(tmp_path):
    records = [{"step": 1, "loss": float("nan")}]
    assert not curves.loss_curve([], tmp_path / "a.png")
    assert not curves.loss_curve(records, tmp_path / "a.png")
    assert not curves.accuracy_curve(records, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_held_out_losses_are_inside_the_picture_but_for_the_untrained():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    losses = np.linspace(1.0, 0.5, 50)
    curves._draw_loss(axes, np.arange(50), losses, np.array([9.0, 1.6, 0.3]))
    low, top = axes.get_ylim()
    assert low < 0.3 < 1.6 < top < 9.0
    curves._draw_loss(axes, np.arange(50), losses, np.array([]))
    low, top = axes.get_ylim()
    assert 0.3 < low < 0.5 < 1.0 < top < 1.6


def test_curves_leave_no_figure_behind(tmp_path):
    from matplotlib import pyplot

    curves.loss_curve(run_records()[:5], tmp_path / "a.png")
    assert pyplot.get_fignums() == []


class Page(html.parser.HTMLParser):
    """Text, tags and addresses of a page."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.open, self.words, self.addresses = [], [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " | ".join(word for word in self.words if word.strip())


@pytest.fixture
def workdir(tmp_path):
    """A finished run with everything a report shows."""
    lines = "".join(json.dumps(record) + "\n" for record in run_records())
    (tmp_path / "metrics.jsonl").write_text(lines + '{"step": 3')
    config = {"steps": 400, "data": {"source": "folder:<b>&"}, "objective": {}}
    config["objective"] = {"name": "mae", "ratio": 0.75}
    config["encoder"] = {"width": 32, "image_size": [16, 8], "start": ""}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = {"command": ["python", "-m", "mimjax.main", "--workdir=a b"]}
    run |= {"resumes": [{"step": 100, "at": "then"}], "warmup_steps": 50}
    run |= {"started": "2030-01-01T00:00:00", "finished": "2030-01-01T01:02:03"}
    run |= {"parameters": {"total": 1_234_567}, "versions": {"jax": "0.10.1"}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    bad = {"path": "x.jpg", "reason": "<truncated>"}
    (tmp_path / "data_errors.jsonl").write_text(json.dumps(bad) + "\n")
    for step in range(0, 101, 10):
        path = tmp_path / "pictures" / f"step_{step:08d}.png"
        pictures.sheet({"a": noise(1, 8, 8, 3)}, MEAN, STD, path, title="t")
    return tmp_path


def test_report_holds_the_run_and_needs_no_other_file(workdir):
    page = Page(report.report(workdir).read_text())
    assert "mae on folder:<b>&" in page.text
    for part in (
        "steps | 300 | of 400",
        "images per second | 260 | median",
        "waiting for data | 50.0% | median",
        "skipped steps | 2 |",
        "wall time | 1:02:03 | resumed once",
        "resumes.1.step | 100",
        "parameters | 1.23 M",
        "linear probe | 25.0% | 62.5% | +37.5 points",
        "kNN | 20.0% | 50.0% | +30.0 points",
        "<truncated> | 1",
        "versions.jax | 0.10.1",
        "python -m mimjax.main '--workdir=a b'",
        "objective.ratio | 0.75",
        "encoder.image_size | (16, 8) | encoder.start | ''",
    ):
        assert part in page.text
    assert "b" not in page.tags and "script" not in page.tags
    images = [a for a in page.addresses if a.startswith("data:image/png;base64,")]
    links = [a for a in page.addresses if a not in images]
    # The newest sheet, two curves, and six earlier sheets with links to the files.
    assert len(images) == 9
    steps = [int(re.fullmatch(r"pictures/step_(\d{8})\.png", a)[1]) for a in links]
    assert steps == [0, 10, 30, 50, 60, 80]
    assert "url(" not in report.page.CSS and "@import" not in report.page.CSS


def test_links_lead_to_files_whatever_their_names(workdir):
    other = workdir.with_name(f"{workdir.name} #2 %20?")
    shutil.copytree(workdir, other)
    page = Page(report.report(other, workdir).read_text())
    links = [a for a in page.addresses if not a.startswith("data:")]
    assert len(links) == 6
    for link in links:
        parts = parse.urlsplit(link)
        assert (workdir / parse.unquote(parts.path)).is_file()
        assert not (parts.query or parts.fragment)


def test_report_of_a_probe_says_what_it_is_for(workdir):
    """Its accuracy, that of each rate, and that the encoder was frozen as it came."""
    config = json.loads((workdir / "config.json").read_text())
    config |= {"init_from": "runs/other", "optim": {"frozen": ["encoder"]}}
    (workdir / "config.json").write_text(json.dumps(config))
    found = {"eval/accuracy": 0.5, "eval/rate": 0.01, "eval/miou": 0.25}
    found |= {"eval/accuracy@0.002": 0.375, "eval/accuracy@0.01": 0.5}
    record = {"step": 300, "eval/knn": 0.5, "eval/linear": 0.625, **found}
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write("\n" + json.dumps(record) + "\n")
    text = Page(report.report(workdir).read_text()).text
    for part in (
        "held-out accuracy | 50.0% | at rate 0.01",
        "held-out mean IoU | 25.0%",
        "rate | accuracy | 0.002 | 37.5% | 0.01 | 50.0%",
        "frozen encoder | linear probe | 62.5% | kNN | 50.0%",
    ):
        assert part in text
    assert "untrained" not in text and "points" not in text
    config["optim"] = {"frozen": []}
    (workdir / "config.json").write_text(json.dumps(config))
    text = Page(report.report(workdir).read_text()).text
    assert "at the start | step 300 | gain" in text


def test_report_sets_values_of_one_step_beside_each_other(workdir):
    """And says where they are not finite."""
    record = {"step": 400, "eval/knn": "nan", "eval/linear": 0.75}
    old = {"step": 300, "eval/few_5": 0.25}
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write("\n" + "".join(json.dumps(x) + "\n" for x in (old, record)))
    text = Page(report.report(workdir).read_text()).text
    rows = "linear probe | 25.0% | 75.0% | +50.0 points | kNN | 20.0% | not finite | –"
    assert f"untrained | step 400 | gain | {rows} | Share" in text


def test_report_of_an_empty_workdir_and_of_torn_files(tmp_path):
    assert "pretraining on images" in Page(report.report(tmp_path).read_text()).text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    for name in ("config.json", "run.json", "metrics.jsonl", "data_errors.jsonl"):
        (tmp_path / name).write_text('{"step": 1, "lo')
    Page(report.report(tmp_path).read_text())


def test_report_shows_large_sheets_small_and_the_newest_whole(workdir, monkeypatch):
    monkeypatch.setattr(report.page, "SMALL", 0)
    monkeypatch.setattr(report, "THUMB", 50)
    page = Page(report.report(workdir).read_text())
    images = [a for a in page.addresses if a.startswith("data:")]
    width = pixels_of(workdir / "pictures" / "step_00000100.png").shape[1]
    assert [png_width(image) for image in images] == [width, 1040, 1040] + [50] * 6


def png_width(address):
    header = base64.b64decode(address.partition(",")[2])[:24]
    assert header.startswith(b"\x89PNG")
    return int.from_bytes(header[16:20], "big")
