"""From bytes to what a model's processor takes: pictures in RGB, sounds as samples, films as frames."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from swift.errors import SwiftError, first_line
from swift.media.access import Access

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

MOST_PIXELS = 100_000_000
"""The largest picture: a small file can hold an enormous one."""
MOST_SECONDS = 3600
"""The longest sound."""
MOST_FRAME_BYTES = 4 << 30
"""The most that the frames of one film may take."""
FRAME_BYTES = 3
MEDIA = "pip install 'ms-swift[media]'"


def open_image(media: Any, access: Access) -> Image:
    """A picture in RGB, the right way up.

    Args:
        media: a picture of PIL, or what `Access.read` takes.

    Raises:
        SwiftError: it may not be read, or is no picture.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    image = media
    if not isinstance(media, Image.Image):
        try:
            image = Image.open(io.BytesIO(access.read(media)))
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            raise SwiftError(
                f"a picture cannot be read: {_plain(error)}", fix="send a PNG, a JPEG or another usual format"
            ) from None
    if image.width * image.height > MOST_PIXELS:
        raise SwiftError(
            f"a picture has {image.width} x {image.height} pixels; {MOST_PIXELS:,} are the most", fix="make it smaller"
        )
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise SwiftError(f"a picture cannot be read: {_plain(error)}", fix="save it again") from None


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
            if file.frames > MOST_SECONDS * file.samplerate:
                raise SwiftError(f"a sound is longer than {MOST_SECONDS} s", fix="cut it")
            own, samples = file.samplerate, file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise SwiftError(
            f"a sound cannot be read: {first_line(error)}", fix="send a WAV, FLAC, OGG or MP3 file"
        ) from None
    mono = samples.mean(axis=1)
    return mono if own == rate else soxr.resample(mono, own, rate).astype(np.float32)


def open_video(media: Any, access: Access, choose: Callable[..., Any] | None) -> tuple[Any, Any]:
    """The frames uint8[frames, height, width, 3] of a film, and what transformers tells of it.

    Args:
        media: frames (with None for what is told), or what `Access.read` takes.
        choose: gives the indices of the frames that a model wants, from a film's metadata; None means all.

    Raises:
        SwiftError: it may not be read, is no film, or a package is missing.
    """
    import numpy as np

    if isinstance(media, (list, tuple)):
        return np.stack([np.asarray(open_image(frame, access)) for frame in media]), None
    if isinstance(media, np.ndarray):
        return media, None
    try:
        import av  # noqa: F401
        from transformers.video_utils import load_video
    except ImportError:
        raise SwiftError("films need av", fix=MEDIA) from None
    data = access.read(media)

    def wanted(metadata: Any, **more: Any) -> Any:
        found = np.arange(metadata.total_num_frames) if choose is None else choose(metadata=metadata, **more)
        if len(found) * FRAME_BYTES * (metadata.height or 0) * (metadata.width or 0) > MOST_FRAME_BYTES:
            raise SwiftError(
                f"a film's {len(found)} frames do not fit into memory", fix="send a shorter or smaller one"
            )
        return found

    # The decoder wants a file that it can seek in.
    descriptor, name = tempfile.mkstemp(suffix=".media")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        found: Any = load_video(name, backend="pyav", sample_indices_fn=wanted)  # type: ignore[arg-type]
        return found
    except SwiftError:
        raise
    except Exception as error:
        # PyAV's errors are of many kinds, and so are transformers' about films without frames.
        raise SwiftError(f"a film cannot be read: {_plain(error)}", fix="send an MP4 or WebM file") from None
    finally:
        os.unlink(name)


def _plain(error: BaseException) -> str:
    """The error's words without the address of an object in memory."""
    said = first_line(error)
    return "the format is unknown" if "BytesIO object" in said else said
