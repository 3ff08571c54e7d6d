"""Is a generator better than the linear one of its latent size? Digit-feature FIDs of both, of 15,000 images each.

    python docs/examples/beat_pca.py --data mnist --data-size 32 runs/proggan64/bundle

Principal components are fitted to all training images, at the generator's size; features are those of the shipped digit
classifier, of images averaged to 32 × 32 pixels, generated and real ones alike.
"""

import argparse
from dataclasses import replace

import fastunlearn
from fastunlearn import data
from fastunlearn.metrics import DIGIT_FID_SAMPLES, FeatureSet, frechet_score, load_extractor, pca_baseline
from fastunlearn.metrics.extractors import averaged


def main() -> None:
    """Print both scores with their provenance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="name, folder or checkpoint file")
    parser.add_argument("--data", default="mnist", help="what it was trained on: mnist, digits or a folder")
    parser.add_argument("--data-size", type=int, help="pixels at which the data were read; the generator's by default")
    parser.add_argument("--n", type=int, default=DIGIT_FID_SAMPLES, help="generated images of each")
    arguments = parser.parse_args()

    model = fastunlearn.load(arguments.bundle)
    channels, size, _ = model.image_shape
    real = data.load(arguments.data, size=arguments.data_size or size, channels=channels).resized(size)
    extractor = replace(load_extractor("digits"), rule=averaged(32))
    reference = FeatureSet.of_dataset(extractor, real, keep=False)
    for name, generator in ((arguments.bundle, model), ("PCA", pca_baseline(real, model.latent_dim))):
        score = frechet_score(FeatureSet.of_generator(extractor, generator, arguments.n, keep=False), reference)
        print(f"{name}: {score.value:.1f}, latent size {generator.latent_dim} ({score.provenance})")


if __name__ == "__main__":
    main()
