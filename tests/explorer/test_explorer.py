"""The explorer: every number is the result's own, a real browser shows it, and no text of a file runs."""

import base64
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import sharpness
from sharpness import UserError
from sharpness.cli import main
from sharpness.explorer.page import embedded, page_of
from sharpness.results import EigenvalueResult, LayerResult, MeasureResult, OwnersResult, PlaneResult, Runs

NAMES, GROUPS = ("cat", "dog", "</script><img src=x onerror=alert(1)>"), {"many": (0,), "few": (1, 2)}
HOSTILE = "CE<img src=x onerror=document.title='ran'>"


def common(label, run=None, **told):
    provenance = {"label": label, "loss": "ce", "targets": "labels", **({} if run is None else {"run": run}), **told}
    return {
        "class_names": NAMES, "class_samples": np.array([6, 3, 1]), "groups": GROUPS, "provenance": provenance,
    }  # fmt: skip


def table(label, shift=0.0, run=None):
    values = np.array([[3.0, 200.0, 1.0], [0.5, 0.25, np.nan]]) + shift
    return MeasureResult(
        **common(label, run), names=("lambda_max", "loss"), overall=np.array([4.0, 0.4]), values=values,
        standard_errors=values * 0 + 0.1, overall_standard_errors=np.array([0.1, 0.1]),
        train_counts=np.array([6, 3, 1]), lower=values - 0.2, upper=values + 0.3,
        overall_lower=np.array([3.0, 0.3]), overall_upper=np.array([5.0, 0.5]),
        over=("images", "images"),
    )  # fmt: skip


def plane(label):
    """Loss of class c: (c + 1)(x^2 + 2 y^2) + c / 10, so that every point can be computed by hand."""
    x, y = np.linspace(-1, 1, 5), np.linspace(-1, 1, 3)
    bowl = x[None, :] ** 2 + 2 * y[:, None] ** 2
    losses = np.stack([(c + 1) * bowl + c / 10 for c in range(3)])
    weights = np.array([0.6, 0.3, 0.1])[:, None, None]
    return PlaneResult(
        **common(label), x=x, y=y, losses=(weights * losses).sum(0), class_losses=losses,
        class_accuracies=1 / (1 + losses), directions="gaussian", normalization="filter", seed=0,
        evaluated=np.ones((3, 5), bool), interpolation_errors=0 * bowl, class_interpolation_errors=0 * losses,
        base_loss=0.05, base_class_losses=np.arange(3) / 10, precision="float32", precision_error=0.0,
        class_precision_errors=np.zeros(3),
    )  # fmt: skip


def eigenvalues(label):
    values = np.array([[5.0, -1.0], [7.0, -2.0], [np.nan, np.nan]])
    return EigenvalueResult(
        **common(label), values=values, residuals=0 * values, converged=np.ones((3, 2), bool), vectors=None,
        which="both", k=1, tol=1e-3, seed=0, hvp_count=4, sample_products=40,
    )  # fmt: skip


def owners(label):
    shares, changes = np.array([[0.2, 0.9, -0.1], [0.5, 0.25, 0.25]]), np.zeros((2, 3, 2))
    return OwnersResult(
        **common(label), values=np.array([9.0, 4.0]), residuals=np.zeros(2), converged=np.array([True, False]),
        shares=shares, standard_errors=0 * shares + 0.05, slopes=0 * shares, slope_errors=0 * shares,
        accuracy_changes=changes, accuracy_change_errors=changes, epsilons=np.ones(2),
    )  # fmt: skip


def everything():
    """Of two models: a table, of one of them of two seeds, a plane, eigenvalues and owners."""
    tables = {HOSTILE: Runs([table(HOSTILE, 0.0, "seed 0"), table(HOSTILE, 1.0, "seed 1")]), "GCL": table("GCL", 2.0)}
    planes = {HOSTILE: Runs([plane(HOSTILE)], ["seed 0"]), "GCL": plane("GCL")}
    return [tables, planes, eigenvalues("GCL"), owners("GCL")]


def unpacked(packed):
    return np.frombuffer(base64.b64decode(packed["data"]), dtype="<f4").reshape(packed["shape"])


