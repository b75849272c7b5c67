"""Images of items: find them beside their data file, check them, open them. They are untrusted input.

An image is taken in when its row is read: decoded once as a whole, within a limit of pixels, by one of few formats; it
is named by its digest from then on, and opened later only if it still is what it was.
"""

import base64
import binascii
import hashlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpl_ray.cells import RowError, as_text, plain, shown

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 2**25
MAX_BYTES = 2**26
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_DATA = "data:;base64,"


@dataclass(frozen=True, slots=True)
class Picture:
    """One image."""

    location: str
    """Absolute path of the file, or for images that came as bytes a `data:` URI that holds them."""
    sha256: str
    """Digest of the encoded bytes."""


def picture_of(cell: Any, folder: Path | None, max_pixels: int) -> Picture:
    """Take in the image that a cell holds, and decode it once.

    Args:
        cell: a path relative to `folder`, the encoded bytes, or `{"bytes": …, "path": …}` as `datasets` stores images.
        folder: of the data file; None where there is none, so that only bytes can be read.
        max_pixels: a larger image is refused before it is decoded.

    Raises:
        RowError: no such file, outside of the folder, no image, damaged or too large.
    """
    name = "image"
    if isinstance(cell, Mapping):
        name = shown(cell.get("path") or name)
        cell = cell.get("bytes") if cell.get("bytes") is not None else cell.get("path")
    if isinstance(cell, bytes):
        content, location = cell, ""
        if len(content) > MAX_BYTES:
            raise RowError(f"{name} has {len(content)} bytes; {MAX_BYTES} are possible")
    else:
        path = _path(as_text(plain(cell), "image"), folder)
        content, location, name = _read(path), str(path), shown(path.name)
    _decoded(content, name, max_pixels)
    return Picture(location or _DATA + base64.b64encode(content).decode("ascii"), hashlib.sha256(content).hexdigest())


def open_picture(picture: Picture) -> "Image":
    """Open an image as upright RGB.

    Raises:
        RowError: the file is gone, or is not the one that was taken in.
    """
    if picture.location.startswith(_DATA):
        try:
            content, name = base64.b64decode(picture.location[len(_DATA) :], validate=True), "image"
        except binascii.Error as error:
            raise RowError(f"the stored image is damaged: {error}") from None
    else:
        path = Path(picture.location)
        content, name = _read(path), shown(path.name)
    if hashlib.sha256(content).hexdigest() != picture.sha256:
        raise RowError(f"the image {picture.location[:200]} has changed since its row was read")
    return _decoded(content, name, None)


def _path(text: str, folder: Path | None) -> Path:
    """Return the file that a row names: relative, and below the folder of the data file also once links are followed.

    Rows may come from anyone; they shall not choose files elsewhere on this machine.
    """
    if folder is None:
        raise RowError(f"image {shown(text)} is a path, but this source has no folder; give the image's bytes")
    if "://" in text or "\0" in text or Path(text).is_absolute():
        raise RowError(f"image {shown(text)} must be a path relative to its data file")
    base = folder.resolve()
    try:
        path = (base / text).resolve()
    except (OSError, RuntimeError) as error:  # a name too long, links in a circle
        raise RowError(f"image {shown(text)} cannot be found: {error}") from None
    if not path.is_relative_to(base):
        raise RowError(f"image {shown(text)} lies outside of the folder of its data file")
    return path


def _read(path: Path) -> bytes:
    try:
        # no device and no pipe, which would never end
        if not path.is_file():
            raise RowError(f"image {shown(str(path), 200)} is no file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise RowError(f"image {shown(path.name)} has {size} bytes; {MAX_BYTES} are possible")
        return path.read_bytes()
    except OSError as error:
        raise RowError(f"image {shown(path.name)} cannot be read: {error.strerror or error}") from None


def _decoded(content: bytes, name: str, max_pixels: int | None) -> "Image":
    """Decode the first frame, turned as its camera says; its size is known and checked before its pixels are."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                pixels = image.width * image.height
                if max_pixels is not None and pixels > max_pixels:
                    raise RowError(
                        f"{name} has {image.width} x {image.height} pixels, "
                        f"data.max_image_pixels={max_pixels} are possible"
                    )
                upright: Image.Image = ImageOps.exif_transpose(image)
                return upright.convert("RGB")
    except RowError:
        raise
    # a decoder fails in every way there is (struct, syntax, zlib, memory, bombs); each means the same to the user
    except Exception as error:
        raise RowError(f"{name} is no readable image ({', '.join(FORMATS)}): {shown(str(error), 120)}") from None
