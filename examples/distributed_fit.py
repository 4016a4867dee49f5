"""How is one model trained in several processes, on data that stay in a file?

Two processes train a model of which the log evidence is known, each on its half of every minibatch; the file of observations is
memory-mapped. Without torchrun, the script trains in one process, with the same result up to rounding. Takes some seconds.

    torchrun --standalone --nproc-per-node=2 examples/distributed_fit.py [--rows 20000] [--epochs 40]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

import amortvi as avi


def main() -> None:
    """Write the data, fit, and compare the bound with the log evidence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    rank = int(os.environ.get("RANK", "0"))

    torch.manual_seed(0)
    model = avi.models.LinearGaussian(torch.randn(100, 5), scale=2.0)
    with tempfile.TemporaryDirectory() as folder:
        # Here, each process writes the same data to a file of its own; usually, all open the same file.
        file = Path(folder) / "x.npy"
        np.save(file, model.simulate(arguments.rows, seed=0).numpy())
        x = np.load(file, mmap_mode="r")

        vi = avi.AmortizedVI(model, avi.encoders.MLP(100, [64]), family="full", freeze_model=True)
        # The same call in every process: batch_size is that of the whole minibatch.
        vi.fit(x[1000:], batch_size=512, epochs=arguments.epochs, seed=0, distributed="RANK" in os.environ)

        if rank == 0:  # all processes have the result
            held_out = torch.from_numpy(x[:1000].copy())
            bound, evidence = vi.evaluate(held_out, seed=0)["elbo"].mean(), model.log_evidence(held_out).mean()
            print(f"processes: {os.environ.get('WORLD_SIZE', '1')}")
            print(f"held-out ELBO {bound:.3f}, log evidence {evidence:.3f} nats per observation")


if __name__ == "__main__":
    main()
