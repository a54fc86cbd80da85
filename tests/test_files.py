"""Files that are written whole or not at all."""

import pytest

from jaxsep.files import atomic_file


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    (tmp_path / "x").write_text("old")

    def fail(stream):
        stream.write("new")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), atomic_file(tmp_path / "x", "w") as stream:
        fail(stream)
    assert (tmp_path / "x").read_text() == "old"
    with atomic_file(tmp_path / "x", "w") as stream:
        stream.write("new")
    assert (tmp_path / "x").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
