"""What each layer of the LLM knows of speech and its transcript, in one figure."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from espnet_part.layer_probe import LayerScore
from espnet_part.pictures_style import BAND, BLUE, DARK, GREEN, PURPLE, VERMILION, style


def draw_layers(
    scores: Sequence[LayerScore], proposed: Sequence[int], sentences: int, title: str = ""
) -> Figure:
    """Draws retrieval, spread and transport cost over the layers; the proposed ones are shaded.

    Args:
        scores: Of all layers, in order.
        proposed: The layers to align.
        sentences: How many were looked up among each other, for the line of chance.
        title: Line above.
    """
    layers = [score.layer for score in scores]
    chance = sum(1 / rank for rank in range(1, sentences + 1)) / sentences
    with style():
        figure = Figure(figsize=(7, 7.6), layout="constrained")
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1, 1))
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        _line(top, layers, [s.speech_to_text for s in scores], BLUE, "o", "speech finds its text")
        _line(top, layers, [s.text_to_speech for s in scores], VERMILION, "s", "text its speech")
        top.axhline(chance, color=DARK, lw=0.9, ls="--")
        top.annotate(
            f"chance among {sentences} sentences",
            (layers[-1], chance),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            color=DARK,
            fontsize=9,
        )
        top.set_ylabel("retrieval\n(mean reciprocal rank)")
        top.set_ylim(0, 1.05)
        # Above the panel: retrieval near 1 runs along its upper edge, near 0 along its lower one.
        top.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
        _line(middle, layers, [s.spread for s in scores], GREEN, "o", "")
        middle.set_ylabel("spread of sentences\n(mean cosine distance)")
        _line(bottom, layers, [s.transport for s in scores], PURPLE, "o", "")
        bottom.set_ylabel("transport cost\n(mean per sentence)")
        for axes in (middle, bottom):
            axes.set_ylim(0, 1.08 * axes.dataLim.ymax or 1)
        bottom.set_xlabel("layer of the LLM (0: the embeddings); shaded: proposed for alignment")
        bottom.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        figure.align_ylabels([top, middle, bottom])
        for axes in (top, middle, bottom):
            axes.axvspan(min(proposed) - 0.5, max(proposed) + 0.5, color=BAND, lw=0, zorder=0)
            axes.grid(axis="y", color="#dddddd", lw=0.6)
            axes.set_axisbelow(True)
    return figure


def _line(
    axes: Axes,
    layers: Sequence[int],
    values: Sequence[float | None],
    color: str,
    marker: str,
    label: str,
) -> None:
    points = [(layer, v) for layer, v in zip(layers, values, strict=True) if v is not None]
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=color, marker=marker, ms=4, lw=1.5, label=label or None)
