"""Stage two under test: shapes are checked in every call."""

from __future__ import annotations

from jaxtyping import install_import_hook

install_import_hook(
    ["fuse.arch", "fuse.archs", "fuse.baselines", "fuse.nn", "fuse.model", "fuse.data"], "beartype.beartype"
)

from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from toy_corpus import TARGETS, commit, rows_of, spec, utterances  # noqa: E402

from cache_schema.feature_spec import Modality  # noqa: E402
from cache_schema.rows import Row  # noqa: E402
from cache_schema.samples import Corpus, Utterance  # noqa: E402
from cache_schema.store import FeatureStore  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One torch thread: the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds a store with dataset `toy`; arguments replace its utterances, its rows by modality, or leave some out."""

    def build(
        samples: list[Utterance] | None = None,
        rows: dict[Modality, dict[str, Row]] | None = None,
        modalities: tuple[Modality, ...] = ("speech", "text", "vision"),
    ) -> Path:
        path = tmp_path_factory.mktemp("store") / "features"
        store = FeatureStore.open(path, mode="a")
        chosen = utterances() if samples is None else samples
        store.append_samples(Corpus(name="toy", title="Toy", licence="none", targets=TARGETS), chosen)
        for modality in modalities:
            commit(store, "toy", spec(modality), (rows or {}).get(modality) or rows_of(modality, chosen))
        return path

    return build


@pytest.fixture(scope="session")
def toy_store(make_store: Callable[..., Path]) -> Path:
    """The store with the three modalities; nobody writes into it."""
    return make_store()
