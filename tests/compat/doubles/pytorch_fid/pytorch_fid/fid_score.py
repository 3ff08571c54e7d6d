"""Stands for pytorch-fid's fid_score: statistics from npz files alone, the square root as scipy before 1.18 has it."""

import argparse

import numpy as np
from scipy import linalg


def calculate_frechet_distance(mu1, sigma1, mu2, sigma2, eps=1e-6):
    mu1, mu2, sigma1, sigma2 = np.atleast_1d(mu1), np.atleast_1d(mu2), np.atleast_2d(sigma1), np.atleast_2d(sigma2)
    root, _ = linalg.sqrtm(sigma1 @ sigma2, disp=False)
    return np.sum((mu1 - mu2) ** 2) + np.trace(sigma1 + sigma2 - 2 * root.real)


def compute_statistics_of_path(path, model, batch_size, dims, device, num_workers=1):
    with np.load(path) as arrays:
        return arrays["mu"], arrays["sigma"]


def calculate_fid_given_paths(paths, batch_size, device, dims, num_workers=1):
    (mu1, sigma1), (mu2, sigma2) = (compute_statistics_of_path(path, None, batch_size, dims, device) for path in paths)
    return calculate_frechet_distance(mu1, sigma1, mu2, sigma2)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device")
    parser.add_argument("path", nargs=2)
    options = parser.parse_args()
    print("FID: ", calculate_fid_given_paths(options.path, 50, options.device, 2048))


if __name__ == "__main__":
    main()
