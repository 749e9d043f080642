"""The top-level folder `agents`, for whoever imports snn_rl from a checkout; never installed."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_folder = Path(__file__).resolve().parents[2] / "agents"
_spec = spec_from_file_location(
    __name__, _folder / "__init__.py", submodule_search_locations=[str(_folder)]
)
assert _spec is not None and _spec.loader is not None
sys.modules[__name__] = module_from_spec(_spec)  # the import goes on with this module
_spec.loader.exec_module(sys.modules[__name__])
