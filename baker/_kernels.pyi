import numpy as np
import numpy.typing as npt

class TernaryWeights:
    """A ternary layer packed for the kernels; immutable, any number of threads may multiply with it at once."""

    def __init__(
        self,
        codes: npt.NDArray[np.uint8],
        scale: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float32] | None,
        k: int,
        group: int,
        *,
        weights_per_byte: int = 4,
        gamma: npt.NDArray[np.float32] | None = None,
        epsilon: float = 0.0,
        activation: str = "",
        splits: list[int] = [],
    ) -> None: ...
    def multiply(
        self,
        x: npt.NDArray[np.float32],
        residual: npt.NDArray[np.float32] | None = None,
        *,
        isa: str = "auto",
        threads: int = 1,
    ) -> list[npt.NDArray[np.float32]]:
        """x (M, K): one result a split, (M, its channels); residual (M, N), where there is one."""
    @property
    def n(self) -> int: ...
    @property
    def k(self) -> int: ...

def available_isas() -> list[str]: ...
def compiled_isas() -> list[str]: ...
