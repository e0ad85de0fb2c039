"""Arm's compiler Vela as a source of cost: cycles and coded weights of a file.

What Vela prints is a compiler's estimate, not a measurement on silicon. Install it with
the extra ``vela``; without it, the targets fall back to their analytic model.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from matar_tf.errors import ExportError
from matar_tf.targets import VelaBackend

__all__ = ["VelaEstimate", "compile_with_vela", "has_vela", "vela_version"]

_PACKAGE: Final = "ethos-u-vela"
_MAX_MESSAGE: Final = 500  # characters of Vela's own words in an error


@dataclass(frozen=True, kw_only=True, slots=True)
class VelaEstimate:
    """Vela's summary of a compiled file, for one inference.

    Attributes:
      cycles: Of the NPU's clock; the slower of arithmetic and memories, by operator.
      latency_ms: The same in time.
      weight_bytes: Kernels as coded for the NPU.
      flash_bytes: All constants, biases and the command stream included.
      sram_bytes: Arena of tensors and buffers.
      num_cpu_ops: Operators that the NPU does not run; they are in no figure.
    """

    cycles: float
    latency_ms: float
    weight_bytes: int
    flash_bytes: int
    sram_bytes: int
    num_cpu_ops: int


def has_vela() -> bool:
    """Returns whether Vela is installed."""
    return importlib.util.find_spec("ethosu") is not None


def vela_version() -> str:
    """Returns the version of the installed Vela."""
    return importlib.metadata.version(_PACKAGE)


def compile_with_vela(content: bytes, backend: VelaBackend) -> VelaEstimate:
    """Compiles a file in this process and returns the summary.

    Args:
      content: The ``.tflite`` bytes, of a fixed batch of 1.
      backend: Configuration of the NPU and its memories.

    Raises:
      ExportError: If Vela is not installed or does not compile the file.
    """
    try:
        from ethosu.vela import vela  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ExportError(
            f"Expected Vela to be installed, got: {error}; "
            "pip install 'matar_tf[vela]'."
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.tflite"
        source.write_bytes(content)
        arguments = [
            str(source),
            f"--accelerator-config={backend.accelerator}",
            f"--system-config={backend.system_config}",
            f"--memory-mode={backend.memory_mode}",
            f"--output-dir={folder}",
        ]
        with tempfile.TemporaryFile() as printed:
            try:
                with _output_to(printed):
                    vela.main(arguments)
            except (Exception, SystemExit) as error:  # of any kind
                raise _refused(backend, str(error), printed) from error
            summaries = list(Path(folder).glob("model_summary_*.csv"))
            if len(summaries) != 1:
                raise _refused(backend, "no summary was written", printed)
            text = summaries[0].read_text(encoding="utf-8")
            return _read_summary(text, _num_cpu_ops(_read(printed)))


def _read_summary(text: str, num_cpu_ops: int) -> VelaEstimate:
    row = next(csv.DictReader(text.splitlines()))
    return VelaEstimate(
        cycles=float(row["cycles_total"]),
        latency_ms=float(row["inference_time"]) * 1e3,
        weight_bytes=int(row["total_npu_encoded_weights"]),
        flash_bytes=sum(
            round(float(row[f"{place}_flash_memory_used"]) * 1024)
            for place in ("on_chip", "off_chip")
        ),
        sram_bytes=round(float(row["sram_memory_used"]) * 1024),
        num_cpu_ops=num_cpu_ops,
    )


def _num_cpu_ops(printed: str) -> int:
    """Returns the count of the line ``CPU operators = 2 (12.5%)``; 0 without one."""
    for line in printed.splitlines():
        if line.startswith("CPU operators ="):
            return int(line.split("=")[1].split()[0])
    return 0


def _refused(backend: VelaBackend, reason: str, printed: IO[bytes]) -> ExportError:
    words = " ".join(_read(printed).split())[-_MAX_MESSAGE:]
    return ExportError(
        f"Expected Vela to compile the file for {backend.accelerator!r} with "
        f"{backend.system_config!r} and {backend.memory_mode!r}, got: {reason}. {words}"
    )


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", errors="replace")


@contextlib.contextmanager
def _output_to(file: IO[bytes]) -> Generator[None, Any, None]:
    """Sends what is printed, by compiled code too, into a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(number) for number in (1, 2)]
    try:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        # Python's own streams may have been replaced, by a test or a notebook.
        with (
            os.fdopen(os.dup(file.fileno()), "w", encoding="utf-8") as stream,
            contextlib.redirect_stdout(stream),
            contextlib.redirect_stderr(stream),
        ):
            yield
    finally:
        for number, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)
