"""Functions of a user's own: found, called, and every way in which one can fail."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixc.errors import BuildError, MixcError, SpecError
from mixc.signals.own import load_function
from mixc.signals.store import own_type

from .conftest import Corpus


def own(corpus: Corpus, module: str, body: str, **keys: object) -> dict[str, list[object]]:
    """The values of `def fn(batch): body` in a module of the spec's folder, by source."""
    (corpus.folder / f"{module}.py").write_text(f"def fn(batch):\n    {body}\n")
    spec = corpus.spec(signals=[{"name": "mine", "function": f"{module}:fn", **keys}])
    refs, paths = corpus.compute(spec)
    found: dict[str, list[object]] = {}
    for ref in refs:
        found.setdefault(ref.fragment.source, []).extend(
            pq.read_table(paths[ref.info.digest]["mine"])["value"].to_pylist()
        )
    return found


def test_sees_texts_turns_images_columns_and_settings(corpus: Corpus) -> None:
    found = own(
        corpus,
        "sees",
        'return [f\'{t[:7]}|{len(u)}|{len(i)}|{c.get("score")}|{batch.settings["k"]}\''
        " for t, u, i, c in zip(batch.texts, batch.turns, batch.images, batch.columns)]",
        settings={"k": 3},
    )
    assert found["chat"] == ["A first|4|1|None|3"] * 4
    assert "今天天气很好，|0|0|1|3" in found["text"]
    assert len(found["text"]) == 8


def test_numpy_values_and_nan(corpus: Corpus) -> None:
    found = own(
        corpus,
        "arrays",
        "import numpy as np; a = np.arange(len(batch)) / 2; a[0] = np.nan; return a",
    )
    assert found["chat"] == [None, 0.5, 1.0, 1.5]


def test_settings_and_version_make_other_values(corpus: Corpus) -> None:
    body = "return [batch.settings.get('k', 0)] * len(batch)"
    assert set(own(corpus, "pinned", body)["chat"]) == {0}
    assert set(own(corpus, "pinned", body, settings={"k": 2})["chat"]) == {2}
    assert set(own(corpus, "pinned", "raise ValueError", settings={"k": 2})["chat"]) == {2}  # kept: same version
    with pytest.raises(BuildError):  # the module was changed in this process: its file is what counts in another
        own(corpus, "pinned_later", "raise ValueError", settings={"k": 2}, version="2")


@pytest.mark.parametrize(
    ("module", "body", "why"),
    [
        ("raises", "return [1 / (len(t) - 1) for t in batch.texts]", "ZeroDivisionError"),
        ("short", "return [1]", "values for"),
        ("nothing", "return None", "not a list or an array"),
        ("textual", "return 'abcd'", "not a list or an array"),
        ("nested", "return [[1]] * len(batch)", "a value is list"),
        ("mixed", "return [1, 'a', *[None] * (len(batch) - 2)]", "several types: int and str"),
        ("huge", "return [1 << 70] * len(batch)", "beyond 64 bits"),
        ("surrogate", "return ['\\ud800'] * len(batch)", "surrogate"),
    ],
)
def test_failures_name_signal_file_and_row(corpus: Corpus, module: str, body: str, why: str) -> None:
    with pytest.raises(BuildError) as caught:
        own(corpus, module, body)
    text = str(caught.value)
    assert "`mine`" in text and why in text and "row" in caught.value.where
    assert str(corpus.folder) in caught.value.where
    if module == "raises":
        assert caught.value.where.endswith("text-1.jsonl, row 4")  # `x`; the broken row counts
    assert not list((corpus.cache / "partial").iterdir())


@pytest.mark.parametrize(
    ("place", "why"),
    [("no_such_module:fn", "ModuleNotFoundError"), ("json:no_such", "AttributeError"), ("sys:path", "list")],
)
def test_what_cannot_be_loaded(tmp_path: Path, place: str, why: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_function(place, tmp_path)
    assert why in str(caught.value)


def test_modules_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twice_named.py").write_text(f"def fn(batch):\n    return {folder!r}\n")
    one = load_function("twice_named:fn", tmp_path / "a")
    other = load_function("twice_named:fn", tmp_path / "b")
    assert (one(None), other(None)) == ("a", "b")  # type: ignore[arg-type]


def test_types_in_common() -> None:
    assert own_type({pa.null(), pa.int64()}) == pa.int64()
    assert own_type({pa.float64(), pa.int64()}) == pa.float64()
    assert own_type(set()) == pa.null()
    with pytest.raises(ValueError):
        own_type({pa.bool_(), pa.int64()})


@pytest.mark.parametrize(
    "signals",
    [["nonesuch"], [{"name": "repetition", "settings": {"n": 3}}], [{"name": "minhash", "function": "json:dumps"}]],
)
def test_what_a_spec_cannot_ask_for(corpus: Corpus, signals: list[object]) -> None:
    with pytest.raises(MixcError):
        corpus.compute(corpus.spec(signals=signals))
