"""netgraft refits a pretrained image-restoration network to the device it ships on.

In ten lines::

    import netgraft as ng
    teacher = ng.load_teacher("NAFNet-GoPro-width32.pth")
    sites = ng.find_sites(teacher.module)
    scores = ng.saliency(teacher.module, degraded, clean, sites, metric="fisher")
    front = ng.minimize(evaluate, options, budget=100)
    sharp = ng.restore(photo, teacher)
"""

from netgraft.config import PRESETS, RunConfig, load_config
from netgraft.errors import NetgraftError
from netgraft.nets.load import Teacher, load_teacher
from netgraft.operators import OPERATORS, Operator
from netgraft.pipeline import refit
from netgraft.restore import restore
from netgraft.saliency import saliency
from netgraft.search import Constraint, SearchResult, minimize
from netgraft.sites import Site, find_sites

__all__ = [
    "OPERATORS",
    "PRESETS",
    "Constraint",
    "NetgraftError",
    "Operator",
    "RunConfig",
    "SearchResult",
    "Site",
    "Teacher",
    "find_sites",
    "load_config",
    "load_teacher",
    "minimize",
    "refit",
    "restore",
    "saliency",
]
