"""One table of cases that every exactness test shares, each with a dense float64 oracle that uses none of our code."""

from __future__ import annotations

import collections
import functools
import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

# Read when torch is loaded. Tests share the cores: threads that spin while they wait take them from each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import torch
from _pytest.doctest import DoctestModule
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.models import BACKBONES, CifarResNet

#: Rooms and files whose tests train or compare numbers, which ``tests/matrix.sh`` runs under several vector units.
NUMERIC = (
    "checkpoints/test_akamaster.py", "checkpoints/test_families.py", "checkpoints/test_foreign_data.py",
    "checkpoints/test_heads.py", "checkpoints/test_plain.py", "cli/test_own_network.py",
    "cli/test_public_checkpoints.py", "curvature", "engine", "flattening", "methods", "models", "probes",
    "studies/test_flattening.py", "training", "test_objective.py", "test_targets.py",
)  # fmt: skip
#: Files in those rooms about messages and descriptions, which no processor changes.
OTHER = (
    "engine/test_bad_input.py", "engine/test_devices.py", "methods/test_card.py", "methods/test_deviations.py",
    "methods/test_recipe.py", "training/test_damaged_runs.py", "training/test_manifest.py",
)  # fmt: skip
#: Files with tests, or with fixtures, of five seconds and more.
LONGEST = (
    "test_figures.py", "test_faults.py", "test_hostile_files.py", "test_notebooks.py", "test_public_checkpoints.py",
    "test_readme.py", "test_types.py",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before the selection by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    # The longest come first: last, they would leave the other cores without work.
    items.sort(key=lambda item: item.path.name not in LONGEST)

    # Asked once a file: a path takes longer to compare than a test to be found.
    @functools.cache
    def numeric(path: Path) -> bool:
        inside, outside = (any(path.is_relative_to(here / name) for name in names) for names in (NUMERIC, OTHER))
        return inside and not outside

    seen: collections.Counter[tuple[Path, str]] = collections.Counter()
    for item in items:
        if numeric(item.path):
            item.add_marker(pytest.mark.numeric)
        if every := item.get_closest_marker("every"):
            name = item.path, item.originalname  # type: ignore[attr-defined]
            if seen[name] % every.args[0]:
                item.add_marker(pytest.mark.slow)
            seen[name] += 1


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Tests have no doctests: to look for them takes as long as to find the tests."""
    return [found for found in (yield) if not isinstance(found, DoctestModule)]


@pytest.fixture(scope="session", autouse=True)
def settings_of_pictures():
    """The real ones; in tests PDFs draw their letters and PNGs are coarse, which halves the time of a picture."""
    module = importlib.import_module("sharpness.plots.style")
    settings = module.settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "settings", lambda: {**settings(), "pdf.fonttype": 3, "savefig.dpi": 50})
        yield settings


#: As it is: fixtures put others in its place.
_SAVEFIG = Figure.savefig


@pytest.fixture
def one_format(monkeypatch):
    """Pictures drawn once, as PNG: beside it a PDF of the same figure takes as long. PDFs of every kind of
    picture are drawn in tests/plots."""

    def savefig(figure, path, **options):
        if options.get("format") == "pdf":
            Path(path).write_bytes(b"%PDF")
        else:
            _SAVEFIG(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture
def blank_pictures(monkeypatch):
    """Pictures set up and not drawn, for what hangs on their names alone: to draw one takes longer than its numbers."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Path(path).write_bytes(bytes(200)))


#: Set by a process of :func:`forked` before anything else, so that what it prints is in a file.
_OPENING = """
import os, sys
os.environ.update({environment!r})
sys.argv[1:] = {arguments!r}
for number in (1, 2):
    os.dup2(os.open({folder!r} + "/" + {names!r}[number - 1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
import functools, torch
from sharpness.models import BACKBONES, CifarResNet
BACKBONES["resnet8"] = functools.partial(CifarResNet, 8, **{network})
torch.set_num_threads(1)
"""


#: What a process has loaded that others are copies of; the last by the first optimizer, in two seconds.
LOADED = ["sharpness.cli", "sharpness.plots", "sharpness.studies", "scipy.stats", "torch.distributed", "torch._dynamo"]


def server() -> multiprocessing.context.BaseContext:
    """The context of processes that are copied from one that has the package loaded and does nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    multiprocessing.forkserver.ensure_running()
    return context


class Forked:
    """A process that runs ``code``, with ``arguments`` in ``sys.argv[1:]``; what it prints goes to files."""

    def __init__(self, code: str, arguments: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        names = [f"{stream}-{environment.get('RANK', '')}" for stream in ("printed", "errors")]
        opening = _OPENING.format(
            environment=dict(environment), arguments=[*map(str, arguments)], folder=str(folder), names=names,
            network=BACKBONES["resnet8"].keywords,
        )  # fmt: skip
        self._printed, self._errors = (folder / name for name in names)
        self.process = server().Process(target=exec, args=(opening + code, {"__name__": "__main__"}), daemon=True)
        self.process.start()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def killed(self, timeout: float = 300) -> None:
        """Wait for it to be killed."""
        self.process.join(timeout)
        assert self.process.exitcode == -signal.SIGKILL, self._errors.read_text()[-2000:]

    def printed(self) -> str:
        """What it printed on stdout."""
        return self._printed.read_text()

    def errors(self) -> str:
        """What it printed on stderr."""
        return self._errors.read_text()

    def end(self, timeout: float = 300) -> str:
        """Wait for it, and return what it printed; an error if it failed."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.kill()
        assert self.process.exitcode == 0, self._errors.read_text()[-2000:]
        return self._printed.read_text()


@pytest.fixture
def forked(tmp_path):
    """A factory of processes that have the package loaded, as copies of one that does nothing else.

    To load it takes longer than what most of them have to do. A copy has what a new process has: no threads, no
    gradient computed, nothing but imported modules.
    """
    started = []

    def start(code: str, *arguments: object, **environment: str) -> Forked:
        started.append(Forked(code, list(arguments), tmp_path, environment))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture(scope="module")
def forked_once(tmp_path_factory):
    """The same factory for what a module makes once."""
    started = []

    def start(code: str, *arguments: object, **environment: str) -> Forked:
        started.append(Forked(code, list(arguments), tmp_path_factory.mktemp("forked"), environment))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture(scope="module")
def forked_pools():
    """Copies of such a process as workers of pools, too: each would load all anew. Its own doctest has spawned ones."""
    server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharpness.clusters.processes.Processes._start", "forkserver")
        yield


@pytest.fixture
def in_two_processes(forked):
    """A factory: what processes print that run one program, two unless said, told of each other as by torchrun."""

    stores = []  # which live as long as the processes may ask them

    def run(code: str, *arguments: object, processes: int = 2, end: bool = True) -> list:
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        common = {
            "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }  # fmt: skip
        ranks = [forked(code, *arguments, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(processes)]
        stores.append(store)
        return [rank.end() for rank in ranks] if end else ranks

    return run


@pytest.fixture(scope="module")
def narrow_resnet8():
    """ResNet-8 with a quarter of its planes, for modules where nothing hangs on them: a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "resnet8", functools.partial(CifarResNet, 8, width=4))
        yield


@pytest.fixture(scope="module")
def shallow_resnet8():
    """With a single block besides, for modules where nothing hangs on how many there are: a third of the time again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "resnet8", functools.partial(CifarResNet, 8, width=4, blocks=(1,)))
        yield


@pytest.fixture
def published_resnet8(monkeypatch):
    """The one of 16, 32 and 64 planes for a test of such a module."""
    monkeypatch.setitem(BACKBONES, "resnet8", functools.partial(CifarResNet, 8))


@dataclass
class Case:
    """A float64 model, data of three classes of unequal size, and a loss per sample."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    loss: Callable[[Tensor, Tensor], Tensor] | str = "ce"
    num_classes: int = 3

    @property
    def function(self) -> Callable[[Tensor, Tensor], Tensor]:
        if self.loss == "ce":
            return lambda u, y: F.cross_entropy(u, y, reduction="none")
        return self.loss

    def dense(self, weights: Tensor | None = None, rows: Tensor | None = None) -> tuple[float, Tensor, Tensor]:
        """Loss, gradient (k,) and Hessian (k, k) by torch.func, of all samples or of some rows."""
        parameters = {n: p.detach() for n, p in self.model.named_parameters()}
        buffers = dict(self.model.named_buffers())
        shapes = {n: p.shape for n, p in parameters.items()}
        a = torch.ones(len(self.y), dtype=torch.float64) if weights is None else weights
        rows = torch.ones(len(self.y), dtype=torch.bool) if rows is None else rows

        def value(flat: Tensor) -> Tensor:
            pieces = flat.split([s.numel() for s in shapes.values()])
            inside = {n: p.view(s) for p, (n, s) in zip(pieces, shapes.items(), strict=True)}
            outputs = torch.func.functional_call(self.model, {**inside, **buffers}, (self.x[rows],))
            return (a[rows] * self.function(outputs, self.y[rows])).sum() / a[rows].sum()

        flat = torch.cat([p.reshape(-1) for p in parameters.values()])
        return float(value(flat)), torch.func.grad(value)(flat), torch.func.hessian(value)(flat)


class Quadratic(nn.Module):
    """``w' A_i w / 2 + b' w`` for inputs A_i (n, k, k), as outputs (n, 1)."""

    def __init__(self, size: int, seed: int = 0, at_minimum: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(size, dtype=torch.float64, generator=generator)
        self.w = nn.Parameter(torch.zeros_like(start) if at_minimum else start)

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * torch.einsum("i,nij,j->n", self.w, x, self.w)[:, None]


def first_output(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs[:, 0]


class Cosine(nn.Module):
    """A cosine classifier written out here, with its weight stored as (features, classes)."""

    filter_axes = {"weight": 1}

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return 30 * F.normalize(x, dim=1) @ F.normalize(self.weight, dim=0)


class Attention(nn.Module):
    """One head of attention over three tokens, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out(F.scaled_dot_product_attention(q, k, v).mean(dim=1))


def make_case(name: str) -> Case:
    torch.manual_seed(7)
    y = torch.tensor([0] * 9 + [1] * 4 + [2] * 2)
    n = len(y)
    if name == "softmax regression":
        return Case(name, nn.Linear(4, 3).double(), torch.randn(n, 4, dtype=torch.float64), y)
    if name == "tanh network":
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        return Case(name, model, torch.randn(n, 4, dtype=torch.float64), y)
    if name == "convolution, BatchNorm, ReLU":
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(3, 3),
        ).double()  # fmt: skip
        x = torch.randn(n, 1, 5, 5, dtype=torch.float64)
        model(x)
        return Case(name, model.eval(), x, y)
    if name == "cosine head":
        return Case(name, Cosine(), torch.randn(n, 4, dtype=torch.float64), y)
    if name == "attention":
        return Case(name, Attention().double(), torch.randn(n, 3, 4, dtype=torch.float64), y)
    if name == "indefinite quadratic":
        a = torch.randn(n, 6, 6, dtype=torch.float64)
        return Case(name, Quadratic(6), (a + a.mT) / 2, y, first_output)
    raise KeyError(name)


CASES = (
    "softmax regression",
    "tanh network",
    "convolution, BatchNorm, ReLU",
    "cosine head",
    "attention",
    "indefinite quadratic",
)


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return make_case(request.param)


@pytest.fixture
def quadratic():
    """A factory: an objective whose Hessian is the given matrix, at a random point or at its minimum."""
    from sharpness import Objective

    def build(matrices: np.ndarray, labels: list[int] | None = None, at_minimum: bool = False) -> Objective:
        x = torch.as_tensor(np.atleast_3d(matrices) if np.ndim(matrices) == 3 else matrices[None], dtype=torch.float64)
        y = torch.tensor(labels if labels is not None else [0] * len(x))
        model = Quadratic(x.shape[-1], at_minimum=at_minimum)
        return Objective(model, (x, y), loss=first_output, num_classes=int(y.max()) + 1)

    return build


def symmetric(eigenvalues, seed: int = 0) -> np.ndarray:
    """A dense symmetric matrix with a chosen spectrum."""
    values = np.asarray(eigenvalues, dtype=float)
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    return q @ np.diag(values) @ q.T


@pytest.fixture(name="symmetric")
def symmetric_fixture():
    return symmetric


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A tree of small PNG files of four classes, with train, test and open lists in a random order of lines."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for part, sizes in {"train": (9, 7, 4, 2), "test": (3, 3, 3, 3), "open": (4,)}.items():
        lines = []
        for c, n in enumerate(sizes):
            (root / part / f"c{c}").mkdir(parents=True)
            for i in range(n):
                name = f"{part}/c{c}/{i}.png"
                Image.fromarray(random.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(root / name)
                lines.append(f"{name} {-1 if part == 'open' else c}")
        (root / f"{part}.txt").write_text("\n".join(random.permutation(lines)) + "\n")
    return root
