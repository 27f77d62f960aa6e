"""Compiling for a card that is not here."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch

from lmtrain_kernels.tuned import as_if

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class _Driver:
    """As much of a driver as compiling asks for."""

    def __init__(self, card: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.card, self.target = card, GPUTarget("cuda", card, 32)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return self.card

    def get_current_stream(self, _device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        return torch.cpu


@contextmanager
def compiling(card: int, launch: Callable[[Any, Any, dict[str, Any]], None]) -> Generator[None]:
    """Meanwhile kernels are compiled for ``card`` and handed to ``launch``.

    It gets the compiled kernel, the grid and the arguments by name. ``card`` is the compute
    capability times ten. Triton's interpreter must be off: it is chosen when a kernel is defined.
    """
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    compile_or_run = JITFunction.run

    def run(self: Any, *args: Any, grid: Any, **options: Any) -> Any:
        options["warmup"] = True  # compile only
        kernel = compile_or_run(self, *args, grid=grid, **options)
        named = dict(zip(self.arg_names, args, strict=False)) | options
        launch(kernel, grid(named) if callable(grid) else grid, named)
        return kernel

    before = driver._active  # pyright: ignore[reportPrivateUsage]
    driver.set_active(cast("Any", _Driver(card)))
    JITFunction.run = run
    try:
        with as_if(card):
            yield
    finally:
        JITFunction.run = compile_or_run
        driver._active = before  # pyright: ignore[reportPrivateUsage]
