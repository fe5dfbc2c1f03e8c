"""Training a classifier: what made the embedded networks, and a start for data of one's own.

    import refiner_cka as rc
    trained = rc.train("refiner_nano=random", "digits-train", held_out="digits-test", progress=print)
    rc.accuracy(trained.subject, "digits-test")
    rc.save_weights(trained.subject, "mine.safetensors")

The recipe is the usual one of small vision transformers: AdamW, a warm-up and a cosine, label smoothing,
geometric augmentation; with a teacher, hard distillation. It is meant for one device and small data.
"""

from .evaluation import accuracy as accuracy
from .recipe import Augmentation as Augmentation
from .recipe import Recipe as Recipe
from .run import Epoch as Epoch
from .run import Trained as Trained
from .run import train as train
from .weights import save_weights as save_weights
