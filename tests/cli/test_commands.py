"""The command line: tables on stdout, one line and exit code 2 for a user's mistake."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import sharpness
from sharpness import load_result
from sharpness.cli import cli, main
from sharpness.cli.figures import _print
from sharpness.cli.output import measured_on
from sharpness.engine.operator import CurvatureOperator
from sharpness.models import build_model


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_shows_an_example_to_copy(command, capsys):
    assert main([command, "--help"]) == 0
    told, _, example = capsys.readouterr().out.partition("Example:")
    assert f"sharpness {command}" in example
    paragraphs = [line for line in told.splitlines()[1:] if line]
    assert paragraphs and all(line.startswith("  ") and "  " not in line.strip() for line in paragraphs)
    assert not any(line.startswith("   ") for line in paragraphs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--method", "sgd"], "unknown method 'sgd'"),
        (["figures", "zoo:", "--epochs", "3", "--seeds", "0"], "--seeds, --epochs: models that are trained already"),
        (["figures", "zoo:", "--lists", "lists"], "--lists: models that are trained already"),
        (["figures", "--direction-seeds", "a"], "--direction-seeds a: give integers"),
        (
            ["figures", "--study", "flattening", "--logits", "temperature"],
            "--logits is no option of --study flattening",
        ),
        (["train", "--method", "ce", "--data", "imagenet"], "unknown data set 'imagenet'"),
        (["train", "--method", "ce", "--data", "digits-lt", "--imbalance", "1000"], "1000"),
        (["train", "--method", "ce", "--groups", "half"], "half"),
        (["train", "--method", "ce", "--data", "cifar10-lt", "--data-root", "/nowhere"], "/nowhere"),
        (["train", "--method", "ce", "-O", "scope=all"], "unknown option 'scope' of ce"),
        (["train", "--method", "cc-sam", "-O", "scope=half"], "unknown scope 'half'"),
        (["train", "--method", "ce", "-O", "scope"], "name=value"),
        (["train", "--method", "ce", "-O", "seed=3"], "-O seed: it is an option of its own, --seed"),
        (["train", "--method", "ce", "-O", "epochs=1"], "-O epochs: it is an option of its own, --epochs"),
        (["train", "--method", "ce", "-O", "out=x"], "-O out: it is an option of its own, --out"),
        (["train", "--method", "ce", "--flatten", "swan"], "unknown flattening operation 'swan'"),
        (["train", "--method", "ce", "--epochs", "0"], "epochs=0"),
        (["train", "--method", "ce", "--model", "vgg"], "unknown model 'vgg'"),
        (["train", "--method", "ce", "--epochs", "many"], "many"),
        (["train", "--method", "ce", "--device", "gpu"], "device 'gpu'"),
        (["train", "--method", "ce", "--device", "cuda:99"], "device 'cuda:99'"),
        (["train", "--method", "ce", "--precision", "half"], "unknown precision 'half'"),
        (["train"], "--method"),
        (["measure", "nowhere.pt"], "nowhere.pt"),
        (["spectrum", "zoo:ce", "--density", "-k", "2"], "not with --per-layer, --verify, --bootstrap, -k or --tol"),
        (["spectrum", "zoo:ce", "--density", "--tol", "1e-3"], "-k or --tol"),
        (["evaluate", "zoo:ce", "--open-root", "lists"], "--open-root lists is for a list given with --open"),
        (["evaluate", "zoo:ce", "--logits", "temperature"], "leave it out, the table has columns at"),
        (["evaluate", "zoo:ce", "--open", ".", "--open-root", "lists"], "--open-root lists is for a list given"),
        (["measure"], "CHECKPOINTS"),
        (["figures", "--methods", "ce,ce"], "only once"),
        (["figures", "--plane", "1"], "grid=1 (--plane): give two points or more"),
        (["figures", "--range", "inf"], "extent=inf (--range): give a number above 0"),
        (["figures", "--adaptive", "1"], "adaptive=1 (--adaptive): give a part of the relief below 1"),
        (["figures", "--direction-seeds", "0,0"], "directions '0,0': name at least one, and each only once"),
        (["figures", "--study", "trace"], "unknown study 'trace'"),
        (["figures", "--study", "flattening", "--methods", "ce,ce"], "only once"),
        (["figures", "--study", "flattening", "--operations", "sam"], "'none'"),
        (["figures", "--study", "flattening", "--operations", "none,melt"], "'melt'"),
        (["figures", "--study", "flattening", "--plane", "5"], "--plane is no option of --study flattening"),
        (["figures", "--seed", "1"], "--seed"),
        (["figures", "--seeds", "1,1"], "seeds '1,1'"),
        (["figures", "--study", "microbenchmark", "--methods", "ce"], "--methods is no option"),
        (["figures", "--study", "microbenchmark", "--seeds", "0;1"], "--seeds 0;1"),
        (["fly"], "fly"),
    ],
)
def test_a_mistake_ends_in_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHARPNESS_DATA", raising=False)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not (tmp_path / "runs").exists()


def test_measure_prints_a_table_json_or_files(run, capsys, tmp_path):
    arguments = ["measure", str(run), "--measures", "accuracy,loss"]
    assert main([*arguments, "-o", str(tmp_path / "t.csv")]) == 0
    printed = capsys.readouterr().out
    assert printed.split("\n")[0].split() == ["class", "group", "samples", "train", "accuracy", "loss"]
    *_, errors, groups, images, widest = printed.splitlines()
    assert groups == "many, medium, few: means over their classes; all: of all images together"
    assert printed.count(" [") == 2 * 14 and errors.startswith("[ ]: 95 % intervals, over images")
    assert images.startswith("images: all of the train split") and widest.startswith("widest error of all samples: ")
    assert "±" not in printed and not (tmp_path / "t.csv.partial").exists()
    assert main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    written = pd.read_csv(tmp_path / "t.csv")
    assert [r["class"] for r in rows] == list(written["class"])
    assert rows[0]["loss"] == pytest.approx(written.loss[0], rel=1e-6)
    assert {"accuracy_se", "loss_se"} <= set(written)
    for suffix in ("tex", "nc"):
        assert main([*arguments, "-o", str(tmp_path / f"t.{suffix}")]) == 0
    result = load_result(tmp_path / "t.nc")
    assert result["loss"].overall == pytest.approx(written.loss[0], rel=1e-6)
    latex = (tmp_path / "t.tex").read_text(encoding="utf-8")
    assert latex == result.to_latex() and r"class & group & samples & train & accuracy & loss \\" in latex


def test_a_wrong_output_name_or_class_is_a_mistake(run, capsys):
    assert main(["measure", str(run), "-o", "table.xlsx"]) == 2
    assert main(["measure", str(run), "--measures", "flatness"]) == 2
    assert main(["landscape", str(run), "--directions", "up"]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_spectrum_prints_values_with_residuals(run, capsys, tmp_path):
    assert main(["spectrum", str(run), "--limit-per-class", "2", "--per-class", "-o", str(tmp_path / "s.nc")]) == 0
    out = capsys.readouterr().out
    assert "residual" in out and "smallest" in out
    assert (tmp_path / "s.nc").exists()


def test_a_picture_and_a_line_below_a_table_tell_what_was_chosen(run, capsys, tmp_path):
    named = ["--label", f"X={run}", "--label", f"Y={run}", "--limit-per-class", "2", "--measures", "loss"]
    assert main(["measure", *named, "--order", "Y", "--plot", str(tmp_path / "one")]) == 0
    assert "Models: Y\n" in (tmp_path / "one.txt").read_text()
    capsys.readouterr()
    few = {"limit_per_class": None, "images": None, "split": "test", "match_samples": 3, "seed": 7}
    assert measured_on(few) == "images: 3 of every class, drawn at random (seed 7), of the test split"


PICTURES = {f"{kind}.{suffix}" for kind in ("contour", "surface") for suffix in ("pdf", "png", "txt")}


def test_landscape_writes_planes_and_pictures(one_format, run, capsys, tmp_path):
    out = tmp_path / "out"
    arguments = ["--plane", "3", "--limit-per-class", "2", "--of", "few", "--out", str(out)]
    assert main(["landscape", str(run), *arguments]) == 0
    printed = capsys.readouterr()
    names = {"plane-LDAM-DRW.nc", "plane-LDAM-DRW.vtk", "planes.csv", "planes.csv.json", *PICTURES}
    assert {p.name for p in out.iterdir()} == {Path(line).name for line in printed.out.splitlines()} == names
    assert "100% of 9 points evaluated" in printed.err
    loaded = xr.open_dataset(out / "plane-LDAM-DRW.nc", engine="scipy")
    assert loaded.losses.dims == ("y", "x") and loaded.sizes["class"] == 10
    assert sharpness.load_result(out / "plane-LDAM-DRW.nc").losses[1, 1] == pytest.approx(
        sharpness.checkpoint_objective(run, limit_per_class=2).loss(), rel=1e-6
    )


def test_landscape_draws_lines_and_every_class_and_an_html_file(run, tmp_path):
    pytest.importorskip("plotly")
    out = tmp_path / "out"
    more = ["--line", "3", "--per-class", "--interactive", "--directions", "gradient+hessian", "--adaptive", "0"]
    assert main(["landscape", str(run), "--plane", "2", "--limit-per-class", "1", *more, "--out", str(out)]) == 0
    names = {p.name for p in out.iterdir()}
    assert {"line.png", "lines.csv", "line-LDAM-DRW.nc", "line-class-9.png", "surface.html", *PICTURES} <= names
    assert {f"contour-class-{c}.png" for c in range(10)} <= names


def test_a_killed_landscape_goes_on_and_ends_with_the_same_numbers(run, forked, undrawn, tmp_path):
    """Killed by the system, which gives no chance to write, with its twentieth point in hand."""
    arguments = ["landscape", str(run), "--plane", "9", "--limit-per-class", "4", "--adaptive", "0", "--seed", "3"]
    script = """
