"""From a name to a place on this disk: local folders, ModelScope, Hugging Face, and the bundled demo model."""

from __future__ import annotations

from swift.hub.cache import cache_root
from swift.hub.resolve import Resolved, choose_hub, resolve, resolve_adapter, resolve_dataset

__all__ = ["Resolved", "cache_root", "choose_hub", "resolve", "resolve_adapter", "resolve_dataset"]
