"""`genjax report`: what the page says, and that a real browser opens it quickly without errors."""

import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from genjax.cli.main import main

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def picture(seed, side=60):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def entry(value, protocol, **more):
    return {
        "value": value, "name": "frechet[c-01234567]", "protocol": protocol, "n": 2000,
        "details": {}, "warnings": [], "target": None, "difference": None, "target_note": "",
        "context": {"real digits:test": {"value": 0.5, "n": 10}}, **more,
    }  # fmt: skip


def write_run(folder, seed=0, rate=0.001, protocol="p; NFE 50", lines=40):
    """Writes a workdir as `genjax train` leaves it."""
    config = {
        "task": {"name": "diffusion", "sampler": {"steps": 25, "solver": {"name": "heun"}}},
        "optimizer": {"model": {"learning_rate": rate}},
        "train": {"images": 100 * lines},
    }
    folder.mkdir(parents=True)
    record = {"config": config, "parameters": 1234567, "devices": ["cpu", 1], "revision": "a" * 40}
    (folder / "config.json").write_text(json.dumps(record))
    rng = np.random.default_rng(seed)
    with open(folder / "metrics.jsonl", "w") as f:
        for i in range(1, lines + 1):
            line = {"step": i, "images": 100 * i, "seconds": 60.0 * i, "loss": 9 / i + rng.random()}
            line |= {"mse": line["loss"], "grad_norm": float("nan") if i == 3 else 1.0}
            line |= {"images_per_second": 10.0, "model_tflops": 0.02}
            f.write(json.dumps(line).replace("NaN", "null") + "\n")
            if i % 10 == 0:
                line = {"step": i, "images": 100 * i, "eval/main/fid": 5 / i, "eval/raw/fid": 6 / i}
                f.write(json.dumps(line) + "\n")
    (folder / "samples").mkdir()
    for images in range(100, 1100, 100):
        for weights in ("main", "raw"):
            file = folder / "samples" / f"{images:012d}_{weights}.png"
            file.write_bytes(picture(images, 60 if weights == "main" else 300))
    report = {"reference": "digits", "metrics": {"fid": entry(1.5 + seed, protocol)}}
    (folder / "eval.json").write_text(json.dumps(report))
    (folder / "evaluations").mkdir()
    for images in (1000, 2000):
        report = {"reference": "r", "metrics": {"fid": entry(images, f"in loop {images}")}}
        (folder / "evaluations" / f"{images:012d}_main.json").write_text(json.dumps(report))
    return str(folder)


def report(tmp_path, *runs):
    assert main(["report", *runs, "--out", str(tmp_path / "page.html")]) == 0
    return (tmp_path / "page.html").read_text("utf-8")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    target = {"target": 1.0, "difference": 0.5, "warnings": ["TOO FEW <SAMPLES>"]}
    a = write_run(folder / "x" / "a")
    b = write_run(folder / "x" / "b", 1, 0.002, "q; NFE 10")
    content = json.loads((folder / "x" / "a" / "eval.json").read_text())
    content["metrics"]["fid"] |= target
    (folder / "x" / "a" / "eval.json").write_text(json.dumps(content))
    return report(folder, a, b)


def test_the_page_needs_nothing_beside_it(two):
    assert not re.search(r"https?:|url\((?!#)|<link[^>]*stylesheet|<script[^>]*src|@import", two)
    sources = re.findall(r'src="([^"]{0,11})', two)
    assert len(sources) == 2 * 2 * 6 and set(sources) == {"data:image/"}  # six of ten grids
    assert "data:image/webp" in two and "data:image/png" in two  # large ones are compressed
    ids = re.findall(r' id="([^"]+)"', two)
    assert {i.split("-")[0] for i in ids if i.startswith("run")} == {"run0", "run1"}


