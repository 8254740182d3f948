"""Together against alone, in numbers, words and one picture.

A history is a list of `{"round": 1, "accuracy": 0.93}`: the central evaluation of each round. A baseline maps each
subject to the accuracy that its device reaches alone. Accuracies count from 0 to 1, on people no device has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

LAST_ROUNDS = 5
BLUE, ORANGE, GREY = "#1f5fa8", "#d9822b", "#6b6b6b"


def summary(history: Sequence[Mapping[str, Any]], alone: Mapping[Any, float]) -> dict[str, Any]:
    """The demonstration's result, ready for JSON: accuracies from 0 to 1 on the unseen people."""
    rounds = trained_rounds(history)
    last = [float(entry["accuracy"]) for entry in rounds[-LAST_ROUNDS:]]
    return {
        "rounds": len(rounds),
        "together": {"accuracy": fmean(last), "mean_of_last_rounds": len(last), "best": max(last), "worst": min(last)},
        "alone": {
            "accuracy": fmean(alone.values()),
            "best": max(alone.values()),
            "worst": min(alone.values()),
            "by_subject": {str(subject): accuracy for subject, accuracy in alone.items()},
        },
        "curve": [{"round": int(entry["round"]), "accuracy": float(entry["accuracy"])} for entry in rounds],
    }


def trained_rounds(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rounds after training began, in order. Raises ValueError where there is none."""
    rounds = sorted((entry for entry in history if int(entry["round"]) > 0), key=lambda entry: int(entry["round"]))
    if not rounds:
        raise ValueError("the history holds no round after training: nothing to report")
    return rounds


def summary_text(result: Mapping[str, Any]) -> str:
    """The result in three lines."""
    together, alone = result["together"], result["alone"]
    gained = together["accuracy"] - alone["accuracy"]
    return (
        f"Together  {together['accuracy']:.1%} of unseen people's windows recognised "
        f"(mean of the last {together['mean_of_last_rounds']} of {result['rounds']} rounds)\n"
        f"Alone     {alone['accuracy']:.1%} on average; "
        f"the best of {len(alone['by_subject'])} devices {alone['best']:.1%}, the worst {alone['worst']:.1%}\n"
        f"Gain      {100 * gained:+.1f} points over the average device, "
        f"{100 * (together['accuracy'] - alone['best']):+.1f} over the best, and no recording left its device"
    )


def plot(history: Sequence[Mapping[str, Any]], alone: Mapping[Any, float], path: str | Path) -> Path:
    """Draw accuracy a round, together, over the band of what each device reaches alone; write a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # a second that only the picture needs
    from matplotlib.figure import Figure  # noqa: PLC0415  # likewise
    from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: PLC0415  # likewise

    result = summary(history, alone)
    rounds = [entry["round"] for entry in result["curve"]]
    curve = [entry["accuracy"] for entry in result["curve"]]
    mean, best, worst = (result["alone"][key] for key in ("accuracy", "best", "worst"))
    together = result["together"]["accuracy"]

    figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    right = rounds[-1] + 0.5
    axes.axhspan(worst, best, color=ORANGE, alpha=0.15, linewidth=0)
    axes.axhline(mean, color=ORANGE, linewidth=2)
    axes.plot(rounds, curve, color=BLUE, linewidth=2.5, marker="o", markersize=4)
    for level, text, color in (
        (curve[-1], f"together\n{together:.1%}", BLUE),
        (mean, f"alone\n{mean:.1%}", ORANGE),
    ):
        axes.annotate(
            text,
            (right, level),
            xytext=(8, 0),
            textcoords="offset points",
            color=color,
            fontsize=13,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )
    axes.annotate(
        f"each of {len(alone)} devices alone: from the worst to the best",
        (right, worst),
        xytext=(-6, 5),
        textcoords="offset points",
        ha="right",
        color=ORANGE,
        fontsize=10,
    )
    axes.set_title("Accuracy on people that no device has seen", loc="left", fontsize=15, fontweight="bold", pad=12)
    axes.set_xlabel("round", color=GREY)
    axes.set_xlim(rounds[0] - 0.5, right)
    axes.set_ylim(max(0.0, min(worst, *curve) - 0.06), 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="y", color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=GREY, length=0)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.2)
    return Path(path)
