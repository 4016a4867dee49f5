"""Settings of the kernels that execute the tutorials: figures are vector graphics on white, of the width of a page."""

c = get_config()  # noqa: F821, a name that IPython provides

c.InlineBackend.figure_formats = {"svg"}
c.InlineBackend.rc = {
    "figure.figsize": (7.5, 3.2),
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 160,  # of what is drawn as pixels inside a vector graphic: images, rasterized=True
    "font.size": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "svg.hashsalt": "amortvi",
}
c.IPKernelApp.exec_lines = [
    "%matplotlib inline",
    # ArviZ 0.23 announces ArviZ 1 at its first import of a day.
    "import warnings; warnings.filterwarnings('ignore', r'\\s*ArviZ is undergoing a major refactor', FutureWarning)",
    # tqdm's bars for notebooks need ipywidgets; the pages show none.
    "warnings.filterwarnings('ignore', 'IProgress not found')",
    "del warnings",
]
c.IPKernelApp.log_level = (
    40  # errors: the kernel listens on this machine only, and warns that it does so without encryption
)
