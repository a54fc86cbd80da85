"""Published PyTorch weights as jaxsep networks."""

from jaxsep.models.torch_import.convert import from_file, from_state_dict

__all__ = ["from_file", "from_state_dict"]
