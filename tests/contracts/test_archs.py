"""What every architecture promises; a new file in `fuse/archs/` is picked up by itself."""

from __future__ import annotations

import ast
import contextlib
import copy
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxtyping import install_import_hook

install_import_hook(
    ["fuse.arch", "fuse.archs", "fuse.baselines", "fuse.nn", "fuse.model", "fuse.data"], "beartype.beartype"
)

import pytest  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from cache_schema.errors import SettingsError  # noqa: E402
from cache_schema.samples import Target  # noqa: E402
from cache_schema.settings import Spec  # noqa: E402
from fuse import metrics  # noqa: E402
from fuse.arch import Batch, Companion, outputs  # noqa: E402
from fuse.archs import ARCHS  # noqa: E402
from fuse.model import Model  # noqa: E402
from fuse.training.config import TrainConfig  # noqa: E402
from fuse.training.draws import Counting, Drawn, Noise  # noqa: E402
from fuse.training.losses import Loss  # noqa: E402
from fuse.training.together import Together  # noqa: E402

CLASSIFICATION = Target(name="emotion", kind="classification", classes=("anger", "joy", "neutral", "sadness"))
MULTILABEL = Target(name="emotions", kind="multilabel", classes=("anger", "joy", "sadness"))
REGRESSION = Target(name="sentiment", kind="regression", low=-3, high=3)
FRAMES = 9
WIDTH = 6

# Parameters that no loss can reach, and why: architecture -> name (a pattern) -> the proof.
UNREACHED: dict[str, dict[str, str]] = {
    "mlp": {
        r".*\.gat\.\d+\.(query\.(weight|bias)|vector)": "Of one modality alone the graph has self loops only: a node's "
        "one edge has weight 1 in the softmax, whatever its score, so that what scores it has no part in the output."
    }
}

# Architectures whose seeds train one after the other, and why.
APART = {"mfn": "torch.func cannot map over the cells of its memory, torch's LSTMCell"}