def test_the_page_says_what_there_is_to_say(two):
    for heading in ("Runs", "What differs", "Learning", "Quality of samples", "Measured"):
        assert f"<h2>{heading}</h2>" in two
    assert "1,234,567" in two and "40 min 0 s" in two
    assert f"{4000 * 2e9:.3g}" in two  # images times FLOPs an image
    differs = two[two.index("<h2>What differs") : two.index("<h2>How samples")]
    assert "optimizer.model.learning_rate" in differs and "0.002" in differs
    assert "train.images" not in differs
    assert "sampler" in two and "<code>solver.name</code>" in two and "heun" in two
    assert "<h3>mse</h3>" not in two  # it is the loss itself
    assert "solid: main, dashed: raw" in two and "training FLOPs" in two


def test_protocols_are_told_apart_and_targets_stand_beside_values(two):
    measured = two[two.index("<h2>Measured") : two.index("<h2>Samples over")]
    assert "Measured in different ways" in measured
    assert "<b>A</b> p; NFE 50" in measured and "q; NFE 10" in measured
    assert "1 (+0.5)" in measured and "TOO FEW &lt;SAMPLES&gt;" in measured
    assert "0.5 real digits:test" in measured
    assert "in loop 2000" in measured and "in loop 1000" not in measured  # curves show those


def test_one_run_without_samples_or_values(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"config": {"train": {"images": 5}}}))
    page = report(tmp_path, str(folder))
    assert "<h1>run</h1>" in page and "What differs" not in page and "Learning" not in page


def test_wrong_inputs_are_one_line(tmp_path, capsys):
    run = write_run(tmp_path / "a", lines=2)
    for arguments, message in (
        ([str(tmp_path / "none"), "--out", "x.html"], "none: no config.json there"),
        ([run, run, "--out", "x.html"], "the same workdir is named twice"),
        ([run, "--out", f"{run}/config.json/x.html"], "--out"),
        ([run], "--out"),
    ):
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twenty")
    runs = [write_run(folder / f"run{i:02d}", i, 1e-3 * i, lines=400) for i in range(20)]
    return report(folder, *runs)


PROBE = """<script>addEventListener("load", () => setTimeout(() => {
  const time = performance.getEntriesByType("navigation")[0].loadEventEnd;
  document.querySelector("input[data-run='3']")?.click();
  document.querySelector("input[value=flops]")?.click();
  const gone = document.querySelectorAll("g[id^='run3-'].off").length;
  const axis = document.body.className;
  parent.document.title = [time, document.documentElement.scrollWidth, gone, axis].join();
}))</script></body>"""
# A window of headless Chromium has at least 500 pixels; a frame may be as narrow as a telephone.
FRAME = "<title></title><iframe src=page.html style='width:{}px;height:900px;border:0'></iframe>"


def opened(folder, page, width):
    """Returns (milliseconds until loaded, width, hidden lines, class of the body) in a browser."""
    folder.mkdir()
    (folder / "page.html").write_text(page.replace("</body>", PROBE), "utf-8")
    (folder / "frame.html").write_text(FRAME.format(width), "utf-8")
    done = subprocess.run(
        [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}",
            "--window-size=1400,1000", "--hide-scrollbars", "--allow-file-access-from-files",
            "--dump-dom", (folder / "frame.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    time, wide, gone, axis = re.search(r"<title>(.*?)</title>", done.stdout)[1].split(",")
    return float(time), int(wide), int(gone), axis


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (Debian: chromium)")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_opens_twenty_runs_in_a_second(tmp_path, twenty, width):
    assert len(twenty) < 12e6
    time, wide, gone, axis = opened(tmp_path / "page", twenty, width)
    assert wide == width
    assert gone >= 4 and axis == "flops"
    empty = opened(tmp_path / "empty", "<title></title><body></body>", width)[0]
    if empty > 300:
        pytest.skip(f"this machine is too busy to time a page: an empty one took {empty:.0f} ms")
    assert time < 1000, f"loaded in {time} ms"
