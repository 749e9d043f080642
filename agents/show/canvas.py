"""A dark canvas with what play is drawn from: text, bars, pictures, mosaics of neurons."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]

BACKGROUND: Colour = (14, 16, 22)
REST: Colour = (35, 39, 52)
INK: Colour = (233, 236, 242)
MUTED: Colour = (142, 149, 166)
ACCENT: Colour = (255, 178, 66)
COOL: Colour = (88, 118, 172)

# From a resting neuron over its afterglow to one that spikes at every timestep.
_HEAT_AT = (0.0, 0.25, 0.55, 0.8, 1.0)
_HEAT = (REST, (78, 47, 118), (200, 62, 108), (253, 146, 62), (255, 240, 186))
_LARGEST_CELL = 26  # pixels of a neuron's edge


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, from its upper left corner."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class _Text:
    x: float
    y: float
    string: str
    size: int
    colour: Colour
    bold: bool
    anchor: str


@dataclass
class Canvas:
    """RGB pixels [height, width, 3] to draw on; text is set last, all of it at once."""

    width: int
    height: int
    pixels: Pixels = field(init=False)
    _texts: list[_Text] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        row = np.tile(np.array(BACKGROUND, np.uint8), self.width)
        self.pixels = np.tile(row, (self.height, 1)).reshape(self.height, self.width, 3)

    def text(
        self,
        x: float,
        y: float,
        string: str,
        *,
        size: int = 15,
        colour: Colour = INK,
        bold: bool = False,
        anchor: str = "ls",
        width: float | None = None,
    ) -> float:
        """Write one line, shortened to `width` pixels; returns the x of its other end.

        Args:
            anchor: what x and y are, as Pillow has it: "ls" and "rs" the left and right end of
                the base line, "mm" the middle.
        """
        font = _font(size, bold)
        while width is not None and len(string) > 1 and font.getlength(string) > width:
            string = string.removesuffix("…")[:-1] + "…"
        self._texts.append(_Text(x, y, string, size, colour, bold, anchor))
        length = font.getlength(string)
        return x - length if anchor == "rs" else x + length

    def fill(self, box: Box, colour: Colour) -> None:
        """Fill a rectangle."""
        self.pixels[box.y : box.y + box.height, box.x : box.x + box.width] = colour

    def bar(self, box: Box, start: float, end: float, colour: Colour) -> None:
        """A horizontal bar from `start` to `end`, both from 0 to 1 of the box's width."""
        left, right = sorted((start, end))
        x = box.x + round(left * box.width)
        width = max(1, round((right - left) * box.width))
        self.fill(Box(x, box.y, width, box.height), colour)

    def picture(self, box: Box, image: Pixels) -> Box:
        """A grey or RGB image as large as fits, in the middle of the box; where it went."""
        height, width = image.shape[:2]
        factor = min(box.width / width, box.height / height)
        if factor >= 2:
            factor = int(factor)  # whole pixels stay sharp
        kind = cv2.INTER_NEAREST if factor >= 2 else cv2.INTER_AREA
        size = (max(1, int(factor * width)), max(1, int(factor * height)))
        resized = np.asarray(cv2.resize(image, size, interpolation=kind), np.uint8)
        place = Box(box.x + (box.width - size[0]) // 2, box.y + (box.height - size[1]) // 2, *size)
        self._paste(place, resized if resized.ndim == 3 else resized[..., None])
        return place

    def mosaic(self, box: Box, values: NDArray[np.float32]) -> None:
        """Neurons as cells that glow; a stack of maps as tiles.

        Args:
            values: from 0 to 1; [neurons], [channels, height, width], or any other shape. Where
                there are more than pixels, the largest of neighbours is shown.
        """
        maps = values if values.ndim == 3 else values.reshape(-1, 1, 1)
        edge, columns = _arrange(maps, box)
        while edge < max(maps.shape[1:]):
            maps = _coarser(maps)
            edge, columns = _arrange(maps, box)
        single = maps.shape[1:] == (1, 1)
        cells = _tile(_enlarge(maps, edge), columns, _gap(maps))
        colours = _heat_table()[(255 * np.clip(cells, 0, 1)).astype(np.uint8)]
        colours[cells < 0] = BACKGROUND
        if single and edge >= 4:
            colours = _discs(colours, edge)
        self._paste(Box(box.x, box.y, cells.shape[1], cells.shape[0]), colours)

    def bloom(self, box: Box) -> None:
        """Let what is bright in the box shine on what is around it."""
        part = self.pixels[box.y : box.y + box.height, box.x : box.x + box.width]
        small = cv2.resize(part, (box.width // 4, box.height // 4), interpolation=cv2.INTER_AREA)
        light = cv2.GaussianBlur(np.maximum(small, 50) - 50, (0, 0), 1.5)
        light = cv2.resize(light, (box.width, box.height), interpolation=cv2.INTER_LINEAR)
        part[:] = cv2.addWeighted(part, 1.0, light, 0.6, 0.0)

    def finish(self) -> Pixels:
        """The pixels with all text on them."""
        image = Image.fromarray(self.pixels)
        draw = ImageDraw.Draw(image)
        for text in self._texts:
            font = _font(text.size, text.bold)
            draw.text((text.x, text.y), text.string, text.colour, font, text.anchor)
        return np.asarray(image).copy()

    def _paste(self, box: Box, image: Pixels) -> None:
        self.pixels[box.y : box.y + box.height, box.x : box.x + box.width] = image


def _arrange(maps: NDArray[np.float32], box: Box) -> tuple[int, int]:
    """Largest longer edge of a map in pixels with which all fit, 0 if none; and maps per row."""
    count, height, width = maps.shape
    longer, gap = max(height, width), _gap(maps)
    for edge in range(_LARGEST_CELL * longer, 0, -1):
        across, down = (max(1, edge * n // longer) + gap for n in (width, height))
        columns = min(count, (box.width + gap) // across)
        if columns and -(-count // columns) <= (box.height + gap) // down:
            return edge, columns
    return 0, 0


def _enlarge(maps: NDArray[np.float32], edge: int) -> NDArray[np.float32]:
    """Every map with `edge` pixels along its longer edge."""
    longer = max(maps.shape[1:])
    height, width = (max(1, edge * n // longer) for n in maps.shape[1:])
    rows = np.arange(height) * maps.shape[1] // height
    columns = np.arange(width) * maps.shape[2] // width
    return maps[:, rows][:, :, columns]


def _tile(maps: NDArray[np.float32], columns: int, gap: int) -> NDArray[np.float32]:
    """Maps side by side, `gap` free pixels between them; what is free is -1."""
    count, height, width = maps.shape
    rows = -(-count // columns)
    tiles = np.full((rows * columns, height + gap, width + gap), -1, np.float32)
    tiles[:count, :height, :width] = maps
    tiled = tiles.reshape(rows, columns, height + gap, width + gap).swapaxes(1, 2)
    whole = tiled.reshape(rows * (height + gap), columns * (width + gap))
    return whole[: whole.shape[0] - gap, : whole.shape[1] - gap]


def _gap(maps: NDArray[np.float32]) -> int:
    """Free pixels between two maps; single neurons need none."""
    return int(maps.shape[1:] != (1, 1))


def _coarser(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half as fine: the largest value of 2 x 2 neurons, or of two where maps are single neurons."""
    count, height, width = maps.shape
    if height == width == 1:
        padded = np.pad(maps.ravel(), (0, count % 2))
        pairs: NDArray[np.float32] = padded.reshape(-1, 2).max(1)
        return pairs.reshape(-1, 1, 1)
    padded = np.pad(maps, ((0, 0), (0, height % 2), (0, width % 2)))
    squares = padded.reshape(count, -(-height // 2), 2, -(-width // 2), 2)
    result: NDArray[np.float32] = squares.max((2, 4))
    return result


def _discs(image: Pixels, edge: int) -> Pixels:
    """Square cells of `edge` pixels as discs with smooth rims."""
    offset = np.arange(edge) - (edge - 1) / 2
    distance = np.hypot(offset[:, None], offset[None])
    disc = np.clip(0.44 * edge - distance + 0.5, 0, 1).astype(np.float32)
    cover = np.tile(disc, (image.shape[0] // edge, image.shape[1] // edge))
    behind = np.full_like(image, BACKGROUND)
    return np.asarray(cv2.blendLinear(image, behind, cover, 1 - cover), np.uint8)


@functools.cache
def _heat_table() -> Pixels:
    """Colours [256, 3] of activities from 0 to 1."""
    at = np.linspace(0, 1, 256)
    channels = np.array(_HEAT, np.float64).T
    return np.stack([np.interp(at, _HEAT_AT, c) for c in channels], 1).astype(np.uint8)


@functools.cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """Matplotlib brings the font along, so it looks the same everywhere."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
