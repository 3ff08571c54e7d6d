"""``fastunlearn train-classifier``: the judge of the digits."""

from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from .. import data
from ..metrics import digit_statistics
from ..training.classifier import ClassifierConfig, train_classifier


@dataclass(frozen=True, kw_only=True)
class TrainClassifier:
    """Train a LeNet on a labelled dataset, with its errors on the test set stored in the file.

    Attributes:
        data: mnist or digits.
        out: the classifier's file, *.safetensors.
        statistics: also write the feature statistics of the training set, whole and without each class, to this npz.
        recipe: how to train.
    """

    data: str
    out: Path
    statistics: Path | None = None
    recipe: ClassifierConfig = field(default_factory=ClassifierConfig)

    def run(self) -> None:
        """Do it."""
        training, test = data.load(self.data, split="train"), data.load(self.data, split="test")
        with tqdm(total=self.recipe.epochs, desc="classifier", unit="epoch") as bar:

            def on_epoch(_: int, loss: float) -> None:
                bar.update()
                bar.set_postfix(loss=f"{loss:.4f}")

            result = train_classifier(training, test, self.recipe, on_epoch)
        result.save(self.out)
        print(f"{self.out}: {result.error.accuracy:.2%} of {len(test)} test images right, {result.seconds:.0f} s")
        if self.statistics is not None:
            digit_statistics(training, result.model).save(self.statistics)
            print(f"{self.statistics}: feature statistics of {len(training)} images")
