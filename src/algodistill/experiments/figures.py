"""The figures of experiments."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..evaluation.curves import REFERENCE, SOURCE, STYLE, draw_curve, draw_references
from .describing import paper_figures


COLOURS = ("#1f5fa8", "#c0392b", "#3b8f5a", "#8a5aa8", "#d18f00", "#4aa3b8", "#7a5a3a", "#c2578f", "#555555")
PAPER = "Laskin et al. 2022"
DASHED: Any = {"linestyle": (0, (4, 2)), "linewidth": 1.2}


def plot_experiment(record: Mapping[str, Any], path: Path) -> None:
    """Draw an experiment: one panel beside the other, with what the paper shows in the same place dashed.

    Args:
        record (`Mapping`): What [`run_experiment`] writes.
        path (`Path`): Where the picture goes.
    """
    panels = [panel for panel in record["panels"] if panel["curves"]]
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4 * columns, 4.8 * rows), dpi=120, layout="constrained")
        every_axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, panel in zip(every_axes, panels, strict=False):
            DRAWN[panel["kind"]](axes, panel, of_the_paper(panel))
            axes.set_title(panel["title"], fontsize=10)
            axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
        for axes in every_axes[len(panels) :]:
            axes.remove()
        figure.suptitle(record["title"], fontsize=11)
        # Without the versions of what drew it, the same results give the same file.
        figure.savefig(path, format="png", metadata={"Software": None})


def draw_episodes(axes: Axes, panel: Mapping[str, Any], paper: Mapping[str, Any]) -> None:
    """Mean return by in-context episode; on a logarithmic axis beside the paper's."""
    colours = dict(zip([*labels(panel), "source"], itertools.cycle(COLOURS), strict=False))
    for curve in panel["curves"]:
        result = curve["results"][0]
        mean, error = (np.array(result["episode_return"][name], dtype=float) for name in ("mean", "standard_error"))
        draw_curve(axes, mean, error, color=colours[curve["label"]], linewidth=2, label=curve["label"])
    references = panel["curves"][0]["results"][0]["references"]
    longest = max(len(curve["results"][0]["episode_return"]["mean"]) for curve in panel["curves"])
    axes.set_xlim(1, max(longest, 2))
    if references["source"]:
        # Beside the paper's curves, which go on for longer, all of it.
        source = references["source"]["mean"][: None if paper else max(longest, 2)]
        axes.plot(np.arange(1, len(source) + 1), source, color=SOURCE, linewidth=1.2, label="source algorithm")
    draw_references(axes, references)
    for label, points in paper.items():
        episodes, returns = np.array([point for point in points if point[0] >= 1]).T
        axes.plot(episodes, returns, color=colours[label], label=f"{label}, {PAPER}", **DASHED)
        axes.set(xscale="log", xlim=(1, max(axes.get_xlim()[1], episodes[-1])))
    if paper:
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("episode (weights frozen, context never reset)")
    axes.set_ylabel("return")


def draw_settings(axes: Axes, panel: Mapping[str, Any], paper: Mapping[str, Any]) -> None:
    """Mean return of the last tenth of the episodes, by the labels' numbers."""
    places = [float(curve["label"]) for curve in panel["curves"]]
    last = [curve["results"][0]["last"] for curve in panel["curves"]]
    mean, error = ([of_one[name] or 0 for of_one in last] for name in ("mean", "standard_error"))
    axes.errorbar(places, mean, yerr=error, color=COLOURS[0], marker="o", linewidth=2, capsize=3, label="algodistill")
    if paper:
        ends = {float(label): np.mean([y for _, y in points[-len(points) // 10 :]]) for label, points in paper.items()}
        places += ends
        axes.plot(sorted(ends), [ends[place] for place in sorted(ends)], color=COLOURS[0], label=PAPER, **DASHED)
    draw_references(axes, panel["curves"][0]["results"][0]["references"])
    if min(places) > 0 and max(places) / min(places) >= 20:
        axes.set_xscale("log")
    axes.set_xticks(places[: len(mean)], labels(panel))
    axes.minorticks_off()
    axes.set_xlabel(panel["x_label"] or "")
    axes.set_ylabel("return in the last tenth of the episodes")


def draw_bars(axes: Axes, panel: Mapping[str, Any], paper: Mapping[str, Any]) -> None:
    """Returns of the first episode on every test distribution, scaled so that random is 0 and the source is 1."""
    splits = [result["split"] for result in panel["curves"][0]["results"]]
    # The same scale for all, whatever their own source is.
    first = panel["curves"][0]
    scales = [random_and_source(result["references"], first["source"]) for result in first["results"]]
    low, high = np.array(scales).T
    places = np.arange(len(splits))
    bars = {}
    for curve in panel["curves"]:
        returns = [result["episode_return"] for result in curve["results"]]
        mean, error = (np.array([of_one[name][0] or 0 for of_one in returns]) for name in ("mean", "standard_error"))
        bars[curve["label"]] = (mean - low) / (high - low), error / (high - low)
    colours = dict(zip(dict.fromkeys([*bars, *paper]), itertools.cycle(COLOURS), strict=False))
    width = 0.8 / (len(bars) + len(paper))
    for place, (label, (heights, errors)) in enumerate(bars.items()):
        axes.bar(places + place * width, heights, 0.9 * width, yerr=errors, label=label, color=colours[label])
    for place, (label, of_one) in enumerate(paper.items(), start=len(bars)):
        heights, name = [of_one[split] for split in splits], f"{label}, {PAPER}"
        axes.bar(places + place * width, heights, 0.9 * width, label=name, color=colours[label], alpha=0.35)
    axes.axhline(1, color=REFERENCE, linestyle="--", linewidth=1)
    axes.axhline(0, color=REFERENCE, linestyle=":", linewidth=1)
    axes.set_xticks(places + 0.4 - width / 2, splits)
    axes.set_ylabel("return, random 0, source algorithm 1")


DRAWN = {"episodes": draw_episodes, "settings": draw_settings, "bars": draw_bars}


def of_the_paper(panel: Mapping[str, Any]) -> dict[str, Any]:
    """What the paper's figure shows under the same labels; of the settings that it tries, all."""
    shown = paper_figures()[panel["paper"]] if panel["paper"] else {}
    known = shown if panel["kind"] == "settings" else [*labels(panel), "source"]
    return {label: values for label, values in shown.items() if label in known}


def labels(panel: Mapping[str, Any]) -> list[str]:
    """The names of a panel's curves."""
    return [curve["label"] for curve in panel["curves"]]


def random_and_source(references: Mapping[str, Any], source: str) -> tuple[float, float]:
    """Returns of the first episode of random behaviour and of the source algorithm, as exactly as they are known."""
    # Some are known of many more learners than have been recorded.
    return references["random"], references.get(source) or references["source"]["mean"][0]


def table(panel: Mapping[str, Any]) -> Sequence[str]:
    """What a panel shows, in figures: a line for each curve."""
    lines = []
    for curve in panel["curves"]:
        for result in curve["results"]:
            last, error = result["last"]["mean"], result["last"]["standard_error"]
            spread = "" if error is None else f" +/- {error:.2f}"
            split = f" ({result['split']})" if len(curve["results"]) > 1 else ""
            first = result["episode_return"]["mean"][0]
            lines.append(f"  {curve['label'] + split:28} first {first:7.2f}   last {last:7.2f}{spread}")
    return lines
