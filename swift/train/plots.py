"""Loss curves: pictures in the run's folder and a small one for the terminal."""

from __future__ import annotations

import json
from pathlib import Path

CURVES = ("loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second")


def read_log(path: Path) -> list[dict[str, float]]:
    """The logged steps of a run, oldest first."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def curve(log: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one figure."""
    points = [(entry["step"], entry[name]) for entry in log if name in entry]
    return [x for x, _ in points], [y for _, y in points]


def save_pictures(log: list[dict[str, float]], folder: Path) -> list[Path]:
    """Write a PNG for each figure that was logged at least twice."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in CURVES:
        steps, values = curve(log, name)
        if len(steps) < 2:
            continue
        figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=110)
        axes.plot(steps, values, alpha=0.35 if name == "loss" else 1.0, color="tab:blue")
        if name == "loss":
            axes.plot(steps, smooth(values), color="tab:blue")
        axes.set_xlabel("step")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        figure.tight_layout()
        path = folder / f"{name}.png"
        figure.savefig(path)
        pyplot.close(figure)
        written.append(path)
    return written


def smooth(values: list[float], weight: float = 0.7) -> list[float]:
    """Exponential moving average, corrected for its start."""
    smoothed, average, mass = [], 0.0, 0.0
    for value in values:
        average = weight * average + (1 - weight) * value
        mass = weight * mass + (1 - weight)
        smoothed.append(average / mass)
    return smoothed


def terminal_plot(steps: list[float], values: list[float], width: int = 60, height: int = 10) -> str:
    """A curve in characters, with the highest and lowest value and the first and last step."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    rows = [[" "] * width for _ in range(height)]
    for x in range(width):
        at = x * (len(values) - 1) / (width - 1)
        left = int(at)
        right = min(left + 1, len(values) - 1)
        value = values[left] + (values[right] - values[left]) * (at - left)
        rows[round((high - value) / span * (height - 1))][x] = "●"
    labels = [f"{high:8.3f} ", *[" " * 9] * (height - 2), f"{low:8.3f} "]
    lines = [f"{label}┤{''.join(row)}" for label, row in zip(labels, rows, strict=True)]
    first, last = f"{steps[0]:g}", f"{steps[-1]:g}"
    lines.append(" " * 9 + "└" + "─" * width)
    lines.append(" " * 10 + first + " " * max(width - len(first) - len(last), 1) + last)
    return "\n".join(lines)
