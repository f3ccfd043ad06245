"""What the tests of deploy/ stand on."""

import numpy as np
import pytest
from checkpoints import load
from gateway_server import WEIGHTS
from numpy.typing import NDArray
from under_load import TEXTS


@pytest.fixture(scope="session")
def expected() -> NDArray[np.float32]:
    """The right vectors of `TEXTS`, normalised as the gateway's are."""
    vectors: NDArray[np.float32] = load(WEIGHTS).encode_document(TEXTS, normalize=True)
    return vectors