import itertools, signal
from sharpness.cli import main
from sharpness.probes.shared import point_table as points, work
work.INTERVAL, count, row = 0.0, itertools.count(), points.PointTable._row
def killed(*arguments):
    if next(count) == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return row(*arguments)
points.PointTable._row = killed
main(sys.argv[1:])
"""
    forked(script, *arguments, "--out", tmp_path / "a").killed()
    kept = tmp_path / "a" / ".partial"
    (file,) = kept.glob("*/points-0.npz")
    with np.load(file) as found:
        assert 0 < len(found["indices"]) < 81
    for folder in ("a", "b"):
        assert main([*arguments, "--out", str(tmp_path / folder)]) == 0
    first, second = (xr.open_dataset(tmp_path / f / "plane-LDAM-DRW.nc", engine="scipy") for f in ("a", "b"))
    xr.testing.assert_equal(first.drop_vars("class"), second.drop_vars("class"))
    assert not kept.exists()


def test_inspect_and_measure_take_a_foreign_file(tmp_path, capsys):
    """Trained elsewhere, with the names that LDAM-DRW's repository saves."""
    torch.manual_seed(0)
    model = build_model("resnet20", 10, 1)
    state = {
        f"module.{n.replace('head.', 'linear.').replace('backbone.', '')}": t for n, t in model.state_dict().items()
    }
    path = tmp_path / "ckpt.best.pth.tar"
    torch.save({"epoch": 3, "arch": "resnet20", "state_dict": state, "best_acc1": torch.tensor(12.5)}, path)
    assert main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "resnet20" in printed and "module." in printed and "12.5 %" in printed
    assert main(["measure", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_inspect_names_method_head_data_and_accuracy(run, capsys):
    assert main(["inspect", str(run)]) == 0
    out = capsys.readouterr().out
    for fact in ("ldam-drw", "cosine, scale 30", "resnet8", "ldam_seed0", "accuracy"):
        assert fact in out


def test_a_folder_with_another_run_is_refused_with_the_field_that_differs(run, capsys):
    assert main(["train", "--method", "ce", "--epochs", "1", "--out", str(run)]) == 2
    assert "method is 'ldam-drw', asked for 'ce'" in capsys.readouterr().err


def test_the_module_is_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sharpness", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("sharpness", run_name="__main__")
    assert not end.value.code and capsys.readouterr().out.startswith("sharpness")


@pytest.mark.parametrize(
    ("options", "columns", "rows"),
    [
        (["--per-class"], {"class", "samples", "eigenvalue", "residual", "converged", "products"}, 20),
        (["--per-group", "-k", "2"], {"class", "rank"}, 12),
        (["--per-layer", "--parameters", "*layer1*"], {"layer", "lambda_max"}, 2),
        (["--density", "--per-group", "--parameters", "classifier"], {"trace", "trace_se"}, 3),
        (
            ["--per-class", "--match-samples", "4", "--bootstrap", "100", "--verify", "--parameters", "classifier"],
            {"eigenvalue_lower", "eigenvalue_upper"},
            20,
        ),
        (["--kind", "ggn", "--parameters", "*layer1*"], {"eigenvalue"}, 2),
    ],
)
def test_a_spectrum_is_printed_and_written(one_format, options, columns, rows, run, capsys, tmp_path):
    output, figure = tmp_path / "table.csv", tmp_path / "figure"
    few = ["--limit-per-class", "4", *([] if "--density" in options else ["--tol", "0.1"])]
    arguments = ["spectrum", str(run), *options, *few, "-o", str(output), "--plot", str(figure)]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    frame = pd.read_csv(output)
    assert columns <= set(frame.columns) and len(frame) == rows
    assert "curvature products: traced" in captured.err and "sample-products" in captured.err
    assert figure.with_suffix(".png").is_file() and figure.with_suffix(".pdf").is_file()
    assert not output.with_name("table.csv.partial").exists()
    assert ("rise along the eigenvector" in captured.out) == ("--verify" in options)
    drawn = "images: 4 of the first 4 of every class, in the order of the data, drawn at random (seed 0), of the train"
    assert (drawn in captured.out) == ("--match-samples" in options)


def test_an_interrupted_spectrum_goes_on_where_it_was(run, capsys, tmp_path, monkeypatch):
    output = tmp_path / "spectrum.nc"
    common = ["spectrum", str(run), "--per-class", "--limit-per-class", "4", "--parameters", "*layer1*"]
    arguments = [*common, "-o", str(output)]
    products, whole = [], CurvatureOperator.__call__

    def counted(self, vector):
        products.append(1)
        if len(products) == 25:
            raise KeyboardInterrupt
        return whole(self, vector)

    monkeypatch.setattr(CurvatureOperator, "__call__", counted)
    assert main(arguments) == 130
    assert list(tmp_path.glob("spectrum.nc.partial/*/*/row-*.npz"))
    assert main(arguments) == 0
    assert main([*common, "-o", str(tmp_path / "whole.nc")]) == 0
    resumed, uninterrupted = load_result(output), load_result(tmp_path / "whole.nc")
    assert resumed.to_frame().equals(uninterrupted.to_frame())
    assert len(products) < 25 + 2 * uninterrupted.hvp_count


def test_two_processes_print_one_table(run, capsys, in_two_processes):
    arguments = ["spectrum", str(run), "--per-group", "--json", "--parameters", "classifier", "--tol", "1e-5"]
    assert main(arguments) == 0
    alone = pd.DataFrame(json.loads(capsys.readouterr().out))
    first, second = in_two_processes("from sharpness.cli import main; sys.exit(main(sys.argv[1:]))", *arguments)
    assert second == ""
    shared = pd.DataFrame(json.loads(first))
    scale = alone["eigenvalue"].abs().max()
    assert (shared["eigenvalue"] - alone["eigenvalue"]).abs().max() <= 1e-4 * scale
    assert (shared["samples"] == alone["samples"]).all()


def test_figures_of_a_study_prints_its_table_and_files(capsys, tmp_path):
    arguments = ["--epochs", "1", "--limit-per-class", "2", "--seeds", "0", "--operations", "none,sam", "--jobs", "1"]
    arguments += ["--measures", "accuracy,loss,lambda_max"]
    folders = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    assert main(["figures", "--study", "flattening", "--methods", "ce", *arguments, *folders]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("| method | operation | seeds | accuracy |")
    assert {Path(line).name for line in printed.out.splitlines()[-7:]} == {p.name for p in (tmp_path / "out").iterdir()}
    assert "flattening on digits-lt: 2 cells, 0 done, 2 to do" in printed.err


def test_classes_keep_their_names_in_the_json_of_a_study(capsys, tmp_path):
    """A class may be called as pandas calls a missing value, or be a number."""
    (tmp_path / "measure.csv").write_text("model,class,group,loss\nCE,NA,few,0.5\nCE,7,,\n")
    _print(SimpleNamespace(files=[tmp_path / "measure.csv"], text=""), as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {"table": "measure", "model": "CE", "class": "NA", "group": "few", "loss": 0.5},
        {"table": "measure", "model": "CE", "class": "7", "group": None, "loss": None},
    ]


def test_conflicts_are_printed_and_drawn(one_format, run, capsys, tmp_path):
    quick = ["--limit-per-class", "2", "--parameters", "classifier", "--steps", "2", "--cg-steps", "3"]
    picture = tmp_path / "conflicts"
    assert main(["conflicts", str(run), *quick, "--per-group", "--json", "--plot", str(picture)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["class"] for row in rows] == ["many", "medium", "few"]
    assert all(row["optimum_loss"] < row["loss"] for row in rows)
    assert picture.with_suffix(".png").is_file()
