"""A model for MLServer, whose Python imports this file: how bright pictures are."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Brightness(MLModel):  # type: ignore[misc] # MLServer is not installed where types are checked
    """Takes pixels and returns their mean, one for each picture."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        pixels = NumpyCodec.decode_input(payload.inputs[0])
        means = pixels.reshape(len(pixels), -1).mean(axis=1).astype(np.float32)
        return InferenceResponse(
            id=payload.id, model_name=self.name, outputs=[NumpyCodec.encode_output("brightness", means)]
        )