def test_every_number_is_that_of_the_result():
    found = sharpness.explore(everything()).payload
    assert [(one["model"], one["run"]) for one in found["trainings"]] == [
        (HOSTILE, "seed 0"), (HOSTILE, "seed 1"), ("GCL", ""),
    ]  # fmt: skip
    quantities = {one["name"]: one for one in found["quantities"] if "2" in one["of"]}
    loss = unpacked(quantities["loss"]["of"]["2"])
    # All samples, the groups (means of classes that have a value), the classes; value, then both ends.
    np.testing.assert_allclose(loss[0], [0.4, 2.5, np.nan, 2.5, 2.25, np.nan], rtol=1e-6)
    np.testing.assert_allclose(loss[1:, 3], [2.3, 2.8], rtol=1e-6)
    surface = found["planes"][0]["of"]["2"]
    assert unpacked(surface["loss"]).shape == (6, 3, 5)
    assert unpacked(surface["loss"])[3 + 1, 2, 4] == pytest.approx(2 * 3.0 + 0.1)
    assert unpacked(surface["accuracy"])[3 + 1, 2, 4] == pytest.approx(1 / 7.1)
    few = np.mean([2 * 3 + 0.1, 3 * 3 + 0.2])
    assert unpacked(surface["loss"])[2, 2, 4] == pytest.approx(few)
    assert list(found["spectra"][0]["of"]["2"]) == ["3", "4"], "a class without eigenvalues has no spectrum"
    share = unpacked(quantities["1"]["of"]["2"])[0]
    np.testing.assert_allclose(share, [1.0, 0.2, 0.8, 0.2, 0.9, -0.1], rtol=1e-6)


def test_files_show_what_memory_does_and_other_files_of_a_folder_are_left_out(tmp_path, caplog):
    for i, one in enumerate(everything()):
        (sharpness.compare(one) if isinstance(one, dict) else one).save(tmp_path / f"{i}.nc")
    (tmp_path / "work.nc").write_bytes(b"CDF\x01 cut short")
    with caplog.at_level("INFO", "sharpness"):
        found = sharpness.explore(tmp_path).payload
    assert "left out" in caplog.text and "work.nc" in caplog.text
    assert found["title"] == tmp_path.name
    wanted = sharpness.explore(everything()).payload
    by_name = {payload["title"]: payload["quantities"] for payload in (found, wanted)}
    assert by_name[found["title"]] == by_name[wanted["title"]]
    assert found["planes"][0]["of"] == wanted["planes"][0]["of"]


def test_what_cannot_be_shown_together_is_refused(tmp_path):
    other = table("A")
    object.__setattr__(other, "class_names", ("x", "y", "z"))
    with pytest.raises(UserError, match="class_names is"):
        sharpness.explore([table("B"), {"C": eigenvalues("C")}, other])
    with pytest.raises(UserError, match="class_names is"):
        sharpness.explore([table("A"), other])  # of one label, in memory
    with pytest.raises(UserError, match="no saved results"):
        sharpness.explore(tmp_path)
    with pytest.raises(UserError, match="no result at"):
        sharpness.explore(tmp_path / "missing.nc")
    with pytest.raises(UserError, match="int is no result"):
        sharpness.explore(3)
    layers = LayerResult(
        **common("A"), layers=("conv",), values=np.zeros((1, 3)), converged=np.ones((1, 3), bool), measure="trace",
        layer_parameters=np.array([2]), per_class=True, sample_products=1,
    )  # fmt: skip
    with pytest.raises(UserError, match="shows classes"):
        sharpness.explore(layers)


def test_measures_that_the_first_training_lacks_are_shown():
    whole = table("B")
    arrays = [name for name, along in whole.DIMENSIONS.items() if along[0] == "measure"]
    fields = {name: value[1:] for name in arrays if (value := getattr(whole, name)) is not None}
    part = replace(table("A"), names=whole.names[1:], over=whole.over[1:], **fields)
    found = sharpness.explore({"A": part, "B": whole}).payload["quantities"]
    assert {one["name"]: list(one["of"]) for one in found} == {"loss": ["0", "1"], "lambda_max": ["1"]}
    sharpest = next(one for one in found if one["name"] == "lambda_max")
    np.testing.assert_allclose(unpacked(sharpest["of"]["1"])[0, 3:], [3.0, 200.0, 1.0])


def of_other_images():
    """Tables of training and of test images of a model, with other numbers of each class."""
    return [{"A": table("A")}, {"A": replace(table("A", 1.0), class_samples=np.array([1, 4, 2]))}]


def test_every_table_has_samples_of_its_own():
    found = sharpness.explore([*of_other_images(), {"A": plane("A")}, {"A": eigenvalues("A")}]).payload
    counts = [10, 6, 4, 6, 3, 1], [7, 1, 6, 1, 4, 2]
    assert [one["samples"] for one in found["quantities"][:4]] == [*counts[:1] * 2, *counts[1:] * 2]
    assert found["planes"][0]["samples"] == found["spectra"][0]["samples"] == counts[0]
    assert found["spectra"][0]["matrix"] == "Hessian"


