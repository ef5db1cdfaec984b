from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.sources.rename import rename, renamed

ROW = {"meta": {"captions": ["short", "long"], "a.b": 1, "n": None}, "meta.n": 2, "x": 3, "y": 4}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ({"t": "meta.captions.1"}, {"t": "long"}),
        ({"t": "meta.a.b"}, {"t": 1}),
        ({"t": "meta.n"}, {"t": 2}),
        ({"t": "meta.captions.2"}, {}),
        ({"t": "meta.captions.-1"}, {}),
        ({"t": "x.y"}, {}),
        ({"t": "nowhere"}, {}),
        ({"x": "y", "y": "x"}, {"x": 4, "y": 3}),
    ],
)
def test_paths(paths: dict[str, str], expected: dict[str, object]) -> None:
    got = rename(ROW, paths)
    assert {name: got[name] for name in paths if name in got} == expected


def test_a_renamed_column_loses_its_old_name_and_a_nested_one_keeps_its_root() -> None:
    assert rename(ROW, {"z": "x"}).keys() == {"meta", "meta.n", "y", "z"}
    assert rename(ROW, {"z": "meta.captions"}).keys() == {*ROW, "z"}
    assert rename(ROW, {"x": "nowhere"}).keys() == {"meta", "meta.n", "y"}


KEYS = st.sampled_from(["a", "b", "a.b", "0"])
NESTED = st.recursive(
    st.integers(0, 9), lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3), max_leaves=8
)


@given(
    row=st.dictionaries(KEYS, NESTED, min_size=1),
    paths=st.dictionaries(KEYS, st.sampled_from(["a", "a.b", "b.0", "0.a.b", "a.b.a.b"])),
)
def test_types_and_values_are_renamed_alike(row: dict[str, object], paths: dict[str, str]) -> None:
    table = pa.Table.from_pylist([row])
    assert renamed(table.schema, paths).keys() == rename(row, paths).keys()