# Modalities whose order an architecture does not see, as it reads their mean over time or, as symphonia, all pairs of
# tokens alike: architecture -> modalities.
ORDERLESS: dict[str, tuple[str, ...]] = {
    "lmf": ("speech", "vision"),
    "symphonia": ("text",),
    "tfn": ("speech", "vision"),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=ARCHS.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def arch(name: str) -> ModuleType:
    return ARCHS.load(name)


def tails_of(arch: ModuleType) -> dict[str, tuple[int, ...]]:
    """The paper's inputs, a few numbers wide; of a grid of patches 2 x 2 beside the class token."""
    return {m: (*(min(n, 5) for n in tail[:-1]), WIDTH + i) for i, (m, tail) in enumerate(arch.INPUTS.items())}


def companions_of(arch: ModuleType) -> dict[str, Companion]:
    """What the architecture reads beside the modalities' own frames."""
    return dict(getattr(arch, "COMPANIONS", {}))


def make_companions(
    arch: ModuleType, lengths: dict[str, Tensor], random: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Values and where there are any. Intervals of a frame or more in a row, a special token at each end."""
    values, there = {}, {}
    for key, companion in companions_of(arch).items():
        length = lengths[companion.modality]
        count = len(length)
        inside = torch.arange(FRAMES) < length[:, None]
        if companion.join == "words":
            steps = 1 + 0.3 * torch.rand(count, FRAMES, 1, generator=random)
            last = steps.cumsum(dim=1)
            values[key] = torch.cat([last - steps, last], dim=2)
            there[key] = inside & (torch.arange(FRAMES) > 0) & (torch.arange(FRAMES) < length[:, None] - 1)
        else:
            values[key] = torch.rand(count, FRAMES, *companion.tail, generator=random)
            there[key] = inside
    return values, there


def make_model(arch: ModuleType, target: Target = CLASSIFICATION, only: str | None = None, **changes: Any) -> Model:
    torch.manual_seed(0)
    tails = {m: tail for m, tail in tails_of(arch).items() if only in (None, m)}
    return Model.unscaled(arch.build(arch.Config(**changes), tails, target), tails).eval()


def make_batch(arch: ModuleType, target: Target = CLASSIFICATION, count: int = 6, seed: int = 0) -> Batch:
    """Random sequences of 1 to FRAMES frames; two dialogues' worth of turns; everything available."""
    random = torch.Generator().manual_seed(seed)
    sequences = {m: torch.randn(count, FRAMES, *tail, generator=random) for m, tail in tails_of(arch).items()}
    lengths = {m: torch.randint(1, FRAMES + 1, (count,), generator=random) for m in sequences}
    for length in lengths.values():
        length[0] = FRAMES
    if target.kind == "classification":
        labels = torch.arange(count) % len(target.classes)
    else:
        shape = (count,) if target.kind == "regression" else (count, outputs(target))
        labels = torch.randint(0, 2, shape, generator=random).float()
    half = (count + 1) // 2
    companions, there = make_companions(arch, lengths, random)
    return Batch(
        ids=tuple(f"u{i}" for i in range(count)),
        sequences=sequences,
        lengths=lengths,
        available=torch.ones(count, len(sequences), dtype=torch.bool),
        target=labels,
        dialogue=torch.arange(count) // half,
        position=torch.arange(count) % half,
        companions=companions,
        companions_there=there,
    )


def loss_of(model: Model, batch: Batch, target: Target) -> Tensor:
    output = model(batch)
    terms = [Loss(TrainConfig(), _Labels(target))(output.logits, batch.target), *output.losses.values()]  # type: ignore[arg-type]
    return torch.stack(terms).sum()


class _Labels:
    """What `Loss` reads of a training split where no class weights are asked for."""

    def __init__(self, target: Target) -> None:
        self.target, self.labels = target, None


def poisoned(batch: Batch, value: float, more: int = 4) -> Batch:
    """The same utterances with `more` frames of padding, all padding holding `value`, and so do companions where they
    are not there."""
    sequences, companions, there = {}, {}, {}
    for modality, x in batch.sequences.items():
        longer = torch.cat([x, x.new_zeros(len(x), more, *x.shape[2:])], dim=1)
        padding = torch.arange(FRAMES + more) >= batch.lengths[modality][:, None]
        longer[padding] = value
        sequences[modality] = longer
    for key, x in batch.companions.items():
        there[key] = F.pad(batch.companions_there[key], (0, more))
        companions[key] = torch.cat([x, x.new_zeros(len(x), more, *x.shape[2:])], dim=1)
        companions[key][~there[key]] = value
    return batch.replace(sequences=sequences, companions=companions, companions_there=there)


def undropped(model: Model) -> Model:
    """The model without its dropout, so that training is comparable."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.LSTM):
            module.dropout = 0.0
    return model


def with_rows(batch: Batch, rows: Tensor) -> Batch:
    """The utterances in `rows`, each in its old place of its dialogue."""
    return Batch(
        ids=tuple(batch.ids[i] for i in rows.tolist()),
        sequences={m: x[rows] for m, x in batch.sequences.items()},
        lengths={m: n[rows] for m, n in batch.lengths.items()},
        available=batch.available[rows],
        target=None,
        dialogue=batch.dialogue[rows],
        position=batch.position[rows],
        companions={key: x[rows] for key, x in batch.companions.items()},
        companions_there={key: x[rows] for key, x in batch.companions_there.items()},
    )


def test_the_file_says_what_it_is(name: str, arch: ModuleType) -> None:
    assert re.search(r"Paper:", arch.__doc__ or "") and "Axes:" in (arch.__doc__ or ""), (
        f"{name}: paper and axis legend"
    )
    assert issubclass(arch.Config, Spec)
    assert isinstance(arch.TRAINING, TrainConfig)
    assert set(arch.INPUTS) == set(arch.PREFERS)
    for companion in companions_of(arch).values():
        assert {companion.modality, *companion.needs} <= set(arch.PREFERS) and companion.without
    for field, facts in arch.Config.model_fields.items():
        assert facts.description and facts.description.rstrip().endswith("."), f"{name}: {field} needs a sentence"
    for changes in arch.ABLATIONS.values():
        arch.Config(**changes)


def test_no_setting_has_the_name_of_one_of_training(arch: ModuleType) -> None:
    assert not set(arch.Config.model_fields) & set(TrainConfig.model_fields)


def test_the_module_never_sees_a_config(arch: ModuleType) -> None:
    tree = ast.parse(Path(arch.__file__ or "").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name != "Config":
            assert not [n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == "Config"], node.name


@pytest.mark.parametrize("target", [CLASSIFICATION, MULTILABEL, REGRESSION], ids=lambda t: t.kind)
def test_serves_every_kind_of_target(arch: ModuleType, target: Target) -> None:
    model, batch = make_model(arch, target), make_batch(arch, target)
    shape = (6,) if target.kind == "regression" else (6, outputs(target))
    assert model(batch).logits.shape == shape
    assert torch.isfinite(loss_of(model, batch, target))


@pytest.mark.parametrize("value", [1e4, float("nan")])
def test_padding_is_invisible(arch: ModuleType, value: float) -> None:
    model, batch = make_model(arch), make_batch(arch)
    torch.testing.assert_close(model(poisoned(batch, value)).logits, model(batch).logits, rtol=1e-5, atol=1e-5)


def test_padding_is_invisible_to_the_losses(arch: ModuleType) -> None:
    model, batch = undropped(make_model(arch).train()), make_batch(arch)
    found = []
    for each in (batch, poisoned(batch, float("nan"))):
        torch.manual_seed(1)
        found.append(loss_of(model, each, CLASSIFICATION))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_an_utterance_alone_is_the_same_as_among_others(arch: ModuleType) -> None:
    model, batch = make_model(arch), make_batch(arch)
    alone = [i for i in range(6) if int(batch.position[i]) == 0]
    for row in alone:
        longest = {m: int(n[row]) for m, n in batch.lengths.items()}
        lies_on = {key: longest[companion.modality] for key, companion in companions_of(arch).items()}
        one = with_rows(batch, torch.tensor([row])).replace(
            sequences={m: x[[row], : longest[m]] for m, x in batch.sequences.items()},
            companions={key: x[[row], : lies_on[key]] for key, x in batch.companions.items()},
            companions_there={key: x[[row], : lies_on[key]] for key, x in batch.companions_there.items()},
            dialogue=torch.tensor([0]),
        )
        torch.testing.assert_close(model(one).logits[0], model(batch).logits[row], rtol=1e-5, atol=1e-5)


def test_in_training_too_the_others_have_no_part_in_an_utterances_logits(arch: ModuleType) -> None:
    """No statistics over the batch. The first utterance of a dialogue has no predecessors either."""
    model, batch = undropped(make_model(arch).train()), make_batch(arch)
    others = {m: torch.cat([x[:1], 3 * x[1:] + 1]) for m, x in batch.sequences.items()}
    found = []
    for each in (batch, batch.replace(sequences=others)):
        torch.manual_seed(1)
        found.append(model(each).logits)
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[0][1:], found[1][1:], atol=1e-3)


def test_the_order_of_the_batch_is_irrelevant(arch: ModuleType) -> None:
    model, batch = make_model(arch), make_batch(arch)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    torch.testing.assert_close(model(with_rows(batch, order)).logits, model(batch).logits[order], rtol=1e-5, atol=1e-5)


def test_what_a_masked_modality_holds_cannot_matter(arch: ModuleType) -> None:
    model, batch = make_model(arch), make_batch(arch)
    for column, modality in enumerate(batch.sequences):
        available = batch.available.clone()
        available[::2, column] = False
        masked = batch.replace(available=available)
        for value in (7.0, float("nan")):
            noise = batch.sequences[modality].clone()
            noise[::2] = value
            companions = {key: x.clone() for key, x in batch.companions.items()}
            for key, companion in companions_of(arch).items():
                if modality in (companion.modality, *companion.needs):
                    companions[key][::2] = value if companion.modality == modality else 3.0
            other = masked.replace(sequences={**batch.sequences, modality: noise}, companions=companions)
            seen, expected = model(other), model(masked)
            assert torch.equal(seen.logits, expected.logits)
            for key, values in expected.drawn.items():
                assert torch.equal(seen.drawn[key], values), key
        assert not torch.equal(model(masked).logits, model(batch).logits)


def test_an_absent_modality_has_no_share(arch: ModuleType) -> None:
    """What is drawn of a modality as one number per utterance (its weight, its gate) is zero where it is not there."""
    model, batch = make_model(arch), make_batch(arch)
    for column, modality in enumerate(batch.sequences):
        available = batch.available.clone()
        available[::2, column] = False
        drawn = model(batch.replace(available=available)).drawn
        for key in (key for key, x in drawn.items() if key.endswith(f"_{modality}") and x.ndim == 1):
            assert not drawn[key][::2].any() and (drawn[key][1::2] > 0).all(), key


def test_a_single_modality_is_enough(arch: ModuleType) -> None:
    batch = make_batch(arch)
    for column, modality in enumerate(batch.sequences):
        model = make_model(arch, only=modality)
        logits = model(batch).logits
        own = [key for key, x in companions_of(arch).items() if x.modality == modality and not x.needs]
        alone = batch.replace(
            sequences={modality: batch.sequences[modality]},
            lengths={modality: batch.lengths[modality]},
            available=batch.available[:, [column]],
            companions={key: batch.companions[key] for key in own},
            companions_there={key: batch.companions_there[key] for key in own},
        )
        assert torch.equal(model(alone).logits, logits)
        assert torch.isfinite(logits).all()


def test_an_utterance_with_one_modality_left_is_enough(arch: ModuleType) -> None:
    """In a model of all modalities, among others or alone: finite outputs and gradients, and what is left is read."""
    batch = make_batch(arch)
    for column, modality in enumerate(batch.sequences):
        available = batch.available.clone()
        available[0] = False
        available[0, column] = True
        left = batch.replace(available=available)
        for each in (left, with_rows(left, torch.tensor([0])).replace(target=batch.target[:1])):
            model = make_model(arch)
            plain = model(each)
            assert all(torch.isfinite(x).all() for x in (plain.logits, *plain.drawn.values()))
            changed = each.sequences[modality].clone()
            changed[0] += 1.0
            other = model(each.replace(sequences={**each.sequences, modality: changed}))
            assert not torch.equal(other.logits[0], plain.logits[0]), modality
            loss_of(model.train(), each, CLASSIFICATION).backward()
            assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters()), modality


def test_one_vector_per_utterance_is_enough(arch: ModuleType) -> None:
    """Features pooled over time: sequences of one frame, with any kind of target."""
    for target in (CLASSIFICATION, MULTILABEL, REGRESSION):
        model, batch = make_model(arch, target), make_batch(arch, target)
        one = batch.replace(
            sequences={m: x[:, :1] for m, x in batch.sequences.items()},
            lengths={m: torch.ones_like(n) for m, n in batch.lengths.items()},
            companions={key: x[:, :1] for key, x in batch.companions.items()},
            companions_there={key: x[:, :1] for key, x in batch.companions_there.items()},
        )
        output = model(one)
        assert all(torch.isfinite(x).all() for x in (output.logits, *output.drawn.values()))
        assert len(output.logits.unique(dim=0)) == 6, "each utterance has its own answer"
        loss_of(model.train(), one, target).backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_every_parameter_learns(name: str, arch: ModuleType) -> None:
    """In the model of all modalities, in those of a single one, and in every ablation of it."""
    excused = UNREACHED.get(name, {})
    stuck: set[str] = set()
    cases: list[tuple[str | None, dict[str, Any]]] = [(only, {}) for only in (None, *arch.PREFERS)]
    cases += [(None, changes) for changes in arch.ABLATIONS.values()]
    for only, changes in cases:
        model, batch = make_model(arch, only=only, **changes).train(), make_batch(arch)
        loss_of(model, batch, CLASSIFICATION).backward()
        still = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        assert [n for n in still if not any(re.fullmatch(pattern, n) for pattern in excused)] == [], (only, changes)
        stuck |= still
    for pattern in excused:
        assert any(re.fullmatch(pattern, n) for n in stuck), f"{pattern} is excused and does learn"


def test_one_frame_matters(arch: ModuleType) -> None:
    model, batch = make_model(arch), make_batch(arch)
    for modality, x in batch.sequences.items():
        changed = x.clone()
        changed[0, 4] += 1.0
        logits = model(batch.replace(sequences={**batch.sequences, modality: changed})).logits
        assert not torch.allclose(logits[0], model(batch).logits[0], atol=1e-5), modality


def test_the_order_of_frames_matters(name: str, arch: ModuleType) -> None:
    model, batch = make_model(arch), make_batch(arch)
    for modality, x in batch.sequences.items():
        turned = x.clone()
        turned[0, 1:] = x[0, 1:].flip(0)
        logits = model(batch.replace(sequences={**batch.sequences, modality: turned})).logits
        same = torch.allclose(logits[0], model(batch).logits[0], atol=1e-5)
        assert same == (modality in ORDERLESS.get(name, ())), modality


def test_companions_matter(arch: ModuleType) -> None:
    """Shifting one word's interval, moving the points of one frame."""
    model, batch = make_model(arch), make_batch(arch)
    for key, companion in companions_of(arch).items():
        moved = batch.companions[key].clone()
        moved[0, 4] += 2.0 if companion.join == "words" else 0.3
        logits = model(batch.replace(companions={**batch.companions, key: moved})).logits
        assert not torch.allclose(logits[0], model(batch).logits[0], atol=1e-6), key
        torch.testing.assert_close(logits[1:], model(batch).logits[1:])


def test_companions_are_optional(arch: ModuleType) -> None:
    """None at all is the same as nowhere there, and another model than with them."""
    model, batch = make_model(arch), make_batch(arch)
    for key in companions_of(arch):
        nowhere = {**batch.companions_there, key: torch.zeros_like(batch.companions_there[key])}
        logits = model(batch.replace(companions_there=nowhere)).logits
        without = batch.replace(
            companions={k: x for k, x in batch.companions.items() if k != key},
            companions_there={k: x for k, x in batch.companions_there.items() if k != key},
        )
        torch.testing.assert_close(model(without).logits, logits, rtol=1e-5, atol=1e-5)
        assert torch.isfinite(logits).all()
        assert not torch.allclose(logits, model(batch).logits, atol=1e-6), key


def test_gradients_are_those_of_finite_differences(arch: ModuleType) -> None:
    model, batch = make_model(arch).double(), make_batch(arch, count=2)
    names = list(batch.sequences)

    def run(*values: Tensor) -> Tensor:
        return model(batch.replace(sequences=dict(zip(names, values, strict=True)))).logits

    inputs = [batch.sequences[m].double().requires_grad_() for m in names]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_seeds_together_are_each_alone(name: str, arch: ModuleType) -> None:
    """As a leading dimension of one program: losses and gradients, each with its own batch, dropout and draws."""
    if name in APART:
        pytest.skip(APART[name])
    models = [make_model(arch).train() for _ in range(2)]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    alone = [copy.deepcopy(model) for model in models]
    batches = [make_batch(arch, seed=seed) for seed in (0, 1)]
    both = Batch(ids=(), **{k: _joined(v, vars(batches[1])[k]) for k, v in vars(batches[0]).items() if k != "ids"})

    def loss(model: Any, batch: Batch) -> Tensor:
        return loss_of(model, batch, CLASSIFICATION)

    together, counted = Together(models), Counting()
    with torch.no_grad():
        together.each(loss, both, counted, shared=False)
    noise = Noise.draw(counted.uniforms, counted.normals, [torch.Generator().manual_seed(s) for s in (0, 1)])
    losses = together.each(loss, both, noise, shared=False)
    together.backward(losses)
    for place, (model, batch) in enumerate(zip(alone, batches, strict=True)):
        with Drawn(noise.uniform[place], noise.normal[place]):
            own = loss(model, batch)
        own.backward()
        torch.testing.assert_close(losses[place], own, rtol=1e-5, atol=1e-5)
        for key, parameter in model.named_parameters():
            found = models[place].get_parameter(key).grad
            if parameter.grad is not None:
                torch.testing.assert_close(found, parameter.grad, rtol=1e-3, atol=1e-5)


def _joined(one: Any, other: Any) -> Any:
    """Two batches' fields one after the other."""
    return {k: torch.cat([v, other[k]]) for k, v in one.items()} if isinstance(one, dict) else torch.cat([one, other])


def test_the_same_seed_gives_the_same_bits(arch: ModuleType) -> None:
    batch = make_batch(arch)

    def trained() -> dict[str, Tensor]:
        model = make_model(arch).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model, batch, CLASSIFICATION).backward()
            optimizer.step()
        return model.state_dict()

    first, second = trained(), trained()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_saved_and_loaded_it_predicts_the_same_bits(arch: ModuleType, tmp_path: Any) -> None:
    from fuse.run_files import read_weights, write_weights

    model, batch = make_model(arch), make_batch(arch)
    write_weights(tmp_path / "weights.safetensors", model)
    other = make_model(arch)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    assert not torch.equal(other(batch).logits, model(batch).logits)
    read_weights(tmp_path / "weights.safetensors", other)
    assert torch.equal(other(batch).logits, model(batch).logits)


class Exported(torch.nn.Module):
    """A model's logits from tensors alone."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, fields: dict[str, Any]) -> Tensor:
        return self.model(Batch(ids=(), target=None, **fields)).logits


@pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export")  # torch's own GRU's
@torch.no_grad()
def test_exported_it_answers_as_before_whatever_the_lengths_are(arch: ModuleType) -> None:
    """What is exported with one batch holds none of its numbers: another has other lengths and lacks modalities."""
    model, batch, other = make_model(arch), make_batch(arch), make_batch(arch, seed=1)
    available = other.available.clone()
    available[1, 0] = available[2, -1] = False
    other = other.replace(available=available, dialogue=0 * other.dialogue, position=torch.arange(len(other)))
    given, asked = ({k: v for k, v in vars(b).items() if k not in ("ids", "target")} for b in (batch, other))
    program = torch.export.export(Exported(model), (given,), strict=False).module()
    torch.testing.assert_close(program(asked), model(other).logits, rtol=1e-4, atol=1e-5)


def test_learns_32_samples_by_heart(arch: ModuleType) -> None:
    model, batch = make_model(arch), make_batch(arch, count=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(1, 151):
        model.train()
        optimizer.zero_grad()
        loss_of(model, batch, CLASSIFICATION).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 5 == 0:
            with torch.no_grad():
                if (model.eval()(batch).logits.argmax(dim=1) == batch.target).all():
                    return
    pytest.fail("150 steps did not fit 32 samples")


def test_every_ablation_is_another_model(arch: ModuleType) -> None:
    batch = make_batch(arch)
    whole = make_model(arch)(batch).logits
    for ablation, changes in arch.ABLATIONS.items():
        assert not torch.allclose(make_model(arch, **changes)(batch).logits, whole, atol=1e-6), ablation


def other_values(arch: ModuleType, field: str) -> list[Any]:
    """Values of a field that are not its default, and may or may not be allowed."""
    default = arch.Config.model_fields[field].default
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, int | float):
        return [2 * default, default + 2, default / 2]
    if isinstance(default, tuple):
        return [tuple(2 * value for value in default)]
    if isinstance(default, str):
        choices = arch.Config.model_json_schema()["properties"][field]["enum"]
        return [choice for choice in choices if choice != default]
    return [1]


def idle_settings(arch: ModuleType, only: str | None, changes: dict[str, Any]) -> dict[str, Any]:
    """Another value for each setting that `canonical` says to change nothing beside `changes`."""
    tails = {m: tail for m, tail in tails_of(arch).items() if only in (None, m)}
    found = {}
    for field in set(arch.Config.model_fields) - set(changes):
        for value in other_values(arch, field):
            with contextlib.suppress(SettingsError), torch.device("meta"):
                config = arch.Config.parse({**changes, field: value}, "test")
                if getattr(arch.canonical(config, tuple(tails)), field) != value:
                    arch.build(config, tails, CLASSIFICATION)
                    found[field] = value
                    break
    return found


def test_settings_that_are_said_to_change_nothing_change_nothing(arch: ModuleType) -> None:
    """What `canonical` puts back to its default has no part in training nor in the output."""
    if not hasattr(arch, "canonical"):
        pytest.skip("no setting is said to change nothing")
    batch = make_batch(arch, count=2)
    cases: list[tuple[str | None, dict[str, Any]]] = [(only, {}) for only in arch.PREFERS]
    cases += [(None, changes) for changes in arch.ABLATIONS.values()]
    idle: set[str] = set()
    for only, changes in cases:
        other = idle_settings(arch, only, changes)
        if other:
            idle |= set(other)
            found = [seeded_gradient(arch, batch, only, each) for each in (changes, {**changes, **other})]
            assert torch.equal(*found), (only, changes, other)
    assert idle


def seeded_gradient(arch: ModuleType, batch: Batch, only: str | None, changes: dict[str, Any]) -> Tensor:
    """The logits and all gradients of one step of training, flat, with all draws from one seed."""
    model = make_model(arch, only=only, **changes).train()
    torch.manual_seed(1)
    loss_of(model, batch, CLASSIFICATION).backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([x.flatten() for x in (model.eval()(batch).logits.detach(), *gradients)])


def test_the_tables_are_of_this_architecture(arch: ModuleType) -> None:
    for table in getattr(arch, "TABLES", ()):
        for row in table.rows:
            settings = {**table.settings, **row.settings}
            arch.Config(**{k: v for k, v in settings.items() if k in arch.Config.model_fields})
            TrainConfig(**{k: v for k, v in settings.items() if k not in arch.Config.model_fields})
            assert set(row.modalities or ()) <= set(arch.PREFERS)
        for column in table.columns:
            assert column.metric in metrics.names(CLASSIFICATION) + metrics.names(REGRESSION)
            assert set(column.modalities or ()) <= set(arch.PREFERS)
        whole = [row for row in table.rows if row.modalities is None and arch.Config(**row.settings) == arch.Config()]
        assert whole, "the full model is a row"


def test_drawn_quantities_have_a_row_per_utterance(arch: ModuleType) -> None:
    for key, values in make_model(arch)(make_batch(arch)).drawn.items():
        assert values.shape[0] == 6, key
        assert torch.isfinite(values.float()).all(), key
