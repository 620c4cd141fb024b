# SPDX-License-Identifier: GPL-3.0-or-later
#
# make demo    two photographs through a GNU Radio channel, and a contact sheet of what arrived
# make test    everything that is tested
# make drivers the tests of radios through the drivers of SoapySDR and Pluto, in front of devices without hardware
# make bench   speed and memory of codec, refiner and refinement service, as tables
# make docs    the documentation site, into build/docs
# make man     the man pages and the pages of the commands, after a change of their options
# make grc     gnuradio-companion with these blocks
# make animation  the animation at the top of the README, anew
# make lint    style, types, and the C++ layout
# make install the blocks into the system's GNU Radio, and their Python packages into an environment of their own (sudo)
# make deb     a Debian package of the blocks, in build/deb
# make wheel   a wheel and a source archive of the Python package, in dist
# make uninstall  takes all of that away again (sudo)
#
# Each does the set-up that it needs, once.

VENV    ?= .venv
BUILD   ?= build
PREFIX  ?= /usr/local
SYSTEM_PYTHON ?= /usr/bin/python3
PYTHON  := $(VENV)/bin/python
# Passed on to pip, for instance to choose a wheel of torch without CUDA.
PIP_FLAGS ?=
# What `make install` installs beside the codec: the refiner, the refinement service with its client, and cameras.
EXTRAS ?= refine,serve,camera

# Where `make install` puts the package diffjscc and what it needs; the installed blocks look for it there.
ENVIRONMENT := $(PREFIX)/lib/gr-diffjscc

# The blocks from the build tree, on top of the system's GNU Radio.
RUN := PYTHONPATH=$(abspath $(BUILD))/test_modules$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON)

COMPILE := cmake --build $(BUILD) --parallel $(shell nproc 2> /dev/null || echo 2)

.PHONY: demo test drivers bench docs man grc animation lint install deb wheel uninstall setup clean
.DEFAULT_GOAL := demo

demo: setup
	@$(RUN) examples/demo.py

test: setup $(VENV)/.installed $(VENV)/.test
	@$(COMPILE) > $(BUILD)/test.log 2>&1 || { cat $(BUILD)/test.log; exit 1; }
	@ctest --test-dir $(BUILD) --output-on-failure --no-tests=error
	@$(RUN) -m pytest

drivers: setup $(VENV)/.installed $(VENV)/.test
	@sh tools/system-packages.sh drivers
	@$(RUN) -m pytest tests/drivers

bench: setup $(VENV)/.installed
	@$(RUN) tests/bench/codec_speed.py
	@echo; $(RUN) tests/bench/refiner_speed.py
	@echo; $(RUN) tests/bench/service.py

docs: $(VENV)/.installed
	@$(PYTHON) -m sphinx -q -W --keep-going -b html -d $(BUILD)/docs-cache docs $(BUILD)/docs
	@echo "the site is $(BUILD)/docs/index.html"

man: setup
	@$(RUN) tools/command_pages.py

lint: $(VENV)/.installed $(VENV)/.test
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy
	@clang-format --dry-run -Werror lib/*.cc lib/*.h include/gnuradio/diffjscc/*.h

# The animation at the top of the README.
animation: setup $(VENV)/.grc
	@$(RUN) tools/animation.py

grc: setup $(VENV)/.grc
	@tools/with-blocks.sh $(PYTHON) $(abspath $(BUILD)) gnuradio-companion examples/symbol_loopback.grc

install: setup
	@$(COMPILE) > $(BUILD)/install.log 2>&1 || { cat $(BUILD)/install.log; exit 1; }
	$(SYSTEM_PYTHON) -m venv --system-site-packages $(ENVIRONMENT)
	$(ENVIRONMENT)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt '.[$(EXTRAS)]'
	mkdir -p $(PREFIX)/bin && ln -sf $(ENVIRONMENT)/bin/diffjscc $(PREFIX)/bin/diffjscc
	cmake --install $(BUILD)
	@# Where its library is looked for is remembered; only root may refresh that.
	@ldconfig 2> /dev/null || true

wheel: $(VENV)/.installed
	@rm -rf dist
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check build
	@$(PYTHON) -m build --outdir dist .

# In a build of its own: its paths are those of a distribution.
deb: $(VENV)/.system
	@sh tools/system-packages.sh deb
	@rm -rf $(BUILD)/deb/wheel $(BUILD)/deb/*.deb
	@$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(BUILD)/deb/wheel .
	@cmake -S . -B $(BUILD)/deb -DPYTHON_EXECUTABLE=$(SYSTEM_PYTHON) -DCMAKE_INSTALL_PREFIX=/usr \
	  -DDIFFJSCC_WHEEL=$$(ls $(abspath $(BUILD))/deb/wheel/*.whl) > $(BUILD)/deb/make.log 2>&1 || { cat $(BUILD)/deb/make.log; exit 1; }
	@cd $(BUILD)/deb && { cmake --build . && cpack; } >> make.log 2>&1 || { cat make.log; exit 1; }
	@ls $(BUILD)/deb/*.deb

uninstall:
	@sh tools/uninstall.sh $(BUILD) $(PREFIX)
	@ldconfig 2> /dev/null || true
	@echo "gr-diffjscc is removed from $(PREFIX)"

clean:
	rm -rf $(BUILD) $(VENV) demo

setup: $(VENV)/.examples $(BUILD)/.built

# GNU Radio comes from the distribution; apt only runs where something is missing.
$(VENV)/.system:
	@sh tools/system-packages.sh
	@$(SYSTEM_PYTHON) -m venv --system-site-packages $(VENV)
	@touch $@

# What only some targets need.
$(VENV)/.grc: $(VENV)/.system
	@sh tools/system-packages.sh grc
	@touch $@

$(VENV)/.test: $(VENV)/.system tools/system-packages.sh
	@sh tools/system-packages.sh grc test
	@touch $@

# What demo and examples need: half as much as tests and checks do.
$(VENV)/.examples: $(VENV)/.system pyproject.toml constraints.txt
	@echo "installing Python packages into $(VENV) …"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[examples]'
	@touch $@

$(VENV)/.installed: $(VENV)/.system pyproject.toml constraints.txt
	@echo "installing Python packages for tests and checks into $(VENV) …"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@# It asks for NumPy 2, and works with GNU Radio's NumPy 1.
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps sionna-no-rt==2.2.0
	@# It asks for torchvision, and works without.
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps torch-fidelity==0.4.0
	@touch $@

$(BUILD)/.built: $(VENV)/.system CMakeLists.txt $(shell find python grc cmake lib include docs/doxygen apps -type f -not -name '*.pyc')
	@cmake -S . -B $(BUILD) -DPYTHON_EXECUTABLE=$(SYSTEM_PYTHON) -DCMAKE_INSTALL_PREFIX=$(PREFIX) \
	  -DDIFFJSCC_BUILD_ENVIRONMENT=$(abspath $(VENV)) -DDIFFJSCC_INSTALL_ENVIRONMENT=$(ENVIRONMENT) > $(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@# What the blocks need, without the C++ tests and what is only installed.
	@$(COMPILE) --target diffjscc_python copy_module_for_tests >> $(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@mv $(BUILD).log $(BUILD)/make.log
	@touch $@
