"""All that people are shown is run: the tour, the command line, the notebooks; README blocks are doctests."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import paramtree as pt
from paramtree import cli, tour

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def toured():
    pytest.importorskip("optax")
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    command = [sys.executable, "-m", "paramtree", "tour"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


def test_the_tour_runs_to_its_end(toured):
    assert toured.returncode == 0, toured.stderr
    assert toured.stdout.rstrip().endswith("notebooks/parameter_management.ipynb.")
    assert toured.stdout.count("\nTrue\n") == 3  # tied, summed, and loaded the same to the bit
    assert "Traceback" not in toured.stdout + toured.stderr


def test_the_tour_prints_as_the_chapter_does(toured):
    assert (
        "dense0 (\n"
        "  Parameter dense0/weight (shape=(256, 20), dtype=float32)\n"
        "  Parameter dense0/bias (shape=(256,), dtype=float32)\n"
        ")\n"
    ) in toured.stdout
    assert "  (2) dense1 -> shared: Dense(8 -> 8, relu)\n" in toured.stdout


def test_the_tour_trains_to_95_percent(toured):
    line = next(line for line in toured.stdout.splitlines() if line.startswith("held-out accuracy"))
    assert float(line.split()[2].rstrip("%")) >= 95, line


def test_the_tour_shows_a_progress_bar(toured):
    assert "100%" in toured.stderr
    assert "40/40" in toured.stderr


def test_the_tour_shows_parameters_and_gradients_before_and_after(toured):
    shown = [line for line in toured.stdout.splitlines() if "gradient's norm" in line and ">>>" not in line]
    rows = [line.split()[0] for line in shown if not line.startswith("...")]
    layers = ["dense0/weight", "dense0/bias", "hidden/weight", "hidden/bias", "dense2/weight", "dense2/bias"]
    assert sorted(rows) == sorted(2 * layers)


def test_the_tour_names_the_extra_it_needs(monkeypatch, capsys):
    monkeypatch.setattr(tour, "find_spec", lambda name: None)
    assert cli.main(["tour"]) == 2
    assert capsys.readouterr().err == (
        "paramtree: the tour needs optax, sklearn, tqdm. "
        "Install them with: pip install 'paramtree-jax[tour]'\n"
    )


def test_the_tour_is_plain_where_it_is_not_a_terminal_and_bold_where_it_is(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(tour, "_NEEDS", ())
    monkeypatch.setattr(tour, "files", lambda package: Path(os.devnull).parent)
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: "Look.\n\n>>> 1 + 1\n")
    for stream, bold in ((io.StringIO(), False), (Terminal(), True)):
        tour.run(stream)
        assert ("\033[1m" in stream.getvalue()) is bold
        assert ">>> 1 + 1" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    tour.run(stream := Terminal())
    assert "\033" not in stream.getvalue()


def test_the_command_line_without_a_command_says_what_there_is(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 2
    assert "usage: paramtree" in capsys.readouterr().err


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_kept_with_its_outputs(path, monkeypatch):
    pytest.importorskip("ipykernel")
    if path.stem in ("networks", "fine_tuning", "looking"):
        pytest.importorskip("optax")
        pytest.importorskip("sklearn")
    if path.stem in ("networks", "looking"):
        pytest.importorskip("matplotlib.font_manager")  # lists the fonts, outside of the notebook
    if path.stem == "many_devices":
        pytest.importorskip("optax")
    if path.stem == "checkpoints":
        pytest.importorskip("torch")
        pytest.importorskip("optax")
    monkeypatch.setenv("PARAMTREE_STEPS", "4")  # what is kept was trained for longer
    monkeypatch.delenv("MPLBACKEND", raising=False)
    monkeypatch.setenv("COLUMNS", "110")  # as in a notebook; a test run may say otherwise
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    book = nbformat.read(path, as_version=4)
    kept = {cell["id"]: texts_of(cell) for cell in book.cells if cell.cell_type == "code"}
    assert any(kept.values())
    client.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    fresh = {cell["id"]: texts_of(cell) for cell in book.cells if cell.cell_type == "code"}
    assert fresh == kept


def texts_of(cell):
    """What a cell printed, but for the digits and the layout of floats, which differ between machines.

    Of a cell tagged "sample", in which a trained net writes text: whether it printed any.
    """
    streams = "".join(output["text"] for output in cell.outputs if output.output_type == "stream")
    results = [output.data.get("text/plain") for output in cell.outputs if "data" in output]
    assert not any(output.get("name") == "stderr" for output in cell.outputs), cell.source
    if "sample" in cell.metadata.get("tags", ()):
        return [bool(streams), *map(bool, results)]
    return [re.sub(r"\s*-?\d+\.\d*(e[-+]\d+)?( +(?=[,\]]))?", " 0.", text) for text in [streams, *results]]


def test_the_chapter_notebook_answers_its_five_exercises():
    cells = json.loads((ROOT / "notebooks" / "parameter_management.ipynb").read_text())["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert [number for number in range(1, 6) if f"**{number}. " in prose] == [1, 2, 3, 4, 5]
    parts = [
        "## Parameter access",
        "## Parameter initialisation",
        "## Tied parameters",
        "## Summary",
        "## Exercises",
    ]
    assert sorted(parts, key=prose.index) == parts


def test_the_networks_notebook_is_kept_with_nets_that_learnt():
    path = ROOT / "notebooks" / "networks.ipynb"
    outputs = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", ())]
    text = "".join("".join(output.get("text", ())) for output in outputs)
    accuracies = [float(each) for each in re.findall(r"([\d.]+) % of held-out digits", text)]
    bits = [float(each) for each in re.findall(r"([\d.]+) bits per held-out character", text)]
    assert len(accuracies) == len(bits) == 2
    assert min(accuracies) > 97
    assert max(bits) < 2.5
    assert sum("image/png" in output.get("data", ()) for output in outputs) == 5
    assert path.stat().st_size < 400_000


def test_the_package_says_what_it_offers():
    assert "collect_params" in (pt.__doc__ or "")
