"""The recipe of the starter model: data, training, model card. Not part of the package."""
