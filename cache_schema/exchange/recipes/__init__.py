"""Import settings of known releases: a file each, called after its name, with `FORMAT` and `SETTINGS`."""

from pathlib import Path

from cache_schema.registry import Registry

RECIPES = Registry(__name__, Path(__file__).parent, "recipe")
