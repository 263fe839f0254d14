"""Pictures, films and sounds: where they may come from, and how their bytes become arrays."""

from __future__ import annotations

from swift.media.access import EVERYTHING, Access, value_in
from swift.media.opening import open_audio, open_image, open_video

__all__ = ["EVERYTHING", "Access", "open_audio", "open_image", "open_video", "value_in"]
