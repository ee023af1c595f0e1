"""Makes a ResNet50 that knows eight generated pictures by name: random convolutions, a classifier head fitted to them.

Run once per test session as `python -m tests.fitted_model FOLDER`, so that Keras' memory and threads stay out of
pytest. Four of the pictures are the other four with red and blue exchanged, under other labels: swapped channels,
wrong scaling or mixed-up rows of a batch give wrong names. What the bare Keras model says, with Keras' own
preprocessing, is written beside the weights, and so is what it was given.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from serve_app.classifier.engines import lean_imports

CLASS_IDS = (7, 105, 207, 301, 433, 555, 678, 999)
SIZE_PX = (500, 375)


def draw_picture(seed: int) -> Image.Image:
    """Return a picture of coloured patches, as smooth as a photograph."""
    half = len(CLASS_IDS) // 2
    patches = np.random.default_rng(seed % half).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    patches[..., 2] //= 3  # little blue, so that its twin has little red
    ordered = patches if seed < half else patches[..., ::-1]
    return Image.fromarray(np.ascontiguousarray(ordered)).resize(SIZE_PX, Image.Resampling.BICUBIC)


def evaluation_crop(picture: Image.Image) -> np.ndarray:
    """Return float RGB (224, 224, 3): shorter side to 256, central square; written apart from the service's own."""
    scale = 256 / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    small = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - 224) // 2, (height - 224) // 2
    return np.asarray(small.crop((left, top, left + 224, top + 224)), dtype=np.float32)


def main(folder: Path) -> None:
    with lean_imports("tensorflow"):
        import keras

    (folder / "pictures").mkdir(parents=True)
    pictures = [draw_picture(seed) for seed in range(len(CLASS_IDS))]
    for class_id, picture in zip(CLASS_IDS, pictures, strict=True):
        picture.save(folder / "pictures" / f"{class_id}.jpg", quality=95)
    crops = [evaluation_crop(Image.open(folder / "pictures" / f"{class_id}.jpg")) for class_id in CLASS_IDS]
    inputs = keras.applications.resnet50.preprocess_input(np.stack(crops))

    keras.utils.set_random_seed(20)
    network = keras.applications.ResNet50(weights=None)
    generator = np.random.default_rng(20)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # Neither one nor zero, so that folding them away wrongly would show.
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights(
                [
                    generator.uniform(0.5, 1.5, gamma.shape),
                    generator.uniform(-0.5, 0.5, beta.shape),
                    mean,
                    variance,
                ]
            )
            layer.momentum = 0.0  # one pass in training mode then sets mean and variance to the pictures' own
    pooled = keras.Model(network.input, network.get_layer("avg_pool").output)
    features = pooled(inputs, training=True).numpy()
    centred = features - features.mean(axis=0)
    wanted = np.zeros((len(CLASS_IDS), 1000), np.float32)
    wanted[range(len(CLASS_IDS)), CLASS_IDS] = 12
    kernel = np.linalg.pinv(centred, rcond=1e-4) @ wanted
    network.get_layer("predictions").set_weights([kernel, -features.mean(axis=0) @ kernel])

    network.save_weights(folder / "fitted.weights.h5")
    labels = [f"thing {index}" for index in range(1000)]
    (folder / "labels.json").write_text(json.dumps(labels))
    np.save(folder / "crops.npy", np.stack(crops).astype(np.uint8))  # they are whole numbers
    np.save(folder / "expected.npy", network(inputs, training=False).numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
