# `make demo` and `make test` set up a private environment first; nothing outside this folder changes.
# `make test ALL=1` adds what needs torch (training, the family zoo), Rockchip's SDK, a Chromium for pages, and a
# broker and an RTSP server for cameras.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ALL ?=
export ONCHIP_TOOLCHAINS ?= $(CURDIR)/$(VENV)/toolchains

# The tracker brings an OpenCV with windows, which needs libraries of a desktop; ours has to be the one that is left.
HEADLESS := $(BIN)/python -m pip uninstall --quiet --yes opencv-python \
  && $(BIN)/python -m pip install --quiet --force-reinstall --no-deps opencv-python-headless

.PHONY: demo test check docs clean

demo: $(VENV)/.core
	$(BIN)/onchip demo -o onchip-demo

test: $(VENV)/.test $(if $(ALL),$(VENV)/.zoo $(VENV)/.rknn $(VENV)/.browser $(VENV)/.live) check docs
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not alone $(if $(ALL),,and not zoo and not train and not rknn and not browser and not live)"
	$(if $(ALL),$(BIN)/python -m pytest -m alone)

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.test
	$(BIN)/mkdocs build --strict --quiet

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.core: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --editable ".[annotate,docs,ethosu,frigate,openvino,test,tflite,watch]"
	$(HEADLESS)
	touch $@

$(VENV)/.zoo: $(VENV)/.test tests/zoo-requirements.txt
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -r tests/zoo-requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps ultralytics==8.4.190 ultralytics-thop==2.2.3
	touch $@

$(VENV)/.rknn: $(VENV)/.core src/onchip/toolchains/pins.toml
	$(BIN)/onchip toolchain install rknn
	touch $@

# A Chromium: one that is there, or else Debian's where that can be installed, or playwright's own.
$(VENV)/.browser: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --editable ".[annotate,browser]"
	command -v chromium || command -v google-chrome \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -y -q chromium; } \
	  || $(BIN)/playwright install chromium \
	  || { echo "no Chromium: install chromium or google-chrome, then run this again" >&2; exit 1; }
	touch $@

# A broker, an RTSP server, an ssh server and a screen, from Debian where they can be installed.
$(VENV)/.live: $(VENV)/.test
	{ command -v mosquitto && command -v xvfb-run && command -v ffprobe && command -v ssh && test -x /usr/sbin/sshd \
	    && /usr/bin/python3 -c "import gi; gi.require_version('GstRtspServer', '1.0')"; } \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -y -q ffmpeg mosquitto openssh-client openssh-server xvfb xauth python3-gi \
	    gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad; } \
	  || { echo "install ffmpeg, mosquitto, OpenSSH's server, xvfb and GStreamer's RTSP server with its Python, then run this again" >&2; exit 1; }
	touch $@

clean:
	rm -rf $(VENV) site onchip-demo
