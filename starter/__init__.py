"""The recipe of the starter model: its data, its training and its model card. Not part of the package."""
