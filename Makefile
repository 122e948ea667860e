# On a fresh machine, `make demo` and `make test` do everything.
PYTHON ?= python3
BIN := .venv/bin

# Tests start many processes, which reuse compiled bytecode.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-distributed test-faults test-lowest test-newest test-pythons matrix lint bench-quick bench bench-full bench-gpu gallery glyphs notebooks docs linkcheck clean

demo: .venv/installed
	$(BIN)/sharpness demo

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m slow

# Every method and rule in one, two and four processes; with GLYPHS=FOLDER of `sharpness data make glyphs-lt` also there.
test-distributed: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m distributed tests/training/test_shards.py

matrix: .venv/installed
	tests/matrix.sh

# For maintainers: the tests with the lowest versions that setup.cfg allows, and with the newest versions.
test-lowest: .venv-lowest/installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist worksteal

test-newest: .venv-newest/installed
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n 2 --dist worksteal

# A thousand hostile files and a hundred faults of every long command; `make test` tries a few of each.
test-faults: .venv/installed
	HOSTILE_FILES=1000 FAULTS=100 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 tests/hostile tests/faults

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The same tables at three sizes, stated in each table: three minutes, fifteen minutes, and those that the pages quote.
# The last takes hours. It resumes after an interruption: rows that its first file already has are not measured again.
bench-quick: .venv-bench/installed
	.venv-bench/bin/python benchmarks/answers.py --size quick

bench: .venv-bench/installed
	.venv-bench/bin/python benchmarks/answers.py --size usual
	.venv-bench/bin/python benchmarks/curvature.py --repeats 3 --sizes 128
	.venv-bench/bin/python benchmarks/landscape.py --repeats 3

bench-full: .venv-bench/installed
	.venv-bench/bin/python benchmarks/answers.py --size full --output benchmarks/answers.txt
	.venv-bench/bin/python benchmarks/curvature.py --output benchmarks/curvature.txt
	.venv-bench/bin/python benchmarks/landscape.py --output benchmarks/landscape.txt
	.venv-bench/bin/python benchmarks/step_cost.py --output benchmarks/step_cost-float32.txt
	.venv-bench/bin/python benchmarks/step_cost.py --precision bfloat16 --output benchmarks/step_cost-bfloat16.txt

# The tests marked cuda, and the table for the GPU of this machine, benchmarks/gpu-CARD.txt.
bench-gpu: .venv/installed
	$(BIN)/python benchmarks/gpu.py

# For maintainers: train anew, and make the pictures and tables in figures/ and the table in the README.
gallery: .venv/installed
	rm -rf $(addprefix runs/gallery/,$(or $(PARTS),demo))
	$(BIN)/python docs/gallery.py $(PARTS)

# Download and unpack fonts with Han characters for `sharpness data make glyphs-lt`; nothing is installed.
GLYPHS := fonts-wqy-zenhei fonts-wqy-microhei fonts-arphic-ukai fonts-arphic-uming fonts-arphic-gkai00mp \
  fonts-arphic-bkai00mp fonts-arphic-gbsn00lp fonts-arphic-bsmi00lp fonts-ipafont-gothic fonts-ipafont-mincho \
  fonts-ipaexfont-gothic fonts-ipaexfont-mincho fonts-vlgothic fonts-horai-umefont fonts-noto-cjk \
  fonts-noto-cjk-extra fonts-babelstone-han fonts-hanazono fonts-baekmuk fonts-kiloji fonts-klee fonts-lxgw-wenkai \
  fonts-morisawa-bizud-gothic fonts-morisawa-bizud-mincho fonts-motoya-l-cedar fonts-motoya-l-maruberi \
  fonts-aoyagi-kouzan-t fonts-aoyagi-soseki fonts-kouzan-mouhitsu fonts-dotgothic16
glyphs: .venv/installed
	mkdir -p out/fonts && cd out/fonts && apt-get download $(GLYPHS) && for file in *.deb; do dpkg -x $$file .; done
	$(BIN)/sharpness data make glyphs-lt --classes 1000 --side 32 --fonts out/fonts -o out/glyphs

# The documentation site, out/site/index.html; needs no network once the environment is installed.
docs: .venv/docs
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html docs out/site
	@echo "the site: out/site/index.html"

linkcheck: .venv/docs
	$(BIN)/python -m sphinx -q -b linkcheck docs out/linkcheck

# The notebooks, built from their sources and run with clean kernels.
notebooks: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python docs/make_notebooks.py

# torch is installed first, pinned, because other packages could pull in another build.
.venv/installed: setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

.venv-lowest/installed: setup.cfg constraints-lowest.txt
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e '.[test]'
	touch $@

.venv-newest/installed: setup.cfg
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade torch
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -e '.[test]'
	touch $@

# The quick tests with every installed Python from 3.11 on, each in its own environment.
test-pythons:
	@for version in 3.11 3.12 3.13; do \
	  python$$version -c '' 2>/dev/null || { echo "Python $$version: not installed here, left out"; continue; }; \
	  test -x .venv-$$version/bin/python || python$$version -m venv .venv-$$version || exit 1; \
	  .venv-$$version/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch || exit 1; \
	  .venv-$$version/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]' || exit 1; \
	  echo "Python $$version"; OMP_NUM_THREADS=1 .venv-$$version/bin/python -m pytest -n 2 --dist worksteal || exit 1; \
	done

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

# The libraries that the benchmarks compare with, without their dependencies, which would replace torch.
.venv-bench/installed: setup.cfg constraints.txt benchmarks/peers.txt
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/peers.txt
	touch $@

clean:
	rm -rf .venv .venv-bench .venv-lowest .venv-newest runs out build *.egg-info
