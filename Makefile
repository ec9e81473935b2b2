# Streamgauge's commands. Written for any make since GNU make 3.81 (macOS) and any POSIX sh.
# The recipes are thin: what they run is `python -m benchmarks | server | reports`, which tell more outcomes apart than make can.

PY := .venv/bin/python

# $(call option,NAME,--name) is "--name 'value'" when NAME was given on make's command line, else nothing. The environment is not
# asked (tcsh exports HOST), the value is not expanded again, and it reaches the program as one word whatever it holds.
quote = '$(subst ','\'',$(1))'
given = $(findstring command,$(origin $(1)))
option = $(if $(call given,$(1)),$(2) $(call quote,$(value $(1))))
switch = $(if $(call given,$(1)),$(if $(filter-out 0 no false,$(value $(1))),$(2)))

BENCH_OPTIONS = \
	$(call option,HOST,--host) \
	$(call option,SERVER,--server) \
	$(call option,SERVER_DIR,--server-dir) \
	$(call option,SERVER_PATH,--server-path) \
	$(call option,ADAPTER,--adapter) \
	$(call option,ADAPTER_FILE,--adapter-file) \
	$(call option,SUITE,--suite) \
	$(call option,SCENARIO,--scenario) \
	$(call option,USERS,--users) \
	$(call option,RUN_TIME,--run-time) \
	$(call option,WARM_UP,--warm-up) \
	$(call option,SPAWN_RATE,--spawn-rate) \
	$(call option,SEED,--seed) \
	$(call option,TOKENS,--tokens) \
	$(call option,GAP_MS,--gap-ms) \
	$(call option,WINDOW,--window) \
	$(call option,PROCESSES,--processes) \
	$(call option,TTFT_MS,--ttft-ms) \
	$(call option,OUT,--out) \
	$(call option,NAME,--name) \
	$(call option,METRICS_PORT,--metrics-port) \
	$(call switch,JSON,--json)

CAPACITY_OPTIONS = \
	$(call option,SLO,--slo) \
	$(call option,ERRORS,--errors) \
	$(call switch,RATE,--rate) \
	$(call option,HOST,--host) \
	$(call option,SERVER,--server) \
	$(call option,SCENARIO,--scenario) \
	$(call option,START,--start) \
	$(call option,MOST,--most) \
	$(call option,TOKENS,--tokens) \
	$(call option,GAP_MS,--gap-ms) \
	$(call option,PROCESSES,--processes) \
	$(call option,SEED,--seed) \
	$(call option,OUT,--out) \
	$(call switch,JSON,--json)

# Each connection is a file: a shell's usual limit (256 on macOS, 1024 on Linux) is raised as far as it may be, softly. The numbers
# after 65536 are for systems whose hard limit says "unlimited" and whose kernel has another opinion.
RAISE_FILES = files=$$(ulimit -S -n); if [ "$$files" != unlimited ] && [ "$$files" -lt 65536 ]; then \
	for files in 65536 $$(ulimit -H -n) 24576 10240 4096; do \
	if [ "$$files" != unlimited ] && (ulimit -S -n "$$files") 2>/dev/null; then ulimit -S -n "$$files"; break; fi; done; fi;

.PHONY: help bench capacity test serve ui report calibrate check lint format audit lock clean runtime dev

help:
	@echo 'make bench      drive the reference server with the standard suite and draw the report under runs/'
	@echo '                  HOST=wss://host/ws     somebody else'"'"'s server of the same protocol'
	@echo '                  SERVER="cmd {port}"    a server of your own, started afresh for each run: SERVER_DIR= SERVER_PATH='
	@echo '                  ADAPTER= ADAPTER_FILE= what its messages mean, where it speaks another protocol (docs/adapters.md)'
	@echo '                  SCENARIO=smoke         one scenario of benchmarks/scenarios, or a file'
	@echo '                  USERS= RUN_TIME= WARM_UP= SPAWN_RATE= SEED= TOKENS= GAP_MS= TTFT_MS= WINDOW= PROCESSES='
	@echo '                  OUT= NAME= SUITE= METRICS_PORT= JSON=1 (the summary alone on standard output: with make -s)'
	@echo '                  ARGS="..."             any other options: see .venv/bin/python -m benchmarks bench --help'
	@echo 'make capacity   how many conversations keep every objective?        SLO=ttft_p99=500ms,token_p99=100ms'
	@echo '                  RATE=1 (conversations a second instead of users) ERRORS= HOST= SCENARIO= START= MOST= PROCESSES= JSON=1'
	@echo 'make test       run the tests                                        ARGS="tests/server -k stop"'
	@echo 'make serve      start the reference server on port 8001              ARGS="--help"'
	@echo 'make ui         start the reference server and Locust'"'"'s web page on 127.0.0.1'
	@echo 'make report     draw the report of a run again                       RUN=runs/<directory>'
	@echo 'make calibrate  does the instrument read true on this machine?'
	@echo 'make check      is this tree slower than another revision?           BASE=origin/main GATE=5 ARGS="..."'
	@echo 'make lint       ruff and mypy                                        make format: let ruff lay the code out'
	@echo 'make lock       pin the dependencies of pyproject.toml again         UPGRADE=1 for the newest versions (needs uv)'
	@echo 'make audit      is any pinned package known to be weak? (asks the advisory database of pip-audit)'
	@echo 'make clean      remove .venv and caches; runs/ stays'
	@echo
	@echo 'PYTHON=python3.12 chooses the Python that .venv is made with (3.11 or newer).'
	@echo 'make ends with 0 (done) or 2 (not): a script that wants to tell a failed threshold from an invalid run'
	@echo 'calls .venv/bin/python -m benchmarks itself (exit codes 0, 1, 2, 10, 11, 12, 130) or reads summary.json.'

runtime:
	@PYTHON=$(call quote,$(PYTHON)) sh .ci/venv runtime

dev:
	@PYTHON=$(call quote,$(PYTHON)) sh .ci/venv dev

bench: runtime
	@$(RAISE_FILES) exec $(PY) -m benchmarks bench $(BENCH_OPTIONS) $(ARGS)

capacity: runtime
	@$(if $(call given,SLO),,echo 'make capacity needs what must hold: make capacity SLO=ttft_p99=500ms,token_p99=100ms' >&2; exit 2;) \
	$(RAISE_FILES) exec $(PY) -m benchmarks capacity $(CAPACITY_OPTIONS) $(ARGS)

test: dev
	@$(RAISE_FILES) exec $(PY) -m pytest $(ARGS)

serve: runtime
	@$(RAISE_FILES) exec $(PY) -m server $(ARGS)

ui: runtime
	@$(RAISE_FILES) exec $(PY) -m benchmarks ui $(ARGS)

report: runtime
	@$(if $(call given,RUN),,echo 'make report needs the run to draw: make report RUN=runs/<directory>' >&2; exit 2;) \
	exec $(PY) -m reports build $(call quote,$(value RUN)) $(ARGS)

calibrate: runtime
	@$(RAISE_FILES) exec $(PY) -m benchmarks calibrate $(ARGS)

check: runtime
	@$(RAISE_FILES) exec $(PY) -m benchmarks check $(if $(call given,BASE),--base-revision $(call quote,$(value BASE)),--base-revision origin/main) \
		$(call option,GATE,--gate) $(ARGS)

lint: dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

audit:
	@PYTHON=$(call quote,$(if $(PYTHON),$(PYTHON),python3)) sh .ci/audit

lock:
	@UV=$(call quote,$(UV)) UPGRADE=$(call quote,$(UPGRADE)) sh .ci/lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
