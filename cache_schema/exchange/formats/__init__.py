"""The exchange formats: a file each, called after its name. See `cache_schema/exchange/foreign.py` for the contract."""

from pathlib import Path

from cache_schema.registry import Registry

FORMATS = Registry(__name__, Path(__file__).parent, "exchange format")
