"""Settings: frozen pydantic models with a sentence under every field.

The same model gives command-line validation, `mer fuse show`, the docs and the fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from cache_schema.errors import SettingsError
from cache_schema.registry import unknown_name


class Spec(BaseModel):
    """Base of all settings: immutable, unknown fields refused by name, numbers finite, every field described."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    def non_default(self) -> dict[str, Any]:
        """The fields that differ from their defaults, in JSON form: what enters a fingerprint.

        A field at its default is left out, so that adding a field keeps yesterday's cache.
        """
        plain = self.model_dump(mode="json")
        return {
            name: plain[name]
            for name, field in type(self).model_fields.items()
            if field.is_required() or getattr(self, name) != field.get_default(call_default_factory=True)
        }

    def at_default(self, names: Collection[str]) -> Self:
        """A copy with these fields at their defaults."""
        return self.model_copy(update={name: type(self).model_fields[name].default for name in names})

    @classmethod
    def parse(cls, values: dict[str, Any], where: str) -> Self:
        """Validate `values`.

        Raises:
            SettingsError: an unknown field or a bad value, one line that names `where`, the field and its meaning.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SettingsError("; ".join(dict.fromkeys(cls._explain(e, where) for e in error.errors()))) from error

    @classmethod
    def _explain(cls, error: Any, where: str) -> str:
        reason = error["msg"].removeprefix("Value error, ")
        if not error["loc"]:  # fields that do not fit together
            return f"{where}: {reason}"
        name = str(error["loc"][0])
        if error["type"] == "extra_forbidden":
            return f"{where}: " + unknown_name("field", name, list(cls.model_fields))
        field = cls.model_fields.get(name)
        meaning = f" ({name}: {' '.join(field.description.split())})" if field and field.description else ""
        choices = _choices(field and field.annotation)
        if error["type"] == "literal_error" and choices:
            return f"{where}: {unknown_name(name, str(error['input']), choices)}{meaning}"
        return f"{where}: {name} = {error.get('input')!r}: {reason}{meaning}"

    def with_assignments(self, assignments: list[str], where: str) -> Self:
        """A copy with `field=value` assignments applied, values read as JSON where they are JSON, else as text.

        Raises:
            SettingsError: an assignment without `=`, an unknown field or a bad value.
        """
        values = self.model_dump()
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise SettingsError(f"{where}: {assignment!r} is not of the form field=value.")
            try:
                values[name.strip()] = json.loads(text)
            except ValueError:
                values[name.strip()] = text
        return type(self).parse(values, where)


def _choices(annotation: Any) -> list[str]:
    """The words among a type's alternatives."""
    return [annotation] if isinstance(annotation, str) else [c for part in get_args(annotation) for c in _choices(part)]
