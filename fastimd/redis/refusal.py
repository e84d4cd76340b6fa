"""What Redis refuses for what stands at one key, as an error that names the key."""

from __future__ import annotations

import structlog

from ..base.errors import KeyUnusable
from ..base.metrics import Metrics

log = structlog.get_logger("fastimd.redis")


def key_unusable(metrics: Metrics, key: str, refusal: Exception | str) -> KeyUnusable:
    """Count and log a refusal; returns what is to be raised."""
    metrics.unusable_keys += 1
    log.warning("store.key_unusable", key=key, error=str(refusal))
    return KeyUnusable(key, str(refusal))
