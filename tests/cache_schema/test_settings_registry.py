"""Settings and registries speak in one line and name what may be meant."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError

from cache_schema.errors import SettingsError
from cache_schema.registry import JoinedRegistry, Registry, unknown_name
from cache_schema.settings import Spec


class Lens(Spec):
    """A model with a field of each kind."""

    width: int = Field(default=4, gt=0)
    """Pixels of the picture."""
    rate: float = 5.0
    """Frames per second."""
    names: tuple[str, ...] = ()
    """Whatever they are called."""
    coating: Literal["none", "single"] | Literal["multi"] | None = None
    """What is on the glass."""


def test_a_spec_is_frozen_and_finite() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Lens().width = 5  # type: ignore[misc]
    with pytest.raises(SettingsError, match="rate = nan: Input should be a finite number"):
        Lens.parse({"rate": float("nan")}, "lens")


def test_non_default_leaves_defaults_out_however_they_were_given() -> None:
    assert Lens().non_default() == Lens(width=4, rate=5).non_default() == {}
    assert Lens(width=5, names=("a",)).non_default() == {"width": 5, "names": ["a"]}


def test_messages() -> None:
    with pytest.raises(
        SettingsError, match=r"^lens: There is no field called 'widht'\. Did you mean 'width'\? Known: "
    ):
        Lens.parse({"widht": 5}, "lens")
    with pytest.raises(SettingsError, match=r"^lens: width = 0: .*greater than 0 \(width: Pixels of the picture\.\)$"):
        Lens.parse({"width": 0}, "lens")
    with pytest.raises(
        SettingsError,
        match=r"^lens: There is no coating called 'mutli'\. Did you mean 'multi'\? Known: none, single, multi\. "
        r"\(coating: What is on the glass\.\)$",
    ):
        Lens.parse({"coating": "mutli"}, "lens")
    with pytest.raises(SettingsError, match=r"^lens: There is no coating called '5'\. Known: none, single, multi\. "):
        Lens.parse({"coating": 5}, "lens")
    with pytest.raises(SettingsError, match="'width' is not of the form field=value"):
        Lens().with_assignments(["width"], "lens")


def test_assignments_read_json_and_text() -> None:
    changed = Lens().with_assignments(["width=7", " rate = 2.5", 'names=["a","b"]'], "lens")
    assert changed == Lens(width=7, rate=2.5, names=("a", "b"))
    with pytest.raises(SettingsError, match="width = 'wide'"):
        Lens().with_assignments(["width=wide"], "lens")


def test_a_folder_is_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lenses"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_shared.py").write_text("raise RuntimeError('listing must not import')")
    (package / "fish_eye.py").write_text("WIDTH = 7")
    (package / "broken.py").write_text("raise RuntimeError('listing must not import')")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry("lenses", package, "lens")
    assert registry.names() == ["broken", "fish-eye"]
    assert registry.load("fish-eye").WIDTH == 7
    with pytest.raises(SettingsError, match=r"There is no lens called 'fisheye'\. Did you mean 'fish-eye'\?"):
        registry.load("fisheye")


def test_joined_registries_are_one_lookup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, name in (("lens", "fish_eye"), ("filter", "blue")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
        (tmp_path / package / f"{name}.py").write_text(f"NAME = {name!r}")
    monkeypatch.syspath_prepend(str(tmp_path))
    joined = JoinedRegistry(*(Registry(kind, tmp_path / kind, kind) for kind in ("lens", "filter")))
    assert joined.names() == ["fish-eye", "blue"]
    assert joined.load("blue").NAME == "blue" and joined.part("fish-eye").kind == "lens"
    assert joined.path("fish-eye") == tmp_path / "lens" / "fish_eye.py"
    with pytest.raises(SettingsError, match=r"There is no lens or filter called 'blu'\. Did you mean 'blue'\?"):
        joined.require("blu")


def test_nothing_near_is_not_guessed() -> None:
    assert unknown_name("lens", "zzz", ["fish-eye"]) == "There is no lens called 'zzz'. Known: fish-eye."
    assert unknown_name("lens", "zzz", []) == "There is no lens called 'zzz'. Known: none."