def test_the_page_tells_the_samples_of_the_chosen_table(browser, tmp_path):
    browser.open(sharpness.explore(of_other_images()).save(tmp_path / "page.html"))
    told = "document.querySelector('[data-row=\"4\"]').ariaLabel"
    assert "dog, few, 3 samples" in browser.run(told)
    choice = "[...document.querySelectorAll('select')].find(s => s.id.endsWith('-quantity'))"
    browser.run(f"(() => {{ const s = {choice}; s.value = '2'; s.dispatchEvent(new Event('change')) }})()")
    assert "dog, few, 4 samples" in browser.run(told)
    order = "[...document.querySelectorAll('select')].find(s => s.id.endsWith('-order'))"
    browser.run(f"(() => {{ const s = {order}; s.value = 'size'; s.dispatchEvent(new Event('change')) }})()")
    assert [row for row, _ in browser.run(ROWS)][3:] == [4, 5, 3]
    assert browser.errors == []


def test_no_text_ends_the_element_of_the_data():
    page = page_of(sharpness.explore(everything(), title="</title><script>1</script>").payload)
    assert page.count("</script>") == 2 and page.count("<script") == 2 and "onerror=alert" in page
    data = page.partition('id="data">')[2].partition("</script>")[0]
    assert "<" not in data
    assert json.loads(data)["classes"] == list(NAMES)
    assert embedded({"a": "</ScRiPt"}) == '{"a":"\\u003c/ScRiPt"}'


def test_the_widget_runs_the_module_of_the_page():
    pytest.importorskip("anywidget", reason="anywidget is not installed")
    explorer = sharpness.explore(everything())
    page = page_of(explorer.payload)
    assert explorer.widget._esm in page
    assert explorer.widget.payload == explorer.payload and explorer.selection == {}
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in (bundle[0] if isinstance(bundle, tuple) else bundle)


def test_the_command_needs_no_torch(tmp_path, capsys):
    table("A").save(tmp_path / "a.nc")
    code = (
        "import sys; sys.modules['torch'] = None; from sharpness.cli import main; "
        f"sys.exit(main(['explore', {str(tmp_path)!r}, '-o', {str(tmp_path / 'page.html')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "page.html")), done.stderr
    assert main(["explore", str(tmp_path), "-o", str(tmp_path / "page.txt")]) == 2
    assert "must end in .html" in capsys.readouterr().err


ROWS = "[...document.querySelectorAll('[role=option]')].map(e => [Number(e.dataset.row), Number(e.dataset.value)])"


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    return sharpness.explore(everything(), title="Flat?").save(tmp_path_factory.mktemp("page") / "page.html")


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (480, "dark")])
def test_a_click_on_the_plane_changes_the_bars(page, browser, width, scheme, tmp_path):
    browser.open(page, width=width, scheme=scheme)
    # The sharpest class first, below everything and the groups; of the first training.
    assert [row for row, _ in browser.run(ROWS)] == [0, 1, 2, 4, 3, 5]
    before = browser.run(ROWS)
    browser.click("canvas.plane", 0.99, 0.01)
    after = browser.run(ROWS)
    assert before != after
    # At (1, 1) the loss of class c is 3 (c + 1) + c / 10, and its accuracy 1 / (1 + loss).
    wanted = {3 + c: 3 * (c + 1) + c / 10 for c in range(3)}
    assert {row: value for row, value in after if row > 2} == pytest.approx(wanted, rel=1e-6)
    told = browser.run("document.querySelector('[data-row=\"4\"]').ariaLabel")
    assert "dog, few, 3 samples" in told and "loss 6.1, accuracy 14 %" in told
    assert "At (1, 1)" in browser.run("document.querySelector('.readout').textContent")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the screen"
    dark = browser.run("getComputedStyle(document.querySelector('main')).backgroundColor")
    assert dark == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 28)")
    browser.picture(tmp_path / "page.png")
    assert browser.errors == [] and browser.run("document.title") == "Flat?"


def test_several_planes_of_a_model_can_be_chosen_among(browser, tmp_path):
    wider = plane("A")
    object.__setattr__(wider, "x", 2 * wider.x)
    browser.open(sharpness.explore([{"A": plane("A")}, {"A": wider}, {"A": owners("A")}]).save(tmp_path / "page.html"))
    choices = "[...document.querySelectorAll('select')].find(s => s.id.endsWith('-plane'))"
    assert browser.run(f"{choices}.length") == 2
    browser.click("canvas.plane", 0.99, 0.01)
    assert "At (1, 1)" in browser.run("document.querySelector('.readout').textContent")
    browser.run(f"(() => {{ const s = {choices}; s.value = '1'; s.dispatchEvent(new Event('change')) }})()")
    assert "At (2, 1)" in browser.run("document.querySelector('.readout').textContent")
    assert browser.run("document.querySelector('.colorbar-text').textContent").startswith("0"), "of all models"
    # A column of the owners chooses the class everywhere.
    browser.click("table button")
    assert browser.run("document.querySelector('.row[aria-selected=true]').dataset.row") == "3"
    assert "of cat, many" in browser.run("[...document.querySelectorAll('h2')].map(e => e.textContent).join()")
    assert browser.errors == []


