"""Learning curves, as pictures and as figures."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False}
REFERENCE_STYLES: dict[str, Any] = {"optimal": "--", "random": ":", "ucb1": "-.", "thompson": (0, (1, 3))}
MODEL, SOURCE, REFERENCE = "#1f5fa8", "#c8701a", "#6b6b6b"


@contextlib.contextmanager
def _learning_curve_axes(path: Path, title: str, x_label: str, columns: int) -> Iterator[Axes]:
    """Axes to draw returns by episode on; they become a picture at `path`, its legend in so many columns."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
        axes = figure.subplots()
        yield axes
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(x_label)
        axes.set_ylabel("return")
        axes.set_title(title, fontsize=10)
        figure.legend(frameon=False, loc="outside lower center", ncols=columns)
        # Without the versions of what drew it, the same curve gives the same file.
        figure.savefig(path, format="png", metadata={"Software": None})


def draw_curve(axes: Axes, mean: np.ndarray, error: np.ndarray, **style: Any) -> None:
    """Draw the mean return by episode with its standard error."""
    episodes = np.arange(1, len(mean) + 1)
    axes.fill_between(episodes, mean - error, mean + error, color=style["color"], alpha=0.25, linewidth=0)
    axes.plot(episodes, mean, **style)
    axes.set_xlim(1, max(len(mean), 2))


def draw_references(axes: Axes, references: Mapping[str, Any]) -> None:
    """Draw the returns that are known of other behaviour as horizontal lines."""
    for name, style in REFERENCE_STYLES.items():
        if references.get(name) is not None:
            axes.axhline(references[name], color=REFERENCE, linestyle=style, linewidth=1.2, label=name)


def plot_learning_curve(result: Mapping[str, Any], path: Path) -> None:
    """Draw the mean return per in-context episode with its standard error, beside the source, random and optimum.

    Args:
        result (`Mapping`): The content of an `in_context_evaluation.json`.
        path (`Path`): Where the picture goes.
    """
    mean = np.array(result["episode_return"]["mean"])
    error = np.array(result["episode_return"]["standard_error"], dtype=float)
    references = result["references"]
    tasks = f"{result['tasks']} tasks" if result["split"] == "given" else f"{result['tasks']} held-out tasks"
    title = f"{result['environment']}: {tasks}, {result['streams']} streams"
    if "prompt" in result:
        title += f"\nprompted with episodes that return {result['prompt']['episode_return']:.2f} in the mean"
    if len(mean) == 1:
        _plot_bars(float(mean[0]), float(error[0]), references, title, path)
        return
    with _learning_curve_axes(path, title, "episode (weights frozen, context never reset)", 4) as axes:
        draw_curve(axes, mean, error, color=MODEL, linewidth=2, label="model, in its context")
        if references.get("source"):
            source = references["source"]["mean"][: len(mean)]
            episodes = np.arange(1, len(source) + 1)
            axes.plot(episodes, source, color=SOURCE, linewidth=1.5, label="source algorithm")
        draw_references(axes, references)
        axes.set_ylim(bottom=min(0.0, float(mean.min())))


def _plot_bars(mean: float, error: float, references: Mapping[str, Any], title: str, path: Path) -> None:
    """The return of a single episode, in which all that is learnt is learnt, beside what it is compared with."""
    bars = {"model, in its context": mean}
    if references.get("source"):
        bars["source algorithm"] = references["source"]["mean"][0]
    bars.update({name: references[name] for name in REFERENCE_STYLES if references.get(name) is not None})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.0), dpi=150, layout="constrained")
        axes = figure.subplots()
        colors = [MODEL, *([SOURCE] if references.get("source") else []), *[REFERENCE] * len(bars)]
        axes.barh(list(bars), list(bars.values()), color=colors[: len(bars)], height=0.6)
        axes.errorbar(mean, 0, xerr=error, color="black", capsize=3)
        for place, value in enumerate(bars.values()):
            beside = (8 if place == 0 else 2, 0)
            axes.annotate(f"{value:.1f}", (value, place), va="center", xytext=beside, textcoords="offset points")
        axes.margins(x=0.12)
        axes.invert_yaxis()
        axes.set_xlabel("return of the episode (weights frozen)")
        axes.set_title(title, fontsize=10)
        figure.savefig(path, format="png", metadata={"Software": None})


def plot_source_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], references: Mapping[str, Any], title: str, path: Path
) -> None:
    """Draw the mean return per episode of source algorithms, with its standard error.

    Args:
        curves (`Mapping`): By label, mean and standard error per episode.
        references (`Mapping`): Returns to compare with: `random`, `optimal`, as far as they are known.
        title (`str`): The picture's title.
        path (`Path`): Where the picture goes.
    """
    with _learning_curve_axes(path, title, "episode of the source algorithm", 2) as axes:
        for (label, (mean, error)), color in zip(curves.items(), (SOURCE, "#5a8f3c", "#8a5aa8"), strict=False):
            draw_curve(axes, mean, error, color=color, linewidth=1.5, label=label)
        draw_references(axes, references)
        axes.set_ylim(bottom=min([0.0, *(float(mean.min()) for mean, _ in curves.values() if len(mean))]))


def named_episodes(episodes: int) -> list[int]:
    """About eight episodes (0-based), evenly from the first to the last, to show a curve by."""
    return sorted({int(episode) for episode in np.linspace(0, episodes - 1, 8).round()})


def summary(result: Mapping[str, Any]) -> str:
    """The learning curve in a few lines of figures.

    Args:
        result (`Mapping`): The content of an `in_context_evaluation.json`.
    """
    mean, error = result["episode_return"]["mean"], result["episode_return"]["standard_error"]
    references = result["references"]
    source = (references["source"] or {"mean": []})["mean"]
    episodes = named_episodes(len(mean))
    rows = [
        ("episode", [str(episode + 1) for episode in episodes]),
        ("return", [f"{mean[episode]:.2f}" for episode in episodes]),
        ("+/-", ["-" if error[episode] is None else f"{error[episode]:.2f}" for episode in episodes]),
    ]
    if source:
        rows.append(("source", [f"{source[episode]:.2f}" if episode < len(source) else "-" for episode in episodes]))
    lines = [f"  {name:8}" + "".join(f"{value:>8}" for value in values) for name, values in rows]
    known = [f"{name} {value:.2f}" for name, value in references.items() if isinstance(value, float)]
    if "prompt" in result:
        known.append(f"prompted with {result['prompt']['episode_return']:.2f}")
    lines.append("  " + ", ".join([*known, f"{result['tasks']} tasks, {result['streams']} streams"]))
    return "\n".join(lines)
