"""Where a store's bytes lie: a local or shared folder, or an object store; every access goes through `Storage`."""

from cache_schema.storage.interface import Storage
from cache_schema.storage.location import absolute_location, open_storage

__all__ = ["Storage", "absolute_location", "open_storage"]
