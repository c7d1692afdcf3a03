"""Methods for going downhill, each with a study that reruns its paper's claims.

The domains are subpackages, loaded on first use: `thalweg.transport`, `thalweg.streams`, ...
"""

import lazy_loader as lazy

__version__ = "0.1.0"

__getattr__, __dir__, _lazy_all = lazy.attach_stub(__name__, __file__)
__all__ = ["__version__", *_lazy_all]
