"""Published PyTorch weights as jaxsep networks, without torch and without running a file's code."""

from jaxsep.models.torch_import.archive import UnsafePickleError
from jaxsep.models.torch_import.convert import from_file, from_state_dict

__all__ = ["UnsafePickleError", "from_file", "from_state_dict"]
