"""The models, one file each, behind the interface of `xattn.models.interface`."""
