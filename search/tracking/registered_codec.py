"""The code of a model in the MLflow model registry (search.tracking.registry)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray
from PIL import Image

from lic import zoo
from lic.codec.bitstream import decode, encode, pack, unpack
from lic.data.images import read_rgb


class RegisteredCodec(PythonModel):
    """Maps a column `content`: image files to coded files (task 'encode'), or coded files to PNG files (task
    'decode')."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the zoo's weights."""
        weights, config = (Path(context.artifacts[name]) for name in ("weights", "config"))
        self.model, self.mark = zoo.read_model(weights, config, trust_module=True)

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  (MLflow's signature)
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Encode or decode each row. Raises ValueError for another task or an unusable file."""
        task = (params or {}).get("task", "encode")
        if task not in ("encode", "decode"):
            raise ValueError(f"unknown task '{task}'; use 'encode' or 'decode'")
        code = self._encode if task == "encode" else self._decode
        return pd.DataFrame({"content": [code(bytes(content)) for content in model_input["content"]]})

    def _encode(self, content: bytes) -> bytes:
        pixels: NDArray[np.uint8] = read_rgb(io.BytesIO(content))
        return pack(encode(self.model, pixels), self.mark)

    def _decode(self, content: bytes) -> bytes:
        parsed = unpack(content)
        if parsed.model != self.mark:
            raise ValueError(f"the file needs model {parsed.model.hex()}; this is model {self.mark.hex()}")
        png = io.BytesIO()
        Image.fromarray(decode(self.model, parsed)).save(png, "png")
        return png.getvalue()


mlflow.models.set_model(RegisteredCodec())