def test_a_class_without_a_spectrum_is_told_whose_is_shown(page, browser):
    browser.open(page)
    browser.run(
        "(() => { const s = document.querySelector('select'); s.value = '1'; s.dispatchEvent(new Event('change')) })()"
    )
    browser.run("document.querySelector('[data-row=\"5\"]').click()")
    told = browser.run("document.querySelector('section[aria-label=spectrum] .note').textContent")
    assert told.endswith("this is that of cat, many."), "the third class has no eigenvalues"
    assert browser.errors == []


def test_a_plane_with_a_descending_axis_is_mirrored(browser, tmp_path):
    """The loss x + 2 over x from -1 to 1, and over x from 1 to -1."""
    surface = plane("A")
    losses = np.broadcast_to(surface.x + 2, surface.class_losses.shape).copy()
    rising = replace(surface, losses=losses[0], class_losses=losses)
    falling = replace(
        rising, x=rising.x[::-1].copy(), losses=losses[0, :, ::-1].copy(), class_losses=losses[..., ::-1].copy()
    )
    colours = []
    for one, shares in ((rising, (0.1, 0.9)), (falling, (0.9, 0.1))):
        browser.open(sharpness.explore(one).save(tmp_path / "page.html"))
        # One row of pixels at once: the browser warns of a second readback.
        row = browser.run(
            "(() => { const c = document.querySelector('canvas.plane'), y = Math.round(c.height / 4); "
            "return [...c.getContext('2d').getImageData(0, y, c.width, 1).data] })()"
        )
        pixels = np.reshape(row, (-1, 4))
        colours.append([pixels[round(share * len(pixels))].tolist() for share in shares])
    assert colours[0] == colours[1] and colours[0][0] != colours[0][1]
    assert browser.errors == []


def test_keys_reach_everything(page, browser):
    browser.open(page)
    order, seen = [], "document.activeElement.tagName + (document.activeElement.className || document.activeElement.id)"
    for _ in range(14):
        browser.press("Tab")
        order.append(browser.run(seen))
    assert [one.partition("-")[0] for one in order[:3]] == ["SELECTsharpness"] * 3
    assert "DIVlist" in order and "CANVASplane" in order and order.index("DIVlist") < order.index("CANVASplane")
    unnamed = browser.run(
        "[...document.querySelectorAll('select, input, canvas[tabindex], [role=listbox], svg[role=img]')].filter(e => "
        "!(e.labels?.length || e.ariaLabel || e.getAttribute('aria-labelledby'))).map(e => e.outerHTML)"
    )
    assert unnamed == []
    browser.run("document.querySelector('.list').focus()")
    browser.press("ArrowDown"), browser.press("End")
    assert browser.run("document.querySelector('[aria-selected=true]').dataset.row") == "5"
    assert browser.run("document.querySelector('.list').getAttribute('aria-activedescendant')").endswith("-row-5")
    browser.run("document.querySelector('canvas.plane').focus()")
    browser.press("ArrowRight"), browser.press("ArrowUp")
    assert "At (0.5, 1)" in browser.run("document.querySelector('.readout').textContent")
    browser.press("Escape")
    assert "arrow keys" in browser.run("document.querySelector('.readout').textContent")
    assert browser.errors == []


def test_a_thousand_classes_stay_usable(browser, tmp_path):
    """A few rows are in the document, a search finds one, and every choice takes less than half a second."""
    count = 1000
    values = np.arange(1.0, count + 1)
    result = table("A")
    fields = {
        "class_names": tuple(f"n{i:04d}" for i in range(count)), "class_samples": np.ones(count, int),
        "groups": {"many": tuple(range(500)), "few": tuple(range(500, count))}, "train_counts": np.ones(count, int),
        **dict.fromkeys(["values", "standard_errors", "lower", "upper"], np.stack([values, values])),
    }  # fmt: skip
    for name, value in fields.items():
        object.__setattr__(result, name, value)
    browser.open(sharpness.explore(result).save(tmp_path / "page.html"))
    rows = browser.run(ROWS)
    assert len(rows) < 60 and rows[3] == [2 + 1000, 1000.0], "groups first, then the sharpest"
    browser.run("document.querySelector('.list').scrollTop = 1e6")
    browser.run("new Promise(requestAnimationFrame)")
    assert browser.run(ROWS)[-1] == [3, 1.0]
    took = browser.run(
        "(() => { const s = document.querySelector('input[type=search]'); const t = performance.now(); "
        "s.value = 'n0777'; s.dispatchEvent(new Event('input')); return performance.now() - t })()"
    )
    assert browser.run(ROWS)[3:] == [[3 + 777, 778.0]] and took < 500
    assert browser.errors == []
