"""From bytes to what a model's processor takes: pictures in RGB, sounds as samples, films as frames."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from swift.errors import SwiftError, first_line
from swift.media.access import Access

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""Of pictures: others of Pillow's start programs or read files of their own."""
MOST_PIXELS = 100_000_000
"""The largest picture: a small file can hold an enormous one."""
MOST_SAMPLES = 3600 * 48_000 * 2
"""The longest sound, all channels together: an hour of stereo."""
MOST_FRAME_BYTES = 1 << 30
"""The most that the frames of one film may take."""
COLOURS = 3
MEDIA = "pip install 'ms-swift[media]'"


def open_image(media: Any, access: Access) -> Image:
    """A picture in RGB, the right way up.

    Args:
        media: a picture of PIL, or what `Access.read` takes.

    Raises:
        SwiftError: it may not be read, or is no picture.
    """
    from PIL import Image, ImageOps

    data = None if isinstance(media, Image.Image) else access.read(media)
    try:
        image = media if data is None else Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height <= MOST_PIXELS:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:
        # Pillow's readers raise whatever broken bytes lead them to.
        raise SwiftError(
            f"a picture cannot be read: {_plain(error)}", fix="send a PNG, a JPEG or another usual format"
        ) from None
    raise SwiftError(
        f"a picture has {image.width} x {image.height} pixels; {MOST_PIXELS:,} are the most", fix="make it smaller"
    )


def open_audio(media: Any, access: Access, rate: int) -> np.ndarray:
    """A sound as float32[samples] of one channel.

    Args:
        media: such samples, or what `Access.read` takes.
        rate: samples a second.

    Raises:
        SwiftError: it may not be read, is no sound, or a package is missing.
    """
    import numpy as np

    if isinstance(media, np.ndarray):
        return media
    try:
        import soundfile
        import soxr
    except ImportError:
        raise SwiftError("sounds need soundfile and soxr", fix=MEDIA) from None
    data = access.read(media)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.frames * file.channels > MOST_SAMPLES:
                raise SwiftError(f"a sound has more than {MOST_SAMPLES:,} samples", fix="cut it")
            own, samples = file.samplerate, file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise SwiftError(f"a sound cannot be read: {_plain(error)}", fix="send a WAV, FLAC, OGG or MP3 file") from None
    mono = samples.mean(axis=1)
    return mono if own == rate else soxr.resample(mono, own, rate).astype(np.float32)


def open_video(media: Any, access: Access, choose: Callable[..., Any] | None) -> tuple[Any, Any]:
    """The frames uint8[frames, height, width, 3] of a film, and what transformers tells of it.

    Args:
        media: a list of frames, or what `Access.read` takes; what this function gives is given back.
        choose: gives the indices of the frames that a model wants, from a film's metadata; None means all.

    Raises:
        SwiftError: it may not be read, is no film, or a package is missing.
    """
    import numpy as np

    if isinstance(media, tuple):
        return media
    if isinstance(media, np.ndarray):
        return media, None
    if isinstance(media, list):
        return np.stack([np.asarray(open_image(frame, access)) for frame in media]), None
    if find_spec("av") is None:
        raise SwiftError("films need av", fix=MEDIA)
    from transformers.video_utils import load_video

    # Its type hint leaves out the name of a file, which it takes (5.24).
    load: Callable[..., Any] = load_video
    data = access.read(media)

    def wanted(metadata: Any, **more: Any) -> Any:
        if not metadata.total_num_frames:
            # Many WebM files do not say.
            metadata.total_num_frames = _count(name)
            metadata.duration = metadata.total_num_frames / metadata.fps if metadata.fps else None
        found = np.arange(metadata.total_num_frames) if choose is None else choose(metadata=metadata, **more)
        if len(found) * COLOURS * (metadata.height or 0) * (metadata.width or 0) > MOST_FRAME_BYTES:
            raise SwiftError(
                f"a film's {len(found)} frames do not fit into memory", fix="send a shorter or smaller one"
            )
        return found

    # The decoder wants a file that it can seek in.
    descriptor, name = tempfile.mkstemp(suffix=".media")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        frames, metadata = load(name, backend="pyav", sample_indices_fn=wanted)
        return frames, metadata
    except SwiftError:
        raise
    except Exception as error:
        # PyAV's errors are of many kinds, and so are transformers' about films without frames.
        raise SwiftError(f"a film cannot be read: {_plain(error)}", fix="send an MP4 or WebM file") from None
    finally:
        os.unlink(name)


def _count(name: str) -> int:
    """The frames of a film, by decoding them."""
    import av

    with av.open(name) as container:
        return sum(1 for _ in container.decode(video=0))


def _plain(error: BaseException) -> str:
    """The error's words without the address of an object in memory."""
    said = first_line(error)
    return "the format is unknown" if "BytesIO object" in said else said
