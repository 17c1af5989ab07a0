"""Results: kept as JSON, printed, drawn as bars and as growth, and put into the README."""

import json
import math
import os
import platform
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FILE = Path(__file__).parent / "results.json"
_PACKAGES = {
    "jax": "jax", "flax": "flax", "dm-haiku": "haiku", "equinox": "equinox", "optax": "optax",
    "penzai": "penzai", "safetensors": "safetensors", "orbax-checkpoint": "orbax",
}  # fmt: skip
_LEAST = 0.01  # a ratio below it has no bar
_MARKS = ("<!-- benchmarks -->\n", "<!-- end of benchmarks -->\n")


def print_job(name, job, notes=""):
    """Print one job: each way, its time or memory, and its ratio to the first."""
    print(f"\n{name} ({notes})", flush=True)
    yardstick = next(iter(job["ways"].values()), None)
    for way, amount in job["ways"].items():
        text = amount_text(amount, job["unit"])
        print(f"  {way:48} {text:>9}  {amount / yardstick:8.3f}x", flush=True)


def about_here():
    """Say when, with which versions and on what machine."""
    installed = {package: version(package) for package, name in _PACKAGES.items() if find_spec(name)}
    machine = f"{platform.system()} {platform.machine()}"
    here = {"cores": os.cpu_count(), "machine": machine, "python": platform.python_version()}
    return {"date": f"{date.today()}", **here, **installed}


def read():
    """Read the results kept so far: job -> {"family", "size", "unit", "here", "ways"}."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def keep(results):
    """Write the results beside this file."""
    FILE.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def amount_text(amount, unit="s"):
    """Write seconds or bytes in the unit that fits, to three digits."""
    if unit == "B":
        unit, value = "MiB", amount / 2**20
    else:
        unit, factor = ("s", 1) if amount >= 1 else ("ms", 1e3) if amount >= 1e-3 else ("µs", 1e6)
        value = amount * factor
    return f"{value:.{max(0, 2 - int(math.log10(max(value, 1))))}f} {unit}"


def is_ours(way):
    """Tell whether a way to do a job is paramtree's."""
    return way.startswith(
        ("pt.", "net.", "paramtree", "jax.jit(net", "nn.", "with ties", "import jax, paramtree")
    )


def readme_table(results):
    """Write all results as a table of Markdown: the yardstick of each job, then each way with its ratio."""
    lines = ["| job | measured against | ratio to it |", "|---|---|---|"]
    for name, job in results.items():
        (yardstick, unit), *others = job["ways"].items()
        cells = [
            f"{_way_text(way)} {amount / unit:.3g}x" if unit else _way_text(way) for way, amount in others
        ]
        first = f"{_way_text(yardstick)} {amount_text(unit, job['unit'])}"
        lines.append(f"| {name} | {first} | {'; '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _way_text(way):
    return f"**{way}**" if is_ours(way) else way


def growth_table(results):
    """Write the exponents of growth of paramtree's ways and of the others' as a table of Markdown."""
    lines = ["| grows with its size | paramtree | others |", "|---|---|---|"]
    by_family = {}
    for (family, way), (exponent, _) in growth(results).items():
        by_family.setdefault(family, ([], []))[not is_ours(way)].append(f"{way} {exponent:.2f}")
    lines += [
        f"| {family} | {'; '.join(ours)} | {'; '.join(others)} |"
        for family, (ours, others) in by_family.items()
    ]
    return "\n".join(lines) + "\n"


def growth(results):
    """Fit the exponent of time over size, for each way of each family of jobs: {(family, way): exponent}."""
    points = {}
    for job in results.values():
        if job["family"]:
            for way, seconds in job["ways"].items():
                points.setdefault((job["family"], way), []).append((job["size"], seconds))
    return {key: (_slope(each), sorted(each)) for key, each in points.items() if len(each) > 1}


def _slope(points):
    """Fit a line to the larger half of the sizes, on logarithmic scales: small ones are all overhead."""
    points = sorted(points)[-max(2, (len(points) + 1) // 2) :]
    x, y = ([math.log(value) for value in column] for column in zip(*points, strict=True))
    middle, level = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True))
    return over / sum((a - middle) ** 2 for a in x)


def put_into_readme(results):
    """Replace the table in the README by the results kept."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(_MARKS[0])
    after = rest.split(_MARKS[1])[1]
    here = list(results.values())[-1]["here"]
    packages = ", ".join(f"{name} {value}" for name, value in here.items() if name in _PACKAGES)
    dates = " and ".join(sorted({job["here"]["date"] for job in results.values()}))
    about = f"Measured on {dates}, on {here['cores']} cores of {here['machine']}, "
    about += f"Python {here['python']}, {packages}.\n\n"
    tables = f"{about}{readme_table(results)}\n{growth_table(results)}"
    readme.write_text(f"{before}{_MARKS[0]}{tables}{_MARKS[1]}{after}")


def draw(results, path):
    """Draw the ratios as bars, and the growth of each family over size; needs matplotlib."""
    from matplotlib.figure import Figure

    jobs = {name: job["ways"] for name, job in results.items() if len(job["ways"]) > 1}
    families = sorted({family for family, _ in growth(results)})
    rows = sum(len(ways) for ways in jobs.values()) + 2 * len(jobs)
    figure = Figure(figsize=(11, 0.17 * rows + 3.2 * math.ceil(len(families) / 3)), layout="constrained")
    upper, lower = figure.subfigures(
        2, 1, height_ratios=(0.17 * rows, 3.2 * max(1, math.ceil(len(families) / 3)))
    )
    _bars(upper.add_subplot(), jobs)
    if families:
        lower.suptitle("seconds over size, with the fitted exponents", fontsize=8)
        axes = list(lower.subplots(math.ceil(len(families) / 3), 3, squeeze=False).flat)
        for axis, family in zip(axes, families, strict=False):
            _lines(axis, family, results)
        for axis in axes[len(families) :]:
            axis.set_visible(False)
    figure.savefig(path, dpi=110)


def _bars(axis, jobs):
    place, labels = 0, []
    for name, ways in jobs.items():
        yardstick = next(iter(ways.values()))
        axis.text(_LEAST * 1.1, place, name, fontsize=6.5, fontweight="bold", va="center")
        for way, seconds in ways.items():
            place += 1
            color = "#0072b2" if is_ours(way) else "#bbbbbb"
            ratio = seconds / yardstick
            axis.barh(place, ratio, left=0, color=color, height=0.8)
            axis.text(max(ratio, _LEAST) * 1.03, place, f"{ratio:.3g}", fontsize=5.5, va="center")
            labels.append((place, way))
        place += 2
    axis.set_xscale("log")
    axis.set_xlim(_LEAST, 1000)
    axis.set_ylim(place, -1)
    axis.axvline(1, color="black", linewidth=0.5)
    axis.set_yticks([each for each, _ in labels], [way for _, way in labels], fontsize=5.5)
    axis.set_xlabel("time, or memory, over that of the first row of the job; paramtree in blue", fontsize=7)


def _lines(axis, family, results):
    from matplotlib.ticker import NullFormatter

    for (each, way), (exponent, points) in growth(results).items():
        if each == family:
            sizes, times = zip(*points, strict=True)
            axis.plot(sizes, times, marker="o", markersize=2.5, linewidth=1, label=f"{way}: {exponent:.2f}")
    axis.set(xscale="log", yscale="log")
    for each in (axis.xaxis, axis.yaxis):
        each.set_minor_formatter(NullFormatter())
    axis.set_title(family, fontsize=7)
    axis.tick_params(labelsize=6)
    axis.legend(fontsize=4.5)
