"""The example programs of Pyro that make an `SVI`, with arguments for a short run, after Pyro's own tests/test_examples.py.

The arguments ask for enough steps to compile; `run_example` ends a run after a given number of steps.
"""

from __future__ import annotations

import re
from pathlib import Path

PROGRAMS = [
    "air/main.py --num-steps=100 --batch-size=8 --seed=0",
    "capture_recapture/cjs.py --num-steps=100 -m 1",
    "capture_recapture/cjs.py --num-steps=100 -m 4 --tmc --tmc-num-samples=2",
    "contrib/autoname/mixture.py --num-epochs=100",
    "contrib/autoname/scoping_mixture.py --num-epochs=100",
    "contrib/autoname/tree_data.py --num-epochs=100",
    "contrib/cevae/synthetic.py --num-data=200 --num-epochs=50",
    "contrib/epidemiology/regional.py --nojit -ss=100 -n=4 -r=3 -d=20 -p=1000 -f 2 --svi",
    "contrib/epidemiology/sir.py --nojit -ss=100 -n=4 -d=20 -p=1000 -f 2 --svi",
    "contrib/forecast/bart.py --num-steps=100 --train-window=336 --test-window=168 --stride=99999",
    "contrib/funsor/hmm.py --num-steps=100 --truncate=4 --model=1",
    "contrib/mue/FactorMuE.py --test --small --include-stop --no-plots --no-save --n-epochs=50",
    "contrib/mue/ProfileHMM.py --test --small --no-plots --no-save --n-epochs=50",
    "contrib/oed/ab_test.py --num-vi-steps=50 --num-bo-steps=2",
    "cvae/main.py --num-quadrant-inputs=1 --num-epochs=1",
    "dmm.py --num-epochs=100",
    "dmm.py --num-epochs=100 --num-iafs=1",
    "eight_schools/svi.py --num-epochs=100",
    "hmm.py --num-steps=100 --truncate=4 --model=1",
    "hmm.py --num-steps=100 --truncate=4 --model=5",
    "hmm.py --num-steps=100 --truncate=4 --model=6",
    "lda.py --num-steps=100 --num-words=100 --num-docs=100 --num-words-per-doc=8",
    "minipyro.py --backend=pyro --num-steps=100",
    "neutra.py --num-steps=100 --num-warmup=10 --num-samples=10",
    "scanvi/scanvi.py --num-epochs=50 --dataset=mock",
    "sparse_gamma_def.py --num-epochs=100 --eval-particles=2 --guide=custom",
    "sparse_gamma_def.py --num-epochs=100 --eval-particles=2 --guide=easy",
    "svi_horovod.py --num-epochs=50 --size=400 --no-horovod",
    "toy_mixture_model_discrete_enumeration.py --num-steps=100 --num-obs=100",
    "vae/ss_vae_M2.py --num-epochs=1 --seed=0",
    "vae/ss_vae_M2.py --num-epochs=1 --seed=0 --aux-loss",
    "vae/vae.py --num-epochs=1",
    "vae/vae_comparison.py --num-epochs=1",
]

_MAKES_SVI = re.compile(r"\b(SVI|fit_svi|CEVAE|Forecaster|backtest|vi_eig)\(")


def unlisted(examples: Path) -> list[str]:
    """Return the programs of a checkout that make an SVI but are not in the table."""
    known = {program.split()[0] for program in PROGRAMS}
    found = (
        path for path in examples.rglob("*.py") if _MAKES_SVI.search(text := path.read_text()) and "__main__" in text
    )
    return sorted({str(path.relative_to(examples)) for path in found} - known)
