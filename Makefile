# make demo: train, search, export and report on digits. make test: the whole gate.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test clean

demo: $(INSTALLED)
	mkdir -p runs/demo
	$(BIN)/matar train --recipe=digits_resnet8 --output=runs/demo/artifact --reuse
	$(BIN)/matar search --artifact=runs/demo/artifact --data=digits \
	  --targets=cortex_m4_cmsis_nn,bitfusion_16x32,bismo_ultra96 \
	  --output=runs/demo/search --max_evaluations=200 --resume

test: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" ./ci.sh

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  --editable '.[train,tflite-runtime,tflm,vela,ray,sign,onnx]' --group dev
	touch $@

clean:
	rm -rf .venv runs
