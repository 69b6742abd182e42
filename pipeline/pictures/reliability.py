"""The reliability diagram: accuracy against confidence, bin by bin, above how many answers each bin has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure


def reliability(calibration: Mapping[str, Any]) -> Figure:
    """A figure of ``calibration``, as ``evaluate_run`` tells it: bars below the diagonal are too confident."""
    bins = [one for one in calibration["bins"] if one["answers"]]
    middles = [(one["low"] + one["high"]) / 2 for one in bins]
    width = 1 / len(calibration["bins"])
    figure = Figure(figsize=(5.0, 6.0), dpi=120, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(middles, [one["accuracy"] for one in bins], width * 0.92, color="#4477aa", label="accuracy of the bin")
    confidences = [one["confidence"] for one in bins]
    upper.plot(
        confidences, [one["accuracy"] for one in bins], "o", color="#222222", ms=3, label="at its mean confidence"
    )
    upper.plot([0, 1], [0, 1], "--", color="#888888", lw=1, label="confidence tells the accuracy")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.set_title(f"ECE {calibration['ece']:.2%} of {calibration['answers']:,} answers", fontsize=11)
    upper.legend(loc="upper left", fontsize=8, frameon=False)
    shares = [one["answers"] / calibration["answers"] for one in bins]
    lower.bar(middles, shares, width * 0.92, color="#bbbbbb")
    lower.set(xlabel="confidence of the answer", ylabel="share of answers", ylim=(0, max(shares) * 1.1))
    return figure
