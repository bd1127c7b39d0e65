"""Training and test images: paired datasets, sharp photographs, and degradations that pair them."""

from netgraft.data.crops import (
    Crops,
    CropSource,
    CropStage,
    PairedSource,
    SyntheticSource,
    crop_batches,
    image_tensor,
)
from netgraft.data.defocus import DefocusModel
from netgraft.data.degrade import Degradation, Image, NoiseModel, SensorNoise, ShakeModel, Window
from netgraft.data.layouts import LAYOUTS, Pair
from netgraft.data.pairs import SharpFolder, list_pairs, load_pair, synthetic_pair
from netgraft.data.photos import Photo, photos

__all__ = [
    "LAYOUTS",
    "CropSource",
    "CropStage",
    "Crops",
    "DefocusModel",
    "Degradation",
    "Image",
    "NoiseModel",
    "Pair",
    "PairedSource",
    "Photo",
    "SensorNoise",
    "ShakeModel",
    "SharpFolder",
    "SyntheticSource",
    "Window",
    "crop_batches",
    "image_tensor",
    "list_pairs",
    "load_pair",
    "photos",
    "synthetic_pair",
]
