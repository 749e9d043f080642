"""Draws a moment of play: the game, what the agent sees, its Q-values and its neurons at work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.agents.show.canvas import ACCENT, COOL, INK, MUTED, REST, Box, Canvas, Pixels
from snn_rl.agents.show.game import LayerActivity, Moment, Player

SIZE = 960, 540
"""Width and height of a drawing in pixels."""

_REACH = 8.0  # features stay within about this
_TITLE, _BETWEEN = 24, 12  # heights of a panel's title, and between two panels
_LAYERS_PER_COLUMN, _LAYER_COLUMNS = 6, 3


@dataclass(frozen=True)
class _Layout:
    picture: Box
    seen: Box
    q: Box
    layers: Box


_UPRIGHT = _Layout(
    Box(24, 84, 320, 424), Box(368, 84, 194, 196), Box(368, 300, 194, 208), Box(588, 84, 348, 424)
)
_WIDE = _Layout(
    Box(24, 84, 416, 278), Box(24, 382, 134, 126), Box(182, 382, 258, 126), Box(464, 84, 472, 424)
)


def draw(moment: Moment) -> Pixels:
    """The drawing of a moment: RGB [540, 960, 3]; the same moment gives the same pixels."""
    canvas = Canvas(*SIZE)
    picture = moment.picture
    upright = picture is not None and picture.shape[0] > picture.shape[1]
    layout = _UPRIGHT if upright else _WIDE
    _draw_layers(canvas, layout.layers, moment.layers, moment.player.spiking)
    _draw_header(canvas, moment)
    _draw_picture(canvas, layout.picture, moment)
    _draw_seen(canvas, layout.seen, moment.seen)
    _draw_q(canvas, layout.q, moment)
    return canvas.finish()


def _draw_header(canvas: Canvas, moment: Moment) -> None:
    player = moment.player
    end = canvas.text(24, 44, player.env_id, size=23, bold=True, width=400)
    canvas.text(end + 16, 44, _describe(player), colour=MUTED, width=700 - end)
    right = 936.0
    for label, value, size, colour, width in (
        ("score", f"{moment.score:g}", 23, ACCENT, 70),
        ("frame", f"{moment.frame}", 15, INK, 34),
    ):
        text = value.replace("-", "−")
        left = canvas.text(right, 44, text, size=size, bold=size > 15, colour=colour, anchor="rs")
        left = min(right - width, left) - 10
        right = canvas.text(left, 44, label, size=13, colour=MUTED, anchor="rs") - 22


def _describe(player: Player) -> str:
    if not player.spiking:
        return "ANN, no spikes"
    carried = "membranes carried" if player.carry_membrane else "membranes zeroed"
    return f"T = {player.timesteps} · {carried}"


def _draw_picture(canvas: Canvas, box: Box, moment: Moment) -> None:
    place = box
    if moment.picture is not None:
        place = canvas.picture(box, moment.picture)
    else:
        canvas.fill(box, REST)
        middle = (box.x + box.width / 2, box.y + box.height / 2)
        canvas.text(*middle, "this environment draws no picture", colour=MUTED, anchor="mm")
    if moment.over:
        foot = Box(place.x, place.y + place.height - 40, place.width, 40)
        canvas.fill(foot, REST)
        middle = (foot.x + foot.width / 2, foot.y + foot.height / 2)
        canvas.text(*middle, "episode over", size=17, bold=True, anchor="mm")


def _draw_seen(canvas: Canvas, box: Box, seen: NDArray[Any]) -> None:
    """The frame as an image, or its features as bars up and down from the middle."""
    inner = Box(box.x, box.y + _TITLE, box.width, box.height - _TITLE)
    if seen.dtype == np.uint8:
        _title(canvas, box, "what it sees")
        side = min(inner.width, inner.height)
        canvas.picture(Box(inner.x, inner.y, side, side), seen[0])
        return
    _title(canvas, box, f"sees {len(seen)} numbers")
    values = np.clip(seen / _REACH, -1, 1)
    pitch = inner.width / len(values)
    thick = max(1, min(22, int(0.7 * pitch)))
    middle, reach = inner.y + inner.height // 2, inner.height // 2
    canvas.fill(Box(inner.x, middle, inner.width, 1), MUTED)
    for i, value in enumerate(values):
        x = inner.x + int((i + 0.5) * pitch - thick / 2)
        length = max(1, round(float(abs(value)) ** 0.5 * reach))  # the root shows small ones too
        canvas.fill(Box(x, middle - length if value > 0 else middle, thick, length), COOL)


def _draw_q(canvas: Canvas, box: Box, moment: Moment) -> None:
    """A bar per action: how far its value is above or below the mean of all."""
    wide = box.width > 200
    _title(canvas, box, "Q-values", "bars: from their mean" if wide else "")
    names, q = moment.player.actions, moment.q
    pitch = min(34.0, (box.height - _TITLE) / len(q))
    size = max(7, min(14 if wide else 12, int(0.8 * pitch)))
    left, right = (64, 64) if wide else (82, 56)
    decimals = 2 if moment.q_scale >= 0.1 else 4
    for i, value in enumerate(q):
        middle, chosen = box.y + _TITLE + (i + 0.5) * pitch, i == moment.action
        height = max(2, int(0.55 * pitch))
        line = Box(box.x + left, int(middle - height / 2), box.width - left - right, height)
        lead = 0.5 * float(value - q.mean()) / (moment.q_scale or 1.0)
        canvas.bar(line, 0, 1, REST)
        canvas.bar(line, 0.5, 0.5 + lead, ACCENT if chosen else COOL)
        if pitch < 8:
            continue  # no room for text
        shade, base = INK if chosen else MUTED, middle + 0.36 * size
        number = f"{value:.{decimals}f}".replace("-", "−")
        canvas.text(box.x, base, names[i], size=size, colour=shade, width=left - 4)
        canvas.text(box.x + box.width, base, number, size=size, colour=shade, anchor="rs")


def _draw_layers(canvas: Canvas, box: Box, layers: Sequence[LayerActivity], spiking: bool) -> None:
    """A mosaic per hidden layer, in columns if there are many."""
    if not layers:
        _title(canvas, box, "no hidden layers")
    columns = min(_LAYER_COLUMNS, -(-len(layers) // _LAYERS_PER_COLUMN))
    rows = -(-len(layers) // columns) if layers else 0
    rows = min(rows, _LAYERS_PER_COLUMN)
    shown = layers[: rows * columns]
    unit = "spikes per neuron" if columns == 1 else "spikes"
    for column in range(columns):
        part = shown[column * rows : (column + 1) * rows]
        width = (box.width - 16 * (columns - 1)) // columns
        strip = Box(box.x + column * (width + 16), box.y, width, box.height)
        for layer, place in zip(part, _shares(strip, part), strict=True):
            inner = Box(place.x, place.y + _TITLE, place.width, place.height - _TITLE)
            # The root makes a single one of several spikes visible.
            canvas.mosaic(inner, np.sqrt(layer.glow))
            shape = "×".join(str(n) for n in layer.activity.shape)
            rate = f"{layer.rate:.2f} {unit}" if spiking else f"{layer.rate:.0%} active"
            _title(canvas, place, f"{layer.name}  {shape}" if columns == 1 else layer.name, rate)
    if left_out := len(layers) - len(shown):
        middle = box.x + box.width / 2
        canvas.text(middle, box.y + box.height + 16, f"and {left_out} more", size=12, anchor="mm")
    canvas.bloom(Box(box.x - 12, box.y, box.width + 24, box.height))


def _shares(strip: Box, layers: Sequence[LayerActivity]) -> list[Box]:
    """Boxes from top to bottom: more height for more neurons, but far less than in proportion."""
    weights = np.array([layer.activity.size**0.25 for layer in layers])
    free = strip.height - len(layers) * (_TITLE + _BETWEEN) + _BETWEEN
    heights = (weights / weights.sum() * free).astype(int) + _TITLE
    tops = strip.y + np.cumsum(heights + _BETWEEN) - heights - _BETWEEN
    return [
        Box(strip.x, int(top), strip.width, int(height))
        for top, height in zip(tops, heights, strict=True)
    ]


def _title(canvas: Canvas, box: Box, left: str, right: str = "") -> None:
    canvas.text(box.x, box.y + 12, left, size=13)
    canvas.text(box.x + box.width, box.y + 12, right, size=12, colour=MUTED, anchor="rs")
