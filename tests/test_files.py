"""Archives: equal contents give equal files."""

import torch

from sharpness.files import write_archive


def test_the_bytes_of_an_archive_do_not_depend_on_which_equal_strings_are_one_object(tmp_path):
    name = "accuracy"
    twin = "".join(["accu", "racy"])
    assert name is not twin
    contents = [
        {"history": [{name: 0.5}, {other: 0.25}], "best": (other, [other]), "weights": {"w": torch.ones(2)}}
        for other in (name, twin)
    ]
    for number, content in enumerate(contents):
        write_archive(content, tmp_path / f"{number}.pt")
    assert (tmp_path / "0.pt").read_bytes() == (tmp_path / "1.pt").read_bytes()
    read = torch.load(tmp_path / "1.pt", weights_only=True)
    assert read["history"] == contents[1]["history"] and read["best"] == contents[1]["best"]
