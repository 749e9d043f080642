"""Where pictures of play go: a window, an MP4 or a GIF."""

from __future__ import annotations

import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snn_rl.errors import SnnRlError
from snn_rl.support.files import temporary

Pixels = NDArray[np.uint8]

GIF_FRAMES_PER_SECOND = 20.0
"""More makes a GIF large, and browsers slow GIFs down beyond 50; frames in between are left out."""
_SAMPLES, _HALF_PALETTE = 24, 64
_NO_DISPLAY = "there is no display for a window: write a file instead, e.g. --video play.mp4"


class Screen(Protocol):
    """Shows pictures one after the other; use it as a context manager.

    A file appears under its name when the context ends, also after an interruption; after any
    other exception nothing is left of it.
    """

    def show(self, picture: Pixels) -> bool:
        """Show RGB [height, width, 3], always of one size; False once the viewer has had enough."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_screen(
    video: Path | None,
    size: tuple[int, int],
    fps: float,
    *,
    scale: float | None = None,
    title: str = "",
) -> Screen:
    """A window, or the file `video`, whose suffix says which kind.

    Args:
        size: width and height in pixels of the pictures that will come.
        fps: pictures per second.
        scale: factor on their size; None keeps it, and halves it in a GIF.
        title: of a window.

    Raises:
        SnnRlError: another suffix, a file that cannot be written, no display for a window.
    """
    # Gymnasium draws some environments with pygame, which would write a greeting to stdout and,
    # where there is no display, a complaint to stderr.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if video is None:
        return PygameWindow(_scaled(size, scale or 1.0), fps, title)
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    match video.suffix.lower():
        case ".mp4":
            return Mp4File(video, _scaled(size, scale or 1.0), fps)
        case ".gif":
            return GifFile(video, _scaled(size, scale or 0.5), fps)
        case _:
            raise SnnRlError(f"a video's name ends in .mp4 or .gif, but {video.name!r} does not")


class PygameWindow:
    """A window of pygame, at the given pace; Escape or its button closes it."""

    def __init__(self, size: tuple[int, int], fps: float, title: str) -> None:
        """Open the window. Raises SnnRlError if pygame or a display is missing."""
        if not _has_display():
            raise SnnRlError(_NO_DISPLAY)
        try:
            pygame: Any = import_module("pygame")
        except ImportError:
            raise SnnRlError('a window needs pygame: pip install "snn-rl[play]"') from None
        try:
            pygame.display.init()
            if pygame.display.get_driver() == "offscreen":  # what SDL falls back to
                raise SnnRlError(_NO_DISPLAY)
            self._surface = pygame.display.set_mode(size)
        except pygame.error:
            raise SnnRlError(_NO_DISPLAY) from None
        self._pygame = pygame
        pygame.display.set_caption(title)
        self._clock = pygame.time.Clock()
        self._size, self._fps = size, fps

    def show(self, picture: Pixels) -> bool:
        """As in `Screen`; returns when it is the next picture's turn."""
        pygame = self._pygame
        pixels = _resized(picture, self._size)
        self._surface.blit(pygame.image.frombuffer(pixels.tobytes(), self._size, "RGB"), (0, 0))
        pygame.display.flip()
        self._clock.tick(self._fps)
        return not any(
            event.type == pygame.QUIT
            or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE)
            for event in pygame.event.get()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pygame.display.quit()


def _has_display() -> bool:
    """Whether it is worth a try; on Linux SDL complains on stderr where there is none."""
    wanted = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    return sys.platform != "linux" or any(os.environ.get(name) for name in wanted)


class _File(ABC):
    """A file that is written under a temporary name beside its own."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self._path, self._size = path, size
        plain = path.with_suffix(path.suffix.lower())  # what writes it goes by the suffix
        self._temporary = temporary(plain, plain.suffix)
        if path.is_dir():
            raise SnnRlError(f"{path} is a folder: name a file in it")
        try:
            self._temporary.touch()
        except OSError as error:
            raise SnnRlError(f"{path} cannot be written: {error.strerror}") from error
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        keep = self._count > 0 and (kind is None or issubclass(kind, KeyboardInterrupt))
        try:
            self._close(keep)
            if keep:
                self._temporary.replace(self._path)
        finally:
            self._temporary.unlink(missing_ok=True)

    @abstractmethod
    def _close(self, keep: bool) -> None:
        """Write what is still to be written, if it is to be kept."""


class Mp4File(_File):
    """An MP4 (MPEG-4 part 2), written picture by picture."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        """Create the file. Raises SnnRlError if it cannot be written."""
        super().__init__(path, size)
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._temporary), code, fps, size)
        if not self._writer.isOpened():
            self._temporary.unlink()
            raise SnnRlError(f"OpenCV cannot write {path}: choose a .gif instead")

    def show(self, picture: Pixels) -> bool:
        """As in `Screen`."""
        self._writer.write(cv2.cvtColor(_resized(picture, self._size), cv2.COLOR_RGB2BGR))
        self._count += 1
        return True

    def _close(self, keep: bool) -> None:
        self._writer.release()
        if not keep:
            return
        written = cv2.VideoCapture(str(self._temporary))  # the writer tells of no full disk
        count = int(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
        written.release()
        if count != self._count:
            raise SnnRlError(
                f"{self._path} cannot be written: {count} of {self._count} pictures arrived, the "
                "disk may be full"
            )


class GifFile(_File):
    """A GIF that repeats for ever; pictures wait in memory, compressed, until all are known."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        """Create the file. Raises SnnRlError if it cannot be written."""
        super().__init__(path, size)
        self._stride = max(1, math.ceil(fps / GIF_FRAMES_PER_SECOND))
        self._milliseconds = 10 * round(100 * self._stride / fps)
        self._pngs: list[NDArray[np.uint8]] = []

    def show(self, picture: Pixels) -> bool:
        """As in `Screen`."""
        if self._count % self._stride == 0:
            options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
            self._pngs.append(cv2.imencode(".png", _resized(picture, self._size), options)[1])
        self._count += 1
        return True

    def _close(self, keep: bool) -> None:
        if not keep:
            return
        samples = self._pngs[:: max(1, len(self._pngs) // _SAMPLES)]
        palette = _common_palette([_decoded(png) for png in samples])
        frames = (
            Image.fromarray(_decoded(png)).quantize(palette=palette, dither=Image.Dither.NONE)
            for png in self._pngs
        )
        next(frames).save(
            self._temporary,
            "GIF",
            save_all=True,
            append_images=frames,
            duration=self._milliseconds,
            loop=0,
        )


def _common_palette(pictures: Sequence[Pixels]) -> Image.Image:
    """One palette for all, so that what does not change costs nothing.

    Half of it goes by area, which keeps the background, half by distance, which keeps a ball.
    """
    image = Image.fromarray(np.concatenate(pictures))
    palette: list[int] = []
    for method in (Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE):
        palette += (image.quantize(_HALF_PALETTE, method).getpalette() or [])[: 3 * _HALF_PALETTE]
    result = Image.new("P", (1, 1))
    result.putpalette(palette)
    return result


def _decoded(png: NDArray[np.uint8]) -> Pixels:
    return np.asarray(cv2.imdecode(png, cv2.IMREAD_COLOR), np.uint8)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Even numbers, as MP4 needs them."""
    return 2 * round(size[0] * scale / 2), 2 * round(size[1] * scale / 2)


def _resized(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """RGB of this width and height."""
    if picture.shape[1::-1] == size:
        return picture
    smaller = picture.shape[1] > size[0]
    kind = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=kind), np.uint8)
