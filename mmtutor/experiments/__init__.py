"""Recipes: one file per chapter, its rows (models, baselines, ablations), how each is trained and scored."""
