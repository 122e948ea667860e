"""A pickle that runs nothing."""

import os
import pickle
import pickletools
import subprocess

import numpy as np
import pytest

from sharpness.data.unpickle import read_pickle
from sharpness.errors import UserError


class Payload:
    """A pickle of this calls ``function(*arguments)`` when an ordinary reader loads it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_and_containers_are_read_back(tmp_path, protocol):
    content = {b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"labels": [1, 2], b"names": [b"a\xff"]}
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps(content, protocol))
    back = read_pickle(path, "again")
    assert (back.pop(b"data") == content.pop(b"data")).all()
    assert back == content


def test_old_numpy_and_python2_names_are_read(tmp_path):
    array = np.arange(3, dtype=np.uint8)
    old = pickle.dumps(array, 2).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert "numpy.core.multiarray" in {arg.split()[0] for op, arg, _ in pickletools.genops(old) if op.name == "GLOBAL"}
    (tmp_path / "old").write_bytes(old)
    assert (read_pickle(tmp_path / "old", "again") == array).all()
    (tmp_path / "py2").write_bytes(b"\x80\x02}U\x04dataU\x03a\xffbs.")
    assert read_pickle(tmp_path / "py2", "again") == {b"data": b"a\xffb"}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.mkdir, subprocess.check_call, exec, eval])
def test_a_hostile_payload_does_not_run(tmp_path, protocol, function):
    mark = tmp_path / "mark"
    argument = {
        os.mkdir: str(mark),
        subprocess.check_call: ["mkdir", str(mark)],
        exec: f"import os; os.mkdir({str(mark)!r})",
        eval: f"__import__('os').mkdir({str(mark)!r})",
    }[function]
    content = pickle.dumps({"data": Payload(function, argument)}, protocol)
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"file names .*(mkdir|check_call|exec|eval).*nothing was run.*: again$"):
        read_pickle(path, "again")
    assert not mark.exists()
    pickle.loads(content)
    assert mark.exists(), "the payload is harmless, so this test shows nothing"


@pytest.mark.parametrize(
    "name", ["builtins getattr", "copyreg _reconstructor", "numpy.f2py.diagnose run", "numpy load"]
)
def test_every_name_outside_the_list_is_refused(tmp_path, name):
    module, function = name.split()
    (tmp_path / "file").write_bytes(f"c{module}\n{function}\n.".encode())
    with pytest.raises(UserError, match=f"{module}.{function}"):
        read_pickle(tmp_path / "file", "again")


def test_encode_takes_no_other_encoding(tmp_path):
    (tmp_path / "file").write_bytes(pickle.dumps(b"\xff", 2).replace(b"latin1", b"rot_13"))
    with pytest.raises(UserError, match="again"):
        read_pickle(tmp_path / "file", "again")


def test_a_truncated_file_is_told_in_one_line(tmp_path):
    whole = pickle.dumps({"data": np.zeros(100)}, 2)
    for length in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "file").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"file is truncated or no pickle of arrays: again$") as caught:
            read_pickle(tmp_path / "file", "again")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"\x1f\x8b\x08\x00", b"\x00" * 64, b"hello"])
def test_a_file_that_is_no_pickle_is_told(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match="no pickle"):
        read_pickle(tmp_path / "file", "again")


def test_a_missing_file_or_a_folder_is_told(tmp_path):
    with pytest.raises(UserError, match="nothing is missing: again"):
        read_pickle(tmp_path / "nothing", "again")
    with pytest.raises(UserError, match="is a folder"):
        read_pickle(tmp_path, "again")
