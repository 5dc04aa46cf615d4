"""Time and peak memory of kNN between two large sets of embeddings, and whether its neighbours are the right ones.

python benchmarks/knn.py
python benchmarks/knn.py --examples 1281167 --queries 50000 --size 640 --k 20     # ImageNet, embeddings of ALIGN
"""

import argparse
import resource
import time

import jax
import numpy as np

from align_jax.evaluation.knn import knn_predictions, nearest_neighbours
from align_jax.parallel.mesh import MeshShape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1_000_000, help="rows that are searched")
    parser.add_argument("--queries", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=64, help="of an embedding")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--checked", type=int, default=200, help="queries that NumPy searches too")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((arguments.classes, arguments.size), np.float32)
    gallery, labels = embeddings(rng, centers, arguments.examples)
    queries, query_labels = embeddings(rng, centers, arguments.queries)
    mesh = MeshShape().build()
    before = peak_gib()

    start = time.perf_counter()
    done, shown = 0, start

    def advance(rows: int) -> None:
        nonlocal done, shown
        done += rows
        if time.perf_counter() - shown > 20:
            shown = time.perf_counter()
            print(f"{100 * done / arguments.queries:.0f} %", flush=True)

    found = nearest_neighbours(queries, gallery, arguments.k, mesh, advance=advance)
    searched = time.perf_counter() - start
    predicted = knn_predictions(found, labels, (arguments.k,), mesh, temperature=0.07)[arguments.k]
    voted = time.perf_counter() - start - searched

    products = 2 * arguments.examples * arguments.queries * arguments.size
    print(f"{arguments.examples:,} x {arguments.queries:,}, {arguments.size} dimensions, k = {arguments.k}, ", end="")
    print(f"{len(jax.devices())} x {jax.devices()[0].device_kind}, jax {jax.__version__}")
    print(
        f"search {searched:.1f} s ({products / searched / 1e9:.0f} GFLOP/s of the products alone), votes {voted:.1f} s"
    )
    print(f"peak memory {peak_gib():.2f} GiB, of which {before:.2f} GiB before the search: JAX and the embeddings")
    print(f"accuracy {np.mean(predicted == query_labels):.4f} of {arguments.classes:,} classes")
    sample = rng.choice(arguments.queries, arguments.checked, replace=False)
    share = agreeing(queries[sample], gallery, np.asarray(found.positions)[sample])
    print(f"{share:.4%} of the neighbours of {len(sample)} queries are those of NumPy")


def embeddings(rng: np.random.Generator, centers: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit-length rows around the centers of their classes, and the classes."""
    labels = rng.integers(0, len(centers), count)
    rows = rng.standard_normal((count, centers.shape[1]), np.float32)
    for start in range(0, count, 100_000):
        rows[start : start + 100_000] += 0.6 * centers[labels[start : start + 100_000]]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, labels


def agreeing(queries: np.ndarray, gallery: np.ndarray, positions: np.ndarray) -> float:
    """The share of the neighbours that NumPy finds as well."""
    count, shares = positions.shape[1], []
    for query, row in zip(queries, positions, strict=True):
        scores = gallery @ query
        shares.append(len(np.intersect1d(np.argpartition(-scores, count - 1)[:count], row)) / count)
    return float(np.mean(shares))


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of KiB, on Linux


if __name__ == "__main__":
    main()
