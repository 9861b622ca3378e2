"""Which fields two recipes do not share."""

from __future__ import annotations

import dataclasses

from atlaslib import Recipe


def differing(first: Recipe, second: Recipe) -> set[str]:
    return {
        field.name
        for field in dataclasses.fields(first)
        if getattr(first, field.name) != getattr(second, field.name)
    }
