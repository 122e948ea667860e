"""The report: what it states is what the results record, mixtures are refused, no browser is needed."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from sharpness import UserError
from sharpness.cli import main
from sharpness.registries import METHODS, OPERATIONS
from sharpness.reporting import printing, report
from sharpness.reporting.bibliography import PAPERS, authors_year, bibtex, entries
from sharpness.reporting.formulas import KINDS, MEASURES, as_html
from sharpness.reporting.methods_text import as_latex, sentences
from sharpness.reporting.sections import section_of
from sharpness.results import EigenvalueResult, LineResult, MeasureResult, Result, Runs, SpectralDensityResult
from sharpness.results.collected import collect

HOSTILE = "CE<script>x</script>"


def common(label, **told):
    provenance = {"label": label, "loss": "ce", "scope": "all", "dtype": "float64", "model_sha256": label * 8, **told}
    return {
        "class_names": ("a&b", "c"), "class_samples": np.array([3, 1]), "groups": {"few": (1,)},
        "provenance": provenance,
    }  # fmt: skip


def table(label, value=1.0, **told):
    row = np.array([[value, 2 * value]])
    return MeasureResult(
        **common(label, **{"tol": 1e-3, "max_iterations": 40, **told}), names=("lambda_max",), overall=row.mean(1),
        values=row, standard_errors=row / 10, overall_standard_errors=np.array([0.1]), train_counts=np.array([30, 1]),
        over=("images",),
    )  # fmt: skip


def line(label):
    x = np.linspace(-1, 1, 5)
    losses = np.stack([x**2, 3 * x**2])
    return LineResult(
        **common(label), x=x, losses=losses.mean(0), class_losses=losses, class_accuracies=1 - losses / 4,
        directions="gaussian", normalization="filter", seed=7, evaluated=np.ones(5, bool), interpolation_errors=0 * x,
        class_interpolation_errors=0 * losses, base_loss=0.0, base_class_losses=np.zeros(2), precision="float64",
        precision_error=0.0, class_precision_errors=np.zeros(2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two seeds with its settings beside it, and a single training of another model."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        run = folder / "gcl" / f"seed-{seed}"
        (run / "probes").mkdir(parents=True)
        plan = {
            "method": "gcl",
            "model": "resnet8",
            "flatten": ["sam(rho=0.05)"],
            "epochs": [40],
            "data": {"dataset": "digits-lt"},
        }
        (run / "run.json").write_text(json.dumps(plan))
        table("mine", 1.0 + seed, run=f"seed {seed}").save(run / "probes" / "table.nc")
    table(HOSTILE, 5.0).save(folder / "other.nc")
    line(HOSTILE).save(folder / "line.nc")
    return folder, report([folder], folder / "report", command={"name": "report", "options": {}})


@pytest.fixture(autouse=True)
def unprinted(made, monkeypatch):
    """One PDF is enough."""
    monkeypatch.setattr(printing, "browser", lambda: None)


def test_the_page_has_all_parts_and_no_text_of_a_file_is_markup(made):
    folder, found = made
    text = found.page.read_text()
    assert "<script" not in text and "CE&lt;script&gt;" in text
    parser, seen = HTMLParser(), []
    parser.handle_starttag = lambda tag, attributes: seen.append((tag, dict(attributes)))
    parser.feed(text)
    images = [attributes for tag, attributes in seen if tag == "img"]
    assert len(images) == 2 and all(one["src"].startswith("data:image/png") and one["alt"] for one in images)
    assert "default-src 'none'" in text and not re.search(r"(src|href)=.?http", text)
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == ["Methods", "Measures of every class", "Loss along a line", "Provenance", "References"]
    assert "<td>mine</td>" in text and "resnet8" in text and "digits-lt" in text and "sam(rho=0.05)" in text, (
        "settings of the run"
    )
    assert all(path.is_file() for path in found.files)
    names = {path.name for path in found.files}
    assert {"measure.png", "measure.pdf", "measure.txt", "measure.csv", "measure.csv.json", "measure.tex"} <= names
    latex = (folder / "report" / "measure.tex").read_text()
    assert r"\toprule" in latex and "few" in latex and r"a\&b" not in latex
    assert r"a\&b" in (folder / "report" / "measure-classes.tex").read_text()


def test_methods_state_formulas_settings_and_papers(made):
    folder, _ = made
    text = (folder / "report" / "methods.tex").read_text()
    assert r"$\lambda_\mathrm{max}(\nabla^2 L_c(w))$~\cite{lanczos1950iteration}" in text
    assert "residual of 0.001" in text and "at most 40 products" in text and "(seed 7)" in text
    assert "over 4 images in 2 classes" in text and "all parameters, float64" in text and "1 to 2 trainings" in text
    bib = (folder / "report" / "references.bib").read_text()
    keys = set(re.findall(r"@\w+\{(\w+),", bib))
    assert set(re.findall(r"cite\{(\w+)", text)) <= keys
    assert {"sharpness", "li2022gcl", "foret2021sam", "lanczos1950iteration"} <= keys and "zhong2021mislas" not in keys


def test_a_setting_that_differs_or_is_not_recorded_is_not_stated(tmp_path):
    for label, tol in (("A", 1e-3), ("B", 1e-4)):
        table(label, tol=tol).save(tmp_path / f"{label}.nc")
    report([tmp_path], tmp_path / "report")
    text = (tmp_path / "report" / "methods.tex").read_text()
    assert (
        "residual" not in text
        and "at most 40 products" in text
        and "{" not in re.sub(r"\$.*?\$|cite\{", "", text).split("}")[0]
    )


def test_other_matrices_and_ascents_are_named(tmp_path):
    table("A", probe="worst_case", rho=0.1, norm="linf", steps=3, adaptive=False).save(tmp_path / "worst.nc")
    values = np.array([3.0])
    EigenvalueResult(
        **common("A", kind="ggn", max_iterations=9), values=values, residuals=0 * values, converged=values > 0,
        vectors=None, which="LA", k=1, tol=1e-3, seed=0, hvp_count=2, sample_products=8,
    ).save(tmp_path / "eigenvalues.nc")  # fmt: skip
    text = as_latex(sentences(collect(tmp_path)))
    assert "in a ball of radius 0.1" in text and "linf norm, 3 steps" in text
    assert "own gradient" not in text and text.count("of the Gauss-Newton matrix in the place of the Hessian") == 1
    nodes = np.array([[1.0, 2.0], [1.0, 3.0]])
    SpectralDensityResult(
        **common("A", kind="ggn", num_parameters=8), nodes=nodes, weights=0 * nodes + 0.5, products=np.array(4),
        sample_products=16,
    ).save(tmp_path / "density.nc")  # fmt: skip
    found = {c.kind: c for c in collect(tmp_path)}
    assert as_latex(sentences(list(found.values()))).count("Gauss-Newton matrix in the place of the Hessian") == 2
    for kind, heading in ((EigenvalueResult, "Extreme eigenvalues"), (SpectralDensityResult, "Spectral density")):
        section = section_of(found[kind], kind.__name__, tmp_path, None)
        assert section.title == section.caption["Shows"] == f"{heading} of the Gauss-Newton matrix"


def test_coordinates_are_those_of_curvature(tmp_path):
    """Lines and tables of losses record plain coordinates, whatever those of the curvature are."""
    plain = line("A"), replace(table("A"), names=("loss",))
    for i, one in enumerate((table("A", coordinates="filter"), *plain)):
        one.provenance.setdefault("coordinates", "plain")
        one.save(tmp_path / f"{i}.nc")
    assert "curvature in filter coordinates" in as_latex(sentences(collect(tmp_path)))
    assert "coordinates" not in as_latex(sentences(collect([tmp_path / "1.nc", tmp_path / "2.nc"])))


def test_results_of_groups_are_of_groups(tmp_path):
    values = np.array([[3.0], [2.0]])
    of_groups = {**common("A", rows="groups"), "class_names": ("many", "few"), "groups": {}}
    EigenvalueResult(
        **of_groups, values=values, residuals=0 * values, converged=values > 0, vectors=None, which="LA", k=1,
        tol=1e-3, seed=0, hvp_count=2, sample_products=8,
    ).save(tmp_path / "groups.nc")  # fmt: skip
    text = as_latex(sentences(collect(tmp_path)))
    assert "4 images in 2 groups" in text and "that of all its images" in text and "mean of its classes" not in text
    line("A").save(tmp_path / "line.nc")
    text = as_latex(sentences(collect(tmp_path)))
    assert "over 4 images in 2 classes" in text and "that of all its images" in text and "mean of its classes" in text


def test_mixtures_are_refused_with_the_field_that_differs(tmp_path, capsys):
    table("A", radius=0.1).save(tmp_path / "a.nc"), table("B", radius=0.2).save(tmp_path / "b.nc")
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "report")]) == 2
    assert "radius is 0.1 and 0.2" in capsys.readouterr().err and not (tmp_path / "report").exists()
    # Train and test of the same models are no mixture: a section each.
    for name, value in (("a", 0.1), ("b", 0.2)):
        (tmp_path / f"{name}.nc").unlink()
        for label in ("A", "B"):
            table(label, radius=value).save(tmp_path / f"{name}-{label}.nc")
    page = report([tmp_path], tmp_path / "report").page.read_text()
    assert re.findall(r"<h2>Measures.*?</h2>", page) == [
        "<h2>Measures of every class (a)</h2>", "<h2>Measures of every class (b)</h2>",
    ]  # fmt: skip
    other = table("C")
    object.__setattr__(other, "groups", {"many": (0,)})
    other.save(tmp_path / "c.nc")
    with pytest.raises(UserError, match="groups is"):
        report([tmp_path / "c.nc", tmp_path / "a-A.nc"], tmp_path / "other")


def test_without_a_browser_one_line_says_so_and_the_page_stays(tmp_path, capsys, monkeypatch):
    table("A").save(tmp_path / "a.nc")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.pdf").write_text("of other numbers")
    assert main(["report", str(tmp_path / "a.nc"), "-o", str(tmp_path / "report")]) == 0
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and "no PDF: none of chromium" in told.err
    assert (tmp_path / "report" / "report.html").exists() and not (tmp_path / "report" / "report.pdf").exists()
    failing = tmp_path / "browser"
    failing.write_text("#!/bin/sh\nexit 3\n")
    failing.chmod(0o755)
    monkeypatch.setattr(printing, "browser", lambda: str(failing))
    assert "ended with 3" in printing.print_page(tmp_path / "report" / "report.html", tmp_path / "x.pdf")


@pytest.mark.skipif(printing.browser() is None, reason=f"none of {', '.join(printing.BROWSERS[:3])} is installed")
def test_the_pdf_is_that_of_the_page(made):
    _, found = made
    assert found.remark == "" and found.pdf is not None
    content = found.pdf.read_bytes()
    assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) >= 2 and b"/Image" in content


def test_every_method_operation_and_formula_has_what_it_needs():
    assert set(METHODS.built_in()) | set(OPERATIONS.built_in()) == set(PAPERS)
    known = entries()
    for key in {*PAPERS.values(), *(p for s in [*MEASURES.values(), *KINDS.values()] for p in s.papers)}:
        assert known[key].count("{") == known[key].count("}") and re.fullmatch(r".+, \d{4}", authors_year(key))
    for statement in [*MEASURES.values(), *KINDS.values()]:
        assert not re.search(r"[{}\\^]", as_html(statement.formula)), statement.formula
    assert bibtex(["foret2021sam", "foret2021sam"]).count("@inproceedings") == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_tables_and_methods_are_latex(made, tmp_path):
    folder, _ = made
    parts = "\n".join(rf"\input{{{folder}/report/{name}}}" for name in ("methods", "measure", "measure-classes"))
    text = rf"\documentclass{{article}}\usepackage{{amsmath,amssymb,booktabs}}\begin{{document}}{parts}\end{{document}}"
    (tmp_path / "x.tex").write_text(text)
    subprocess.run(["pdflatex", "-halt-on-error", "x.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_trainings_in_memory_are_no_sources(tmp_path):
    Runs([table("A", run="seed 0"), table("A", 2.0, run="seed 1")]).save(tmp_path / "runs.nc")
    text = report([tmp_path / "runs.nc"], tmp_path / "report").page.read_text()
    assert "seed 0" in text and "seed 1" in text


def test_a_single_source_and_kinds_of_the_users_own_are_reported(tmp_path):
    class Own(MeasureResult):
        """A table of the user's own."""

    try:
        table("A").save(tmp_path / "a.nc")
        Own(**vars(table("A"))).save(tmp_path / "own.nc")
        text = report(str(tmp_path), tmp_path / "report").page.read_text()
    finally:
        del Result.REGISTRY["Own"]
    assert f"<h1>Sharpness of {tmp_path.name}</h1>" in text
    assert re.findall(r"<h2>(.*?)</h2>", text)[1:3] == ["Measures of every class", "Own"]
